"""HTTP to one remote server: a key that is never shown, a deadline per request, and a bounded number of tries."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

import httpx

from mesh.engine import EngineError
from serving.config import RemoteSpec
from serving.slots import RankedSlots

MAX_BACKOFF_S = 30.0


class RequestRefused(EngineError):
    """The server read the request and will not serve it (a 4xx status): trying again would not help."""


class RemoteClient:
    """Posts JSON to `spec.base_url`; at most `spec.max_concurrency` requests are in flight."""

    def __init__(self, spec: RemoteSpec, *, backoff_s: float) -> None:
        self._spec = spec
        self._backoff_s = backoff_s
        self._key = _key_of(spec)
        self._url = _url_of(spec)
        self._session: _Session | None = None

    async def post(self, path: str, body: dict[str, Any], *, rank: int = 0) -> object:
        """The decoded JSON reply; the smallest rank is sent first where requests wait for a place.

        Refused or broken connections, 429 and 5xx are tried again `spec.num_retries` times, after `backoff_s` times
        1, 2, 4... seconds or what Retry-After says (at most 30 s). Raises RequestRefused on any other status that is
        not 200, EngineError when the tries are used up, a try took `spec.timeout_s`, or the reply is not JSON.
        """
        session = self._session_here()
        async with session.slots.held(rank):
            for attempt in range(self._spec.num_retries + 1):
                problem, wait_s = "", self._backoff_s * 2**attempt
                try:
                    async with asyncio.timeout(self._spec.timeout_s):
                        response = await session.client.post(path, json=body)
                except TimeoutError:
                    raise self._error(f"no answer within {self._spec.timeout_s:g} s; raise timeout_s") from None
                except httpx.HTTPError as error:
                    problem = f"{type(error).__name__}: {error}"
                else:
                    if response.status_code == 200:
                        return self._decoded(response)
                    problem = f"status {response.status_code}: {response.text[:200]}"
                    if response.status_code != 429 and response.status_code < 500:
                        raise RequestRefused(self._explain(problem))
                    wait_s = _retry_after(response, wait_s)
                if attempt < self._spec.num_retries:
                    await asyncio.sleep(min(MAX_BACKOFF_S, wait_s))
        raise self._error(f"{problem} (tried {self._spec.num_retries + 1} times)")

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        session, self._session = self._session, None
        if session is not None and session.loop is asyncio.get_running_loop():
            await session.client.aclose()

    def _session_here(self) -> _Session:
        # Pooled connections and slots belong to the event loop they were first used in.
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop is not loop:
            client = httpx.AsyncClient(
                base_url=self._url,
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=None,  # noqa: S113 - httpx would restart the clock at every byte; `post` holds the deadline
                # Reading the certificate store takes 60 ms; redirects are not followed, so http stays http.
                verify=self._spec.verify_tls and self._url.scheme == "https",
                # `slots` bounds the requests: waiting for a connection of a pool would eat into the deadline.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._spec.max_concurrency),
            )
            self._session = _Session(loop, client, RankedSlots(self._spec.max_concurrency))
        return self._session

    def _decoded(self, response: httpx.Response) -> object:
        try:
            return response.json()
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise self._error(f"expected JSON, got {response.text[:80]!r}; check base_url") from None

    def _error(self, problem: str) -> EngineError:
        return EngineError(self._explain(problem))

    def _explain(self, problem: str) -> str:
        # Servers quote the key they refuse.
        hidden = problem.replace(self._key, "[key]") if self._key else problem
        return f"engine {self._spec.name!r} at {self._url.host}:{self._url.port or self._url.scheme}: {hidden}"


@dataclass(frozen=True)
class _Session:
    loop: asyncio.AbstractEventLoop
    client: httpx.AsyncClient
    slots: RankedSlots


def _key_of(spec: RemoteSpec) -> str:
    """The key, or "" if none is configured. Raises EngineError without showing any of it."""
    if spec.api_key_env is None:
        return ""
    key = os.environ.get(spec.api_key_env, "").strip()
    if not key:
        raise EngineError(
            f"engine {spec.name!r}: expected the key in the environment variable {spec.api_key_env}, which is "
            f"unset or empty; export {spec.api_key_env}=... first"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise EngineError(f"engine {spec.name!r}: the key in {spec.api_key_env} holds blanks or non-ASCII characters")
    return key


def _url_of(spec: RemoteSpec) -> httpx.URL:
    try:
        return httpx.URL(spec.base_url.rstrip("/") + "/")
    except httpx.InvalidURL as error:
        raise EngineError(f"engine {spec.name!r}: expected a URL such as http://host:8000/v1: {error}") from None


def _retry_after(response: httpx.Response, otherwise_s: float) -> float:
    said = response.headers.get("retry-after", "")
    return float(said) if said.isdecimal() and len(said) < 6 else otherwise_s
