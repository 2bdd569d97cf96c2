"""Chat completions of one member alone: handed to its own server, within the same gate, keys and quotas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mesh.engine import EngineError
from mesh.types import Usage
from serving.endpoint.door import Door, id_for, request_digest
from serving.endpoint.entrance import streams
from serving.endpoint.errors import Refused, busy, unavailable, unsupported
from serving.endpoint.keys import Caller
from serving.endpoint.models import member_named
from serving.endpoint.passage import Passage
from serving.endpoint.sse import EventStream
from serving.endpoint.stream import KEEP_ALIVE, error_event
from serving.endpoint.waiting import ended, unless_left
from serving.endpoint.work import Work


@dataclass(frozen=True)
class Head:
    """How an answer begins, told before anything of it."""

    status: int
    media_type: str
    retry_after_s: float | None
    streams: bool
    roster: str
    engine: str


@dataclass(frozen=True)
class Whole:
    """What a member's server answered, once all of it has come."""

    head: Head
    body: bytes
    """Empty where it came as a stream."""
    usage: Usage


Proxying = Work[Head | bytes, Whole]


async def from_member(
    passage: Passage,
    caller: Caller,
    data: Mapping[str, Any],
    body: bytes,
    idempotency_key: str | None,
    request: Request,
) -> Response:
    """Ask one member, or join a request of the same idempotency key. Raises Refused and ClientLeft."""
    door, stream = passage.door, streams(data)
    if "mesh" in data:
        raise unsupported("mesh", f"it is for the mesh, and {passage.model!r} is one member alone")
    id, digest = id_for(caller, idempotency_key), request_digest(data)
    work: Proxying | None = None if idempotency_key is None else door.begun(caller, id, digest)
    passage.joined = work is not None
    if work is None:
        model = passage.model
        work = door.begin(
            caller, id, digest, lambda tell: _proxied(door, caller, model, body, stream, tell),
            is_alone=idempotency_key is None,
            is_kept=lambda whole: idempotency_key is not None and whole.head.status < 400,
        )  # fmt: skip
    work.join()
    try:
        events = work.follow(door.config.request_timeout_s)
        head = await unless_left(request, _head(events, work))
        passage.roster, passage.engine = head.roster, head.engine
        if head.streams:
            passage.first_byte()
            followed, work = work, None
            return EventStream(
                _streamed(passage, events, followed), _closing(passage, followed, head), status=head.status
            )
        whole = await unless_left(request, work.result())
    finally:
        if work is not None:
            work.leave()
    passage.usage = whole.usage
    passage.first_byte()
    passage.ended(head.status, None if head.status < 400 else "member_refused")
    return Response(whole.body, status_code=head.status, media_type=head.media_type, headers=_headers(head))


async def _proxied(
    door: Door, caller: Caller, model: str, body: bytes, stream: bool, tell: Callable[[Head | bytes], None]
) -> Whole:
    """Ask the member's server; its seat's adapter stays loaded until it has answered."""
    assert door.members is not None
    usage = Usage()
    try:
        async with asyncio.timeout(door.config.request_timeout_s), door.seats.held() as roster:
            member = member_named(model, roster)
            if member is None:
                raise Refused(404, f"model: {model!r} has just lost its seat", code="model_not_found", param="model")
            answer = await door.members.chat(member, body, stream=stream)
            head = Head(
                answer.status, answer.media_type, answer.retry_after_s, answer.stream is not None, roster.id,
                member.engine,
            )  # fmt: skip
            tell(head)
            try:
                await _told(answer.stream, tell)
            finally:
                usage = answer.usage
            return Whole(head, answer.body or b"", answer.usage)
    except TimeoutError:
        raise Refused(
            504, f"expected an answer within {door.config.request_timeout_s:g} s", code="timeout", kind="server_error"
        ) from None
    except EngineError as error:
        if type(error).__name__ == "EngineBusy":
            raise busy(str(error), getattr(error, "retry_after_s", 5.0), code="engines_busy") from None
        raise unavailable(f"{model} does not answer: {error}", code="member_unavailable") from None
    finally:
        door.quota.spend(caller, usage)


async def _told(stream: AsyncIterator[bytes] | None, tell: Callable[[bytes], None]) -> None:
    """Tell every piece of a stream, and close it also where its client has left."""
    if stream is None:
        return
    try:
        async for chunk in stream:
            tell(chunk)
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


async def _head(events: Any, work: Proxying) -> Head:
    async for event in events:
        if isinstance(event, Head):
            return event
    whole = await ended(work.result())
    return whole.head


async def _streamed(passage: Passage, events: Any, work: Proxying) -> AsyncGenerator[bytes, None]:
    async for event in events:
        if event is None:
            yield KEEP_ALIVE
        elif isinstance(event, bytes):
            yield event
    try:
        passage.usage = (await ended(work.result())).usage
    except Refused as refused:
        passage.refused = refused
        yield error_event(refused)


def _closing(passage: Passage, work: Proxying, head: Head) -> Callable[[bool], None]:
    def closed(left: bool) -> None:
        work.leave()
        passage.stream_ended(left, head.status)

    return closed


def _headers(head: Head) -> dict[str, str]:
    return {} if head.retry_after_s is None else {"retry-after": str(max(1, round(head.retry_after_s)))}
