"""Which replica of an engine takes a request: the one that knows its prefix, unless that one has clearly more to do."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from mesh.types import Message

SPREAD = 1.25
"""How much more than an even share a favourite may carry."""
SLACK = 8
"""Requests a favourite may always carry: below that, a shared prefix is worth more than an even share."""


class Candidate(NamedTuple):
    """One replica as a router sees it. A tuple: one is made for every replica and request."""

    key: str
    """Name of the replica, the same in every process, so that all drivers have the same favourites."""
    load: int
    """Requests it has taken in and not answered, whoever asked."""
    is_open: bool = True
    """False: it restarts, cannot be reached, or said that it is busy."""


def choose_replica(candidates: Sequence[Candidate], affinity: str) -> int | None:
    """Index of the replica that takes the next request; None: no replica is open.

    Without an affinity it is the least loaded one. With one, the replicas are put into an order of preference by
    rendezvous hashing (Thaler and Ravishankar 1998), which only changes for the prefixes of a replica that comes or
    goes; the first one in it that carries less than `SPREAD` times its share is taken (consistent hashing with
    bounded loads, Mirrokni, Thorup and Zadimoghaddam 2018), or less than `SLACK`.
    """
    open_ones = [index for index, candidate in enumerate(candidates) if candidate.is_open]
    if len(open_ones) < 2:
        return open_ones[0] if open_ones else None
    if not affinity:
        return min(open_ones, key=lambda index: candidates[index].load)
    share = (sum(candidates[index].load for index in open_ones) + 1) / len(open_ones)
    most = max(SLACK, math.ceil(SPREAD * share))
    roomy = [index for index in open_ones if candidates[index].load < most]
    return max(roomy, key=lambda index: _preference(candidates[index].key, affinity))


def prefix_affinity(messages: Sequence[Message]) -> str:
    """What requests with the same first turn have in common; empty without messages."""
    if not messages:
        return ""
    return hashlib.blake2b(messages[0].text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _preference(key: str, affinity: str) -> bytes:
    text = f"{len(key)}:{key}{affinity}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest()
