"""Novelty or noise: what only the mesh solves, and whether a later specialist then solves it alone. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.special import bdtrc, stdtrit

from evolve.gates.gate import mcnemar_p
from evolve.gates.intervals import Interval, wilson
from evolve.gates.paired import clustered_error
from memory.types import Record

MIN_SAMPLES = 30
"""Samples that every member has alone; 0 right of 30 leaves a solve rate below 9.5% with 95% confidence."""
PERCENTILE = 0.95
"""A solution is improbable under a member from this percentile of the surprise of its own samples on."""

Finding = Literal["emergent", "not emergent", "not measured"]


class Alone(Record):
    """What one member did alone with a task, and what it thinks of the mesh's solution."""

    member: str
    num_samples: int = Field(ge=0)
    num_right: int = Field(ge=0)
    tokens: int = Field(ge=0, description="prompt and output tokens of all these samples together")
    own_bits: tuple[float, ...] = Field(default=(), description="bits per byte of its own samples under itself")
    solution_bits: float | None = Field(default=None, description="bits per byte of the mesh's; None: not scored")

    @model_validator(mode="after")
    def _counts_fit(self) -> Alone:
        if self.num_right > self.num_samples:
            raise ValueError(f"{self.member}: expected at most {self.num_samples} right, got {self.num_right}")
        return self

    @property
    def upper_bound(self) -> float:
        """Solve rate that 0 right of so many samples rules out with 95% confidence; 1 where any was right."""
        if self.num_right or not self.num_samples:
            return 1.0
        return float(1.0 - 0.05 ** (1.0 / self.num_samples))


class MeshSolution(Record):
    """What the whole mesh made of a task."""

    task_id: str
    task_type: str = ""
    cluster: str = Field(default="", description="near-duplicate cluster; empty: the task alone")
    is_right: bool = Field(description="verified, not merely agreed")
    tokens: int = Field(ge=0, description="prompt and output tokens of the whole deliberation")
    members: tuple[str, ...] = Field(min_length=1, description="everybody who took part")


class Emergence(Record):
    """Whether a solution is the mesh's own, with what speaks against it."""

    task_id: str
    task_type: str
    cluster: str = Field(default="", description="near-duplicate cluster; empty: the task alone")
    finding: Finding
    reasons: tuple[str, ...] = Field(default=(), description="why not; empty where it is emergent")
    upper_bound: float = Field(description="highest solve rate alone that is not ruled out for some member, 95%")


class EmergenceReport(Record):
    """Emergence over the tasks that the mesh solved."""

    findings: tuple[Emergence, ...]
    num_attempted: int = Field(description="tasks put to the mesh, the unsolved ones included")
    luck: float = Field(description="share of tasks on which one more sample a member would look like emergence")
    clusters: tuple[str, ...] = Field(
        default=(), description="near-duplicate cluster of each task put to the mesh; empty: every task stands alone"
    )

    @property
    def num_emergent(self) -> int:
        """Tasks that only the mesh solved."""
        return sum(one.finding == "emergent" for one in self.findings)

    @property
    def num_measured(self) -> int:
        """Tasks about which the question was decided, unsolved ones included: these cannot be emergent."""
        return self.num_attempted - sum(one.finding == "not measured" for one in self.findings)

    @property
    def num_draws(self) -> int:
        """Clusters of near duplicates that the measured tasks come to; as many as these where all stand alone."""
        if not self.clusters:
            return self.num_measured
        not_measured = Counter(one.cluster for one in self.findings if one.finding == "not measured")
        return len(Counter(self.clusters) - not_measured)

    @property
    def interval(self) -> Interval:
        """95% interval of the share of emergent tasks among the measured, of as many draws as there are clusters."""
        draws, measured = self.num_draws, self.num_measured
        return wilson(self.num_emergent * draws / measured if measured else 0.0, draws)

    @property
    def p_luck(self) -> float:
        """Chance of so many clusters with an emergent task, or more, by luck alone; 1 where nothing is emergent.

        A cluster may be lucky on any of its tasks: its chance is at most the sum of theirs, however alike they are.
        """
        if self.num_emergent == 0:
            return 1.0
        emergent = [one for one in self.findings if one.finding == "emergent"]
        lucky = len({one.cluster for one in emergent}) if self.clusters else len(emergent)
        luck = self.luck * (self.num_measured / self.num_draws)
        return float(bdtrc(lucky - 1, self.num_draws, min(1.0, luck)))

    @property
    def sentence(self) -> str:
        """The answer for people."""
        if self.num_measured == 0:
            return "whether the mesh finds what no member finds was not measured"
        what = f"{self.num_measured} tasks"
        if self.num_draws < self.num_measured:  # near duplicates, or one task in several generations
            what = f"{self.num_measured} attempts at {self.num_draws} different tasks (near duplicates count as one)"
        facts = (
            f"{self.num_emergent} of {what} were solved by the mesh alone (95% interval "
            f"{self.interval.low:.1%} to {self.interval.high:.1%}; luck explains {self.luck:.1%}, "
            f"p = {self.p_luck:.2g})"
        )
        if self.num_emergent and self.p_luck <= 0.05:
            return f"the mesh finds what no member finds alone: {facts}"
        return f"it is not shown that the mesh finds what no member finds alone: {facts}"


def emergent(solution: MeshSolution, alone: Sequence[Alone]) -> Emergence:
    """Whether a solution emerged: verified, out of every member's reach alone, and improbable under every member.

    Out of reach: 0 right of at least `MIN_SAMPLES`, at no fewer tokens than the mesh spent, each member for itself.
    Improbable: its bits per byte are at or above the `PERCENTILE` of the member's own samples, for every member.
    What speaks against it decides; only where nothing does, and something is missing, it is "not measured".
    """
    by_name = {one.member: one for one in alone}
    against, missing = [], []
    if not solution.is_right:
        against.append("the mesh's answer is not verified to be right")
    for name in solution.members:
        one = by_name.get(name)
        if one is None:
            missing.append(f"{name} was not asked alone")
            continue
        if one.num_right:
            against.append(f"{name} alone is right in {one.num_right} of {one.num_samples} samples")
        missing += _missing(solution, one)
        if one.solution_bits is not None and len(one.own_bits) >= MIN_SAMPLES:
            usual = float(np.quantile(one.own_bits, PERCENTILE))
            if one.solution_bits < usual:
                against.append(
                    f"{name} finds it probable: {one.solution_bits:.2f} bits per byte, below {usual:.2f} of its own"
                )
    finding: Finding = "not emergent" if against else "not measured" if missing else "emergent"
    bounds = [by_name[name].upper_bound if name in by_name else 1.0 for name in solution.members]
    return Emergence(
        task_id=solution.task_id,
        task_type=solution.task_type,
        cluster=solution.cluster or solution.task_id,
        finding=finding,
        reasons=tuple(against or missing),
        upper_bound=max(bounds),
    )


def emergence_report(
    solutions: Sequence[tuple[MeshSolution, Sequence[Alone]]], counts: Sequence[Sequence[tuple[int, int]]]
) -> EmergenceReport:
    """Emergence over all tasks put to the mesh.

    Args:
        solutions: each task's solution, right or not, with every member's samples alone.
        counts: for each task (right, drawn) of every member, for the share that luck explains; usually the same.
    """
    findings = [emergent(solution, alone) for solution, alone in solutions if solution.is_right]
    return EmergenceReport(
        findings=tuple(findings),
        num_attempted=len(solutions),
        luck=luck(counts),
        clusters=tuple(solution.cluster or solution.task_id for solution, _ in solutions),
    )


def luck(counts: Sequence[Sequence[tuple[int, int]]], *, num_zero: int = MIN_SAMPLES) -> float:
    """Share of tasks on which members that can solve them would miss every time, and one more sample then hit.

    Exact over all orders in which each member's samples could have come: the chance that the first `num_zero` of every
    member are wrong and the next one of somebody is right. With no more samples than that, one fewer is taken, which
    overstates luck a little. 0 without tasks.
    """
    chances = []
    for members in counts:
        all_wrong, none_next = 1.0, 1.0
        for right, drawn in members:
            zero = min(num_zero, drawn - 1)
            if zero < 0 or drawn - right < zero:
                all_wrong = 0.0
                break
            all_wrong *= math.comb(drawn - right, zero) / math.comb(drawn, zero)
            none_next *= 1.0 - right / (drawn - zero)
        chances.append(all_wrong * (1.0 - none_next))
    return math.fsum(chances) / len(chances) if chances else 0.0


class Solo(Record):
    """A task that only the mesh had solved, tried alone before and after learning, in fresh samples both."""

    task_id: str
    cluster: str = Field(default="", description="near-duplicate cluster; empty: the task alone")
    was_trained_on: bool = Field(description="the specialist has seen this task or a near duplicate: it may remember")
    before: tuple[int, int] = Field(description="(right, drawn) of its base or parent")
    after: tuple[int, int] = Field(description="(right, drawn) of the specialist")


class Internalisation(Record):
    """How much of what only the mesh solved a specialist solves alone."""

    kind: Literal["trained on", "held out"]
    num_tasks: int
    before: float = Field(description="mean share of right samples of the base or parent, drawn anew")
    after: float
    difference: Interval = Field(description="95%, by clusters")
    num_better: int
    num_worse: int
    num_solved: int = Field(description="tasks with at least one right sample after")
    p: float = Field(description="exact one-sided sign test over clusters")

    @property
    def gain(self) -> float:
        """Difference of the shares."""
        return self.after - self.before

    @property
    def is_shown(self) -> bool:
        """More than the base's own luck, and more than chance explains."""
        return self.p <= 0.05 and self.difference.low > 0.0


def internalised(rows: Sequence[Solo]) -> tuple[Internalisation, ...]:
    """What was taken in, apart for tasks that were trained on and tasks that were held out; empty groups are missing.

    `before` must be drawn anew: the tasks were chosen because members failed on them, so the samples they were chosen
    by say 0 whatever the member can do, and everything after would look like learning.

    Raises:
        ValueError: a row without samples.
    """
    for row in rows:
        if min(row.before[1], row.after[1]) < 1:
            raise ValueError(f"task {row.task_id}: expected samples before and after, got {row.before} and {row.after}")
    groups: list[tuple[Literal["trained on", "held out"], list[Solo]]] = [
        ("trained on", [row for row in rows if row.was_trained_on]),
        ("held out", [row for row in rows if not row.was_trained_on]),
    ]
    return tuple(_internalisation(kind, mine) for kind, mine in groups if mine)


def _internalisation(kind: Literal["trained on", "held out"], rows: Sequence[Solo]) -> Internalisation:
    by_task: dict[str, list[Solo]] = {}
    for row in rows:
        by_task.setdefault(row.task_id, []).append(row)
    tasks = list(by_task.values())  # several engines may have tried one task: that is one task
    before = np.asarray([fmean(row.before[0] / row.before[1] for row in task) for task in tasks])
    after = np.asarray([fmean(row.after[0] / row.after[1] for row in task) for task in tasks])
    steps = after - before
    names = [task[0].cluster or f"task {task[0].task_id}" for task in tasks]
    order = list(dict.fromkeys(names))
    groups = np.asarray([order.index(name) for name in names])
    error = clustered_error(steps, groups)
    sums = np.bincount(groups, weights=steps)
    reach = float(stdtrit(len(order) - 1, 0.975)) * error if len(order) > 1 else 1.0
    better, worse = int(np.sum(steps > 1e-12)), int(np.sum(steps < -1e-12))
    gain = float(steps.mean())
    return Internalisation(
        kind=kind,
        num_tasks=len(tasks),
        before=float(before.mean()),
        after=float(after.mean()),
        difference=Interval(low=max(-1.0, gain - reach), high=min(1.0, gain + reach)),
        num_better=better,
        num_worse=worse,
        num_solved=int(np.sum(after > 0.0)),
        p=mcnemar_p(int(np.sum(sums > 1e-12)), int(np.sum(sums < -1e-12))),
    )


def _missing(solution: MeshSolution, one: Alone) -> list[str]:
    missing = []
    if one.num_samples < MIN_SAMPLES:
        missing.append(f"{one.member} has {one.num_samples} samples alone, {MIN_SAMPLES} are needed")
    if one.tokens < solution.tokens:
        missing.append(f"{one.member} spent {one.tokens} tokens alone, the mesh {solution.tokens}")
    if one.solution_bits is None or len(one.own_bits) < MIN_SAMPLES:
        missing.append(f"the surprise of {one.member} was not measured against {MIN_SAMPLES} samples of its own")
    return missing
