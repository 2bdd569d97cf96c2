"""Requests to an ASGI application without a server: thousands of them in a second or two."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in it."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


async def request(
    app: Any,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    *,
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
    host: bytes = b"127.0.0.1:8700",
) -> Reply:
    """One request; `body` may come in pieces. The client stays until it is answered."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, start=1)
    ]
    said: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": b"", "root_path": "",
        "headers": [(b"host", host), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8700),
    }  # fmt: skip
    await app(scope, receive, send)
    headers_of = {name.decode(): value.decode("latin-1") for name, value in said[0]["headers"]}
    return Reply(said[0]["status"], headers_of, b"".join(one.get("body", b"") for one in said[1:]))
