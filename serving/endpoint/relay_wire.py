"""What is changed on the way to the own server of a member's engine and back: pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mesh.types import Member, Usage
from serving.endpoint.errors import bad_field, error_body, unsupported

MAX_SAMPLES = 16
"""Answers to one request: each takes a place in the engine's batch."""
DONE = "[DONE]"

_INTERNAL = "it belongs to whoever runs the engines; leave it out"
_UNSAFE = "it would be run beside the engine; leave it out"
REFUSED = {
    "priority": _INTERNAL,
    "request_id": _INTERNAL,
    "session_id": _INTERNAL,
    "cache_salt": _INTERNAL,
    "kv_transfer_params": _INTERNAL,
    "ec_transfer_params": _INTERNAL,
    "vllm_xargs": _INTERNAL,
    "chat_template": _UNSAFE,
    "media_io_kwargs": _UNSAFE,
    "mm_processor_kwargs": _UNSAFE,
    "mesh": "it is for the mesh, and this is one member alone; leave it out",
}
"""What vLLM's server would take and a client must not send, and why."""

_NO_PARSER = "--tool-call-parser"
NO_TOOLS = "tools: nothing reads this member's tool calls; leave it out, or set `tool_parser` of its engine"
_PATH = re.compile(r"(?:/[\w.+@~-]+){2,}/?")


def relayed(data: Mapping[str, Any], *, model: str, stream: bool, rank: int) -> dict[str, Any]:
    """The request as the engine's server gets it. `model`: its name there. Raises Refused, naming the field."""
    sent = {name: value for name, value in data.items() if value is not None}
    for field, advice in REFUSED.items():
        if field in sent:
            raise unsupported(field, advice)
    samples = sent.get("n", 1)
    if not isinstance(samples, int) or isinstance(samples, bool) or not 1 <= samples <= MAX_SAMPLES:
        raise bad_field("n", f"expected a whole number from 1 to {MAX_SAMPLES}")
    if not isinstance(sent.get("stream", False), bool):
        raise bad_field("stream", "expected true or false")
    if stream:
        # Counted as it comes: of a client that leaves in the middle, the tokens up to then count too.
        sent["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return {**sent, "model": model, "stream": stream, "priority": rank}


def hides_usage(data: Mapping[str, Any]) -> bool:
    """Whether the client did not ask for a count of tokens in its stream."""
    options = data.get("stream_options")
    return not (isinstance(options, Mapping) and options.get("include_usage") is True)


def renamed(answer: Mapping[str, Any], member: Member) -> dict[str, Any]:
    """An answer under the member's name, with the adapter that produced it."""
    seat = {"member": member.name, "engine": member.engine, "adapter": member.adapter}
    return {**answer, "model": member.name, "mesh": seat}


def usage_in(answer: Mapping[str, Any]) -> Usage | None:
    """Tokens that an answer or an event counts; None: it counts none."""
    counts = answer.get("usage")
    if not isinstance(counts, Mapping):
        return None
    prompt, output = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return Usage(
        prompt_tokens=prompt if isinstance(prompt, int) else 0,
        output_tokens=output if isinstance(output, int) else 0,
        num_calls=1,
    )


def refusal(status: int, body: bytes) -> bytes:
    """The server's own refusal in the door's words: the same message, without what it tells of this machine."""
    message, param = error_in(body)
    if _NO_PARSER in message:
        return error_body(NO_TOOLS, "invalid_request_error", "tools", "unsupported_parameter")
    if status == 429:
        return error_body(message, "rate_limit_error", param, "rate_limit_exceeded")
    return error_body(message, "invalid_request_error", param, "invalid_value")


def error_in(body: bytes | str) -> tuple[str, str | None]:
    """(message, field) of an error that vLLM's server answered with."""
    try:
        data = json.loads(body)
    except ValueError:
        return "its server gave no reason", None
    error = data.get("error") if isinstance(data, dict) else None
    if not isinstance(error, dict):
        return str(error or "its server gave no reason")[:500], None
    param = error.get("param")
    message = _PATH.sub("[path]", str(error.get("message", "")))[:2000]
    return message, param.removeprefix("body.") if isinstance(param, str) else None


class EventWriter:
    """Turns the events of one stream into the client's; keeps the last count of tokens."""

    def __init__(self, member: Member, *, hides_usage: bool) -> None:
        self._member = member
        self._hides_usage = hides_usage
        self.usage = Usage(num_calls=1)

    def write(self, data: str) -> bytes | None:
        """The event whose text is `data`, for the client; None: it gets none."""
        if data == DONE:
            return event(DONE)
        try:
            chunk = json.loads(data)
        except ValueError:
            return failed("the engine's server sent an event that is no JSON")
        if not isinstance(chunk, dict) or "error" in chunk:
            return failed(error_in(data)[0])
        self.usage = usage_in(chunk) or self.usage
        if self._hides_usage:
            chunk.pop("usage", None)
            if not chunk.get("choices"):
                return None
        elif chunk.get("choices"):
            # Only the last event counts, as with every other server.
            chunk["usage"] = None
        return event(json.dumps(renamed(chunk, self._member), separators=(",", ":")))


def event(text: str) -> bytes:
    """A server-sent event of one line."""
    return f"data: {text}\n\n".encode()


def failed(message: str) -> bytes:
    """The event that ends a stream whose engine was lost."""
    return event(error_body(message, "server_error", None, "engine_lost").decode())
