"""What is asked of every request before anything is done for it: a key, a plain address, JSON of some model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from serving.endpoint.body import parse_object, read_body
from serving.endpoint.config import LOOPBACK
from serving.endpoint.door import Door
from serving.endpoint.errors import Refused, bad_field
from serving.endpoint.keys import Caller, KeyRefused
from serving.endpoint.quota import QuotaExceeded
from serving.endpoint.schema import MAX_MODEL_CHARS

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_HOST = re.compile(r"(\[[0-9a-f:]+\]|[^:]*)(?::\d{1,5})?", re.IGNORECASE)


def admitted(door: Door, request: Request) -> Caller:
    """Who asks. Raises Refused: 401 without a key that opens the door, 403 for a page that pretends to be local."""
    try:
        caller = door.keys.admit(request.headers.get("authorization"), needs_key=door.config.needs_key)
    except KeyRefused as error:
        raise Refused(401, str(error), code="invalid_api_key", kind="authentication_error") from None
    if not door.config.needs_key:
        _check_host(request)
    return caller


def check_quota(door: Door, caller: Caller) -> None:
    """Raises Refused (429) where the caller's tokens are spent."""
    try:
        door.quota.check(caller)
    except QuotaExceeded as error:
        raise Refused(
            429, str(error), code="insufficient_quota", kind="insufficient_quota", retry_after_s=error.retry_after_s
        ) from None


async def sent_object(door: Door, request: Request) -> tuple[dict[str, Any], bytes]:
    """The JSON object in the body, and the body itself. Raises Refused and ClientLeft."""
    # A form or plain text is all that a foreign web page can make a browser send here without asking first.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(
            415, "expected Content-Type: application/json, got another; set the header (with curl: --json, or "
            "-H 'Content-Type: application/json')", code="unsupported_media_type", param="Content-Type",
        )  # fmt: skip
    body = await read_body(
        request.receive,
        request.headers,
        max_bytes=door.config.max_body_bytes,
        timeout_s=door.config.read_timeout_s,
    )
    return parse_object(body), body


def named_model(data: Mapping[str, Any]) -> str:
    """What stands in `model`. Raises Refused (400)."""
    model = data.get("model")
    if model is None:
        raise bad_field("model", "is required", code="missing_required_parameter")
    if not isinstance(model, str) or not 1 <= len(model) <= MAX_MODEL_CHARS:
        raise bad_field("model", f"expected a name of 1 to {MAX_MODEL_CHARS} characters")
    return model


def streams(data: Mapping[str, Any]) -> bool:
    """Whether the answer is to be streamed. Raises Refused (400)."""
    stream = data.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise bad_field("stream", "expected true or false")
    return stream is True


def idempotency_key_of(headers: Mapping[str, str]) -> str | None:
    """The Idempotency-Key header. Raises Refused (400)."""
    key = headers.get("idempotency-key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise bad_field("Idempotency-Key", "expected 1 to 255 visible ASCII characters")
    return key


def _check_host(request: Request) -> None:
    """Without keys the address is all there is: a name that somebody pointed at this machine is not ours."""
    found = _HOST.fullmatch(request.headers.get("host", ""))
    if found is None or found[1].strip("[]").lower() not in LOOPBACK:
        raise Refused(
            403,
            "Host: expected localhost or its address, got another; behind a proxy set endpoint.require_key: true",
            code="host_not_allowed",
            param="Host",
        )
