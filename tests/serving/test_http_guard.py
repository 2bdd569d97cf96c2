"""The guard before an engine's server: who gets past, to what, and which adapters are known meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mesh.engine import EngineError
from serving.http_guard import Guard
from serving.member_http import ADAPTER_HEADER, CHAT_PATH, HttpAddress

SECRET = "Bearer s3cret"


class Behind:
    """The server that is guarded; remembers which adapters it knew during each request."""

    def __init__(self) -> None:
        self.table: dict[str, str] = {}
        self.held: list[str] = []
        self.known: list[list[str]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.guard = Guard(self.app, "s3cret", self.table, self.use)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.known.append(sorted(self.table))
        await self.may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    @asynccontextmanager
    async def use(self, adapter: str) -> AsyncIterator[str]:
        if adapter == "unknown":
            raise EngineError("engine 'a' has no adapter \"unknown\"")
        self.held.append(adapter)
        try:
            yield f"request for {adapter}"
        finally:
            self.held.remove(adapter)

    async def ask(
        self, *, method: str = "POST", path: str = CHAT_PATH, key: str | None = SECRET, adapter: str | None = None
    ) -> tuple[int, bytes]:
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        given = {"Authorization": key, ADAPTER_HEADER: adapter}
        headers = [(name.encode(), value.encode()) for name, value in given.items() if value is not None]
        await self.guard({"type": "http", "method": method, "path": path, "headers": headers}, receive, send)
        return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("key", [None, "", "Bearer", "Bearer wrong", "s3cret", "bearer s3cret", "Bearer s3cretX"])
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT_PATH), ("POST", "/pause"), ("GET", "/health")])
def test_nothing_is_answered_without_the_secret(key: str | None, method: str, path: str) -> None:
    async def act() -> None:
        behind = Behind()
        assert (await behind.ask(key=key, method=method, path=path))[0] == 401
        assert behind.known == []

    asyncio.run(act())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT_PATH),
        ("OPTIONS", CHAT_PATH),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/invocations"),
        ("POST", "/pause"),
        ("POST", f"{CHAT_PATH}/batch"),
        ("POST", f"{CHAT_PATH}/"),
        ("POST", f"/x/..{CHAT_PATH}"),
    ],
)
def test_there_is_one_route(method: str, path: str) -> None:
    async def act() -> None:
        behind = Behind()
        assert (await behind.ask(method=method, path=path))[0] == 404
        assert behind.known == []

    asyncio.run(act())


def test_a_request_for_the_base_model_knows_no_adapter() -> None:
    async def act() -> None:
        behind = Behind()
        assert await behind.ask() == (200, b"{}")
        assert behind.known == [[]]

    asyncio.run(act())


def test_an_adapter_is_held_and_known_as_long_as_somebody_uses_it() -> None:
    async def act() -> None:
        behind = Behind()
        behind.may_end.clear()
        first = asyncio.ensure_future(behind.ask(adapter="x"))
        second = asyncio.ensure_future(behind.ask(adapter="x"))
        other = asyncio.ensure_future(behind.ask(adapter="y"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert behind.table == {"x": "request for x", "y": "request for y"}
        assert sorted(behind.held) == ["x", "y"]
        behind.may_end.set()
        assert (await second)[0] == (await other)[0] == 200
        assert behind.table == {}
        assert behind.held == []

    asyncio.run(act())


def test_an_adapter_that_the_engine_does_not_know_is_no_crash() -> None:
    async def act() -> None:
        behind = Behind()
        status, body = await behind.ask(adapter="unknown")
        assert status == 503
        assert json.loads(body)["error"]["message"] == "engine 'a' has no adapter \"unknown\""
        assert behind.known == []

    asyncio.run(act())


def test_the_secret_is_not_in_the_text_of_an_address() -> None:
    assert "s3cret" not in repr(HttpAddress(url="http://x", secret="s3cret", model="m"))
