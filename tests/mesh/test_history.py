from __future__ import annotations

import asyncio

from mesh.calls import as_asked
from mesh.config import CouncilConfig
from mesh.deliberate import deliberate
from mesh.types import Exchange, Member, Message, Part, Sampling, Task

COUNCIL = CouncilConfig(sampling=Sampling(max_tokens=10), talk_max_tokens=20)
SPLIT = {"ZOE-SEAT": {"*": "7"}, "YAN-SEAT": {"*": "8"}, "XIA-SEAT": {"*": "7"}}


def said(role: str, text: str) -> Message:
    return Message.model_validate({"role": role, "parts": [{"text": text, "trusted": False}]})


HISTORY = (said("user", "What is 3 + 4?"), said("assistant", "It is 7."))


def test_every_phase_is_asked_after_the_callers_own_conversation(double, task, three) -> None:
    engine = double(SPLIT)
    asyncio.run(deliberate(task.model_copy(update={"history": HISTORY}), three, engine, COUNCIL, seed=1))
    assert len({phase for _, phase, _, _ in engine.calls}) >= 3
    assert all(messages[:2] == HISTORY for _, _, messages, _ in engine.calls)


def test_what_a_caller_said_earlier_is_never_trusted_text(double, task, three) -> None:
    engine = double(SPLIT)
    asyncio.run(deliberate(task.model_copy(update={"history": HISTORY}), three, engine, COUNCIL, seed=1))
    parts = [part for _, _, messages, _ in engine.calls for message in messages[:2] for part in message.parts]
    assert not any(part.trusted for part in parts)


def test_a_persona_and_a_callers_system_turn_are_one_turn() -> None:
    member = Member(name="m", engine="e", family="f", persona="Be brief.")
    task = Task(id="t", question="And twice that?", history=(said("system", "You sell shoes."), *HISTORY))
    asked = as_asked(member, task, (Message(role="user", parts=(Part(text="And twice that?"),)),))
    assert [message.role for message in asked] == ["system", "user", "assistant", "user"]
    assert [(part.text, part.trusted) for part in asked[0].parts][::2] == [
        ("Be brief.", True),
        ("You sell shoes.", False),
    ]


def test_who_watches_is_told_of_every_call_in_the_order_they_end(double, task, three) -> None:
    seen: list[tuple[str, Exchange]] = []
    held = asyncio.run(
        deliberate(task, three, double(SPLIT), COUNCIL, seed=1, watch=lambda path, one: seen.append((path, one)))
    )
    assert sorted(exchange.model_dump_json() for _, exchange in seen) == sorted(
        exchange.model_dump_json() for exchange in held.exchanges
    )
    assert {path for path, _ in seen} == {""}
