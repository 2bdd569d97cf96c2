"""Hands a client's request on to the own servers of one engine's replicas, whole, and the answer back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import httpx

from mesh.engine import EngineError
from mesh.types import Member, Usage
from serving.endpoint.members import ProxyAnswer
from serving.endpoint.relay_wire import (
    DONE,
    EventWriter,
    error_in,
    event,
    failed,
    hides_usage,
    refusal,
    relayed,
    renamed,
    usage_in,
)
from serving.hosting import EngineLost
from serving.member_http import ADAPTER_HEADER, CHAT_PATH, HttpAddress, HttpHost
from serving.replica import ReplicaLoad
from serving.routing import Candidate, choose_replica

_Result = TypeVar("_Result")

MAX_FAILED = 3
"""Servers that may answer one request with a 5xx before it is held to be the request's fault."""
AGAIN_S = 0.2
"""Pause before a server that is gone is looked for again: its engine may be starting anew."""
CONNECT_TIMEOUT_S = 5.0
SSE = "text/event-stream"


class Relay:
    """The servers of one engine's replicas; a request goes to the least loaded one.

    It is asked again, of another one or when a lost one is back, until something of an answer has come. A stream that
    has begun ends with an error in it when its engine is lost: what another one says would not follow on.
    """

    def __init__(
        self, name: str, hosts: Sequence[HttpHost], loads: Callable[[], Sequence[ReplicaLoad]], *, timeout_s: float
    ) -> None:
        """`loads`: how the replicas stand, in the order of `hosts`. `timeout_s`: until an answer or an event comes."""
        self._name = name
        self._hosts = hosts
        self._loads = loads
        self._timeout_s = timeout_s
        self._addresses: list[HttpAddress | None] = [None] * len(hosts)
        self._under_way = [0] * len(hosts)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            # The door bounds the requests.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            # A proxy of the operator's is not for the servers of the mesh itself.
            trust_env=False,
        )

    async def has_server(self) -> bool:
        """Whether engines of this kind have one. Raises EngineError if none answers in time."""

        async def ask() -> bool:
            return await self._address(self._choose()) is not None

        return await self._until_answered(ask)

    async def post(self, member: Member, data: Mapping[str, Any], *, stream: bool, rank: int) -> ProxyAnswer:
        """The answer to the client's request. `rank`: what the engine sorts by, smaller first.

        Raises:
            Refused: a field that a client must not send.
            EngineError: no replica answered in time, or several in a row failed.
        """
        relayed(data, model="", stream=stream, rank=rank)
        return await self._until_answered(lambda: self._ask(member, data, stream=stream, rank=rank))

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _until_answered(self, ask: Callable[[], Awaitable[_Result]]) -> _Result:
        reason, num_failed = "", 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while num_failed < MAX_FAILED:
                    try:
                        return await ask()
                    except (EngineLost, httpx.TransportError) as error:
                        reason = f"{error or type(error).__name__}"
                    except _ServerFailed as error:
                        reason, num_failed = str(error), num_failed + 1
                    await asyncio.sleep(AGAIN_S)
        except TimeoutError:
            reason = f"no answer within {self._timeout_s:g} s; {reason}"
        raise EngineError(f"engine {self._name!r}: {reason or 'no answer'}; see its log, or try again")

    async def _ask(self, member: Member, data: Mapping[str, Any], *, stream: bool, rank: int) -> ProxyAnswer:
        """One attempt."""
        index, started = self._choose(), time.perf_counter()
        async with AsyncExitStack() as stack:
            self._under_way[index] += 1
            stack.callback(self._left, index)
            try:
                response = await self._send(index, member, relayed(data, model="", stream=stream, rank=rank))
                stack.push_async_callback(response.aclose)
                if response.status_code >= 400:
                    return self._refused(index, response.status_code, await response.aread())
                if not stream:
                    return _whole(member, await response.aread(), started)
                told = RelayedStream(response, EventWriter(member, hides_usage=hides_usage(data)), started)
                await told.begin()
            except httpx.TransportError:
                self._addresses[index] = None
                raise
            told.close_with(stack.pop_all())
            return told.answer

    def _left(self, index: int) -> None:
        self._under_way[index] -= 1

    def _choose(self) -> int:
        candidates = [
            Candidate(str(index), load.pending + self._under_way[index], load.alive)
            for index, load in enumerate(self._loads())
        ]
        found = choose_replica(candidates, "")
        if found is None:
            raise EngineLost("no replica is up", died=False)
        return found

    async def _address(self, index: int) -> HttpAddress | None:
        if self._addresses[index] is None:
            self._addresses[index] = await self._hosts[index].http_address()
        return self._addresses[index]

    async def _send(self, index: int, member: Member, sent: dict[str, Any]) -> httpx.Response:
        address = await self._address(index)
        if address is None:
            raise EngineError(f"engine {self._name!r}: expected a server of its own, found none any more")
        headers = {"authorization": f"Bearer {address.secret}", "content-type": "application/json"}
        if member.adapter is not None:
            headers[ADAPTER_HEADER] = member.adapter
        # In ASCII: what was sent may hold half a character.
        body = json.dumps({**sent, "model": member.adapter or address.model}).encode()
        request = self._client.build_request("POST", f"{address.url}{CHAT_PATH}", content=body, headers=headers)
        return await self._client.send(request, stream=True)

    def _refused(self, index: int, status: int, body: bytes) -> ProxyAnswer:
        """A refusal that is about the request. Raises _ServerFailed for one that is about the server."""
        if status >= 500 or status in (401, 404):
            # Its engine has died, or has a new process with another secret that has not taken all adapters in yet.
            self._addresses[index] = None
            raise _ServerFailed(f"its server answered {status}: {error_in(body)[0]}")
        return ProxyAnswer(status, body=refusal(status, body), retry_after_s=1.0 if status == 429 else None)


class RelayedStream:
    """The events of one answer as the client gets them; its end, `aclose` or a cancelled reader closes it."""

    def __init__(self, response: httpx.Response, writer: EventWriter, started: float) -> None:
        """`started`: when the request was sent, by the performance counter."""
        self._lines: AsyncIterator[str] = response.aiter_lines()
        self._writer = writer
        self._started = started
        self._first: bytes | None = None
        self._has_ended = False
        self._stack: AsyncExitStack | None = None
        self.answer = ProxyAnswer(200, stream=self, media_type=SSE)

    async def begin(self) -> None:
        """Waits for the first event. Raises httpx.TransportError if the server is gone before it comes."""
        self._first = await self._next()

    def close_with(self, stack: AsyncExitStack) -> None:
        """`stack` holds what the stream takes up; closed when it ends."""
        self._stack = stack

    def __aiter__(self) -> RelayedStream:
        """Itself; it can be read once."""
        return self

    async def __anext__(self) -> bytes:
        """The next event. A lost engine is an event too, the last but one."""
        if self._has_ended:
            raise StopAsyncIteration
        try:
            told, self._first = (self._first, None) if self._first is not None else (await self._next(), None)
        except httpx.TransportError:
            told = failed("the engine was lost in the middle of its answer; send the request again") + event(DONE)
            await self.aclose()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if told is None:
            await self.aclose()
            raise StopAsyncIteration
        return told

    async def aclose(self) -> None:
        """Ends the request where it is still running; a second time changes nothing."""
        self._has_ended = True
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def _next(self) -> bytes | None:
        """None: the server has said everything."""
        async for line in self._lines:
            if not line.startswith("data:"):
                continue
            told = self._writer.write(line.removeprefix("data:").strip())
            self.answer.usage = _timed(self._writer.usage, self._started)
            if told is not None:
                return told
        return None


class _ServerFailed(Exception):
    """The engine's server answered, and could not serve the request."""


def _whole(member: Member, body: bytes, started: float) -> ProxyAnswer:
    try:
        data = json.loads(body)
    except ValueError:
        raise _ServerFailed("its server answered with something else than JSON") from None
    usage = usage_in(data) or Usage(num_calls=1)
    return ProxyAnswer(200, body=json.dumps(renamed(data, member)).encode(), usage=_timed(usage, started))


def _timed(usage: Usage, started: float) -> Usage:
    return usage.model_copy(update={"seconds": time.perf_counter() - started})
