"""How unlike the members are: described in every generation, never rewarded. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from pydantic import Field

from evolve.gates.intervals import Interval, wilson
from memory.types import Record
from mesh.reliability import PRIOR_STRENGTH, Judged, PairCount, measure

RESAMPLES = 400


class PairDiversity(Record):
    """Two members' judged answers to the same tasks."""

    first: str
    second: str
    num_both: int = Field(description="(task, sample) pairs that both are judged on")
    double_fault: float | None = Field(description="share that both got wrong (Giacinto and Roli 2001)")
    double_fault_interval: Interval
    q: float | None = Field(description="Yule's Q of being right, -1..1; 0: independent; None: not defined")
    kappa: float | None = Field(description="Cohen's kappa of being right, 1: always alike; None: not defined")
    disagreement: float | None = Field(description="share on which exactly one is right")
    same_wrong: float | None = Field(description="where both answered wrongly, how often alike; None: never so")
    same_wrong_interval: Interval


class Diversity(Record):
    """A mesh's diversity on one set of judged answers."""

    members: tuple[str, ...]
    num_tasks: int
    pairs: tuple[PairDiversity, ...]
    double_fault: float | None = Field(description="mean over pairs")
    q: float | None
    kappa: float | None
    same_wrong: float | None = Field(description="pooled over pairs")
    n_eff: float = Field(description="independent votes that the members are worth, as `mesh.reliability` counts them")
    n_eff_interval: Interval = Field(description="95%, by resampling tasks")
    vendi: dict[str, float] = Field(default_factory=dict, description="encoder to the Vendi score of correct traces")


def describe(judged: Iterable[Judged], *, vectors: Mapping[str, np.ndarray] | None = None, seed: int = 0) -> Diversity:
    """Every measure of diversity, from judged independent first answers.

    Args:
        judged: as `mesh.reliability.judged_answers` gives them.
        vectors: encoder to (texts, dimensions) of correct traces, for Vendi; give two encoders, they disagree.
        seed: of the resampling.
    """
    answers = list(judged)
    reliability = measure(answers)
    names = tuple(dict.fromkeys(one.member for one in answers))
    pairs = [_pair(first, second, reliability.pairs) for first, second in combinations(names, 2)]
    wrong = sum(count.num_both_answered_wrong for count in reliability.pairs)
    same = sum(count.num_same_wrong for count in reliability.pairs)
    tasks = list(dict.fromkeys(one.task_id for one in answers))
    return Diversity(
        members=names,
        num_tasks=len(tasks),
        pairs=tuple(pairs),
        double_fault=_mean([pair.double_fault for pair in pairs]),
        q=_mean([pair.q for pair in pairs]),
        kappa=_mean([pair.kappa for pair in pairs]),
        same_wrong=same / wrong if wrong else None,
        n_eff=reliability.num_effective(names),
        n_eff_interval=_n_eff_interval(answers, names, tasks, seed),
        vendi={encoder: vendi_score(table) for encoder, table in (vectors or {}).items()},
    )


def yules_q(both: int, only_first: int, only_second: int, neither: int) -> float | None:
    """(both * neither - only_first * only_second) / their sum; None where that is 0."""
    alike, unlike = both * neither, only_first * only_second
    return (alike - unlike) / (alike + unlike) if alike + unlike else None


def cohens_kappa(both: int, only_first: int, only_second: int, neither: int) -> float | None:
    """Agreement beyond chance of two members' being right; None without answers or without any variation."""
    n = both + only_first + only_second + neither
    if n == 0:
        return None
    observed = (both + neither) / n
    first, second = (both + only_first) / n, (both + only_second) / n
    chance = first * second + (1.0 - first) * (1.0 - second)
    return (observed - chance) / (1.0 - chance) if chance < 1.0 - 1e-12 else None


def vendi_score(vectors: np.ndarray) -> float:
    """Effective number of different texts: exp of the entropy of their cosine matrix (Friedman and Dieng 2023).

    `vectors`: (texts, dimensions), none of them 0. Between 1 (all alike) and the number of texts; 0 without texts.
    """
    if vectors.shape[0] == 0:
        return 0.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if np.any(lengths == 0.0):
        raise ValueError("expected vectors of a length above 0; leave out texts that the encoder could not read")
    unit = vectors / lengths
    values = np.linalg.svd(unit, compute_uv=False) ** 2 / vectors.shape[0]
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def _pair(first: str, second: str, counts: Sequence[PairCount]) -> PairDiversity:
    mine = [count for count in counts if {count.first, count.second} == {first, second}]
    n = sum(count.num_both for count in mine)
    fault = sum(count.num_both_wrong for count in mine)
    wrong = {first: 0, second: 0}
    for count in mine:
        wrong[count.first] += count.num_first_wrong
        wrong[count.second] += count.num_second_wrong
    cells = (n - wrong[first] - wrong[second] + fault, wrong[second] - fault, wrong[first] - fault, fault)
    answered, same = sum(c.num_both_answered_wrong for c in mine), sum(c.num_same_wrong for c in mine)
    return PairDiversity(
        first=first,
        second=second,
        num_both=n,
        double_fault=fault / n if n else None,
        double_fault_interval=wilson(fault, n),
        q=yules_q(*cells),
        kappa=cohens_kappa(*cells),
        disagreement=(cells[1] + cells[2]) / n if n else None,
        same_wrong=same / answered if answered else None,
        same_wrong_interval=wilson(same, answered),
    )


def _n_eff_interval(answers: Sequence[Judged], names: Sequence[str], tasks: Sequence[str], seed: int) -> Interval:
    """By resampling whole tasks; the correlation is that of `mesh.reliability`, which shrinks towards 0."""
    if len(names) < 2 or not tasks:
        return Interval(low=float(len(names)), high=float(len(names)))
    of_task: dict[str, list[Judged]] = {task: [] for task in tasks}
    for one in answers:
        of_task[one.task_id].append(one)
    types = list(dict.fromkeys(one.task_type for one in answers))
    table = np.stack([_pair_counts(of_task[task], names, types) for task in tasks])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        counts = table[rng.integers(0, len(tasks), size=len(tasks))].sum(axis=0)
        values.append(_n_eff(counts, len(names)))
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(low=float(low), high=float(high))


def _pair_counts(answers: Sequence[Judged], names: Sequence[str], types: Sequence[str]) -> np.ndarray:
    """(pairs, types, 4): both judged, first wrong, second wrong, both wrong, for one task."""
    right: dict[tuple[str, int], bool] = {(one.member, one.sample): one.correct for one in reversed(answers)}
    place = types.index(answers[0].task_type)
    pairs = list(combinations(names, 2))
    counts = np.zeros((len(pairs), len(types), 4))
    for row, (first, second) in enumerate(pairs):
        for member, sample in right:
            if member == first and (second, sample) in right:
                a, b = not right[first, sample], not right[second, sample]
                counts[row, place] += (1, a, b, a and b)
    return counts


def _n_eff(counts: np.ndarray, num_members: int) -> float:
    both, first, second, fault = (counts[:, :, index] for index in range(4))
    shared = np.where(both > 0, both, 1.0)
    together = (fault - first * second / shared).sum(axis=1)
    spread = np.sqrt((first * (both - first) / shared).sum(axis=1) * (second * (both - second) / shared).sum(axis=1))
    phi = np.where(spread > 0.0, together / np.where(spread > 0.0, spread, 1.0), 0.0).clip(-1.0, 1.0)
    total = both.sum(axis=1)
    mean = max(0.0, float((total * phi / (total + PRIOR_STRENGTH)).mean()))
    return max(1.0, num_members / (1.0 + (num_members - 1) * mean))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
