"""What was held ahead is taken instead of being held again, also by a process that starts later."""

from __future__ import annotations

import asyncio

from evolve.ahead import HeldAhead
from evolve.lab import Ask
from mesh.config import VoteConfig
from mesh.types import Deliberation, Failure, Member, Task, Verdict

ADA = Member(name="ada", engine="ada", family="alpha")


def ask(number: int) -> Ask:
    task = Task(id=f"t{number}", question=f"{number} + 1 =")
    return Ask(key=task.id, task=task, members=(ADA,), protocol=VoteConfig(), seed=0)


def held(number: int) -> Deliberation:
    nothing = Verdict(answer=None, method="none")
    return Deliberation(
        id=f"d{number}", task=ask(number).task, protocol="vote", seed=0, members=(ADA,), first_verdict=nothing,
        verdict=nothing,
    )  # fmt: skip


def test_what_was_held_ahead_is_taken_and_the_rest_is_held(tmp_path) -> None:
    calls: list[int] = []

    async def hold(number: int) -> Deliberation:
        calls.append(number)
        return held(number)

    async def work() -> list[Deliberation]:
        early = HeldAhead(tmp_path / "ahead.jsonl")
        await asyncio.gather(*(early.hold(ask(n), lambda n=n: hold(n)) for n in (1, 2)))
        await early.hold(ask(1), lambda: hold(1))
        later = HeldAhead(tmp_path / "ahead.jsonl")
        assert len(later) == 2
        found = [await later.or_else(ask(n), lambda n=n: hold(n))() for n in (1, 2, 3)]
        later.forget()
        assert (len(later), list(tmp_path.iterdir())) == (0, [])
        return found

    assert asyncio.run(work()) == [held(1), held(2), held(3)]
    assert calls == [1, 2, 3]


def test_what_an_engine_failed_to_answer_ahead_is_left_to_the_step_that_asks_it(tmp_path) -> None:
    failure = Failure(member="ada", phase="propose", kind="EngineError", message="gone")

    async def fail() -> Deliberation:
        return held(1).model_copy(update={"failures": (failure,)})

    async def hold() -> Deliberation:
        return held(1)

    async def work() -> Deliberation:
        early = HeldAhead(tmp_path / "ahead.jsonl")
        await early.hold(ask(1), fail)
        assert len(early) == len(HeldAhead(tmp_path / "ahead.jsonl")) == 0
        return await early.or_else(ask(1), hold)()

    assert asyncio.run(work()) == held(1)
