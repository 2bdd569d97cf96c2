"""Which texts say nearly the same: MinHash finds candidates, the exact overlap of their shingles decides. Pure.

Broder (1997) for the hashes, banding as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evolve.problems.config import NearDuplicatesConfig, SplitShares
from evolve.problems.splits import Split, normalised_text, split_of
from memory.types import Record

SHINGLE_CHARS = 5
NUM_BANDS, ROWS_PER_BAND = 32, 4
"""Texts with an overlap of 0.7 share a band with probability 0.9998, of 0.5 with 0.87; sharing one decides nothing."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NOT_A_WORD = re.compile(r"[^\w]+")


class Item(Record):
    """One item of a file, as far as its place is concerned."""

    key: str
    text: str


class Place(Record):
    """Where an item belongs."""

    key: str
    cluster: str = Field(description="key of the first item that says nearly the same; its own where none does")
    split: Split | None = Field(description="None: it belongs nowhere, for `reason`")
    reason: str = ""


def deal(
    items: Sequence[Item],
    pinned: Mapping[str, Place],
    *,
    seed: int,
    shares: SplitShares,
    config: NearDuplicatesConfig | None,
) -> tuple[Place, ...]:
    """A place for every item, in order; all items of a cluster have one split, and what is pinned stays where it is.

    A new item goes where the pinned items it is a near duplicate of are. Where these are in two splits, it would tell
    one of them about the other, so it gets none. Without pinned neighbours the hash of the cluster's first key decides.

    Args:
        items: with distinct keys, those that are pinned included.
        pinned: places that were given before, by key.
        seed: deals clusters to splits.
        shares: size of the splits.
        config: what near is; None: every item is a cluster of its own.
    """
    roots = cluster([item.text for item in items], config) if config else list(range(len(items)))
    members: dict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(roots):
        members[root].append(index)
    places: dict[int, Place] = {}
    for root, indices in members.items():
        held = [pinned[items[index].key] for index in indices if items[index].key in pinned]
        splits = {place.split for place in held if place.split is not None}
        name = held[0].cluster if held else items[root].key
        for index in indices:
            key = items[index].key
            if key in pinned:
                places[index] = pinned[key]
            elif len(splits) > 1:
                reason = f"a near duplicate of items of {' and '.join(sorted(split.value for split in splits))}"
                places[index] = Place(key=key, cluster=name, split=None, reason=reason)
            else:
                split = next(iter(splits)) if splits else split_of(name, seed, shares)
                places[index] = Place(key=key, cluster=name, split=split)
    return tuple(places[index] for index in range(len(items)))


def cluster(texts: Sequence[str], config: NearDuplicatesConfig) -> list[int]:
    """For each text the index of the first one in its cluster; texts that chain through others are one cluster."""
    roots = list(range(len(texts)))

    def root_of(index: int) -> int:
        while roots[index] != index:
            roots[index] = roots[roots[index]]
            index = roots[index]
        return index

    shingled = [shingles(text) for text in texts]
    for bucket in _buckets(texts, shingled, config):
        heads: list[int] = []  # one of each cluster in the bucket: a template of thousands costs no pair twice
        for index in bucket:
            mine = root_of(index)
            near = next((h for h in heads if _near(shingled[h], shingled[index], config.threshold)), None)
            if near is None:
                heads.append(index)
                continue
            other = root_of(near)
            roots[max(mine, other)] = min(mine, other)
    return [root_of(index) for index in range(len(texts))]


def overlap(first: str, second: str) -> float:
    """Share of shingles that two texts have in common (Jaccard), 0 to 1; two empty texts: 1."""
    return _jaccard(shingles(first), shingles(second))


def shingles(text: str) -> frozenset[int]:
    """Hashes of all runs of 5 characters, apart from case, spacing and punctuation; a shorter text is one shingle."""
    plain = _NOT_A_WORD.sub(" ", normalised_text(text)).strip()
    runs = {plain[at : at + SHINGLE_CHARS] for at in range(max(1, len(plain) - SHINGLE_CHARS + 1))}
    return frozenset(zlib.crc32(run.encode("utf-8", "surrogatepass")) for run in runs)


def numbers_in(text: str) -> tuple[str, ...]:
    """The numbers of a text, sorted: what tells two fillings of one template apart."""
    return tuple(sorted(_NUMBER.findall(normalised_text(text))))


def _near(first: frozenset[int], second: frozenset[int], threshold: float) -> bool:
    return _jaccard(first, second) >= threshold


def _jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def _buckets(texts: Sequence[str], shingled: Sequence[frozenset[int]], config: NearDuplicatesConfig) -> list[list[int]]:
    """Groups of texts that may be near duplicates, each group in order."""
    found: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, held in enumerate(shingled):
        numbers = numbers_in(texts[index]) if config.numbers_apart else ()
        signature = _min_hashes(held)
        for band in range(NUM_BANDS):
            rows = signature[band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND]
            found[band, rows.tobytes(), numbers].append(index)
    return [bucket for bucket in found.values() if len(bucket) > 1]


def _min_hashes(held: frozenset[int]) -> NDArray[np.uint32]:
    values = np.fromiter(held, dtype=np.uint64, count=len(held))
    # Multiply-shift: the upper half of a 64-bit product, which wraps around on purpose.
    hashed = (values[:, None] * _FACTORS[None, :] + _TERMS[None, :]) >> np.uint64(32)
    return hashed.min(axis=0).astype(np.uint32)


def _constants(name: str) -> NDArray[np.uint64]:
    count = NUM_BANDS * ROWS_PER_BAND
    parts = [(zlib.crc32(f"{name}{i}a".encode()) << 32) | zlib.crc32(f"{name}{i}b".encode()) for i in range(count)]
    return np.array(parts, dtype=np.uint64)


_FACTORS = _constants("factor") | np.uint64(1)
_TERMS = _constants("term")
