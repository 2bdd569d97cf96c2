"""How surprising the mesh's solution is to each member, beside the surprise of the member's own samples."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import Field

from evolve.audit.novelty import MIN_SAMPLES
from evolve.audit.probe_alone import AskedAlone
from evolve.lab import Lab
from memory.types import Record, content_hash
from mesh.engine import Engine, EngineError
from mesh.equivalence import same_answer
from mesh.types import Deliberation, Member, Message
from serving.ticket import Ticket, with_ticket

MAX_SOLUTIONS = 4
"""Texts of the mesh's solution that are read; the least surprising one counts, so that form alone is no news."""


class Bits(Record):
    """Surprise under one member, in bits per byte."""

    own: tuple[float, ...] = Field(default=(), description="of its own samples; empty: its engine cannot score")
    solution: float | None = Field(default=None, description="of the mesh's solution; None: not scored")


class Surprise(Record):
    """What was scored in one generation."""

    by_task: dict[str, dict[str, Bits]] = Field(description="by task id, then by member name")


async def surprise(
    lab: Lab, step: str, councils: Sequence[Deliberation], asked: AskedAlone
) -> dict[str, dict[str, Bits]]:
    """Bits per byte of every council's solution and of each member's own samples, by task id and member name.

    All texts are scored after the prompt of the member's first proposal. A member whose engine cannot score has none.
    """
    if not councils:
        return {}
    work = {
        (council.task.id, member.name): (member, _own_texts(asked.of(council.task.id, member.name)))
        for council in councils
        for member in council.members
    }
    texts = {council.task.id: solution_texts(council) for council in councils}

    async def score() -> Surprise:
        fleet = await lab.fleet()
        await lab.load_adapters(member for member, _ in work.values())
        engine = with_ticket(fleet, Ticket(priority="evolve"))
        lab.observer.stage(step.replace("-", " "), len(work), "reading")
        slots = asyncio.Semaphore(lab.config.concurrency)
        by_task: dict[str, dict[str, Bits]] = {}
        with lab.times.timed(step.replace("-", " ")):
            for (task_id, name), (member, own) in work.items():
                prompt = _prompt_of(asked.of(task_id, name))
                found = await _bits(engine, slots, member, prompt, own, texts[task_id])
                by_task.setdefault(task_id, {})[name] = found
                lab.observer.advance()
        return Surprise(by_task=by_task)

    inputs = [
        [task_id, name, content_hash(member), own, texts[task_id]] for (task_id, name), (member, own) in work.items()
    ]
    return (await lab.journal.record(step, inputs, Surprise, score)).by_task


def solution_texts(council: Deliberation) -> list[str]:
    """What members said for the council's answer, the shortest texts first, each once."""
    answer, kind = council.verdict.answer, council.equality
    texts = dict.fromkeys(p.text for p in council.proposals if same_answer(p.answer, answer, kind) and p.text.split())
    return sorted(texts, key=lambda text: (len(text), text))[:MAX_SOLUTIONS]


def _own_texts(traces: Sequence[Deliberation]) -> list[str]:
    said = [proposal.text for trace in traces for proposal in trace.proposals if proposal.text.split()]
    return said[:MIN_SAMPLES]


def _prompt_of(traces: Sequence[Deliberation]) -> tuple[Message, ...]:
    calls = (call for trace in traces for call in trace.exchanges if call.phase == "propose")
    return next((call.messages for call in calls), ())


async def _bits(
    engine: Engine,
    slots: asyncio.Semaphore,
    member: Member,
    prompt: tuple[Message, ...],
    own: Sequence[str],
    solutions: Sequence[str],
) -> Bits:
    if not prompt or not (await engine.profile(member)).can_score:
        return Bits()

    async def one(text: str) -> float | None:
        async with slots:
            try:
                return (await engine.score(member, prompt, text)).bits_per_byte
            except EngineError:  # too long for its window, say: this text has no number, and the finding says so
                return None

    distinct = list(dict.fromkeys([*own, *solutions]))
    found = dict(zip(distinct, await asyncio.gather(*map(one, distinct)), strict=True))
    scored = [bits for text in solutions if (bits := found[text]) is not None]
    return Bits(
        own=tuple(bits for text in own if (bits := found[text]) is not None), solution=min(scored, default=None)
    )
