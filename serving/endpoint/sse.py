"""A response of server-sent events that stops as soon as its client has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx and its like would hold a stream back until it ends.
    (b"x-accel-buffering", b"no"),
)


class EventStream(Response):
    """Sends what `events` yields as it comes; `closed` is called once at the end, with whether the client had left."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], closed: Callable[[bool], None], *, status: int = 200
    ) -> None:
        super().__init__(status_code=status)
        self._events = events
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_left(receive))
        has_ended = False
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
                has_ended = True
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._events.aclose()
            self._closed(not has_ended)

    async def _send_all(self, send: Send) -> None:
        headers = [*HEADERS, *((name, value) for name, value in self.raw_headers if name == b"x-request-id")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
