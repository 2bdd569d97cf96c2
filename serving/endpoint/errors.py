"""Refusals as OpenAI clients read them: a status, a sentence, the field it is about, and a code to branch on."""

from __future__ import annotations

import json
import math
from typing import Literal

ErrorType = Literal[
    "invalid_request_error", "authentication_error", "rate_limit_error", "insufficient_quota", "server_error"
]


class Refused(Exception):
    """A request that is not served; `param` is the field that is wrong, e.g. 'messages[2].role'."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        kind: ErrorType = "invalid_request_error",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> bytes:
        """The JSON that is answered."""
        return error_body(self.message, self.kind, self.param, self.code)

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it: when to try again, and how to come in."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def error_body(message: str, kind: ErrorType, param: str | None, code: str) -> bytes:
    """An OpenAI error as JSON, in ASCII: what was sent may hold half a character."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}, separators=(",", ":")).encode()


def bad_field(param: str, message: str, *, code: str = "invalid_value") -> Refused:
    """400 that names the field."""
    return Refused(400, f"{param}: {message}", code=code, param=param)


def unsupported(param: str, advice: str) -> Refused:
    """400 for what other servers know and this one does not do."""
    return bad_field(param, f"is not supported here; {advice}", code="unsupported_parameter")


def busy(message: str, retry_after_s: float, *, code: str = "rate_limit_exceeded") -> Refused:
    """429: come back later."""
    return Refused(429, message, code=code, kind="rate_limit_error", retry_after_s=retry_after_s)


def unavailable(message: str, *, code: str, retry_after_s: float = 5.0) -> Refused:
    """503: nothing is wrong with the request."""
    return Refused(503, message, code=code, kind="server_error", retry_after_s=retry_after_s)
