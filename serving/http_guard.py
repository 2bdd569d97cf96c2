"""Stands before the HTTP server of an engine: one secret, one route, and adapters that are held while they are used."""

from __future__ import annotations

import contextlib
import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from mesh.engine import EngineError
from serving.member_http import ADAPTER_HEADER, CHAT_PATH

Handle = TypeVar("Handle")
"""What the server behind knows an adapter by."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UseAdapter = Callable[[str], AbstractAsyncContextManager[Handle]]
"""Keeps the adapter of a hash in the engine while the context is open; raises EngineError if it is not known."""


class Guard(Generic[Handle]):
    """Lets in who knows the secret, to the one route there is, with the request's adapter in the engine meanwhile."""

    def __init__(
        self, app: App, secret: str, lora_requests: MutableMapping[str, Handle], use_adapter: UseAdapter[Handle]
    ) -> None:
        """`lora_requests`: vLLM's table of adapters by model name; it holds those that are in use."""
        self._app = app
        self._expected = f"Bearer {secret}".encode()
        self._table = lora_requests
        self._use_adapter = use_adapter
        self._users: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            return
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            await _answer(send, 401, "this server belongs to the mesh; ask the door instead")
        elif (scope["method"], scope["path"]) != ("POST", CHAT_PATH):
            await _answer(send, 404, f"there is nothing here but POST {CHAT_PATH}")
        elif adapter := headers.get(ADAPTER_HEADER.encode(), b"").decode("ascii", "replace"):
            await self._with_adapter(adapter, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _with_adapter(self, adapter: str, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                request = await stack.enter_async_context(self._use_adapter(adapter))
            except EngineError as error:
                await _answer(send, 503, str(error))
                return
            with self._named(adapter, request):
                await self._app(scope, receive, send)

    @contextlib.contextmanager
    def _named(self, adapter: str, request: Handle) -> Iterator[None]:
        """vLLM knows the adapter under its hash while somebody uses it."""
        self._users[adapter] += 1
        self._table[adapter] = request
        try:
            yield
        finally:
            self._users[adapter] -= 1
            if not self._users[adapter]:
                del self._users[adapter], self._table[adapter]


async def _answer(send: Send, status: int, message: str) -> None:
    error = {"message": message, "type": "server_error", "param": None, "code": "engine"}
    body = json.dumps({"error": error}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
