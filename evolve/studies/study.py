"""Does the evolved mesh pay? Arms at equal budget on the same tasks, cost per correct answer, and break-even. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from evolve.report.measure import Accuracy, Difference
from evolve.studies.assess import Arm
from evolve.studies.fresh_tasks import LeftOut
from memory.types import Record

ArmRole = Literal["evolved", "generation 0", "single", "self-consistency", "rft", "baseline"]
NOTHING_LEFT_OUT = LeftOut()


class Spend(Record):
    """What one first proposal of a member takes on average."""

    output_tokens: float = 0.0
    engine_seconds: float = 0.0
    price_per_hour: float | None = Field(default=None, description="money an hour of its engine costs; None: not known")
    price_per_million_tokens: float | None = Field(
        default=None, description="money for a million output tokens, where a server is paid by them; None: by the hour"
    )

    @property
    def money(self) -> float | None:
        """Of one proposal; None: no price is known."""
        if self.price_per_million_tokens is not None:
            return self.output_tokens * self.price_per_million_tokens / 1e6
        return None if self.price_per_hour is None else self.engine_seconds * self.price_per_hour / 3600.0


class StudyArm(Record):
    """One way of answering, with what it costs."""

    role: ArmRole
    arm: Arm
    output_tokens: float = Field(description="for one task")
    engine_seconds: float = Field(description="for one task")
    money: float | None = Field(default=None, description="for one task; None: a member has no price")
    investment: float | None = Field(
        default=0.0, description="money its own training took; 0: nothing was trained for it; None: not known"
    )

    @property
    def money_per_correct(self) -> float | None:
        """Money for one correct answer; None: no price, or it is never right."""
        return None if self.money is None or self.arm.mean == 0.0 else self.money / self.arm.mean

    @property
    def tokens_per_correct(self) -> float | None:
        """Output tokens for one correct answer; None: it is never right."""
        return None if self.arm.mean == 0.0 else self.output_tokens / self.arm.mean


class ArmResult(Record):
    """One arm as a reader sees it."""

    name: str
    role: ArmRole
    accuracy: Accuracy
    num_samples: int
    difference: Difference | None = Field(
        description="evolved mesh minus this arm, paired; None: it is the evolved mesh"
    )
    tokens_per_task: float
    tokens_per_correct: float | None
    money_per_correct: float | None
    break_even: float | None = Field(
        default=None,
        description="correct answers after which the evolved mesh, its evolution paid, is cheaper than this arm with "
        "its own training paid; None: never, or not known for want of prices or times",
    )


class Study(Record):
    """The whole comparison. Intervals are 95% each and not corrected for their number."""

    num_tasks: int
    num_left_out: int = Field(default=0, description="tasks left out because the run had the same or nearly the same")
    num_near: int | None = Field(default=None, description="of these, near duplicates; None: not looked for")
    budget: int = Field(description="first proposals of a task that every voting arm gets")
    results: tuple[ArmResult, ...]
    investment: float | None = Field(default=None, description="money the evolution took; None: not known")
    sentence: str
    notes: tuple[str, ...] = Field(default=(), description="what was not measured and which option measures it")
    asked: str = Field(default="", description="hash of what was to be compared with what; empty: not known")

    @property
    def left_out_sentence(self) -> str:
        """How many tasks were left out and why, for people."""
        same, near = self.num_left_out - (self.num_near or 0), self.num_near
        had = "because a run had them in TRAIN, DEV, GATE or a demonstration"
        told = f"{self.num_left_out} tasks were left out: {same} {had}"
        if near is None:
            return f"{told}; near duplicates were not looked for (problems.near_duplicates: null)."
        return f"{told}, {near} as near duplicates of such tasks."

    def of(self, role: ArmRole) -> ArmResult | None:
        """The first arm of a role; None: there is none."""
        return next((one for one in self.results if one.role == role), None)


def arm_cost(samples: Mapping[str, int], spends: Mapping[str, Spend]) -> tuple[float, float, float | None]:
    """(output tokens, engine seconds, money) of one task: so many proposals of each member."""
    tokens = math.fsum(count * spends[name].output_tokens for name, count in samples.items())
    seconds = math.fsum(count * spends[name].engine_seconds for name, count in samples.items())
    prices = [spends[name].money for name in samples]
    if any(price is None for price in prices):
        return tokens, seconds, None
    money = math.fsum(count * (spends[name].money or 0.0) for name, count in samples.items())
    return tokens, seconds, money


def break_even(evolved: StudyArm, other: StudyArm) -> float | None:
    """Correct answers after which evolving was cheaper than `other`, what each took to make included.

    0: it took no more to make, and its answers are cheaper. None: never by its answers, or a figure is not known.
    """
    ours, theirs = evolved.money_per_correct, other.money_per_correct
    if evolved.investment is None or other.investment is None or ours is None or theirs is None or ours >= theirs:
        return None
    return max(0.0, evolved.investment - other.investment) / (theirs - ours)


def compare_arms(
    arms: Sequence[StudyArm],
    *,
    budget: int,
    left_out: LeftOut = NOTHING_LEFT_OUT,
    clusters: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Study:
    """Put the arms side by side; the first must be the evolved mesh, and all answer the same tasks in one order.

    `clusters`: of near duplicates, for each task; their errors count as one draw. Empty: every task stands alone.

    Raises:
        ValueError: no evolved arm first, or arms of different tasks.
    """
    if not arms or arms[0].role != "evolved":
        raise ValueError(f"expected the evolved mesh first, got {[one.role for one in arms]}")
    lengths = {len(one.arm.scores) for one in arms}
    if len(lengths) != 1:
        raise ValueError(f"expected arms of the same tasks, got {sorted(lengths)} tasks")
    evolved = arms[0]
    results = tuple(
        ArmResult(
            name=one.arm.name,
            role=one.role,
            accuracy=one.arm.accuracy(clusters),
            num_samples=one.arm.num_samples,
            difference=None if one is evolved else evolved.arm.against(one.arm, clusters),
            tokens_per_task=one.output_tokens,
            tokens_per_correct=one.tokens_per_correct,
            money_per_correct=one.money_per_correct,
            break_even=None if one is evolved else break_even(evolved, one),
        )
        for one in arms
    )
    return Study(
        num_tasks=len(evolved.arm.scores),
        num_left_out=left_out.num_tasks,
        num_near=left_out.num_near,
        budget=budget,
        results=results,
        investment=evolved.investment,
        sentence=_sentence(results),
        notes=tuple(notes),
    )


def _sentence(results: Sequence[ArmResult]) -> str:
    """What is shown, first of all against what the user has today."""
    evolved = results[0]
    rivals = [one for one in results if one.role == "baseline" and one.num_samples > 1] or [
        one for one in results if one.role == "baseline"
    ]
    rival = rivals[0] if rivals else max(results[1:], key=lambda one: one.accuracy.mean or 0.0, default=None)
    mean = evolved.accuracy.mean or 0.0
    if rival is None or rival.difference is None:
        return f"The evolved mesh is right on {mean:.0%}; there is nothing to compare it with."
    difference = rival.difference
    shown = (
        "no difference is shown"
        if not difference.is_clear
        else "it is better"
        if difference.mean > 0
        else "it is worse"
    )
    text = (
        f"The evolved mesh is right on {mean:.0%} of {difference.n} tasks and {rival.name} on "
        f"{rival.accuracy.mean or 0.0:.0%} ({100 * difference.mean:+.1f} points, {100 * difference.low:+.0f} to "
        f"{100 * difference.high:+.0f}): {shown}"
    )
    if evolved.money_per_correct is not None and rival.money_per_correct is not None:
        text += f"; a correct answer costs {evolved.money_per_correct:.3g} against {rival.money_per_correct:.3g}"
        if rival.break_even is not None:
            text += f", and the evolution is paid after {rival.break_even:,.0f} correct answers"
    return text + "."
