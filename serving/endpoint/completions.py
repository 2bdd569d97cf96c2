"""`POST /v1/chat/completions`: from the body of a request to its answer, whoever is asked."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from mesh.types import Usage
from serving.endpoint.answer import completion, mesh_field
from serving.endpoint.body import ClientLeft, parse_object, read_body
from serving.endpoint.chat import Ask, read_request, to_ask, unknown_model
from serving.endpoint.deliberations import Kept
from serving.endpoint.door import Answering, Door, check_same, request_digest
from serving.endpoint.errors import Refused, bad_field, unavailable, unsupported
from serving.endpoint.keys import Caller, KeyRefused
from serving.endpoint.models import member_named, model_names
from serving.endpoint.observing import NoSpans, RequestSpan, Served
from serving.endpoint.quota import QuotaExceeded
from serving.endpoint.requestlog import RequestLine
from serving.endpoint.schema import MAX_MODEL_CHARS, ChatCompletion
from serving.endpoint.sse import EventStream
from serving.endpoint.stream import DONE, KEEP_ALIVE, Chunks, error_event

T = TypeVar("T")

CLIENT_LEFT = 499
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass
class Passage:
    """One request on its way through the door, and what is told of it at the end."""

    door: Door
    id: str
    started: float = field(default_factory=time.perf_counter)
    started_at: float = field(default_factory=time.time)
    caller: Caller | None = None
    model: str = ""
    engine: str = ""
    usage: Usage = field(default_factory=Usage)
    kept: Kept | None = None
    joined: bool = False
    first_byte_s: float | None = None
    span: RequestSpan | None = None
    refused: Refused | None = None
    """Why a stream ended early."""

    def first_byte(self) -> None:
        """The answer begins."""
        if self.first_byte_s is None:
            self.first_byte_s = time.perf_counter() - self.started

    def ended(self, code: int, error: str | None = None) -> None:
        """Tell metrics, spans and the log."""
        usage = self.usage if self.kept is None else self.kept.deliberation.usage
        served = Served(
            model=self.model, code=code, seconds=time.perf_counter() - self.started,
            first_byte_s=self.first_byte_s, usage=usage, engine=self.engine,
        )  # fmt: skip
        self.door.metrics.served(served)
        if self.span is not None:
            self.span.ended(served)
        caller = self.caller
        self.door.log.write(
            RequestLine(
                id=self.id,
                key_id="" if caller is None else caller.key_id,
                team="" if caller is None else caller.team,
                model=self.model,
                started_at=self.started_at,
                ended_at=time.time(),
                code=code,
                deliberation=None if self.kept is None else self.kept.id,
                roster=None if self.kept is None else self.kept.roster,
                tokens=usage.prompt_tokens + usage.output_tokens,
                joined=self.joined,
                error=error,
            )
        )


async def chat_completions(door: Door, request: Request, request_id: str) -> Response:
    """Answer one request. Raises Refused."""
    passage = Passage(door, request_id)
    try:
        return await _served(passage, request)
    except Refused as refused:
        passage.ended(refused.status, refused.code)
        raise
    except ClientLeft:
        passage.ended(CLIENT_LEFT)
        return Response(status_code=CLIENT_LEFT)  # nobody reads it


async def _served(passage: Passage, request: Request) -> Response:
    door = passage.door
    passage.caller = caller = admitted(door, request)
    body = await read_body(
        request.receive,
        request.headers,
        max_bytes=door.config.max_body_bytes,
        timeout_s=door.config.read_timeout_s,
    )
    data = parse_object(body)
    model = named_model(data)
    idempotency_key = idempotency_key_of(request.headers)
    if model in door.protocols:
        passage.model = model
        check_quota(door, caller)
        passage.span = door.spans.start(passage.id, model, request.headers.get("traceparent"))
        return await _from_mesh(passage, caller, data, idempotency_key, request)
    async with door.seats.held() as roster:
        member = member_named(model, roster)
        if member is None:
            raise unknown_model(model, model_names(door.protocols, roster))
    raise unsupported("model", "members are not served alone yet")


async def _from_mesh(
    passage: Passage, caller: Caller, data: Mapping[str, Any], idempotency_key: str | None, request: Request
) -> Response:
    door = passage.door
    ask = to_ask(read_request(data))
    id, digest = door.id_for(caller, idempotency_key), request_digest(data)
    earlier = None if idempotency_key is None else await door.store.find(caller, id)
    if earlier is not None:
        check_same(earlier.digest, digest)
        passage.joined = True
        return _replayed(passage, ask, earlier)
    work = None if idempotency_key is None else door.running(caller, id, digest)
    passage.joined = work is not None
    if work is None:
        await door.check_protocol(ask)
        work = door.begin(caller, ask, id, digest, passage.span or NoSpans())
    work.join()
    if ask.request.stream:
        chunks = Chunks(id, int(passage.started_at), passage.model)
        return EventStream(_streamed(passage, ask, work, chunks), lambda left: _stream_closed(passage, work, left))
    try:
        return _whole(passage, await unless_left(request, work.result()))
    finally:
        work.leave()


def _replayed(passage: Passage, ask: Ask, kept: Kept) -> Response:
    """The answer that was given before."""
    if not ask.request.stream:
        return _whole(passage, kept)
    chunks = Chunks(kept.id, kept.created, kept.model)

    async def events() -> AsyncGenerator[bytes, None]:
        yield chunks.opening()
        for event in _ending(passage, ask, kept, chunks):
            yield event

    return EventStream(events(), lambda left: passage.ended(CLIENT_LEFT if left else 200))


async def _streamed(passage: Passage, ask: Ask, work: Answering, chunks: Chunks) -> AsyncGenerator[bytes, None]:
    passage.first_byte()
    yield chunks.opening()
    async for called in work.follow(passage.door.config.keep_alive_s):
        if called is None:
            yield KEEP_ALIVE
        elif ask.request.mesh.progress:
            yield chunks.progress(called)
    try:
        kept = await ended(work.result())
    except Refused as refused:
        # The status has been sent: clients read the error from the stream, and the log has it.
        passage.refused = refused
        yield error_event(refused)
        return
    for event in _ending(passage, ask, kept, chunks):
        yield event


def _ending(passage: Passage, ask: Ask, kept: Kept, chunks: Chunks) -> Iterator[bytes]:
    passage.kept = kept
    answer = to_completion(passage.door, kept)
    yield from chunks.answer(answer)
    options = ask.request.stream_options
    if options is not None and options.include_usage:
        yield chunks.usage(answer)
    yield DONE


def _stream_closed(passage: Passage, work: Answering, left: bool) -> None:
    work.leave()
    refused = passage.refused
    if left:
        passage.ended(CLIENT_LEFT)
    elif refused is not None:
        passage.ended(refused.status, refused.code)
    else:
        passage.ended(200)


def _whole(passage: Passage, kept: Kept) -> Response:
    passage.kept = kept
    body = to_completion(passage.door, kept).model_dump_json().encode()
    passage.first_byte()
    passage.ended(200)
    return Response(body, media_type="application/json")


def to_completion(door: Door, kept: Kept) -> ChatCompletion:
    """The answer to a request, from what was kept of it."""
    mesh = mesh_field(kept.deliberation, (kept.roster, kept.channel), door.prices, seed=kept.seed, seconds=kept.seconds)
    return completion(kept.model, kept.created, kept.content, kept.deliberation, mesh)


def admitted(door: Door, request: Request) -> Caller:
    """Who asks. Raises Refused (401)."""
    try:
        return door.keys.admit(request.headers.get("authorization"), needs_key=door.config.needs_key)
    except KeyRefused as error:
        raise Refused(401, str(error), code="invalid_api_key", kind="authentication_error") from None


def check_quota(door: Door, caller: Caller) -> None:
    """Raises Refused (429) where the caller's tokens are spent."""
    try:
        door.quota.check(caller)
    except QuotaExceeded as error:
        raise Refused(
            429, str(error), code="insufficient_quota", kind="insufficient_quota", retry_after_s=error.retry_after_s
        ) from None


def named_model(data: Mapping[str, Any]) -> str:
    """What stands in `model`. Raises Refused (400)."""
    model = data.get("model")
    if model is None:
        raise bad_field("model", "is required", code="missing_required_parameter")
    if not isinstance(model, str) or not 1 <= len(model) <= MAX_MODEL_CHARS:
        raise bad_field("model", f"expected a name of 1 to {MAX_MODEL_CHARS} characters")
    return model


def idempotency_key_of(headers: Mapping[str, str]) -> str | None:
    """The Idempotency-Key header. Raises Refused (400)."""
    key = headers.get("idempotency-key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise bad_field("Idempotency-Key", "expected 1 to 255 visible ASCII characters")
    return key


async def ended(result: Awaitable[T]) -> T:
    """`result`, of work that may be cancelled from elsewhere. Raises Refused (503) where it was."""
    wanted = asyncio.ensure_future(result)
    try:
        return await wanted
    except asyncio.CancelledError:
        if wanted.cancelled() and not _is_cancelled():
            raise unavailable("the door is closing; send the request again", code="shutting_down") from None
        raise


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def unless_left(request: Request, result: Awaitable[T]) -> T:
    """`result`, unless the client goes away before. Raises ClientLeft, and what `result` raises."""
    gone = asyncio.ensure_future(_gone(request))
    wanted = asyncio.ensure_future(ended(result))
    try:
        await asyncio.wait({gone, wanted}, return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise ClientLeft
        return wanted.result()
    finally:
        gone.cancel()
        wanted.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
