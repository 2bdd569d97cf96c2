"""Near-duplicates among entries, for a maintenance pass: MinHash sketches, banding, and the decision to merge."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory.fingerprint import error_normal_form, particulars, problem_normal_form, same_particulars
from memory.types import Kind

Sketch = NDArray[np.uint32]

NUM_HASHES = 64
"""The standard error of `similarity` is sqrt(J (1 - J) / 64), at most 0.0625."""

NUM_BANDS = 32
"""Two hashes each: a pair of Jaccard J is a candidate with 1 - (1 - J**2)**32 (0.2: 73%; 0.3: 95%; 0.5: 99.99%)."""

NEIGHBOURS = 8
"""Within one bucket each item meets the oldest and so many next ones, so that one huge bucket stays linear."""

MIN_JACCARD = 0.5
"""Alike by wording alone, with the same particulars; `scripts/bench_duplicates.py` has the curve.

The particulars do the work: with them a threshold of 0.3 or 0.7 merges the same 1 of 635 planted look-alikes, and 0.3
finds hardly more duplicates; without them, 0.9 is wrong in three merges of ten.
"""

MIN_COSINE = 0.9
"""Alike in meaning, with the same particulars and some of the wording."""

JACCARD_FLOOR = 0.2
"""Below this no cosine makes a duplicate: short texts from one template are near in meaning whatever they ask."""

MIN_ERROR_JACCARD = 0.9
"""For errors, where one word (a function, a module) makes another error, and their normal form has lost the rest."""

_SEED = 4
_BY_CHAIN = "an entry that is a duplicate of it is one of that entry too"


class Item(NamedTuple):
    """An entry as this pass reads it. `row` grows with age: the lower one is older."""

    row: int
    id: str
    kind: Kind
    text: str
    namespace: str = "default/default/default"
    task_type: str = ""
    split: str = ""
    error_code: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    vector: NDArray[np.float32] | None = None


class Pair(NamedTuple):
    """Two entries that may be one, by position in the sequence given; `cosine` is None where a vector is missing."""

    a: int
    b: int
    jaccard: float
    cosine: float | None


class Merge(NamedTuple):
    """Entry `duplicate` says what the older entry `into` says."""

    duplicate: str
    into: str
    reason: str


def find_duplicates(items: Sequence[Item], new: Collection[int]) -> list[Merge]:
    """Which of `items` are duplicates of an older one, the older of the merges first.

    Args:
        items: live entries in any order, rows distinct; merged, retired and erased ones are for the caller to leave
            out. Vectors are of one embedder.
        new: rows to judge; a pair with neither row in it is not looked at again.

    Duplicates of duplicates are all merged into the oldest of the chain. The same items give the same merges.
    """
    items = sorted(items, key=lambda item: item.row)
    wanted = {_gate(item) for item in items if item.row in new}
    items = [item for item in items if _gate(item) in wanted]
    oldest = list(range(len(items)))
    why: dict[int, str] = {}
    forms = [normal_form(item) for item in items]
    for pair in (*_exact_pairs(items, forms), *_near_pairs(items, forms)):
        if items[pair.a].row in new or items[pair.b].row in new:
            _join(oldest, pair.a, pair.b)
            why.setdefault(pair.b, _reason(items, pair))
    merged = ((i, item, _root(oldest, i)) for i, item in enumerate(items))
    return [Merge(item.id, items[root].id, why.get(i, _BY_CHAIN)) for i, item, root in merged if root != i]


def is_duplicate(a: Item, b: Item, jaccard: float, cosine: float | None) -> bool:
    """Whether `a` and `b` may stand for one another: the same circumstances, and the same normal form or nearly so.

    Args:
        a: an entry.
        b: another entry.
        jaccard: share of word triples they have in common, 0 to 1; an estimate by `similarity` will do.
        cosine: of their vectors; None: unknown, and the wording alone decides.
    """
    if _gate(a) != _gate(b):
        return False
    if _identity(a, normal_form(a)) == _identity(b, normal_form(b)):
        return True
    return alike(a.kind, jaccard, cosine) and same_particulars(_judged(a), _judged(b))


def alike(kind: Kind, jaccard: float, cosine: float | None) -> bool:
    """The thresholds alone, without circumstances and particulars."""
    if kind is Kind.ERROR:
        return jaccard >= MIN_ERROR_JACCARD
    return jaccard >= MIN_JACCARD or (cosine is not None and cosine >= MIN_COSINE and jaccard >= JACCARD_FLOOR)


def canonical(a: Item, b: Item) -> Item:
    """The one that stays: the older."""
    return min(a, b, key=lambda item: item.row)


def normal_form(item: Item) -> str:
    """The normal form that fingerprints are made of, by kind."""
    return error_normal_form(item.text) if item.kind is Kind.ERROR else problem_normal_form(item.text)


def sketch(form: str) -> Sketch:
    """uint32 (64,): the least hash of the shingles of a normal form under each of 64 hash functions.

    Broder 1997, "On the resemblance and containment of documents". Shingles are word triples, and runs of four
    characters where there are fewer than six words. Hash functions are multiply-shift (Dietzfelbinger et al. 1997)
    with fixed multipliers, so a sketch is the same in every process. An empty form has the sketch of one empty shingle.
    """
    shingles = np.fromiter((zlib.crc32(s.encode("utf-8", "surrogatepass")) for s in _shingles(form)), dtype=np.uint64)
    hashes: NDArray[np.uint64] = (shingles[:, None] * _MULTIPLIERS + _OFFSETS) >> np.uint64(32)
    return hashes.min(axis=0).astype(np.uint32)


def similarity(a: Sketch, b: Sketch) -> float:
    """Estimate of the Jaccard similarity of two sketched texts, 0 to 1: the share of hashes that agree."""
    return float(np.mean(a == b))


def candidate_pairs(sketches: Sketch, groups: NDArray[np.int64] | None = None) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, in ascending order, whose sketches agree in a whole band.

    Args:
        sketches: uint32 (n, 64).
        groups: int64 (n,) or None; items of different groups never pair.
    """
    count = len(sketches)
    found = [np.zeros(0, dtype=np.int64)]
    group = np.zeros(count, dtype=np.uint64) if groups is None else groups.astype(np.uint64)
    for first, second in sketches.reshape(count, NUM_BANDS, 2).transpose(1, 2, 0).astype(np.uint64):
        # A collision of this mixture costs one comparison in vain, never a wrong pair.
        keys = ((first << np.uint64(32)) | second) ^ (group * np.uint64(0x9E3779B97F4A7C15))
        found.append(_bucket_pairs(keys))
    for code in np.unique(np.concatenate(found)).tolist():
        i, j = divmod(code, count)
        if groups is None or groups[i] == groups[j]:
            yield i, j


def _bucket_pairs(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs of positions with equal keys as i * n + j: each position with the first of its bucket and the next ones."""
    count = len(keys)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    ranked = keys[order]
    pairs = []
    for step in range(1, min(NEIGHBOURS, count - 1) + 1):
        together = ranked[:-step] == ranked[step:]
        if not together.any():
            break
        pairs.append(order[:-step][together] * count + order[step:][together])
    starts = np.concatenate(([True], ranked[1:] != ranked[:-1])) if count else np.zeros(0, dtype=bool)
    leads = np.maximum.accumulate(np.where(starts, np.arange(count), 0))
    far = np.arange(count) - leads > NEIGHBOURS
    pairs.append(order[leads[far]] * count + order[far])
    return np.concatenate(pairs)


def _shingles(form: str) -> set[str]:
    words = form.split()
    if len(words) >= 6:
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}
    return {form[i : i + 4] for i in range(max(1, len(form) - 3))}


def _hash_functions() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    random = np.random.Generator(np.random.PCG64(_SEED))
    top = np.iinfo(np.uint64).max
    multipliers = random.integers(0, top, NUM_HASHES, dtype=np.uint64) | np.uint64(1)
    return multipliers, random.integers(0, top, NUM_HASHES, dtype=np.uint64)


_MULTIPLIERS, _OFFSETS = _hash_functions()


def _gate(item: Item) -> tuple[object, ...]:
    environment = tuple(sorted(item.environment))
    return (item.kind, item.namespace, item.task_type, item.split, item.error_code, environment)


def _identity(item: Item, form: str) -> object:
    return (_gate(item), form or item.text)


def _judged(item: Item) -> str:
    """The text whose particulars count: of an error its normal form, since its numbers and quotes are incidental."""
    return normal_form(item) if item.kind is Kind.ERROR else item.text


def _exact_pairs(items: Sequence[Item], forms: Sequence[str]) -> Iterator[Pair]:
    first: dict[object, int] = {}
    for i, (item, form) in enumerate(zip(items, forms, strict=True)):
        leader = first.setdefault(_identity(item, form), i)
        if leader != i:
            yield Pair(leader, i, 1.0, None)


def _near_pairs(items: Sequence[Item], forms: Sequence[str]) -> Iterator[Pair]:
    """Near-duplicates among the first entries of each normal form."""
    first: dict[object, int] = {}
    for i, (item, form) in enumerate(zip(items, forms, strict=True)):
        first.setdefault(_identity(item, form), i)
    firsts = list(first.values())
    if len(firsts) < 2:
        return
    sketches = np.stack([sketch(forms[i]) for i in firsts])
    # Equal circumstances and particulars are needed anyway; as groups they keep templates from pairing with themselves.
    numbers: dict[object, int] = {}
    keys = [(_gate(items[i]), particulars(_judged(items[i]))) for i in firsts]
    groups = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    for i, j in candidate_pairs(sketches, groups):
        a, b = firsts[i], firsts[j]
        pair = Pair(a, b, similarity(sketches[i], sketches[j]), _cosine(items[a], items[b]))
        if is_duplicate(items[pair.a], items[pair.b], pair.jaccard, pair.cosine):
            yield pair


def _cosine(a: Item, b: Item) -> float | None:
    return None if a.vector is None or b.vector is None else float(a.vector @ b.vector)


def _root(oldest: list[int], i: int) -> int:
    while oldest[i] != i:
        oldest[i] = oldest[oldest[i]]
        i = oldest[i]
    return i


def _join(oldest: list[int], a: int, b: int) -> None:
    a, b = sorted((_root(oldest, a), _root(oldest, b)))
    oldest[b] = a


def _reason(items: Sequence[Item], pair: Pair) -> str:
    other = items[pair.a].id[:12]
    if pair.jaccard == 1.0 and pair.cosine is None:
        return f"the same normal form as {other}"
    meaning = "" if pair.cosine is None else f", cosine {pair.cosine:.2f}"
    return f"the same particulars as {other}, and near in wording (Jaccard {pair.jaccard:.2f}{meaning})"
