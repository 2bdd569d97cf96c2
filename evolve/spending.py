"""What a run has cost so far, and whether its budget allows another generation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from evolve.config import RunBudget
from evolve.lab import Lab
from evolve.plan import plan_run
from evolve.progress import StageTime
from evolve.sealed import SplitProblems
from memory.types import Record
from serving.config import prices

SECONDS_PER_HOUR = 3600.0


class Spent(Record):
    """What a run has cost."""

    output_tokens: int = 0
    hours: float = 0.0
    flops: float = 0.0
    disk_gib: float = 0.0
    cost: float = Field(default=0.0, description="money; 0 where no engine has a price")


class BudgetRuling(Record):
    """Whether another generation is begun."""

    goes_on: bool
    reason: str = Field(default="", description="which limit stands in the way; empty where none does")


def spent(times: Iterable[StageTime], flops: Iterable[float], directory: Path, prices: Mapping[str, float]) -> Spent:
    """What was spent, from the times a run keeps, its training reports, and what lies in its directory.

    Money counts every engine for the whole time, since an idle engine is paid for as well.
    """
    stages = list(times)
    hours = sum(stage.seconds for stage in stages) / SECONDS_PER_HOUR
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return Spent(
        output_tokens=sum(stage.output_tokens for stage in stages),
        hours=hours,
        flops=sum(flops),
        disk_gib=size / 2**30,
        cost=hours * sum(prices.values()),
    )


def another(history: Sequence[Spent], budget: RunBudget, reserve: Spent) -> BudgetRuling:
    """Whether the next generation fits, if it costs as much as the last, with `reserve` left for the audit.

    Args:
        history: spent before generation 0, and after each generation so far.
        budget: limits; None: no limit of that kind.
        reserve: what the end of the run costs.
    """
    now = history[-1]
    last = history[-2] if len(history) > 1 else now
    for name in ("output_tokens", "hours", "flops", "disk_gib", "cost"):
        limit = getattr(budget, name)
        if limit is None:
            continue
        here, step = getattr(now, name), getattr(now, name) - getattr(last, name)
        if here + step + getattr(reserve, name) > limit:
            # No measured numbers: a run that was cut off and continued must come to the same record.
            return BudgetRuling(goes_on=False, reason=f"another generation would exceed budget.{name} ({limit:g})")
    return BudgetRuling(goes_on=True)


class Purse:
    """The budget of a run, asked before every generation; what it said is journalled, so that it says it again."""

    def __init__(self, lab: Lab, problems: SplitProblems) -> None:
        """`problems`: of generation 0, for what the audit will cost."""
        self._lab, self._problems = lab, problems
        self._history: list[Spent] = []
        self._flops: list[float] = []

    async def objection(self, flops: Iterable[float] = ()) -> str:
        """Why another generation is not begun; empty: it is. `flops`: of the jobs since it was asked last."""
        lab, budget = self._lab, self._lab.config.budget
        self._flops += flops
        number = len(self._history)
        costs = prices(lab.config.serving)
        self._history.append(spent(lab.times, self._flops, lab.directory, costs))

        async def work() -> BudgetRuling:
            return another(self._history, budget, self._reserve(costs))

        return (await lab.journal.record(f"budget-generation-{number}", budget, BudgetRuling, work)).reason

    def _reserve(self, costs: Mapping[str, float]) -> Spent:
        stages = [
            s for s in plan_run(self._lab.config, self._problems).stages if s.stage.startswith(("audit", "tune audit"))
        ]
        hours = sum(stage.seconds for stage in stages) / SECONDS_PER_HOUR
        return Spent(
            output_tokens=sum(stage.output_tokens for stage in stages), hours=hours, cost=hours * sum(costs.values())
        )
