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
GRACE_S = 5.0
"""After the time to drain: for errors to reach their clients."""


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn's own handler would raise them again in the middle of a drain."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; its port is known before anything is served. Raises OSError, naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno, f"{host}:{port} cannot be listened on ({error.strerror}); choose another port"
        ) from None
    listener.setblocking(False)
    return listener


async def serve(app: Any, door: Door, listener: socket.socket, started: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and close the door. A second signal does not wait."""
    config = door.config
    server = _Server(
        uvicorn.Config(
            app,
            http=guarded(config),
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(5, round(config.keep_alive_s)),
            timeout_graceful_shutdown=round(GRACE_S),
        )
    )
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    hurry = asyncio.Event()

    def asked_to_stop() -> None:
        (hurry if stop.is_set() else stop).set()

    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, asked_to_stop)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await server.is_up.wait()
        started()
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        draining = asyncio.ensure_future(door.drain(config.drain_s))
        hurrying = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            draining.cancel()
            await door.drain(0.0)
        hurrying.cancel()
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        for number in signals:
            loop.remove_signal_handler(number)
        await door.close()


def guarded(config: EndpointConfig) -> type[asyncio.Protocol]:
    """uvicorn's protocol with what it lacks: limits on headers, on a client that sends slowly or does not read."""

    class Guarded(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
        _deadline: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None
        _num_header_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._await_headers()

        def data_received(self, data: bytes) -> None:
            if self._deadline is None and self._is_between_requests():
                self._await_headers()
            if self._deadline is not None:
                self._num_header_bytes += len(data)
            cycle = self.cycle
            super().data_received(data)
            if self.cycle is not None and self.cycle is not cycle:
                self._headers_came()
            elif self._deadline is not None and self._num_header_bytes > MAX_HEADER_BYTES:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_came()
            self.resume_writing_timer()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stuck = self.loop.call_later(config.read_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self.resume_writing_timer()
            super().resume_writing()

        def resume_writing_timer(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None

        def _is_between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _await_headers(self) -> None:
            self._num_header_bytes = 0
            self._deadline = self.loop.call_later(config.read_timeout_s, self.transport.abort)

        def _headers_came(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Guarded
