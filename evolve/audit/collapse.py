"""Signs that a line of specialists is narrowing: alarms that a simulation shows not to cry wolf. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.special import stdtr

from evolve.gates.paired import cluster_numbers, clustered_error
from memory.types import Record

LEVEL = 0.01
"""Level of each sign; over the five of them one comparison in twenty at most raises a false alarm."""
MIN_FALL = 0.1
"""Relative fall of variety (distinct-n, entropies) below which a shown difference is too small to matter."""
MIN_LENGTH_CHANGE = 0.25
MIN_PASS_FALL = 0.02
"""Fall of pass@k in shares below which a shown difference is too small to matter."""

Sign = Literal["pass_at_k", "distinct_n", "word_entropy", "answer_entropy", "length"]


class Vitals(Record):
    """One member's samples on a set of problems, problem by problem in one order."""

    name: str
    generation: int = Field(ge=0)
    keys: tuple[str, ...] = Field(min_length=2, description="of the problems; equal keys are compared in pairs")
    right: tuple[int, ...] = Field(description="right samples")
    drawn: tuple[int, ...] = Field(description="samples; the same number everywhere, or variety cannot be compared")
    distinct_n: tuple[float, ...] = Field(description="share of distinct pairs of words among all of a problem's")
    word_entropy: tuple[float, ...] = Field(description="of the words of a problem's samples, in bits")
    answer_entropy: tuple[float, ...] = Field(description="of a problem's answers, in bits; abstentions are one answer")
    length: tuple[float, ...] = Field(description="mean words of a sample")
    clusters: tuple[str, ...] = Field(
        default=(), description="near-duplicate cluster of each problem; empty: every problem stands alone"
    )

    @model_validator(mode="after")
    def _one_table(self) -> Vitals:
        if len(self.clusters) not in (0, len(self.keys)):
            raise ValueError(
                f"{self.name}: expected a cluster for each of {len(self.keys)} problems or none, got "
                f"{len(self.clusters)}"
            )
        columns = (self.right, self.drawn, self.distinct_n, self.word_entropy, self.answer_entropy, self.length)
        if {len(column) for column in columns} != {len(self.keys)} or len(set(self.drawn)) != 1:
            raise ValueError(
                f"{self.name}: expected one value of everything for each of {len(self.keys)} problems and the same "
                f"number of samples everywhere, got {[len(c) for c in columns]} values and {sorted(set(self.drawn))}"
            )
        return self

    def pass_at(self, k: int) -> tuple[float, ...]:
        """Unbiased pass@k, problem by problem."""
        return tuple(pass_at_k(right, drawn, k) for right, drawn in zip(self.right, self.drawn, strict=True))

    @property
    def groups(self) -> np.ndarray:
        """(problems,) cluster numbers from 0."""
        return cluster_numbers(self.clusters, len(self.keys))


class Alarm(Record):
    """One sign of narrowing that is shown and large enough to matter."""

    sign: Sign
    before: float
    after: float
    p: float = Field(description="one-sided; two-sided for the length")
    sentence: str


class Health(Record):
    """A comparison of two generations: every measure, and the alarms."""

    name: str
    k: int
    pass_at_1: tuple[float, float] = Field(description="before and after")
    pass_at_k: tuple[float, float]
    distinct_n: tuple[float, float]
    word_entropy: tuple[float, float]
    answer_entropy: tuple[float, float]
    length: tuple[float, float]
    alarms: tuple[Alarm, ...]


def pass_at_k(right: int, drawn: int, k: int) -> float:
    """Chance that at least one of k samples is right, unbiased from `drawn` samples (Chen et al. 2021).

    Raises:
        ValueError: fewer samples than k, or more right than drawn.
    """
    if not (0 <= right <= drawn and 1 <= k <= drawn):
        raise ValueError(f"expected 0 <= right <= drawn and 1 <= k <= drawn, got {right}, {drawn} and k={k}")
    return 1.0 - math.comb(drawn - right, k) / math.comb(drawn, k)


def vitals_of(
    name: str,
    generation: int,
    keys: Sequence[str],
    texts: Sequence[Sequence[str]],
    answers: Sequence[Sequence[str | None]],
    right: Sequence[Sequence[bool]],
    clusters: Sequence[str] = (),
) -> Vitals:
    """Vitals from raw samples: `texts`, `answers` (canonical) and `right` by problem, then by sample.

    `clusters`: near-duplicate cluster of each problem; empty: every problem stands alone.
    """
    return Vitals(
        name=name,
        generation=generation,
        keys=tuple(keys),
        right=tuple(sum(row) for row in right),
        drawn=tuple(len(row) for row in right),
        distinct_n=tuple(distinct_n(row) for row in texts),
        word_entropy=tuple(entropy([word for text in row for word in text.split()]) for row in texts),
        answer_entropy=tuple(entropy(["" if a is None else f"={a}" for a in row]) for row in answers),
        length=tuple(sum(len(text.split()) for text in row) / max(1, len(row)) for row in texts),
        clusters=tuple(clusters),
    )


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Distinct n-grams of words over all of them (Li et al. 2016); 1 where no text has one."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def entropy(items: Sequence[str]) -> float:
    """Of the shares of equal items, in bits; 0 without items."""
    counts = Counter(items)
    return math.fsum(-c / len(items) * math.log2(c / len(items)) for c in counts.values()) if items else 0.0


def examine(before: Vitals, after: Vitals, *, k: int, level: float = LEVEL) -> Health:
    """Compare a member with its forebear of an earlier generation, generation 0 at best: small steps add up.

    Alarms, each shown at `level` and above a least size: pass@k falls (with pass@1 rising it is narrowing, else
    decline); distinct-n or the words' entropy falls; the answers' entropy falls although pass@1 does not rise, since
    right answers are alike; the length changes either way. Problems with equal keys are compared in pairs. Errors
    within a cluster of near duplicates count as one draw.
    """
    ones, many = (before.pass_at(1), after.pass_at(1)), (before.pass_at(k), after.pass_at(k))
    pairs: dict[Sign, tuple[Sequence[float], Sequence[float]]] = {
        "pass_at_k": many,
        "distinct_n": (before.distinct_n, after.distinct_n),
        "word_entropy": (before.word_entropy, after.word_entropy),
        "answer_entropy": (before.answer_entropy, after.answer_entropy),
        "length": (before.length, after.length),
    }
    is_paired, groups = before.keys == after.keys, (before.groups, after.groups)
    rises = _mean(ones[1]) > _mean(ones[0])
    alarms = []
    for sign, (old, new) in pairs.items():
        p = _p_fall(old, new, groups, is_paired=is_paired)
        if sign == "length":
            p = min(1.0, 2.0 * min(p, _p_fall(new, old, groups[::-1], is_paired=is_paired)))
        is_due = p <= level and _is_large(sign, _mean(old), _mean(new)) and not (sign == "answer_entropy" and rises)
        if is_due:
            sentence = _sentence(sign, _mean(old), _mean(new), k, rises)
            alarms.append(Alarm(sign=sign, before=_mean(old), after=_mean(new), p=p, sentence=sentence))
    means = {sign: (_mean(old), _mean(new)) for sign, (old, new) in pairs.items()}
    return Health(name=after.name, k=k, pass_at_1=(_mean(ones[0]), _mean(ones[1])), alarms=tuple(alarms), **means)


def _is_large(sign: Sign, before: float, after: float) -> bool:
    if sign == "pass_at_k":
        return before - after >= MIN_PASS_FALL
    if sign == "length":
        return abs(after - before) >= MIN_LENGTH_CHANGE * before
    return before - after >= MIN_FALL * before


def _sentence(sign: Sign, before: float, after: float, k: int, rises: bool) -> str:
    change = f"from {before:.3g} to {after:.3g}"
    if sign == "pass_at_k" and rises:
        return f"narrowing: pass@{k} fell {change} while pass@1 rose: it says one thing more surely, and fewer things"
    named = {
        "pass_at_k": f"decline: pass@{k} fell {change}, and pass@1 did not rise",
        "distinct_n": f"its wording repeats itself: distinct pairs of words fell {change}",
        "word_entropy": f"its vocabulary shrinks: entropy fell {change} bits",
        "answer_entropy": f"its answers grow alike without being right more often: entropy fell {change} bits",
        "length": f"its answers changed length {change} words",
    }
    return named[sign]


def _p_fall(
    before: Sequence[float], after: Sequence[float], groups: tuple[np.ndarray, np.ndarray], *, is_paired: bool
) -> float:
    """One-sided p of "the mean fell": a t test with clustered errors, paired or Welch's; 1 without a fall.

    `groups` are cluster numbers of the problems before and after. Where every cluster says the same, a t test has no
    error to go by and would be sure of two problems: a sign test is all there is.
    """
    old, new = np.asarray(before), np.asarray(after)
    counts = [int(numbers.max()) + 1 for numbers in groups]
    fall = float(old.mean() - new.mean())
    if is_paired:
        error, freedom = clustered_error(old - new, groups[0]), counts[0] - 1.0
    else:
        a, b = clustered_error(old, groups[0]) ** 2, clustered_error(new, groups[1]) ** 2
        error, freedom = math.sqrt(a + b), _welch(a, b, *counts)
    if error <= 1e-9:
        return float(0.5 ** min(counts)) if fall > 1e-9 else 1.0
    return float(stdtr(freedom, -fall / error))


def _welch(a: float, b: float, num_a: int, num_b: int) -> float:
    """Degrees of freedom of two squared errors; a mean of a single cluster has no error and lends none."""
    parts = [(square, count - 1) for square, count in ((a, num_a), (b, num_b)) if square > 0.0]
    return (a + b) ** 2 / math.fsum(square**2 / freedom for square, freedom in parts) if parts else 1.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
