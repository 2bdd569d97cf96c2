"""Which arrangements go to the gate, and in which order: of those that pass the first is seated. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evolve.gates.arrangements import Arrangement, one_of_each
from evolve.gates.paired import paired_test
from mesh.types import Member


class Shown(NamedTuple):
    """What DEV showed of an arrangement."""

    arrangement: Arrangement
    gain: float
    """over the incumbents, in shares"""
    right: Sequence[bool] = ()
    """was its vote, problem by problem; empty where it is measured in councils"""


def finalists_of(
    shown: Sequence[Shown],
    scores: Mapping[str, Sequence[float]],
    seats: Sequence[Member],
    clusters: Sequence[str],
    *,
    at_most: int,
    seed: int,
) -> tuple[Arrangement, ...]:
    """Those that did better than the incumbents on DEV, the best first.

    A vote hears a specialist beside better ones only where they agree with it or are silent, so DEV's few problems
    seldom tell a mesh with it from one without. What it learned still counts: for the generation that is bred from
    it. So where the best vote has a wider one beside it, which seats further specialists who are each better alone
    than whom they replace, and which DEV does not show to be worse, the wider one comes first.

    Args:
        shown: all that were measured.
        scores: member to the share of its samples that is right, problem by problem.
        seats: the incumbents, in seat order.
        clusters: near-duplicate cluster of each problem.
        at_most: how many may go to the gate.
        seed: of the paired tests' cross-checks; nothing that decides depends on it.
    """
    better = sorted((one for one in shown if one.gain > 0), key=lambda one: -one.gain)
    ranked = one_of_each(one.arrangement for one in better)
    if not ranked:
        return ()
    right = {one.arrangement.seats: one.right for one in reversed(better)}
    first = ranked[0]
    for other in ranked[1:]:
        if _adds_to(other, first, scores, seats) and not _is_worse(
            right[other.seats], right[first.seats], clusters, seed
        ):
            first = other
    return (first, *(one for one in ranked if one is not first))[:at_most]


def _adds_to(
    wide: Arrangement, narrow: Arrangement, scores: Mapping[str, Sequence[float]], seats: Sequence[Member]
) -> bool:
    """Does it seat the same candidates and more, each of these better alone than whom it replaces?"""
    if wide.endpoint != "vote" or narrow.endpoint != "vote" or not set(narrow.candidates) < set(wide.candidates):
        return False
    return all(
        sum(scores[new.name]) > sum(scores[old.name])
        for old, new in zip(seats, wide.seats, strict=True)
        if new.name in set(wide.candidates) - set(narrow.candidates)
    )


def _is_worse(vote: Sequence[bool], other: Sequence[bool], clusters: Sequence[str], seed: int) -> bool:
    """Is the first vote shown to be worse: does the 95% interval of the difference lie below zero?"""
    return paired_test(other, vote, clusters, seed=seed).difference.high < 0.0
