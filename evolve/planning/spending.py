"""What a run has cost so far, and whether its budget allows another generation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from evolve.config import ConfigError, RunBudget, RunConfig
from evolve.lab import Lab
from evolve.planning.bill import money_per_hour, training_flops
from evolve.planning.plan import Problems, StagePlan, disk_bytes, plan_end, plan_generation
from evolve.planning.rates import Basis, basis_for
from evolve.problems.sealed import SplitProblems
from evolve.progress import StageTime
from memory.types import Record

SECONDS_PER_HOUR = 3600.0
_GENERATION = re.compile(r"generation (\d+) ")
_UNITS = {
    "output_tokens": "{:,.0f} output tokens",
    "hours": "{:.2g} hours",
    "flops": "{:.2g} FLOPs of training",
    "disk_gib": "{:.2g} GiB of disk",
    "cost": "{:.2f} in money",
}

_BY_SPEED = ("hours", "cost")


class BudgetTooSmall(ConfigError):
    """The budget does not even allow one generation and the audit after it; nothing was spent."""


class Spent(Record):
    """What a run has cost, or a part of it."""

    output_tokens: int = 0
    hours: float = 0.0
    flops: float = 0.0
    disk_gib: float = 0.0
    cost: float = Field(default=0.0, description="money; 0 where no engine has a price")

    def __add__(self, other: Spent) -> Spent:
        return Spent.model_validate({name: getattr(self, name) + getattr(other, name) for name in _UNITS})


class BudgetRuling(Record):
    """Whether another generation is begun."""

    goes_on: bool
    reason: str = Field(default="", description="which limit stands in the way; empty where none does")


def spent(times: Iterable[StageTime], flops: Iterable[float], directory: Path, per_hour: float) -> Spent:
    """What was spent, from the times a run keeps, its training reports, and what lies in its directory.

    `per_hour`: money of all engines, since an idle engine is paid for as well.
    """
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return _timed(times, per_hour).model_copy(update={"flops": sum(flops), "disk_gib": size / 2**30})


def spent_in(number: int, times: Iterable[StageTime], flops: float, per_hour: float) -> Spent:
    """What generation `number` took, all but disk, in which generations cannot be told apart.

    Read off the names of its stages: a run that was cut off and continued has the same.
    """
    mine = [one for one in times if (match := _GENERATION.match(one.stage)) is not None and int(match[1]) == number]
    return _timed(mine, per_hour).model_copy(update={"flops": flops})


def planned(config: RunConfig, stages: Sequence[StagePlan]) -> Spent:
    """What stages are expected to take; a base whose weights are not here counts no operations."""
    hours = sum(stage.seconds for stage in stages) / SECONDS_PER_HOUR
    return Spent(
        output_tokens=sum(stage.output_tokens for stage in stages),
        hours=hours,
        flops=training_flops(config, sum(stage.trained_tokens for stage in stages)) or 0.0,
        disk_gib=disk_bytes(stages) / 2**30,
        cost=hours * money_per_hour(config),
    )


def limit_in_the_way(budget: RunBudget, total: Spent) -> str:
    """Name of the first limit that `total` exceeds; empty: none."""
    for name in _UNITS:
        limit = getattr(budget, name)
        if limit is not None and getattr(total, name) > limit:
            return name
    return ""


def check_budget(config: RunConfig, problems: Problems, basis: Basis) -> None:
    """Before anything is spent: may generation 0 begin, with enough left for the audit after it?

    Raises:
        BudgetTooSmall: naming the limit, what is expected, and what that rests on.
    """
    stages = [*plan_generation(config, problems, basis.rates, 0), *plan_end(config, problems, basis.rates, 1)]
    total = planned(config, stages)
    name = limit_in_the_way(config.budget, total)
    if name:
        raise BudgetTooSmall(
            f"budget.{name}: expected room for generation 0 and the audit after it, which are planned to take "
            f"{_UNITS[name].format(getattr(total, name))}, got {getattr(config.budget, name):g}; nothing was spent; "
            "raise it, or lower items, samples or councils" + (f". {basis.sentence}" if name in _BY_SPEED else "")
        )


class Purse:
    """The budget of a run, asked before every generation but the first, which `check_budget` has allowed.

    What it said is journalled, so that it says it again.
    """

    def __init__(self, lab: Lab, problems: SplitProblems) -> None:
        """`problems`: of generation 0, for what is still to come."""
        self._lab, self._problems = lab, problems

    async def objection(self, flops: Sequence[float]) -> str:
        """Why another generation is not begun; empty: it is. `flops`: of every generation so far, in order."""
        lab, budget, number = self._lab, self._lab.config.budget, len(flops)
        if budget == RunBudget():
            return ""

        async def work() -> BudgetRuling:
            name = limit_in_the_way(budget, self._expected(flops))
            if not name:
                return BudgetRuling(goes_on=True)
            # No measured numbers: a run that was cut off and continued must come to the same record.
            reason = f"another generation would exceed budget.{name} ({getattr(budget, name):g})"
            return BudgetRuling(goes_on=False, reason=reason)

        return (await lab.journal.record(f"budget-generation-{number}", budget, BudgetRuling, work)).reason

    def _expected(self, flops: Sequence[float]) -> Spent:
        """What the run will have cost after one generation more, if that costs what the last did, and the audit."""
        lab, number, config = self._lab, len(flops), self._lab.config
        rates, per_hour = basis_for(config).rates, money_per_hour(config)  # by now, what this run has measured
        now = spent(lab.times.all, flops, lab.directory, per_hour)
        last = spent_in(number - 1, lab.times.all, flops[-1], per_hour)
        disk = planned(config, plan_generation(config, self._problems, rates, number)).disk_gib
        end = planned(config, plan_end(config, self._problems, rates, number + 1))
        return now + last.model_copy(update={"disk_gib": disk}) + end


def _timed(times: Iterable[StageTime], per_hour: float) -> Spent:
    stages = list(times)
    hours = sum(stage.seconds for stage in stages) / SECONDS_PER_HOUR
    return Spent(output_tokens=sum(stage.output_tokens for stage in stages), hours=hours, cost=hours * per_hour)
