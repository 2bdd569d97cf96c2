"""From a chat request to a task for the mesh: pure, and every refusal names the field."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from memory.types import Record, content_hash
from mesh.limits import Limits
from mesh.types import Message, Part, Sampling, Task
from serving.endpoint.errors import Refused, bad_field, unsupported
from serving.endpoint.forms import schema_of
from serving.endpoint.schema import ChatMessage, ChatRequest
from serving.shaping import AnswerSchema

_Model = TypeVar("_Model", bound=BaseModel)
_Limits = TypeVar("_Limits", bound=Limits)

TOOLS = "the mesh calls no tools; ask a member by its name, whose own server takes them"
ASK_A_MEMBER = "the mesh has none; ask a member by its name, whose own server takes it"
ONLY_TEXT = "members of a mesh read text"
UNSUPPORTED = {
    "tools": TOOLS,
    "tool_choice": TOOLS,
    "parallel_tool_calls": TOOLS,
    "functions": TOOLS,
    "function_call": TOOLS,
    "logprobs": ASK_A_MEMBER,
    "top_logprobs": ASK_A_MEMBER,
    "logit_bias": ASK_A_MEMBER,
    "top_k": ASK_A_MEMBER,
    "min_p": ASK_A_MEMBER,
    "repetition_penalty": ASK_A_MEMBER,
    "audio": ONLY_TEXT,
    "modalities": ONLY_TEXT,
}
"""What OpenAI's clients can send, and what to do instead; anything else unknown is told to be left out."""

_INERT_IN_MESSAGES: dict[str, list[object] | None] = {"annotations": [], "reasoning_content": None}
"""What our own answers, sent back as history, may carry: `annotations` only empty, thoughts whatever they are."""


@dataclass(frozen=True)
class Ask:
    """A chat request as the mesh takes it."""

    request: ChatRequest
    task: Task
    sampling: Mapping[str, Any]
    """Fields of `Sampling` that the caller set."""
    conversation: str
    """The same for every turn of one conversation: its requests share a beginning."""
    form: AnswerSchema | None
    """What the answer has to follow; None: any words."""


def read_request(data: Mapping[str, Any]) -> ChatRequest:
    """The request in a JSON object. Raises Refused (400), naming the field."""
    sent = {name: value for name, value in data.items() if value is not None}
    messages = sent.get("messages")
    if isinstance(messages, list):
        sent["messages"] = [_without_inert(one) for one in messages]
    return validated(ChatRequest, sent)


def validated(kind: type[_Model], data: Mapping[str, Any]) -> _Model:
    """`data` as a `kind`. Raises Refused (400), naming the first field that is wrong."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _refusal(error, kind, data) from None


def to_ask(request: ChatRequest) -> Ask:
    """What the mesh is asked: the last message is the question, all before it is history. Raises Refused."""
    *earlier, last = request.messages
    where = f"messages[{len(earlier)}]"
    if last.role != "user":
        raise bad_field(f"{where}.role", f"expected the conversation to end with the user, got {last.role!r}")
    if not last.text.strip():
        raise bad_field(f"{where}.content", "expected a question, got nothing to answer")
    history = _history(earlier)
    question = last.text
    task = Task(
        id=content_hash([question, *(turn.model_dump(mode="json") for turn in history)])[:16],
        question=question,
        type=request.mesh.task_type,
        answer_kind=request.mesh.answer,
        history=history,
    )
    conversation = content_hash(history[0].text if history else question)[:16]
    return Ask(request, task, _sampling(request), conversation, schema_of(request.response_format))


def with_sampling(config: _Limits, sampling: Mapping[str, Any]) -> _Limits:
    """A protocol, its parts included, that samples as `sampling` says wherever it says anything."""
    if not sampling:
        return config
    changed: dict[str, Any] = {}
    for name, value in config:
        if isinstance(value, Sampling) and name == "sampling":
            changed[name] = value.model_copy(update=dict(sampling))
        else:
            changed[name] = _resampled(value, sampling)
    return config.model_copy(update=changed)


def unknown_model(model: str, known: Iterable[str]) -> Refused:
    """404 that names the nearest model there is. What was sent is only repeated where it is short."""
    names = list(known)
    near = difflib.get_close_matches(model[:64], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    said = repr(model) if len(model) <= 64 else f"a name of {len(model)} characters"
    return Refused(
        404,
        f"model: expected one of {', '.join(names[:40])}, got {said}{hint}",
        code="model_not_found",
        param="model",
    )


def _history(messages: list[ChatMessage]) -> tuple[Message, ...]:
    """Earlier turns as untrusted text; instructions of the caller in a row become one turn."""
    turns: list[Message] = []
    for place, message in enumerate(messages):
        part = Part(text=message.text, trusted=False)
        if message.role in ("user", "assistant"):
            turns.append(Message(role="user" if message.role == "user" else "assistant", parts=(part,)))
        elif not turns:
            turns.append(Message(role="system", parts=(part,)))
        elif len(turns) == 1 and turns[0].role == "system":
            turns[0] = Message(role="system", parts=(*turns[0].parts, Part(text="\n\n"), part))
        else:
            raise bad_field(
                f"messages[{place}].role", f"expected {message.role!r} messages before all others, got one after them"
            )
    return tuple(turns)


def _sampling(request: ChatRequest) -> dict[str, Any]:
    most = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise bad_field("max_completion_tokens", "expected the same as max_tokens, or only one of them")
    stop = request.stop
    found = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": most,
        "stop": None if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
    }
    return {name: value for name, value in found.items() if value is not None}


def _resampled(value: Any, sampling: Mapping[str, Any]) -> Any:
    if isinstance(value, Limits):
        return with_sampling(value, sampling)
    if isinstance(value, tuple):
        return tuple(_resampled(inner, sampling) for inner in value)
    if isinstance(value, Record) and not isinstance(value, Sampling):
        inner = {name: _resampled(held, sampling) for name, held in value}
        return value.model_copy(update=inner) if any(inner[name] is not held for name, held in value) else value
    return value


def _without_inert(message: object) -> object:
    if not isinstance(message, dict):
        return message
    kept = {name: value for name, value in message.items() if value is not None}
    if kept.get("role") == "assistant":
        for name, only in _INERT_IN_MESSAGES.items():
            if name in kept and (only is None or kept[name] == only):
                del kept[name]
        kept.setdefault("content", "")
    return kept


def _refusal(error: ValidationError, kind: type[BaseModel], data: Mapping[str, Any]) -> Refused:
    """The first thing wrong; of a union, the alternative that got furthest."""
    found = max(error.errors(include_url=False), key=lambda item: len(item["loc"]))
    param = _path(found["loc"], data, is_absent=found["type"] == "missing")
    first = str(found["loc"][0]) if found["loc"] else ""
    if first in UNSUPPORTED and (found["type"] == "extra_forbidden" or first == "logprobs"):
        return unsupported(first, UNSUPPORTED[first])
    if found["type"] == "extra_forbidden":
        return unsupported(param, f"leave it out. {_nearest(param, kind)}".strip())
    if found["type"] == "missing":
        return bad_field(param, "is required", code="missing_required_parameter")
    said = found["msg"].removeprefix("Value error, ")
    return bad_field(param, f"{said[0].lower()}{said[1:]}{_shown(found['input'])}")


def _path(parts: Sequence[int | str], data: Any, *, is_absent: bool) -> str:
    """A place in `data`, as 'messages[2].role'; names that pydantic puts in to tell alternatives apart are no place."""
    path = ""
    for place, part in enumerate(parts):
        if isinstance(data, list) and isinstance(part, int):
            data = data[part]
        elif isinstance(data, dict) and part in data:
            data = data.get(part)
        elif not (is_absent and place == len(parts) - 1):
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"


def _nearest(param: str, kind: type[BaseModel]) -> str:
    near = difflib.get_close_matches(param[:64], kind.model_fields, n=1, cutoff=0.8)
    return f"Did you mean {near[0]!r}?" if near and "." not in param else ""


def _shown(value: object) -> str:
    """What was sent, where it is short and plain."""
    if isinstance(value, str):
        return f", got {value!r}" if len(value) <= 40 else f", got {len(value)} characters"
    return f", got {value!r}" if isinstance(value, int | float) and len(repr(value)) <= 40 else ""
