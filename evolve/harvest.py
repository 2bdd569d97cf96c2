"""A generation's traces: first proposals and councils on TRAIN problems, judged and written to memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evolve.asks import council_asks, first_of_each_type, proposal_asks
from evolve.evaluate import Judgements
from evolve.lab import Lab
from evolve.lineage import Generation, seat
from evolve.problem_types import Problem, ProblemSet
from evolve.splits import Split
from memory.types import Recollection, Record
from mesh.lessons import lessons
from mesh.types import Deliberation, Outcome


class Harvest(Record):
    """What a generation said on TRAIN, and what the judge made of it."""

    proposals: tuple[Deliberation, ...]
    councils: tuple[Deliberation, ...]
    judged: Judgements


class Remembered(Record):
    """What one stage wrote to memory."""

    num_experiences: int
    num_edges: int


async def gather(lab: Lab, generation: Generation, problems: ProblemSet) -> Harvest:
    """Draw `samples_per_member` proposals for each TRAIN problem, hold councils on some, judge and remember all."""
    settings, number = lab.config.harvest, generation.number
    train = _of_generation(lab, generation, problems)
    stage = f"generation {number} harvest"
    asks = proposal_asks(lab.config, stage, train, seat(generation), settings.samples_per_member)
    proposals = await lab.hold(stage, _directory(lab, number) / "harvest.parquet", asks)
    councils = await hold_councils(lab, generation, problems)
    judged = await lab.judge_all(stage, [*proposals, *councils], train)
    await remember(lab, f"generation-{number}", councils, judged)
    return Harvest(proposals=tuple(proposals), councils=tuple(councils), judged=judged)


async def hold_councils(lab: Lab, generation: Generation, problems: ProblemSet) -> list[Deliberation]:
    """Full councils of today's seats on some of the generation's TRAIN problems, recalling earlier outcomes."""
    number = generation.number
    chosen = first_of_each_type(_of_generation(lab, generation, problems), lab.config.harvest.councils_per_type)
    stage = f"generation {number} councils"
    recalled = await _recall_all(lab, stage, chosen)
    asks = council_asks(
        lab.config, stage, chosen, seat(generation), lambda problem: recalled.by_task.get(problem.task.id, ())
    )
    return await lab.hold(stage, _directory(lab, number) / "councils.parquet", asks)


async def last_councils(
    lab: Lab, generation: Generation, problems: ProblemSet
) -> tuple[list[Deliberation], Judgements]:
    """The councils of a generation that is not followed by another round of learning; judged and remembered."""
    councils = await hold_councils(lab, generation, problems)
    judged = await lab.judge_all(
        f"generation {generation.number} councils", councils, _of_generation(lab, generation, problems)
    )
    await remember(lab, f"generation-{generation.number}", councils, judged)
    return councils, judged


class RecalledByTask(Record):
    """What memory gave for each problem of a stage; journalled, so that a continued run recalls the same."""

    by_task: dict[str, tuple[Recollection, ...]]


async def _recall_all(lab: Lab, stage: str, problems: Sequence[Problem]) -> RecalledByTask:
    memory, limit = lab.memory, lab.config.memory.recall_limit

    async def work() -> RecalledByTask:
        if memory is None or limit == 0:
            return RecalledByTask(by_task={})
        found = {
            p.task.id: tuple(
                memory.recall(p.task.question, task_type=p.task.type, splits={Split.TRAIN.value}, limit=limit)
            )
            for p in problems
        }
        return RecalledByTask(by_task=found)

    name = f"recall-{stage}".replace(" ", "-")
    return await lab.journal.record(name, [p.task.id for p in problems], RecalledByTask, work)


async def remember(lab: Lab, stage: str, councils: Sequence[Deliberation], judged: Judgements) -> Remembered:
    """Write each council's lessons to memory; the same content is one entry, so a repeated write changes nothing."""
    outcomes = {(o.task_id, o.answer): o for o in judged.outcomes}
    memory = lab.memory

    async def work() -> Remembered:
        if memory is None:
            return Remembered(num_experiences=0, num_edges=0)
        num_experiences = num_edges = 0
        for council in councils:
            outcome = outcomes.get((council.task.id, council.verdict.answer))
            if outcome is None:
                continue
            experiences, edges = lessons(council, outcome, run=lab.config.name, split=Split.TRAIN.value)
            memory.remember(experiences, edges)
            num_experiences += len(experiences)
            num_edges += len(edges)
        return Remembered(num_experiences=num_experiences, num_edges=num_edges)

    return await lab.journal.record(f"remember-{stage}", [c.id for c in councils], Remembered, work)


def outcome_of(deliberation: Deliberation, judged: Judgements) -> Outcome | None:
    """The judged verdict of a deliberation; None when the mesh gave no answer."""
    by_answer = {(o.task_id, o.answer): o for o in judged.outcomes}
    return by_answer.get((deliberation.task.id, deliberation.verdict.answer))


def _of_generation(lab: Lab, generation: Generation, problems: ProblemSet) -> list[Problem]:
    """The generation's own slice of TRAIN: fresh items for each, as long as there are enough."""
    count = lab.config.harvest.problems_per_type
    return first_of_each_type(problems.of(Split.TRAIN), count, skip=generation.number * count)


def _directory(lab: Lab, number: int) -> Path:
    return lab.directory / f"generation-{number}"
