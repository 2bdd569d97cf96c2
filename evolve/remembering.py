"""A run and its memory: what is recalled before a stage, and what is remembered after it; every step journalled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pydantic import Field

from evolve.evaluate import Judgements
from evolve.lab import Lab
from evolve.problems.sealed import Asked
from evolve.problems.splits import Split
from memory.store import Memory
from memory.types import Cue, Observation, Recall, Record
from mesh.lessons import lessons
from mesh.recurring import patterns
from mesh.reflect import Dropped, reflect
from mesh.types import Deliberation, Member, Outcome, Sampling

MAX_LESSON_TOKENS = 60


class RecalledByTask(Record):
    """What memory gave for each problem of a stage; journalled, so that a continued run recalls the same."""

    by_task: dict[str, Recall]

    def of(self, problem: Asked) -> Recall:
        """What was recalled for a problem; empty where nothing was."""
        return self.by_task.get(problem.task.id, Recall())


class Remembered(Record):
    """What one stage wrote to memory."""

    num_observations: int = 0
    num_edges: int = 0
    num_uses: int = 0


class Reflections(Record):
    """The lessons that members wrote after a stage: those the traces bear out, and those that were dropped."""

    kept: tuple[Observation, ...] = ()
    dropped: tuple[Dropped, ...] = Field(default=(), description="what was written and not kept, with the reason")


async def recall_all(lab: Lab, stage: str, problems: Sequence[Asked], memory: Memory | None = None) -> RecalledByTask:
    """What memory gives for each problem; only what was learnt on TRAIN. `memory` None: that of the run.

    What is held out is drawn by the namespace, the stage and the task: known before anybody deliberates, and the same
    when the stage is repeated. It is not the episode that outcomes are remembered under: see `remember`.
    """
    asked, limit = memory or lab.memory, lab.config.memory.recall_limit

    async def work() -> RecalledByTask:
        if asked is None or limit == 0:
            return RecalledByTask(by_task={})
        return RecalledByTask(by_task={p.task.id: asked.recall(_cue(lab, stage, p)) for p in problems})

    name = f"recall-{stage}".replace(" ", "-")
    return await lab.journal.record(name, [p.task.id for p in problems], RecalledByTask, work)


def _cue(lab: Lab, stage: str, problem: Asked) -> Cue:
    return Cue(
        text=problem.task.question,
        namespaces=lab.reads,
        task_type=problem.task.type,
        splits=(Split.TRAIN.value,),
        episode=f"{lab.namespace}/{stage}/{problem.task.id}",
        limit=lab.config.memory.recall_limit,
    )


async def remember(lab: Lab, stage: str, deliberations: Sequence[Deliberation], judged: Judgements) -> Remembered:
    """Write the lessons of each deliberation, and what came of what it recalled, to memory.

    The episode of both is the id of the deliberation: it is what datasets name as their origin, and there is one for
    each deliberation, so that repeating changes nothing.
    """
    by_task = _by_task(judged)
    memory = lab.memory

    async def work() -> Remembered:
        if memory is None:
            return Remembered()
        lab.observer.stage(f"remember {stage}", len(deliberations), "deliberation")
        num_observations = num_edges = num_uses = 0
        for held in deliberations:
            also = by_task[held.task.id]
            for outcome in (o for o in also if o.answer == held.verdict.answer):
                learnt = lessons(held, outcome, namespace=lab.namespace, split=Split.TRAIN.value, also=also)
                memory.remember(learnt.observations, learnt.edges)
                if learnt.use is not None:
                    memory.used(learnt.use)
                num_observations += len(learnt.observations)
                num_edges += len(learnt.edges)
                num_uses += learnt.use is not None
            lab.observer.advance()
        return Remembered(num_observations=num_observations, num_edges=num_edges, num_uses=num_uses)

    return await lab.journal.record(f"remember-{stage}", [d.id for d in deliberations], Remembered, work)


async def remember_patterns(
    lab: Lab, stage: str, deliberations: Sequence[Deliberation], judged: Judgements
) -> Remembered:
    """Write what several problems of a stage bear out; every answer that was judged counts, not the verdicts alone."""
    memory = lab.memory

    async def work() -> Remembered:
        if memory is None:
            return Remembered()
        pairs = list(_judged_pairs(deliberations, judged))
        found = patterns(pairs, namespace=lab.namespace, split=Split.TRAIN.value)
        memory.remember(found)
        return Remembered(num_observations=len(found))

    return await lab.journal.record(f"patterns-{stage}", [d.id for d in deliberations], Remembered, work)


async def reflect_all(lab: Lab, stage: str, councils: Sequence[Deliberation], judged: Judgements) -> Reflections:
    """One member of each judged council writes a lesson, where the configuration says so; what is kept is remembered.

    It is a member that holds the verdict's answer, the first in seat order, else the first seat.
    """
    memory = lab.memory
    if memory is None or not lab.config.memory.reflect:
        return Reflections()
    outcomes = {(o.task_id, o.answer): o for o in judged.outcomes if o.evidence.verdict != "unknown"}
    sampling = Sampling(temperature=0.0, max_tokens=MAX_LESSON_TOKENS, stop=("\n\n",))

    async def work() -> Reflections:
        fleet = await lab.fleet()
        await lab.load_adapters(member for held in councils for member in held.members)
        lab.observer.stage(f"reflect {stage}", len(councils), "council")
        kept, dropped = [], []
        for held in councils:
            outcome = outcomes.get((held.task.id, held.verdict.answer))
            if outcome is not None:
                written = await reflect(
                    fleet, _author(held), held, outcome, namespace=lab.namespace, split=Split.TRAIN.value,
                    sampling=sampling, timeout_s=lab.config.deliberation.call_timeout_s, job=lab.job,
                )  # fmt: skip
                kept += [] if written.lesson is None else [written.lesson]
                dropped += [] if written.dropped is None else [written.dropped]
            lab.observer.advance()
        return Reflections(kept=tuple(kept), dropped=tuple(dropped))

    reflections = await lab.journal.record(f"reflect-{stage}", [d.id for d in councils], Reflections, work)
    memory.remember(reflections.kept)
    return reflections


def _author(held: Deliberation) -> Member:
    dissent = held.verdict.dissent
    return next((member for member in held.members if member.name not in dissent), held.members[0])


def _by_task(judged: Judgements) -> dict[str, list[Outcome]]:
    by_task: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in judged.outcomes:
        by_task[outcome.task_id].append(outcome)
    return by_task


def _judged_pairs(deliberations: Sequence[Deliberation], judged: Judgements) -> Iterator[tuple[Deliberation, Outcome]]:
    by_task = _by_task(judged)
    for held in deliberations:
        said = {held.verdict.answer, *(proposal.answer for proposal in held.proposals)}
        yield from ((held, outcome) for outcome in by_task[held.task.id] if outcome.answer in said)
