"""Answers in the form that a JSON schema asks for: as they are where they fit, else rewritten by a member, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from pydantic import Field, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from memory.types import Record
from mesh.calls import Caller
from mesh.engine import EngineError
from mesh.equivalence import Equality, same_answer
from mesh.fence import fence_mark, fenced
from mesh.propose import question
from mesh.types import Deliberation, JsonSchema, Member, Message, Part, Sampling, Task
from serving.structure import StructureError, check_structure

MAX_READERS = 2
"""Members that are asked, one after the other, to bring one answer into form."""

_TRUTH = {True: ("true", "yes", "correct"), False: ("false", "no", "incorrect", "wrong")}
_FENCE = re.compile(r"^```[a-z]{0,10}\s*\n(.*?)\n```", re.DOTALL)


class SchemaError(ValueError):
    """A text that is no JSON schema, or one that refers to something outside itself."""


class Shaped(Record):
    """What became of an answer that was to follow a schema."""

    value: Any = Field(default=None, description="it follows the schema; null where `problem` says why nothing does")
    problem: str = Field(default="", description="why there is no value; empty: there is one")


class AnswerSchema:
    """A JSON schema (draft 2020-12) that answers are checked against."""

    def __init__(self, text: str) -> None:
        """Raises SchemaError: not JSON, not a schema, too long, or with a `$ref` that leaves it."""
        try:
            self.structure = JsonSchema(json_schema=text)
            check_structure(self.structure)
        except ValidationError as error:
            raise SchemaError(
                f"expected a JSON schema, got {len(text)} characters: {error.errors()[0]['msg']}"
            ) from error
        except StructureError as error:
            raise SchemaError(str(error)) from error
        self.schema: Any = json.loads(text)
        _check_inside(self.schema)
        # An explicit registry: without one, the library would open the network for a reference it does not know.
        self._validator = Draft202012Validator(self.schema, registry=Registry())

    def problem(self, value: object) -> str:
        """Why `value` does not follow the schema; empty: it does."""
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):  # 1e999 and half a character can be read, and are no JSON in UTF-8
            return "it cannot be written as JSON"
        try:
            found = best_match(self._validator.iter_errors(value))
        except RecursionError:
            return "the schema or the value is nested too deeply to be compared"
        if found is None:
            return ""
        where = "/".join(map(str, found.absolute_path))
        return f"{where}: {found.message}" if where else found.message

    def read(self, answer: str, equality: Equality) -> Shaped | None:
        """`answer` in the form of the schema where nothing has to be made up for it; None: a member has to write it.

        Tried are the answer as JSON, as a text, as the one option it equals, and as the only property of an object.
        """
        for value in _readings(answer):
            if not self.problem(value):
                return Shaped(value=value)
        options = self.schema.get("enum", ()) if isinstance(self.schema, dict) else ()
        same = [one for one in options if isinstance(one, str) and same_answer(one, answer, equality)]
        if len(same) == 1 and not self.problem(same[0]):
            return Shaped(value=same[0])
        sole = _only_property(self.schema)
        inner = [] if sole is None else [{sole: value} for value in _readings(answer)]
        return next((Shaped(value=value) for value in inner if not self.problem(value)), None)


async def shape_answer(
    caller: Caller, schema: AnswerSchema, held: Deliberation, readers: Sequence[Member], max_tokens: int
) -> Shaped:
    """The verdict of `held` in the form of `schema`; what members were asked for it stays in `caller.exchanges`.

    A member gets the answer and the text that argues for it, and is held to the schema by its engine where that can
    do so. What it writes counts only if it follows the schema and still holds the answer (prose is not compared).
    """
    answer = held.verdict.answer
    if answer is None:
        return Shaped(problem="there is no answer to bring into form")
    found = schema.read(answer, held.equality)
    if found is not None:
        return found
    problem = "no member could be asked to bring it into form"
    for number, reader in enumerate(readers[:MAX_READERS]):
        short = caller.purse.shortage(max_tokens, 1)
        if short:
            return Shaped(problem=f"not brought into form: {short}")
        said = await _rewritten(caller, schema, held, reader, number, max_tokens)
        if not isinstance(said, Shaped):
            problem = said
            continue
        problem = said.problem or _lost(said.value, answer, held)
        if not problem:
            return said
    return Shaped(problem=problem)


def readers_of(held: Deliberation) -> list[Member]:
    """Who is asked to bring the verdict into form: who argued for it first, then the others that take such work."""
    clusters = held.verdict.diagnosis.clusters if held.verdict.diagnosis is not None else ()
    first = [clusters[0].author, *clusters[0].members] if clusters else []
    order = {name: place for place, name in reversed(list(enumerate(first)))}
    able = [member for member in held.members if not member.tiers or "extraction" in member.tiers]
    return sorted(able or held.members, key=lambda member: order.get(member.name, len(first)))


def shape_messages(task: Task, answer: str, argument: str, schema: str, seed: int) -> tuple[Message, ...]:
    """The prompt: the question and the answer as data, the schema, and the request."""
    mark = fence_mark(seed, [answer, argument])
    parts = [Part(text=QUESTION), question(task), Part(text=ANSWER), *fenced(answer, mark)]
    if argument and argument != answer:
        parts += [Part(text=ARGUMENT), *fenced(argument, mark)]
    return (Message(role="user", parts=(*parts, Part(text=REQUEST.format(schema=schema)))),)


async def _rewritten(
    caller: Caller, schema: AnswerSchema, held: Deliberation, reader: Member, number: int, max_tokens: int
) -> Shaped | str:
    """What `reader` wrote, checked against the schema; a text: why it wrote nothing."""
    clusters = held.verdict.diagnosis.clusters if held.verdict.diagnosis is not None else ()
    argument = clusters[0].argument if clusters else ""
    messages = shape_messages(
        caller.task, held.verdict.answer or "", argument, schema.structure.json_schema, caller.seed
    )
    free = Sampling(temperature=0.0, max_tokens=max_tokens)
    bound = free.model_copy(update={"structure": schema.structure})
    problem = ""
    for sampling in (bound, free):
        try:
            if sampling is bound and "json" not in (await caller.engine.profile(reader)).structures:
                continue
            (said,) = (await caller.complete(reader, "extract", number, messages, sampling))[:1]
        except EngineError as error:
            problem = f"{reader.name} could not be asked to bring it into form: {error}"
            continue
        except TimeoutError as error:
            return f"{reader.name} did not bring it into form in time: {error}"
        return _checked(schema, said.text)
    return problem


def _checked(schema: AnswerSchema, text: str) -> Shaped:
    problem = "what came back is no JSON"
    for value in _json_in(text):
        problem = schema.problem(value)
        if not problem:
            return Shaped(value=value)
    return Shaped(problem=problem)


def _lost(value: object, answer: str, held: Deliberation) -> str:
    """Why a rewritten answer is another answer; empty: it holds the one that was decided, or that is prose."""
    if held.task.answer_kind == "free" or any(_says(leaf, answer, held.equality) for leaf in _leaves(value)):
        return ""
    return f"brought into form it no longer says {answer[:60]!r}"


def _says(leaf: object, answer: str, equality: Equality) -> bool:
    if isinstance(leaf, bool):
        return answer.casefold().strip(" .") in _TRUTH[leaf]
    return same_answer(str(leaf), answer, equality)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield value


def _readings(answer: str) -> Iterator[object]:
    """The answer as JSON where it is some, and as a text."""
    try:
        value = json.loads(answer, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        pass
    else:
        yield value
    yield answer


def _json_in(text: str) -> Iterator[object]:
    """JSON values that a member's text holds: all of it, what stands in a code block, what begins at a bracket."""
    fence = _FENCE.search(text.strip())
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    bracket = re.search(r"[{\[]", text)
    for start in (text.strip(), fence[1].strip() if fence else "", text[bracket.start() :] if bracket else ""):
        try:
            yield decoder.raw_decode(start)[0]
        except (ValueError, RecursionError):
            continue


def _no_constant(name: str) -> object:
    raise ValueError(f"expected JSON, got {name}")


def _only_property(schema: Any) -> str | None:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return next(iter(properties)) if isinstance(properties, dict) and len(properties) == 1 else None


def _check_inside(schema: Any) -> None:
    """Raises SchemaError for a reference that names no part of the schema."""
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise SchemaError(f"expected $ref to name a part of the schema, got {reference!r}; see $defs") from None


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


QUESTION = "A question:\n"
ANSWER = "\nIts final answer:\n"
ARGUMENT = "What somebody wrote about it:\n"
REQUEST = """Write that final answer as one JSON value of this schema, and write nothing else. Change nothing of it.
{schema}
"""
