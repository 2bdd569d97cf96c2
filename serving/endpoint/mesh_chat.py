"""Chat completions of the mesh: a deliberation, answered whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.endpoint.answer import completion, mesh_of
from serving.endpoint.chat import Ask, read_request, to_ask
from serving.endpoint.deliberating import Asked
from serving.endpoint.deliberations import Kept
from serving.endpoint.door import Door, check_same, id_for, request_digest
from serving.endpoint.errors import Refused
from serving.endpoint.keys import Caller
from serving.endpoint.passage import Passage
from serving.endpoint.schema import ChatCompletion
from serving.endpoint.sse import EventStream
from serving.endpoint.stream import DONE, KEEP_ALIVE, Called, Chunks, error_event
from serving.endpoint.waiting import ended, unless_left
from serving.endpoint.work import Work

Answering = Work[Called, Kept]


async def from_mesh(
    passage: Passage, caller: Caller, data: Mapping[str, Any], idempotency_key: str | None, request: Request
) -> Response:
    """Deliberate, or join a deliberation of the same idempotency key. Raises Refused and ClientLeft."""
    door, ask = passage.door, to_ask(read_request(data))
    asked = Asked(caller, ask, id_for(caller, idempotency_key), request_digest(data), passage.span)
    if idempotency_key is not None:
        earlier = await door.store.find(caller, asked.id)
        if earlier is not None and not earlier.problem:
            check_same(earlier.digest, asked.digest)
            passage.joined = True
            return _replayed(passage, ask, earlier)
    work: Answering | None = None if idempotency_key is None else door.begun(caller, asked.id, asked.digest)
    passage.joined = work is not None
    if work is None:
        await door.mesh.check(ask)
        work = door.begin(
            caller, asked.id, asked.digest, lambda tell: door.mesh.answer(asked, tell),
            is_alone=idempotency_key is None,
        )  # fmt: skip
    return await _answer(passage, ask, asked.id, work, request)


async def _answer(passage: Passage, ask: Ask, id: str, work: Answering, request: Request) -> Response:
    passage.deliberation = id
    work.join()
    if ask.request.stream:
        chunks = Chunks(id, int(passage.started_at), passage.model)

        def closed(left: bool) -> None:
            work.leave()
            passage.stream_ended(left)

        return EventStream(_streamed(passage, ask, work, chunks), closed)
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

    return EventStream(events(), passage.stream_ended)


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
    _note(passage, kept)
    answer = to_completion(passage.door, kept)
    yield from chunks.answer(answer)
    options = ask.request.stream_options
    if options is not None and options.include_usage:
        yield chunks.usage(answer)
    yield DONE


def _whole(passage: Passage, kept: Kept) -> Response:
    _note(passage, kept)
    body = to_completion(passage.door, kept).model_dump_json().encode()
    passage.first_byte()
    passage.ended(200)
    return Response(body, media_type="application/json")


def _note(passage: Passage, kept: Kept) -> None:
    passage.deliberation, passage.roster = kept.id, kept.roster
    passage.usage = kept.deliberation.usage


def to_completion(door: Door, kept: Kept) -> ChatCompletion:
    """The answer to a request, from what was kept of it."""
    return completion(kept.model, kept.created, kept.content, kept.deliberation, mesh_of(kept, door.prices))
