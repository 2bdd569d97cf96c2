"""Canaries: what counts as an answer, and what does not."""

from __future__ import annotations

import asyncio

import pytest

from mesh.types import Completion, Member
from serving.adapters import Adapter
from serving.canary import CANARIES, CanaryError, check_seat, why_not
from serving.config import ScriptedSpec
from serving.scripted_engine import ScriptedEngine

HASH = "a" * 64


def said(*texts: str, adapter: str | None = HASH) -> list[Completion]:
    return [Completion(text=text, adapter=adapter) for text in texts]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (said("5", "", "ready"), None),
        (said("!!!!!!!!!!", "Paris", "!!!!!!!!!"), None),  # one good answer is enough
        (said("", " \n", ""), "empty ones"),
        (said("!!!!!!!!!!", "", "!!!!!!!!!"), "over and over"),
        (said("5", "Paris", "ready", adapter=None), "got one of none"),
        (said("5", "Paris", "ready", adapter="b" * 64), "got one of bbbbbbbbbbbb"),
        ([Completion(text="5", adapter=HASH, finish_reason="error")], "got an error"),
    ],
)
def test_only_answers_of_the_right_adapter_that_say_something_count(
    answers: list[Completion], reason: str | None
) -> None:
    found = why_not(answers, HASH)
    assert (found is None) if reason is None else reason in (found or "")


def test_a_seat_is_asked_every_canary_greedily() -> None:
    async def work() -> None:
        engine = ScriptedEngine(ScriptedSpec(name="ada", family="alpha"))
        await engine.load_adapter(Adapter(hash=HASH, base="b", rank=1))
        seat = Member(name="g1", engine="ada", family="alpha", adapter=HASH)
        answers = await check_seat(engine, seat)
        assert [one.prompt for one in answers] == list(CANARIES)
        assert answers == await check_seat(engine, seat)
        await engine.retire_adapter(HASH)
        with pytest.raises(CanaryError, match="g1: expected an answer to a canary, got engine 'ada' has no adapter"):
            await check_seat(engine, seat)

    asyncio.run(work())


def test_a_silent_engine_is_given_up_on_in_time() -> None:
    async def work() -> None:
        engine = ScriptedEngine(ScriptedSpec(name="ada", family="alpha", latency_s=30.0))
        with pytest.raises(CanaryError, match="none in time"):
            await check_seat(engine, Member(name="ada", engine="ada", family="alpha"), timeout_s=0.05)

    asyncio.run(work())
