"""Every request has an id, which its answer names: the client's own where it sent a plain one."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class Named:
    """An application whose answers carry `x-request-id`, and forbid browsers to guess their type."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _id_in(scope)
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[HEADER] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, named)


def id_of(request: Request) -> str:
    """The id of a request."""
    found: str = request.state.request_id
    return found


def _id_in(scope: Scope) -> str:
    sent = next((value.decode("latin-1") for name, value in scope["headers"] if name == HEADER.encode()), "")
    return sent if _PLAIN.fullmatch(sent) else secrets.token_hex(16)
