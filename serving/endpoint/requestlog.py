"""What was asked of the door, by whom and when, without a word of what was said: one line a request."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pydantic import Field

from memory.ledger import Ledger, LedgerError
from memory.types import Record

REQUESTS = "requests.jsonl"
ROTATE_BYTES = 64 * 2**20
FLUSH_S = 0.2


class RequestLine(Record):
    """One request to `/v1/chat/completions`, once it has ended."""

    id: str = Field(description="as the client has it in the header x-request-id")
    key_id: str
    team: str
    model: str = Field(description="a model that is served here; empty: the request named none")
    started_at: float = Field(description="seconds since 1970")
    ended_at: float
    code: int = Field(description="HTTP status; 499: the client left before there was one")
    deliberation: str | None = None
    roster: str | None = None
    tokens: int = Field(default=0, description="prompt and output of all calls")
    joined: bool = Field(default=False, description="a retry that got what an earlier request had asked for")
    error: str | None = Field(default=None, description="code of the refusal")


class RequestLog:
    """Writes lines in groups, so that a busy door syncs the disk a few times a second; the last ones at `close`.

    Not promised: a kill -9 may lose the lines of the last fifth of a second. A log over 64 MiB is set aside when the
    door opens, as requests-0001.jsonl and so on.
    """

    def __init__(self, directory: Path) -> None:
        self._ledger = _opened(directory / REQUESTS)
        self._lines: list[RequestLine] = []
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._appending = asyncio.Lock()

    def write(self, line: RequestLine) -> None:
        """Take one line; it is on the disk soon."""
        self._lines.append(line)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_on())
        self._wake.set()

    async def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._flush()

    async def _write_on(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_S)
            self._wake.clear()
            await asyncio.shield(asyncio.ensure_future(self._flush()))

    async def _flush(self) -> None:
        async with self._appending:
            lines, self._lines = self._lines, []
            if not lines:
                return
            items = [("request", line.model_dump(mode="json")) for line in lines]
            try:
                await asyncio.to_thread(self._ledger.append_many, items)
            except LedgerError as error:
                # Serving goes on where the log cannot: a full disk must not stop three teams.
                print(f"evomesh: {len(lines)} lines of the request log are lost: {error}", file=sys.stderr, flush=True)


def _opened(path: Path) -> Ledger:
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        number = 1 + len(list(path.parent.glob("requests-*.jsonl")))
        path.rename(path.with_name(f"requests-{number:04d}.jsonl"))
    return Ledger(path)
