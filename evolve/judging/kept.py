"""Judging a stage answer by answer, away from the event loop, with what was judged kept: a kill costs seconds of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from memory.ledger import Ledger, LedgerError
from memory.types import Record, content_hash
from mesh.types import Outcome

KEEP_S = 5.0
"""Seconds between two writes: most verifiers are through with a stage before, and write nothing at all."""


class Judged(Record):
    """What the judge said of one answer."""

    outcome: Outcome
    reason: str = ""
    """Why it could not be checked; empty: it could."""


async def judged_each(
    path: Path,
    step: str,
    pairs: Sequence[tuple[str, str]],
    judge: Callable[[int], Judged],
    on_done: Callable[[], None] = lambda: None,
) -> list[Judged]:
    """What `judge` says of each of `pairs`, by place, in their order; what is kept at `path` is not judged again.

    Answers are judged in a thread, one after the other: whoever judges may wait for processes of its own. `path` may
    be left behind; whoever has accepted the outcomes removes it.

    Args:
        step: what the judging belongs to; what another one kept is ignored.
        pairs: task ids and answers, each once.
        judge: called with a place in `pairs`. What it raises ends the judging, and what was judged is kept.
    """
    keys = [content_hash(list(pair)) for pair in pairs]
    kept = _Kept(path, step)
    try:
        for place, key in enumerate(keys):
            if key not in kept.found:
                kept.add(key, await asyncio.to_thread(judge, place))
            on_done()
    except BaseException:
        with suppress(LedgerError, OSError):  # what ended the judging is told, not that there was no room as well
            kept.write()
        raise
    return [kept.found[key] for key in keys]


class _Kept:
    def __init__(self, path: Path, step: str) -> None:
        self._path, self._step = path, step
        self._ledger: Ledger | None = None
        entries = Ledger(path, readonly=True).entries() if path.is_file() else ()
        self.found = {
            entry.payload["key"]: Judged.model_validate(entry.payload["judged"])
            for entry in entries
            if entry.payload["step"] == step
        }
        self._unwritten: list[str] = []
        self._written_at = time.monotonic()

    def add(self, key: str, judged: Judged) -> None:
        self.found[key] = judged
        self._unwritten.append(key)
        if time.monotonic() - self._written_at >= KEEP_S:
            self.write()

    def write(self) -> None:
        unwritten, self._unwritten, self._written_at = self._unwritten, [], time.monotonic()
        if unwritten:
            self._ledger = self._ledger or Ledger(self._path)
            self._ledger.append_many(("judged", self._line(key)) for key in unwritten)

    def _line(self, key: str) -> dict[str, Any]:
        return {"step": self._step, "key": key, "judged": self.found[key].model_dump(mode="json")}
