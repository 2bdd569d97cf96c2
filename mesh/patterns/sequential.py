"""Sequential: parts one after the other, each shown what the earlier ones came to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from mesh.patterns.step import Pattern, Step
from mesh.table import Table
from mesh.types import Verdict


class SequentialConfig(Pattern):
    """The last step's verdict is the verdict."""

    kind: Literal["sequential"] = "sequential"
    steps: tuple[Step, ...] = Field(min_length=1, description="parts in order")

    @field_validator("steps")
    @classmethod
    def _names_are_unique(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return unique(steps)


async def sequential(table: Table, config: SequentialConfig) -> Verdict:
    """Hold the steps in order."""
    results: list[str] = []
    for step in config.steps:
        part = await table.hold(step.name, step.protocol, step.task(table.task, tuple(results)))
        results.append(step.result(part))
    return part.verdict


def unique(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps. Raises ValueError for a name that stands twice."""
    names = [step.name for step in steps]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ValueError(f"expected every step to have a name of its own, got {', '.join(double)} more than once")
    return steps
