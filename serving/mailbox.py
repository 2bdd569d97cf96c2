"""A driver's end of the post to one engine process: what is asked in one turn of the event loop travels together."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mesh.engine import EngineError
from serving.hosting import EngineDied, EngineLost
from serving.mailroom import linger_s, process_of
from serving.replica import State
from serving.wire import Reply, Report, decode_reply

WAIT_S = 2.0
"""Seconds the engine's process keeps a collector waiting when there is nothing to collect."""
SILENCE_S = 20.0
"""Further seconds after which a process that says nothing is out of reach. What it was asked is not lost on it: a
request that comes again under its id is served once."""
OLD_S = 5.0
"""Age at which a report says nothing any more about what others have asked."""
LOOK_S = 3.0
"""Seconds a report may take that somebody waits for."""
MAX_LETTERS = 512
"""Requests in one sack: a message of some hundred kilobytes."""
MAX_POSTS = 2
"""Sacks on their way at once; while there are so many, the next one fills."""

STOOD_STILL_S = 0.5
"""Delay of a timer after which this process was the one that did nothing."""
_Result = TypeVar("_Result")

Parcel = tuple[str, int, list[bytes], bytes]
"""Box, number of the last reply in it, replies, report."""


class Carrier(Protocol):
    """Brings post to the process of one engine.

    Every verb raises EngineLost when the process cannot be reached, EngineDied when it never will be again, and
    EngineError when it refuses.
    """

    async def post(self, client: str, box: str, num_had: int, letters: list[bytes], cancelled: list[str]) -> str:
        """As `Mailroom.post`."""
        ...

    async def collect(self, client: str, box: str, num_had: int, wait_s: float) -> Parcel:
        """As `Mailroom.collect`, and a report in JSON."""
        ...

    async def start(self) -> Report:
        """Waits until the engine is ready; after a restart this starts it."""
        ...

    async def report(self) -> Report:
        """How it stands, at once and without starting anything."""
        ...


@dataclass(slots=True)
class _Asked:
    future: asyncio.Future[Reply]
    box: str = ""
    """Where the request lies; empty: it is not known to have arrived."""


class Mailbox:
    """Sends requests and hands out replies. Belongs to one event loop; idle, it costs nothing.

    What lies with a process that dies or goes out of reach ends in EngineLost at once; nothing is sent again here.
    """

    def __init__(
        self,
        name: str,
        carrier: Carrier,
        *,
        start_timeout_s: float,
        silence_s: float = SILENCE_S,
        wait_s: float = WAIT_S,
    ) -> None:
        self.name = name
        self.state: State = "up"
        self.trouble = ""
        """Why it is away or dead; empty: it is up."""
        self.report: Report | None = None
        self._reported_at = 0.0
        self._carrier = carrier
        self._start_timeout_s = start_timeout_s
        self._silence_s = silence_s
        self._wait_s = wait_s
        self._client = os.urandom(8).hex()
        self._asked: dict[str, _Asked] = {}
        self._outbox: list[tuple[str, bytes]] = []
        self._cancelled: set[str] = set()
        self._is_flushing = False
        self._num_posts = 0
        self._box = ""
        self._num_had = 0
        self._era = 0
        """Times the process was lost; what fails late, after the next beginning, is of no account."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._collector: asyncio.Task[None] | None = None
        self._starter: asyncio.Task[None] | None = None

    @property
    def num_asked(self) -> int:
        """Requests that wait for a reply."""
        return len(self._asked)

    @property
    def num_of_others(self) -> int:
        """Requests of other drivers that the engine has, if that is known of these last seconds."""
        if self.report is None or time.monotonic() - self._reported_at > OLD_S:
            return 0
        return max(0, self.report.pending - self.report.yours)

    async def look(self) -> None:
        """Asks for a report; a process that does not answer within seconds is held to be away."""
        try:
            async with asyncio.timeout(LOOK_S):
                self._note(await self._carrier.report())
        except EngineDied as error:
            self._lose(error)
        except (EngineError, TimeoutError) as error:
            self.trouble = str(error) or f"it did not say how it stands within {LOOK_S:g} s"

    async def ask(self, request_id: str, letter: bytes) -> Reply:
        """The reply to one request.

        Raises:
            EngineLost: the process is away, or went away; `died` if it took the request with it.
            EngineError: it cannot be spoken to at all, e.g. because it is of another version.
        """
        if self.state != "up":
            raise EngineLost(f"engine {self.name!r} is {self.state}: {self.trouble}", died=False)
        asked = self._asked[request_id] = _Asked(asyncio.get_running_loop().create_future())
        self._outbox.append((request_id, letter))
        self._cancelled.discard(request_id)
        self._flush_soon()
        try:
            return await asked.future
        finally:
            if self._asked.get(request_id) is asked:
                # Nobody waits any more. One that has not left yet is left out of the next sack.
                del self._asked[request_id]
                self._cancelled.add(request_id)
                self._flush_soon()

    async def wait_up(self) -> None:
        """Returns when a process that was away is back with its engine, has died for good, or still does not come."""
        if self.state != "away":
            return
        if self._starter is None or self._starter.done():
            self._starter = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(self._starter)

    async def _start(self) -> None:
        try:
            async with asyncio.timeout(self._start_timeout_s):
                self._note(await self._carrier.start())
        except TimeoutError:
            self.trouble = f"not ready within {self._start_timeout_s:g} s"
        except EngineDied as error:
            self.state, self.trouble = "dead", str(error)
        except EngineError as error:
            self.trouble = str(error)
        else:
            # Whichever process that is: what lay with an earlier one has been given up.
            self._box, self._num_had = "", 0
            self.state, self.trouble = "up", ""

    def _note(self, report: Report) -> None:
        self.report, self._reported_at = report, time.monotonic()
        if self.state == "up":
            self.trouble = ""

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            loop, seconds = asyncio.get_running_loop(), linger_s(len(self._asked))
            if seconds:
                loop.call_later(seconds, self._flush)
            else:
                loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        while self.state == "up" and self._num_posts < MAX_POSTS and (self._outbox or self._cancelled):
            sack = [(known, letter) for known, letter in self._outbox[:MAX_LETTERS] if known in self._asked]
            del self._outbox[:MAX_LETTERS]
            cancelled = list(self._cancelled)
            self._cancelled.clear()
            if sack or cancelled:
                self._num_posts += 1
                self._run(self._post(sack, cancelled))
        if self._asked and self.state == "up" and (self._collector is None or self._collector.done()):
            self._collector = self._run(self._collect())

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        # The event loop itself only keeps weak references.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _post(self, sack: list[tuple[str, bytes]], cancelled: list[str]) -> None:
        era = self._era
        letters = [letter for _, letter in sack]
        try:
            box = await _within(
                self._silence_s,
                lambda: self._carrier.post(self._client, self._box, self._num_had, letters, cancelled),
            )
        except (EngineError, TimeoutError) as error:
            if era == self._era:
                self._lose(error)
            return
        finally:
            self._num_posts -= 1
        if era != self._era or self._is_new_process(box):
            return
        self._box = self._box or box
        for request_id, _ in sack:
            asked = self._asked.get(request_id)
            if asked is not None:
                asked.box = box
        if self._outbox or self._cancelled:
            self._flush_soon()

    async def _collect(self) -> None:
        era = self._era
        while self._asked and era == self._era:
            try:
                parcel = await _within(
                    self._wait_s + self._silence_s,
                    lambda: self._carrier.collect(self._client, self._box, self._num_had, self._wait_s),
                )
                if era == self._era and not self._is_new_process(parcel[0]):
                    self._hand_out(parcel)
            except (EngineError, TimeoutError) as error:
                if era == self._era:
                    self._lose(error)

    def _hand_out(self, parcel: Parcel) -> None:
        self._box, self._num_had, replies, report = parcel
        self._note(Report.model_validate_json(report))
        for letter in replies:
            reply = decode_reply(letter)
            asked = self._asked.pop(reply.id, None)
            # One that is not waited for was given up, or asked of another replica meanwhile.
            if asked is not None and not asked.future.done():
                asked.future.set_result(reply)
        for request_id, asked in list(self._asked.items()):
            if asked.box and asked.box != self._box:
                # Nothing was collected for so long that the process gave everything up.
                self._fail(request_id, EngineLost(f"engine {self.name!r} had given it up", died=False))

    def _is_new_process(self, box: str) -> bool:
        """Whether a box is of another process than the last one; if so, it is away until it is known to be ready."""
        if not self._box or process_of(box) == process_of(self._box):
            return False
        self._box, self._num_had = box, 0
        self._lose(EngineLost("it was started again meanwhile", died=True))
        return True

    def _lose(self, error: EngineError | TimeoutError) -> None:
        """Ends everything that was asked: the process is gone or out of reach, or refuses to be spoken to."""
        if isinstance(error, EngineError) and not isinstance(error, EngineDied | EngineLost):
            for request_id in list(self._asked):
                self._fail(request_id, error)
            self._outbox.clear()
            return
        self._era += 1
        self.state = "dead" if isinstance(error, EngineDied) else "away"
        self.trouble = str(error) or f"it said nothing for {self._silence_s:g} s"
        if self._collector is not None and self._collector is not asyncio.current_task():
            self._collector.cancel()
        self._collector = None
        is_gone = isinstance(error, EngineDied) or (isinstance(error, EngineLost) and error.died)
        if not is_gone:
            # It may still be at work on them when it is back; by then they may have been asked of another one.
            self._cancelled.update(self._asked)
        for request_id, asked in list(self._asked.items()):
            died = is_gone and bool(asked.box)
            self._fail(request_id, EngineLost(f"engine {self.name!r}: {self.trouble}", died=died))
        self._outbox.clear()

    def _fail(self, request_id: str, error: EngineError) -> None:
        asked = self._asked.pop(request_id)
        if not asked.future.done():
            asked.future.set_exception(error)


async def _within(limit_s: float, call: Callable[[], Awaitable[_Result]]) -> _Result:
    """What `call` gives within `limit_s` seconds, else TimeoutError. It may be made twice, which changes nothing."""
    while True:
        due = time.monotonic() + limit_s
        try:
            async with asyncio.timeout(limit_s):
                return await call()
        except TimeoutError:
            # If it is this process that stood still, nobody has been silent: the answer may lie here unread.
            if time.monotonic() < due + STOOD_STILL_S:
                raise
