"""A member's own answers where its engine has no server to relay to: what the engine protocol itself can give."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from mesh.engine import Engine
from mesh.types import Completion, JsonSchema, Member, Message, Part, Profile, Sampling, Structure, Usage
from serving.endpoint.chat import validated
from serving.endpoint.errors import bad_field, unsupported
from serving.endpoint.members import ProxyAnswer
from serving.endpoint.relay_wire import DONE, MAX_SAMPLES, event, hides_usage, renamed
from serving.endpoint.schema import (
    MAX_MESSAGES,
    MAX_MODEL_CHARS,
    MAX_SEED,
    MAX_STOPS,
    MAX_TOKENS,
    ChatMessage,
    ResponseFormat,
    SchemaFormat,
    Sent,
    StreamOptions,
    TextFormat,
)

SSE = "text/event-stream"
ANY_OBJECT = JsonSchema(json_schema='{"type": "object"}')
NEEDS_A_SERVER = "only members whose vLLM engine has a chat template of its own take it; leave it out"
UNSUPPORTED = (
    "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "logprobs", "top_logprobs",
    "logit_bias", "audio", "modalities", "structured_outputs", "top_k", "min_p", "repetition_penalty",
)  # fmt: skip
"""What a vLLM member takes and this one does not."""

_Stop = Annotated[str, Field(min_length=1, max_length=256)]


class MemberRequest(Sent):
    """A chat request that any engine can serve."""

    model: str = Field(max_length=MAX_MODEL_CHARS)
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: int | None = Field(default=None, ge=-MAX_SEED, lt=MAX_SEED)
    n: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    response_format: ResponseFormat | None = None
    presence_penalty: Annotated[float, Field(ge=0.0, le=0.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0.0, le=0.0)] | None = None
    user: str | None = Field(default=None, max_length=256)


async def answer_alone(engine: Engine, member: Member, data: Mapping[str, Any]) -> ProxyAnswer:
    """The answer of one member. A stream comes in one piece: the engine protocol gives whole answers.

    Raises:
        Refused: a field that is wrong, or that this engine cannot honour.
        EngineError: the engine is gone, busy, or refused.
    """
    request = read_request(data)
    messages = to_messages(request.messages)
    profile = await engine.profile(member)
    structure = structure_of(request, profile)
    room = profile.max_model_len - await engine.count_tokens(member, messages)
    started = time.perf_counter()
    completions, prompt_tokens = await engine.complete(member, messages, to_sampling(request, room, structure))
    usage = Usage(
        prompt_tokens=prompt_tokens,
        output_tokens=sum(done.output_tokens for done in completions),
        num_calls=1,
        seconds=time.perf_counter() - started,
    )
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time())}
    if not request.stream:
        return ProxyAnswer(200, body=json.dumps(_whole(head, member, completions, usage)).encode(), usage=usage)
    events = _events(head, member, completions, None if hides_usage(data) else usage)
    return ProxyAnswer(200, stream=_told(events), media_type=SSE, usage=usage)


def read_request(data: Mapping[str, Any]) -> MemberRequest:
    """The request. Raises Refused, naming the field."""
    sent = {name: value for name, value in data.items() if value is not None}
    if sent.get("logprobs") is False:
        del sent["logprobs"]
    for field in UNSUPPORTED:
        if field in sent:
            raise unsupported(field, NEEDS_A_SERVER)
    return validated(MemberRequest, sent)


def to_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The caller's conversation; all of it is text, none of it structure."""
    return tuple(
        Message(
            role="assistant" if message.role == "assistant" else "user" if message.role == "user" else "system",
            parts=(Part(text=message.text, trusted=False),),
        )
        for message in messages
    )


def structure_of(request: MemberRequest, profile: Profile) -> Structure | None:
    """The form the answer must have; None: any. Raises Refused where the engine does not promise it."""
    wanted = request.response_format
    if wanted is None or isinstance(wanted, TextFormat):
        return None
    if "json" not in profile.structures:
        raise unsupported("response_format", f"engine {profile.engine!r} promises no form; leave it out")
    if isinstance(wanted, SchemaFormat):
        return JsonSchema(json_schema=json.dumps(wanted.json_schema.json_schema))
    return ANY_OBJECT


def to_sampling(request: MemberRequest, room: int, structure: Structure | None) -> Sampling:
    """How to sample. `room`: tokens of the window that the prompt leaves. Raises Refused if there are none."""
    if room < 1:
        raise bad_field("messages", "expected a conversation that fits the member's window, got a longer one",
                        code="context_length_exceeded")  # fmt: skip
    asked = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
    stop = request.stop
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=room if asked is None else min(asked, room),
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        num_samples=request.n,
        seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
        structure=structure,
    )


def _whole(head: Mapping[str, Any], member: Member, completions: Sequence[Completion], usage: Usage) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": done.text, "refusal": None},
            "logprobs": None,
            "finish_reason": _reason(done),
        }
        for index, done in enumerate(completions)
    ]
    return renamed({**head, "object": "chat.completion", "choices": choices, "usage": _counts(usage)}, member)


def _events(
    head: Mapping[str, Any], member: Member, completions: Sequence[Completion], usage: Usage | None
) -> list[bytes]:
    """For every choice: who speaks, the text, and why it ended. `usage` None: it is not told."""
    chunk = renamed({**head, "object": "chat.completion.chunk"}, member)
    told: list[dict[str, Any]] = []
    for index, done in enumerate(completions):
        told.append({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
        told.append({"index": index, "delta": {"content": done.text}, "finish_reason": None})
        told.append({"index": index, "delta": {}, "finish_reason": _reason(done)})
    events = [event(json.dumps({**chunk, "choices": [choice]})) for choice in told]
    if usage is not None:
        events.append(event(json.dumps({**chunk, "choices": [], "usage": _counts(usage)})))
    return [*events, event(DONE)]


async def _told(events: Sequence[bytes]) -> AsyncIterator[bytes]:
    for one in events:
        yield one


def _reason(done: Completion) -> str:
    return "length" if done.finish_reason == "length" else "stop"


def _counts(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
