"""The engine's end of the post: requests come in by the sackful, and answers wait here until their client has them."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mesh.engine import EngineError
from serving.hosting import EngineBusy
from serving.requests import Answer, Request
from serving.wire import decode_request, encode_answer, encode_refusal

SILENT_S = 60.0
"""Seconds after which a client that does not collect is held to be gone, and what it asked for is given up."""
ALWAYS_TAKEN = ("count_tokens", "profile")
"""Verbs that cost the engine nothing: they are never refused for want of room, and not counted."""

LINGER_S = 0.02
"""Seconds for which what comes next is waited for where much is under way: a call of Ray costs both its ends a
millisecond of CPU, whatever it carries."""
MANY = 8
"""Requests under way between a client and an engine from which on there is something to wait for."""

Serve = Callable[[Request], Awaitable[Answer]]
Refuse = Callable[[int, Counter[int]], EngineBusy | None]
"""Whether a request of this rank is refused, given how many of each rank are pending; None: it is taken in."""


@dataclass
class _Box:
    """What one client asked for and has not got yet."""

    id: str
    heard_at: float
    running: dict[str, asyncio.Task[Answer]] = field(default_factory=dict)
    replies: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """By request: number and reply, in the order of the numbers; kept until the client says that it has them."""
    num_replies: int = 0
    num_collecting: int = 0
    has_replies: asyncio.Event = field(default_factory=asyncio.Event)


class Mailroom:
    """Serves requests and keeps the replies. A request that comes twice is served once.

    A client posts, and collects again and again, naming the last number it has: a parcel that was lost on the way is
    given once more. `box` in what it gets names this process and what the process knows of the client; when it changes,
    everything that was posted before is lost. Belongs to one event loop.
    """

    def __init__(self, serve: Serve, refuse: Refuse, *, silent_s: float = SILENT_S) -> None:
        self.process = os.urandom(8).hex()
        self.pending: Counter[int] = Counter()
        """Requests that are served at present, by rank."""
        self.num_served = 0
        self._serve = serve
        self._refuse = refuse
        self._silent_s = silent_s
        self._boxes: dict[str, _Box] = {}
        self._num_boxes = 0
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def num_pending(self) -> int:
        """Requests that are served at present."""
        return self.pending.total()

    def num_pending_of(self, client: str) -> int:
        """Those of one client."""
        box = self._boxes.get(client)
        return len(box.running) if box is not None else 0

    def post(self, client: str, box_id: str, num_had: int, letters: list[bytes], cancelled: list[str]) -> str:
        """Takes requests in and gives others up; returns the client's box. Raises ValueError for unreadable letters.

        `num_had` of `box_id`: as in `collect`. A request whose reply the client has is meant to be served anew. From a
        client that still speaks to an earlier process nothing is taken in: it learns from the box that it does.
        """
        box = self._box(client)
        if box_id and process_of(box_id) != self.process:
            return box.id
        _forget(box, box_id, num_had)
        for request_id in cancelled:
            self._give_up(box, request_id)
        for letter in letters:
            request = decode_request(letter)
            if request.id not in box.running and request.id not in box.replies:
                self._take_in(box, request)
        return box.id

    async def collect(self, client: str, box_id: str, num_had: int, wait_s: float) -> tuple[str, int, list[bytes]]:
        """Replies after number `num_had` of the box of that id: (box, number of the last one, replies).

        Waits until there is one, `wait_s` seconds at most; then there are none, and the number is `num_had`.
        """
        box = self._box(client)
        _forget(box, box_id, num_had)
        if not box.replies:
            box.has_replies.clear()
            await self._wait(box, wait_s)
            if box.replies and box.running:
                await asyncio.sleep(linger_s(len(box.running)))
        last = num_had if box.id == box_id else 0
        return (
            box.id,
            max([last, *(number for number, _ in box.replies.values())]),
            [reply for _, reply in box.replies.values()],
        )

    async def _wait(self, box: _Box, wait_s: float) -> None:
        box.num_collecting += 1
        try:
            async with asyncio.timeout(wait_s):
                await box.has_replies.wait()
        except TimeoutError:
            pass
        finally:
            box.num_collecting -= 1
            box.heard_at = asyncio.get_running_loop().time()

    def _box(self, client: str) -> _Box:
        now = asyncio.get_running_loop().time()
        box = self._boxes.get(client)
        if box is None:
            self._num_boxes += 1
            box = self._boxes[client] = _Box(f"{self.process}.{self._num_boxes}", now)
            if self._sweeper is None:
                self._sweep_later()
        box.heard_at = now
        return box

    def _take_in(self, box: _Box, request: Request) -> None:
        if request.verb not in ALWAYS_TAKEN:
            refusal = self._refuse(request.rank, self.pending)
            if refusal is not None:
                self._reply(box, request.id, encode_refusal(request.id, refusal))
                return
            self.pending[request.rank] += 1
        task = asyncio.ensure_future(self._serve(request))
        box.running[request.id] = task
        task.add_done_callback(lambda ended: self._end(box, request, ended))

    def _end(self, box: _Box, request: Request, task: asyncio.Future[Answer]) -> None:
        if request.verb not in ALWAYS_TAKEN:
            self.pending[request.rank] -= 1
            if not self.pending[request.rank]:
                del self.pending[request.rank]
        if box.running.get(request.id) is not task:
            # The client gave it up, and may have asked again. Looking at the exception keeps asyncio from reporting it.
            _ = task.cancelled() or task.exception()
            return
        del box.running[request.id]
        self.num_served += 1
        self._reply(box, request.id, _reply_of(request, task))

    def _reply(self, box: _Box, request_id: str, reply: bytes) -> None:
        box.num_replies += 1
        box.replies[request_id] = box.num_replies, reply
        box.has_replies.set()

    def _give_up(self, box: _Box, request_id: str) -> None:
        box.replies.pop(request_id, None)
        task = box.running.pop(request_id, None)
        if task is not None:
            task.cancel()

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(self._silent_s / 4, self._sweep)

    def _sweep(self) -> None:
        """Gives up what was asked by clients that are gone."""
        now = asyncio.get_running_loop().time()
        for client, box in list(self._boxes.items()):
            if not box.num_collecting and now - box.heard_at > self._silent_s:
                for request_id in list(box.running):
                    self._give_up(box, request_id)
                del self._boxes[client]
        self._sweeper = None
        if self._boxes:
            self._sweep_later()


def linger_s(num_running: int) -> float:
    """Seconds that requests, or replies, wait for others to travel with, while so many are under way."""
    return LINGER_S if num_running >= MANY else 0.0


def process_of(box_id: str) -> str:
    """The process that gave a box its id."""
    return box_id.partition(".")[0]


def _forget(box: _Box, box_id: str, num_had: int) -> None:
    """Drops the replies that the client has, if it speaks of this box."""
    if box.id == box_id:
        for request_id in [known for known, (number, _) in box.replies.items() if number <= num_had]:
            del box.replies[request_id]


def _reply_of(request: Request, task: asyncio.Future[Answer]) -> bytes:
    if task.cancelled():
        return encode_refusal(request.id, EngineError(f"{request.verb} was cancelled inside the engine; try again"))
    error = task.exception()
    if error is None:
        try:
            return encode_answer(request, task.result())
        except ValueError as unfit:
            error = unfit
    if isinstance(error, EngineError):
        return encode_refusal(request.id, error)
    return encode_refusal(
        request.id, EngineError(f"engine {request.member.engine!r} failed in {request.verb}: {error!r}")
    )
