"""Answers as server-sent events: chunks as OpenAI's clients read them, comments through long silences."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from mesh.types import Exchange
from serving.endpoint.answer import answer_id
from serving.endpoint.errors import ErrorType, Refused, error_body
from serving.endpoint.schema import ChatCompletion

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
CHUNK_CHARS = 2048
EXCERPT_CHARS = 300


@dataclass(frozen=True)
class Called:
    """A call inside a deliberation has ended."""

    path: str
    """Place in the pattern; '' for the whole."""
    exchange: Exchange


@dataclass(frozen=True)
class Chunks:
    """Writes the chunks of one answer."""

    deliberation: str
    created: int
    model: str

    def opening(self) -> bytes:
        """The first chunk: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def progress(self, called: Called) -> bytes:
        """What a member has just said, as a thought of the mesh, and as plain data in `mesh.call`."""
        said = called.exchange
        call = {
            "member": said.member,
            "phase": said.phase,
            "round": said.round,
            "path": called.path,
            "said": [done.text[: EXCERPT_CHARS * 10] for done in said.completions],
            "error": said.error,
            "seconds": round(said.usage.seconds, 3),
            "output_tokens": said.usage.output_tokens,
        }
        return self._chunk({"reasoning_content": sentence(called)}, mesh={"call": call})

    def answer(self, answer: ChatCompletion) -> Iterator[bytes]:
        """The text, then why it ended, with all that the mesh says about it."""
        content = answer.choices[0].message.content
        for start in range(0, len(content), CHUNK_CHARS):
            yield self._chunk({"content": content[start : start + CHUNK_CHARS]})
        yield self._chunk({}, answer.choices[0].finish_reason, answer.mesh.model_dump(mode="json"))

    def usage(self, answer: ChatCompletion) -> bytes:
        """The chunk without a choice that tells tokens."""
        return self._event({"choices": [], "usage": answer.usage.model_dump(mode="json")})

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, mesh: Any = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event({"choices": [choice], **({} if mesh is None else {"mesh": mesh})})

    def _event(self, fields: dict[str, Any]) -> bytes:
        head = {
            "id": answer_id(self.deliberation),
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }
        return data_event(json.dumps({**head, **fields}, ensure_ascii=False, separators=(",", ":")).encode())


def sentence(called: Called) -> str:
    """One line on a call: who, in which phase, and how what was said begins."""
    said = called.exchange
    place = f"{called.path}: " if called.path else ""
    number = f" {said.round}" if said.round else ""
    text = said.error or " | ".join(" ".join(done.text.split()) for done in said.completions)
    short = text if len(text) <= EXCERPT_CHARS else f"{text[: EXCERPT_CHARS - 3]}..."
    return f"{place}{said.member} [{said.phase}{number}] {short}\n"


def data_event(body: bytes) -> bytes:
    """One event; JSON has no line breaks in it."""
    return b"data: " + body + b"\n\n"


def error_event(refused: Refused) -> bytes:
    """An error after the answer has begun, as OpenAI's clients raise it."""
    kind: ErrorType = refused.kind
    return data_event(error_body(refused.message, kind, refused.param, refused.code))


async def with_end(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`events`, and the mark that there are no more."""
    async for event in events:
        yield event
    yield DONE
