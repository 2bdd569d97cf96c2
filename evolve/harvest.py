"""A generation's traces: first proposals and councils on TRAIN problems, judged and written to memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evolve.asks import council_asks, first_of_each_type, proposal_asks
from evolve.evaluate import Judgements
from evolve.lab import Lab
from evolve.lineage import Generation, seat
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split
from evolve.problems.types import Problem
from evolve.remembering import RecalledByTask, recall_all, reflect_all, remember, remember_patterns
from evolve.run_files import COUNCILS, HARVEST
from memory.types import Record
from mesh.types import Deliberation


class Harvest(Record):
    """What a generation said on TRAIN, and what the judge made of it."""

    proposals: tuple[Deliberation, ...]
    councils: tuple[Deliberation, ...]
    judged: Judgements


async def gather(lab: Lab, generation: Generation, problems: SplitProblems) -> Harvest:
    """Draw `samples_per_member` proposals for each TRAIN problem, hold councils on some, judge and remember all."""
    settings, number = lab.config.harvest, generation.number
    train = _of_generation(lab, generation, problems)
    stage = f"generation {number} {HARVEST}"
    asks = proposal_asks(
        lab.config, stage, train, seat(generation), settings.samples_per_member, temperature=settings.temperature
    )
    proposals = await lab.hold(stage, _directory(lab, number) / f"{HARVEST}.parquet", asks)
    councils = await hold_councils(lab, generation, problems)
    judged = await lab.judge_all(stage, [*proposals, *councils], train)
    await remember(lab, f"generation-{number}", [*telling(proposals, judged), *councils], judged)
    await remember_patterns(lab, f"generation-{number}", [*proposals, *councils], judged)
    await reflect_all(lab, f"generation-{number}", councils, judged)
    return Harvest(proposals=tuple(proposals), councils=tuple(councils), judged=judged)


async def hold_councils(lab: Lab, generation: Generation, problems: SplitProblems) -> list[Deliberation]:
    """Full councils of today's seats on some of the generation's TRAIN problems, recalling earlier outcomes."""
    number = generation.number
    chosen = first_of_each_type(_of_generation(lab, generation, problems), lab.config.harvest.councils_per_type)
    stage = f"generation {number} {COUNCILS}"
    recalls = "train" in lab.config.memory.recall_for
    recalled = await recall_all(lab, stage, chosen) if recalls else RecalledByTask(by_task={})
    asks = council_asks(lab.config, stage, chosen, seat(generation), recalled.of)
    return await lab.hold(stage, _directory(lab, number) / f"{COUNCILS}.parquet", asks)


async def last_councils(
    lab: Lab, generation: Generation, problems: SplitProblems
) -> tuple[list[Deliberation], Judgements]:
    """The councils of a generation that is not followed by another round of learning; judged and remembered."""
    councils = await hold_councils(lab, generation, problems)
    judged = await lab.judge_all(
        f"generation {generation.number} {COUNCILS}", councils, _of_generation(lab, generation, problems)
    )
    await remember(lab, f"generation-{generation.number}", councils, judged)
    await reflect_all(lab, f"generation-{generation.number}", councils, judged)
    return councils, judged


def telling(proposals: Sequence[Deliberation], judged: Judgements) -> list[Deliberation]:
    """One member's proposals of each problem: the first whose answer is right, else the first; one lesson is enough."""
    right = judged.lookup()
    chosen: dict[str, tuple[bool, Deliberation]] = {}
    for deliberation in proposals:
        task_id = deliberation.task.id
        is_right = right.get((task_id, deliberation.verdict.answer or ""), False)
        if task_id not in chosen or (is_right and not chosen[task_id][0]):
            chosen[task_id] = (is_right, deliberation)
    return [deliberation for _, deliberation in chosen.values()]


def _of_generation(lab: Lab, generation: Generation, problems: SplitProblems) -> list[Problem]:
    """The generation's own slice of TRAIN: fresh items for each, as long as there are enough."""
    count = lab.config.harvest.problems_per_type
    return first_of_each_type(problems.of(Split.TRAIN), count, skip=generation.number * count)


def _directory(lab: Lab, number: int) -> Path:
    return lab.directory / f"generation-{number}"
