"""Which members are seated: those who together solve the most, not those who solve the most alone. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from pydantic import Field

from memory.types import Record

MAX_EXACT = 50_000
"""Sets of seats that are all looked at unless the caller says otherwise."""


class Seating(Record):
    """The chosen members."""

    members: tuple[str, ...] = Field(description="in the order of the candidates, which is seat order")
    coverage: float = Field(description="expected share of problems that at least one of them solves, weighted")
    order: tuple[tuple[str, float], ...] = Field(description="the chosen, greedily, with what each added to coverage")
    is_exact: bool = Field(description="every possible set was compared; False: greedy, at least half of the best")


def choose_seats(
    scores: Mapping[str, Sequence[float]],
    num_seats: int,
    *,
    groups: Mapping[str, str] | None = None,
    max_per_group: int | Mapping[str, int] = 1,
    weights: Sequence[float] | None = None,
    required: Sequence[str] = (),
    max_exact: int = MAX_EXACT,
) -> Seating:
    """`num_seats` members with the largest coverage: the mean over problems of 1 - product of (1 - score).

    Coverage is monotone and submodular, so the greedy choice reaches at least 63% of the best, or half of it with
    limits by group (Nemhauser et al. 1978; Fisher et al. 1978). Small cases are solved exactly. Of equals the set with
    the higher sum of scores, then the earlier members.

    Args:
        scores: member to the share of its samples that is right, problem by problem, 0..1.
        num_seats: how many; fewer are seated where the limits leave no more.
        groups: member to its group, e.g. its engine; None: no limits.
        max_per_group: how many members of one group may be seated, or of each group.
        weights: weight of each problem, e.g. its difficulty; None: all alike.
        required: members that are seated in any case.
        max_exact: sets of seats that are all looked at; where there are more, the greedy choice is taken.

    Raises:
        ValueError: no members, other numbers of problems, an unknown or too many required members.
    """
    names, missed, weight = _table(scores, weights)
    limits = _Limits(names, groups or {}, max_per_group if groups else len(names))
    fixed = [names.index(name) for name in required if name in scores]
    if len(fixed) != len(set(required)) or len(fixed) > num_seats or not limits.allow(fixed):
        raise ValueError(f"expected required members among {names} that fit {num_seats} seats, got {list(required)}")
    greedy = _greedy(missed, weight, num_seats, limits, fixed)
    free = len(names) - len(fixed)
    is_exact = math.comb(free, max(0, len(greedy) - len(fixed))) <= max_exact
    chosen = _best(missed, weight, len(greedy), limits, fixed) if is_exact else greedy
    order = _greedy(missed, weight, len(chosen), _Limits(names, {}, len(names)), [], among=chosen)
    gains, seen = [], np.ones(missed.shape[1])
    for index in order:
        after = seen * missed[index]
        gains.append((names[index], float(weight @ (seen - after))))
        seen = after
    return Seating(
        members=tuple(names[index] for index in sorted(chosen)),
        coverage=float(weight @ (1.0 - seen)),
        order=tuple(gains),
        is_exact=is_exact,
    )


class _Limits:
    def __init__(self, names: Sequence[str], groups: Mapping[str, str], most: int | Mapping[str, int]) -> None:
        self._group = [groups.get(name, name) for name in names]
        self._most = most

    def allow(self, members: Sequence[int]) -> bool:
        counts = Counter(self._group[index] for index in members)
        if isinstance(self._most, int):
            return max(counts.values(), default=0) <= self._most
        return all(count <= self._most.get(group, 0) for group, count in counts.items())


def _table(
    scores: Mapping[str, Sequence[float]], weights: Sequence[float] | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(names, (members, problems) chance to miss, weights that add up to 1)."""
    names = list(scores)
    lengths = {len(values) for values in scores.values()} | ({len(weights)} if weights is not None else set())
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"expected scores of the same problems, at least one, got lengths {sorted(lengths)}")
    table = np.asarray([scores[name] for name in names], dtype=float)
    weight = np.ones(table.shape[1]) if weights is None else np.asarray(weights, dtype=float)
    if table.min() < 0.0 or table.max() > 1.0 or weight.min() < 0.0 or weight.sum() <= 0.0:
        raise ValueError("expected scores between 0 and 1 and weights of at least 0 that are not all 0")
    return names, 1.0 - table, weight / weight.sum()


def _greedy(
    missed: np.ndarray,
    weight: np.ndarray,
    num_seats: int,
    limits: _Limits,
    fixed: Sequence[int],
    among: Sequence[int] | None = None,
) -> list[int]:
    chosen = list(fixed)
    pool = list(range(missed.shape[0])) if among is None else sorted(among)
    while len(chosen) < num_seats:
        left = [index for index in pool if index not in chosen and limits.allow([*chosen, index])]
        if not left:
            break
        seen = np.prod(missed[chosen], axis=0) if chosen else np.ones(missed.shape[1])
        chosen.append(
            max(left, key=lambda index: (_round(weight @ (seen * (1.0 - missed[index]))), *_tie(missed, [index])))
        )
    return chosen


def _best(missed: np.ndarray, weight: np.ndarray, size: int, limits: _Limits, fixed: Sequence[int]) -> list[int]:
    free = [index for index in range(missed.shape[0]) if index not in fixed]
    sets = ([*fixed, *more] for more in combinations(free, size - len(fixed)))
    allowed = (one for one in sets if limits.allow(one))
    return max(allowed, key=lambda one: (_round(1.0 - weight @ np.prod(missed[one], axis=0)), *_tie(missed, one)))


def _tie(missed: np.ndarray, members: Sequence[int]) -> tuple[float, tuple[int, ...]]:
    return _round((1.0 - missed[list(members)]).sum()), tuple(-index for index in sorted(members))


def _round(value: Any) -> float:
    return round(float(value), 9)
