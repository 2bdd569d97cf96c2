"""Who of many candidates gets more DEV problems, and who the finalists are: successive halving. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from memory.types import Record, content_hash


class HalvingPlan(Record):
    """How many problems an arrangement has seen by the end of each rung, and how many go on after it."""

    rungs: tuple[int, ...] = Field(min_length=1, description="problems seen by the end of each rung, increasing")
    survivors: tuple[int, ...] = Field(description="arrangements kept after each rung; the last are the finalists")

    @model_validator(mode="after")
    def _narrows(self) -> HalvingPlan:
        if len(self.rungs) != len(self.survivors) or min(self.survivors) < 1 or self.rungs[0] < 1:
            raise ValueError(f"expected survivors for each rung, all at least 1, got {self.rungs} and {self.survivors}")
        if list(self.rungs) != sorted(set(self.rungs)) or list(self.survivors) != sorted(self.survivors, reverse=True):
            raise ValueError(f"expected more problems and no more survivors at each rung, got {self}")
        return self

    def num_evaluations(self, num_arms: int) -> int:
        """Problems times arrangements over all rungs; without halving it would be `num_arms * rungs[-1]`."""
        seen, total, left = 0, 0, num_arms
        for rung, survivors in zip(self.rungs, self.survivors, strict=True):
            total, seen, left = total + left * (rung - seen), rung, min(left, survivors)
        return total


class Step(Record):
    """What is to be measured next; nothing when `arms` is empty, and then `finalists` is the result."""

    arms: tuple[str, ...] = Field(default=(), description="arrangements that get more problems")
    start: int = Field(default=0, description="first problem of the next rung, in the order of the results")
    stop: int = Field(default=0, description="first problem after it")
    finalists: tuple[str, ...] = Field(default=(), description="best first; only those that did better on DEV")
    dropped: dict[str, str] = Field(default_factory=dict, description="arrangement to why it got no more problems")


def plan_halving(num_arms: int, num_problems: int, *, num_finalists: int = 3, keep: float = 0.5) -> HalvingPlan:
    """Rungs that keep the share `keep` each until `num_finalists` are left; those have seen every problem.

    A rung has as many problems more as it has fewer arrangements, so each costs about the same (Jamieson and Talwalkar
    2016). With no more arrangements than finalists there is one rung with all problems.
    """
    if min(num_arms, num_problems, num_finalists) < 1 or not 0.0 < keep < 1.0:
        raise ValueError(
            f"expected at least one arrangement, problem and finalist and 0 < keep < 1, got {num_arms}, "
            f"{num_problems}, {num_finalists} and {keep}"
        )
    survivors, left = [], num_arms
    while left > num_finalists:
        left = max(num_finalists, min(left - 1, math.ceil(left * keep)))
        survivors.append(left)
    survivors = survivors or [num_finalists]
    sizes = [max(1, round(num_problems * keep**place)) for place in reversed(range(len(survivors)))]
    # With few problems two rungs may have one size: the later one decides.
    steps = {size: kept for size, kept in zip(sizes, survivors, strict=True)}
    return HalvingPlan(rungs=tuple(steps), survivors=tuple(steps.values()))


def balanced_order(task_types: Sequence[str], keys: Sequence[str], seed: int) -> tuple[int, ...]:
    """Indices in an order whose every beginning holds each task type in about equal shares; seeded within a type."""
    by_type: dict[str, list[int]] = {}
    for index, task_type in enumerate(task_types):
        by_type.setdefault(task_type, []).append(index)
    for items in by_type.values():
        items.sort(key=lambda index: content_hash([seed, keys[index]]))
    placed = [
        ((place + 0.5) / len(items), task_type, index)
        for task_type, items in by_type.items()
        for place, index in enumerate(items)
    ]
    return tuple(index for _, _, index in sorted(placed))


def kept_whole(order: Sequence[int], clusters: Sequence[str], count: int) -> frozenset[str]:
    """Clusters of the last `count` items of an order, or fewer: one for which there is no room left is passed over.

    `clusters`: one for each item. Where every item stands alone these are the last `count` of them.
    """
    sizes, kept, room = Counter(clusters), set[str](), count
    for index in reversed(order):
        size = sizes[clusters[index]]
        if clusters[index] not in kept and size <= room:
            kept.add(clusters[index])
            room -= size
    return frozenset(kept)


def next_step(
    plan: HalvingPlan, incumbent: Sequence[bool], results: Mapping[str, Sequence[bool]], *, seed: int = 0
) -> Step:
    """What to measure next, from all results so far; the same results give the same step.

    Args:
        plan: rungs and survivors.
        incumbent: was the incumbents' vote right, for at least as many problems as the next rung compares.
        results: arrangement to its results on the first problems, in the same order; empty for one never measured.
        seed: breaks ties between equal gains.

    Raises:
        ValueError: the incumbents have fewer results than a rung that is to be decided.
    """
    active, seen = sorted(results), 0
    dropped: dict[str, str] = {}
    for rung, survivors in zip(plan.rungs, plan.survivors, strict=True):
        if any(len(results[name]) < rung for name in active):
            return Step(arms=tuple(active), start=seen, stop=rung, dropped=dropped)
        if len(incumbent) < rung:
            raise ValueError(f"expected {rung} results of the incumbents to compare with, got {len(incumbent)}")
        ahead = {name: sum(results[name][:rung]) - sum(incumbent[:rung]) for name in active}
        active.sort(key=lambda name: (-ahead[name], content_hash([seed, name])))
        for place, name in enumerate(active[survivors:], start=survivors + 1):
            dropped[name] = f"place {place} of {len(active)} after {rung} problems ({ahead[name] / rung:+.1%})"
        active, seen = active[:survivors], rung
    finalists = [name for name in active if ahead[name] > 0] if active else []
    for name in active:
        if ahead[name] <= 0:
            dropped[name] = f"no better than the incumbents after {seen} problems ({ahead[name] / seen:+.1%})"
    return Step(finalists=tuple(finalists), dropped=dropped)
