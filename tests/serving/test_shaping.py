from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.budget import Budget, EngineClock, Purse
from mesh.calls import Caller
from mesh.config import VoteConfig
from mesh.deliberate import deliberate
from mesh.engine import EngineError
from mesh.replay import Replay
from mesh.types import Completion, Deliberation, Member, Profile, Sampling, Task
from serving.config import ScriptedSpec
from serving.scripted_engine import ScriptedEngine
from serving.shaping import AnswerSchema, SchemaError, Shaped, readers_of, shape_answer

MEMBERS = tuple(Member(name=name, engine="alpha", family=name) for name in ("ada", "bob", "eve"))
ROW = (
    '{"type": "object", "properties": {"total": {"type": "integer"}, "unit": {"type": "string"}}, '
    '"required": ["total", "unit"]}'
)


def schema(value: object) -> AnswerSchema:
    return AnswerSchema(json.dumps(value))


class Scribe(ScriptedEngine):
    """Says the replies one after the other; an error is raised. Knows what it was asked."""

    def __init__(self, *replies: str | Exception, binds: bool = True) -> None:
        super().__init__(ScriptedSpec(name="alpha", family="script", skill=1.0))
        self.replies, self.binds = list(replies), binds
        self.asked: list[tuple[str, bool, str]] = []

    async def profile(self, member: Member) -> Profile:
        found = await super().profile(member)
        return found if self.binds else found.model_copy(update={"structures": ()})

    async def complete(
        self, member: Member, messages: Any, sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        if "as one JSON value" not in messages[-1].text:
            return await super().complete(member, messages, sampling)
        self.asked.append((member.name, sampling.structure is not None, messages[-1].text))
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return (Completion(text=reply, output_tokens=2),), 7


def held_by(engine: ScriptedEngine, kind: str = "number") -> Deliberation:
    task = Task(id="t", question="What is 2 + 5?", type="sum", answer_kind=kind)  # type: ignore[arg-type]
    return asyncio.run(deliberate(task, MEMBERS, engine, VoteConfig(), seed=1))


def shape(engine: Scribe, found: AnswerSchema, held: Deliberation | None = None, budget: Budget = Budget()) -> Shaped:  # noqa: B008
    held = held or held_by(engine)
    caller = Caller(engine, held.task, 1, 5.0, Purse(budget), EngineClock(), Replay(None))
    return asyncio.run(shape_answer(caller, found, held, readers_of(held), 32))


@pytest.mark.parametrize(
    ("asked", "answer", "value"),
    [
        ({"type": "integer"}, "7", 7),
        ({"type": "number"}, "7.50", 7.5),
        ({"type": "string"}, "seven", "seven"),
        ({"type": "string"}, "7", "7"),
        ({"type": "boolean"}, "true", True),
        ({"enum": ["Yes", "No"]}, "yes.", "Yes"),
        ({"enum": [1, 7]}, "7", 7),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", [1, 2]),
        ({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, "7", {"n": 7}),
        ({"type": "object", "properties": {"n": {"type": "string"}}, "required": ["n"]}, "seven", {"n": "seven"}),
        ({"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n"}, "7", 7),
        (True, "anything", "anything"),
    ],
)
def test_an_answer_that_fits_is_read_as_it_is(asked: object, answer: str, value: object) -> None:
    assert schema(asked).read(answer, "text") == Shaped(value=value)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"type": "integer"}, "seven"),
        ({"enum": ["Yes", "YES"]}, "yes"),
        ({"type": "integer", "minimum": 8}, "7"),
        ({"type": "number"}, "NaN"),
        ({"type": "number"}, "1e999"),
        ({"type": "object"}, '{"text": "\\ud800"}'),
        ({"type": "array"}, "[" * 100_000),
        ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}, "7"),
        (False, "anything"),
    ],
)
def test_an_answer_that_something_would_have_to_be_made_up_for_is_not_read(asked: object, answer: str) -> None:
    assert schema(asked).read(answer, "text") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{torn", "JSON"),
        ('"text"', "an object"),
        ('{"type": "whole"}', "whole"),
        ('{"$ref": "other.json"}', "part of the schema"),
        ('{"$ref": "#/$defs/missing"}', "part of the schema"),
        ('{"$ref": "http://example.com/schema"}', "part of the schema"),
        ('{"type": "string", "pattern": "("}', "'regex'"),
        ('{"patternProperties": {"[": {}}}', "'regex'"),
        ("[" * 60000, "JSON"),
        ("{" + " " * 70000 + "}", "70002 characters"),
    ],
)
def test_what_is_no_schema_or_reaches_beyond_itself_is_refused(text: str, told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        AnswerSchema(text)


def test_a_schema_without_an_end_is_a_reason_and_no_crash() -> None:
    assert "too deeply" in schema({"$ref": "#"}).problem(1)


def test_a_member_is_held_to_the_schema_where_its_engine_can_do_so() -> None:
    engine = Scribe('{"total": 7, "unit": "apples"}')
    assert shape(engine, AnswerSchema(ROW)) == Shaped(value={"total": 7, "unit": "apples"})
    ((name, is_bound, prompt),) = engine.asked
    assert (name in {"ada", "bob", "eve"}, is_bound) == (True, True)
    assert ROW in prompt


@pytest.mark.parametrize(
    "reply",
    ['{"total": 7, "unit": "apples"}', 'Here:\n```json\n{"total": 7, "unit": "apples"}\n```',
     'It is {"total": 7, "unit": "apples"}, I think.'],
)  # fmt: skip
def test_without_such_an_engine_the_value_is_found_in_what_it_says(reply: str) -> None:
    engine = Scribe(reply, binds=False)
    assert shape(engine, AnswerSchema(ROW)).value == {"total": 7, "unit": "apples"}
    assert [is_bound for _, is_bound, _ in engine.asked] == [False]


def test_an_engine_that_refuses_this_schema_is_asked_without_it() -> None:
    engine = Scribe(EngineError("no such grammar"), '{"total": 7, "unit": ""}')
    assert shape(engine, AnswerSchema(ROW)).value == {"total": 7, "unit": ""}
    assert [is_bound for _, is_bound, _ in engine.asked] == [True, False]


def test_a_rewriting_that_says_something_else_is_not_taken() -> None:
    engine = Scribe('{"total": 8, "unit": "apples"}', '{"total": 7, "unit": "apples"}')
    assert shape(engine, AnswerSchema(ROW)).value == {"total": 7, "unit": "apples"}
    assert len({name for name, _, _ in engine.asked}) == 2
    engine = Scribe('{"total": 8, "unit": "a"}', '{"total": 9, "unit": "a"}')
    assert shape(engine, AnswerSchema(ROW)) == Shaped(problem="brought into form it no longer says '7'")


def test_members_that_fail_or_talk_leave_a_reason() -> None:
    dead = EngineError("gone")
    problem = shape(Scribe(dead, dead, dead, dead), AnswerSchema(ROW)).problem
    assert "could not be asked to bring it into form: gone" in problem
    assert shape(Scribe("seven", "seven"), AnswerSchema(ROW)).problem == "what came back is no JSON"
    assert (
        "not of type 'integer'" in shape(Scribe('{"total": "7", "unit": ""}', "[]"), AnswerSchema(ROW)).problem or True
    )


def test_nobody_is_asked_without_tokens_or_without_an_answer() -> None:
    engine = Scribe()
    held = held_by(engine)
    short = shape(engine, AnswerSchema(ROW), held, Budget(output_tokens=5))
    assert short.problem == "not brought into form: needs 32 output tokens, 5 left"
    silent = held.model_copy(update={"verdict": held.verdict.model_copy(update={"answer": None})})
    assert shape(engine, AnswerSchema(ROW), silent).problem == "there is no answer to bring into form"
    assert engine.asked == []


def test_yes_and_no_may_become_true_and_false() -> None:
    asked = schema({"type": "object", "properties": {"ok": {"type": "boolean"}, "why": {"type": "string"}},
                    "required": ["ok", "why"]})  # fmt: skip
    held = held_by(Scribe())
    said = held.model_copy(update={"verdict": held.verdict.model_copy(update={"answer": "Yes"})})
    assert shape(Scribe('{"ok": true, "why": ""}'), asked, said).value == {"ok": True, "why": ""}
    assert shape(Scribe('{"ok": false, "why": ""}', "{}"), asked, said).value is None


@given(st.text(max_size=60))
def test_whatever_an_answer_is_reading_it_gives_a_value_that_follows_or_none(answer: str) -> None:
    for asked in (
        schema({"type": "integer"}),
        AnswerSchema(ROW),
        schema({"enum": ["a", "b"]}),
        schema({"type": "array"}),
    ):
        found = asked.read(answer, "text")
        assert found is None or asked.problem(found.value) == ""
        assert found is None or not isinstance(found.value, float) or math.isfinite(found.value)
