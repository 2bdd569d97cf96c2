"""The HTTP server under the door: it ends slow clients, and SIGTERM lets what is under way end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from serving.endpoint.config import EndpointConfig
from serving.endpoint.door import Door

MAX_HEADER_BYTES = 65_536
GRACE_S = 5
"""After the time to drain: for the last errors to reach their clients."""


class Closing:
    """SIGTERM and SIGINT, from before the engines start: the first closes the door, a second does not wait.

    To be made in the task that opens the door: until `is_open`, a signal cancels it.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self._opening = asyncio.current_task()

    def __enter__(self) -> Closing:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)

    def signalled(self) -> None:
        """What a signal does."""
        (self.hurried if self.asked.is_set() else self.asked).set()
        if not self.is_open and self._opening is not None:
            self._opening.cancel()


def bound(host: str, port: int) -> socket.socket:
    """A socket with its port, so that a port in use is found before an engine starts.

    Raises OSError, naming both; the system's own error is its cause.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another address") from error
    listener.setblocking(False)
    return listener


async def serve(
    app: Any, door: Door, listener: socket.socket, closing: Closing, started: Callable[[], None] = lambda: None
) -> None:
    """Serve until `closing` says so, then let what is under way end, for as long as configured, and close the door."""
    server = _Server(_settings(app, door.config))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await _first(serving, server.is_up.wait())
        closing.is_open = True
        if not serving.done():
            started()
            await _first(serving, closing.asked.wait())
            await _drained(door, closing)
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        await door.close()


async def _drained(door: Door, closing: Closing) -> None:
    draining = asyncio.ensure_future(door.drain(door.config.drain_s))
    await _first(draining, closing.hurried.wait())
    if not draining.done():
        draining.cancel()
        await door.drain(0.0)


async def _first(task: asyncio.Future[Any], event: Any) -> None:
    """Wait for either; `event` is given up then, `task` goes on."""
    waiting = asyncio.ensure_future(event)
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _settings(app: Any, config: EndpointConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded(config),
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
    )


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves signals to us: its own handler would raise them again during a drain."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def guarded(config: EndpointConfig) -> type[asyncio.Protocol]:
    """uvicorn's protocol with what it lacks: limits on headers, on a client that sends slowly or does not read."""

    class Guarded(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
        _headers_due: asyncio.TimerHandle | None = None
        _reading_due: asyncio.TimerHandle | None = None
        _num_header_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._await_headers()

        def data_received(self, data: bytes) -> None:
            if self._headers_due is None and (self.cycle is None or self.cycle.response_complete):
                self._await_headers()
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._headers_due = self._without(self._headers_due)
            elif self._headers_due is not None:
                self._num_header_bytes += len(data)
                if self._num_header_bytes > MAX_HEADER_BYTES:
                    self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_due = self._without(self._headers_due)
            self._reading_due = self._without(self._reading_due)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reading_due = self.loop.call_later(config.read_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._reading_due = self._without(self._reading_due)
            super().resume_writing()

        def _await_headers(self) -> None:
            self._num_header_bytes = 0
            self._headers_due = self.loop.call_later(config.read_timeout_s, self.transport.abort)

        @staticmethod
        def _without(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
            if timer is not None:
                timer.cancel()
            return None

    return Guarded
