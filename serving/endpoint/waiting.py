"""Waiting for an answer as long as its client does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from serving.endpoint.body import ClientLeft
from serving.endpoint.errors import unavailable

T = TypeVar("T")


async def ended(result: Awaitable[T]) -> T:
    """`result`, of work that may be cancelled from elsewhere. Raises Refused (503) where it was."""
    wanted = asyncio.ensure_future(result)
    try:
        return await wanted
    except asyncio.CancelledError:
        if wanted.cancelled() and not _is_cancelled():
            raise unavailable("the door is closing; send the request again", code="shutting_down") from None
        raise


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


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
