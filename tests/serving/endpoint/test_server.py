"""The server under the door against clients that are slow, vast, rude, or gone."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh.types import Member
from serving.endpoint.members import ProxyAnswer
from serving.endpoint.server import bound
from tests.serving.endpoint.doors import Held, Opened, Says, ask, opened
from tests.serving.endpoint.test_door import CHAT, events, until

ANSWER = ', "mesh": {"answer": "number"}'
HURRIED = {"read_timeout_s": 0.2}


def spoken(door: Opened) -> tuple[str, int]:
    host, _, port = door.url.removeprefix("http://").partition(":")
    return host, int(port)


def head(length: int, *more: str) -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


async def answered(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server hangs up; nothing where it does so hard."""
    with suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 5.0)
    return b""


@pytest.mark.parametrize("said", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc"], ids=["nothing", "half"])
def test_a_client_that_never_ends_its_headers_is_let_go(tmp_path: Path, said: bytes) -> None:
    async def work() -> bytes:
        async with opened(tmp_path, settings=HURRIED) as door:
            reader, writer = await asyncio.open_connection(*spoken(door))
            writer.write(said)
            found = await answered(reader)
            writer.close()
            return found

    assert asyncio.run(work()) == b""


def test_headers_that_never_end_are_not_kept(tmp_path: Path) -> None:
    async def work() -> bytes:
        async with opened(tmp_path) as door:
            reader, writer = await asyncio.open_connection(*spoken(door))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            with suppress(ConnectionError):
                for number in range(200):
                    writer.write(b"X-%d: %s\r\n" % (number, b"a" * 1000))
                    await writer.drain()
                    await asyncio.sleep(0)
            found = await answered(reader)
            writer.close()
            return found

    assert b"200 OK" not in asyncio.run(work())


def test_a_body_that_comes_too_slowly_is_a_408_that_ends_the_connection(tmp_path: Path) -> None:
    async def work() -> bytes:
        async with opened(tmp_path, settings=HURRIED) as door:
            reader, writer = await asyncio.open_connection(*spoken(door))
            writer.write(head(1000) + b'{"model"')
            found = await answered(reader)
            writer.close()
            return found

    said = asyncio.run(work())
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in said


def test_a_body_that_is_never_sent_to_its_end_costs_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    async def work() -> tuple[int, int]:
        engine = Says()
        async with opened(tmp_path, engine=engine) as door, door.client() as client:
            for _ in range(20):
                _, writer = await asyncio.open_connection(*spoken(door))
                writer.write(head(1000) + b'{"model"')
                await writer.drain()
                writer.transport.abort()
            await asyncio.sleep(0.05)
            before = len(engine.prompts)
            return before, (await client.post(CHAT, json=ask())).status_code

    assert asyncio.run(work()) == (0, 200)


@dataclass
class Talkative:
    """A member's server whose answers never end."""

    num_open: int = 0

    async def chat(self, member: Member, body: bytes, *, stream: bool) -> ProxyAnswer:
        return ProxyAnswer(200, stream=self.talk(), media_type="text/event-stream")

    async def talk(self) -> AsyncIterator[bytes]:
        self.num_open += 1
        try:
            while True:
                yield b"data: " + b"x" * 2**18 + b"\n\n"
                await asyncio.sleep(0.002)
        finally:
            self.num_open -= 1


def test_a_client_that_does_not_read_its_stream_is_cut_off_and_its_work_ends(tmp_path: Path) -> None:
    async def work() -> int:
        body, members = json.dumps({**ask(model="ada"), "stream": True}).replace(ANSWER, "").encode(), Talkative()
        async with opened(tmp_path, members=members, settings=HURRIED) as door:
            deaf = socket.socket()
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, spoken(door))
            await loop.sock_sendall(deaf, head(len(body)) + body)
            await until(lambda: members.num_open == 1)
            await until(lambda: door.door.gate.num_running == 0)
            deaf.close()
        return members.num_open

    assert asyncio.run(work()) == 0


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"NOT HTTP\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT evil:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["tls", "words", "address", "bytes", "length", "chunk", "connect"],
)
def test_what_is_no_http_gets_no_5xx_and_the_next_client_is_served(tmp_path: Path, said: bytes) -> None:
    async def work() -> tuple[bytes, int]:
        async with opened(tmp_path, settings=HURRIED) as door, door.client() as client:
            reader, writer = await asyncio.open_connection(*spoken(door))
            writer.write(said)
            found = await answered(reader)
            writer.close()
            return found, (await client.get("/healthz")).status_code

    found, after = asyncio.run(work())
    assert found == b"" or found.startswith(b"HTTP/1.1 4")
    assert after == 200


def test_a_connection_serves_one_request_after_another_also_when_they_come_at_once(tmp_path: Path) -> None:
    async def work() -> int:
        body = json.dumps(ask()).encode()
        async with opened(tmp_path) as door:
            reader, writer = await asyncio.open_connection(*spoken(door))
            writer.write((head(len(body)) + body) * 2 + head(len(body), "Connection: close") + body)
            found = await answered(reader)
            writer.close()
            return found.count(b'"object":"chat.completion"')

    assert asyncio.run(work()) == 3


def test_a_stream_ends_at_once_when_its_client_hangs_up_in_the_middle(tmp_path: Path) -> None:
    async def work() -> int:
        engine, body = Held(), json.dumps(ask(stream=True)).encode()
        async with opened(tmp_path, engine=engine) as door:
            reader, writer = await asyncio.open_connection(*spoken(door))
            writer.write(head(len(body)) + body)
            await reader.readuntil(b": keep-alive")
            writer.transport.abort()
            await until(lambda: door.door.gate.num_running == 0)
        return engine.num_asked - engine.num_cancelled

    assert asyncio.run(work()) == 0


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async def work() -> tuple[list[dict[str, Any]], bool]:
        engine = Held()
        async with opened(tmp_path, engine=engine, settings={"drain_s": 60.0}) as door, door.client() as client:
            asking = asyncio.create_task(client.post(CHAT, json=ask(stream=True)))
            await engine.asked.wait()
            door.closing.signalled()
            await until(lambda: door.door.is_draining)
            door.closing.signalled()
            chunks = events(await asking)
            await asyncio.wait_for(door.serving, 10.0)
            return chunks, door.serving.done()

    chunks, is_done = asyncio.run(work())
    assert (chunks[-1]["error"]["code"], is_done) == ("shutting_down", True)


def test_a_port_in_use_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port} cannot be listened on") as refused:
            bound("127.0.0.1", port)
    # What an operator is told to do goes by the system's own number.
    assert isinstance(refused.value.__cause__, OSError)
    assert refused.value.__cause__.errno == errno.EADDRINUSE
