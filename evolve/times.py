"""How long a run's stages took, kept apart from the journal, which holds no times; a kill makes nothing free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evolve.progress import PART, StageTime
from memory.ledger import Ledger

PART_S = 30.0
"""Seconds between two entries that hold a part of a stage's time before it has ended."""


class StageTimes:
    """The ledger of a run's times: a stage's own entry once it has ended, and parts of it before."""

    def __init__(self, path: Path) -> None:
        self._ledger = Ledger(path)
        self._noted = {entry.payload["stage"] for entry in self._ledger.entries() if entry.kind != PART}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Keep how long the block took under the name of `stage`."""
        with self.ticking(stage) as seconds:
            yield
            self.note(StageTime(stage=stage, seconds=seconds()))

    @contextmanager
    def ticking(self, stage: str) -> Iterator[Callable[[], float]]:
        """Keep the block's time part by part, so that what a kill interrupts is not free; gives the seconds since."""
        since = time.perf_counter()

        def seconds() -> float:
            return time.perf_counter() - since

        def keep() -> None:
            nonlocal since
            with suppress(OSError):  # a full disk ends the stage by itself, with its own words
                self.note_part(StageTime(stage=stage, seconds=seconds()))
                since = time.perf_counter()

        async def tick() -> None:
            while True:
                await asyncio.sleep(PART_S)
                keep()

        ticking = asyncio.get_running_loop().create_task(tick())
        try:
            yield seconds
        except BaseException:
            keep()
            raise
        finally:
            ticking.cancel()

    def note(self, item: StageTime) -> None:
        """Keep how long something took, apart from the journal, which holds no times."""
        self._ledger.append("stage", item.model_dump(mode="json"))
        self._noted.add(item.stage)

    def note_part(self, item: StageTime) -> None:
        """Keep what a stage took before it has ended, or besides."""
        self._ledger.append(PART, item.model_dump(mode="json"))

    def note_once(self, item: StageTime) -> None:
        """As `note`, unless that stage is there: a kill between a step and its times must not make it free."""
        if item.stage not in self._noted:
            self.note(item)

    @property
    def all(self) -> tuple[StageTime, ...]:
        """All stages so far, those before an interruption included, in order."""
        return tuple(StageTime.model_validate(entry.payload) for entry in self._ledger.entries())
