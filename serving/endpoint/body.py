"""The body of a request: read within limits of size and time, and parsed into plain JSON of limited depth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from pydantic_core import from_json

from serving.endpoint.errors import Refused

MAX_DEPTH = 64

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientLeft(Exception):
    """The connection was closed before the request had been read, or before it was answered."""


async def read_body(receive: Receive, headers: Mapping[str, str], *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body; not a byte more than `max_bytes` is kept.

    Raises:
        Refused: 413 for a larger one, told by its announced length or while it is read; 408 for a slow one.
        ClientLeft: the client went away.
    """
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(timeout_s):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                chunk: bytes = message.get("body", b"")
                size, more = size + len(chunk), message.get("more_body", False)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(
            408, f"expected the whole request within {timeout_s:g} s; send it faster", code="request_timeout"
        ) from None
    return b"".join(chunks)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises Refused (400) for broken UTF-8, NaN, what is no object, or one too deep."""
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise _not_json(f"expected a JSON object in UTF-8, got something else: {error}") from None
    if not isinstance(data, dict):
        raise _not_json(f"expected a JSON object, got {_name(data)}")
    if depth_exceeds(data, MAX_DEPTH):
        raise _not_json(f"expected JSON at most {MAX_DEPTH} levels deep, got more")
    return data


def depth_exceeds(value: object, limit: int) -> bool:
    """Whether `value`, plain JSON, is nested more than `limit` levels deep; a scalar has none."""
    level: list[object] = [value]
    for _ in range(limit):
        level = [inner for outer in level for inner in _children(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_large(max_bytes: int) -> Refused:
    return Refused(413, f"expected a body of at most {max_bytes} bytes, got more", code="request_too_large")


def _not_json(message: str) -> Refused:
    return Refused(400, message, code="invalid_json")


def _name(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", str: "a string", list: "an array"}.get(type(value), "a number")
