"""A stand-in for the own HTTP server of an engine: says what a test tells it to, and can break at any byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from serving.member_http import HttpAddress

Write = Callable[[bytes], Awaitable[None]]
Behaviour = Callable[[Write], Awaitable[None]]


@dataclass
class Got:
    """A request that reached the server."""

    path: str
    headers: dict[str, str]
    data: dict[str, Any]


@dataclass
class MemberServer:
    """Answers request after request by the next behaviour, and by the last one for ever."""

    behaviours: list[Behaviour]
    url: str = ""
    got: list[Got] = field(default_factory=list)
    num_open: int = 0
    num_cut: int = 0
    """Clients that left before the answer had ended."""

    @property
    def address(self) -> HttpAddress:
        """Where it is, while it runs."""
        return HttpAddress(url=self.url, secret="s3cret", model="smol")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MemberServer]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.got.append(Got(first.split()[1], headers, json.loads(body)))
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        self.num_open += 1
        left = asyncio.ensure_future(reader.read(1))
        acting = asyncio.ensure_future(behaviour(write))
        try:
            await asyncio.wait({left, acting}, return_when=asyncio.FIRST_COMPLETED)
            self.num_cut += not acting.done()
        finally:
            left.cancel()
            acting.cancel()
            await asyncio.gather(left, acting, return_exceptions=True)
            self.num_open -= 1
            writer.close()


def says(status: int, data: object) -> Behaviour:
    """The whole answer at once."""

    async def act(write: Write) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        await write(head.encode() + b"connection: close\r\n\r\n" + body)

    return act


def streams(*events: object, then: str = "end") -> Behaviour:
    """Events one by one; `then` "end"s, "break"s the connection off, or "hang"s."""

    async def act(write: Write) -> None:
        await write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events:
            text = event if isinstance(event, str) else f"data: {json.dumps(event)}"
            data = f"{text}\n\n".encode()
            await write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        if then == "hang":
            await asyncio.sleep(60)
        if then == "end":
            await write(b"0\r\n\r\n")

    return act


def breaks() -> Behaviour:
    """Closes the connection without a word."""

    async def act(write: Write) -> None:
        return

    return act


def hangs() -> Behaviour:
    """Says nothing."""

    async def act(write: Write) -> None:
        await asyncio.sleep(60)

    return act


def chunk(text: str | None, num_output: int = 0, reason: str | None = None) -> dict[str, Any]:
    """A chunk as vLLM's server writes it with continuous usage; `text` None: the one that only counts."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": reason}
    return {
        "id": "chatcmpl-x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "smol",
        "choices": [] if text is None else [choice],
        "usage": {"prompt_tokens": 5, "total_tokens": 5 + num_output, "completion_tokens": num_output},
    }


ANSWER = {
    "id": "chatcmpl-x",
    "object": "chat.completion",
    "created": 1,
    "model": "smol",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "5"}, "logprobs": {"content": []}}],
    "usage": {"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2},
}
