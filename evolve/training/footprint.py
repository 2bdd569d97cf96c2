"""How much memory a run takes at its worst, over the driver and every process it started."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil


class Footprint:
    """Samples the memory of this process and its children while its block runs.

    Shared pages are counted once (PSS), where the system tells; peaks shorter than `period_s` can be missed.
    """

    def __init__(self, *, period_s: float = 5.0) -> None:
        self.peak_bytes = 0
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="footprint", daemon=True)

    def __enter__(self) -> Footprint:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_gib(self) -> float:
        """The highest sample so far."""
        return self.peak_bytes / 2**30

    def _watch(self) -> None:
        driver = psutil.Process()
        while True:
            self.peak_bytes = max(self.peak_bytes, sum(map(_bytes, [driver, *driver.children(recursive=True)])))
            if self._stop.wait(self._period_s):
                return


def _bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it ended, or belongs to somebody else
        return 0
    return int(getattr(memory, "pss", memory.rss))
