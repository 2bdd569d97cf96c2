"""What a person sees while a run goes on: the stage, how far it is, and how long the whole will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from evolve.planning.outlook import Outlook
from evolve.planning.span import Span

LINE_EVERY_S = 60.0
"""Seconds between two lines of one stage where nobody looks at a terminal."""
FOUND_S = 1.0
"""Units that are there so soon after their stage began were done by an earlier start."""
LEAST_SHARE = 0.1
"""Of a stage that has to be done before it is said how long the rest takes."""


class ConsoleObserver:
    """Draws one bar for the current stage and a clock for the run. On a plain pipe it prints a line per stage.

    A stage that takes long has a line a minute there, as far as anything of it gets done.
    """

    def __init__(
        self, console: Console, outlook: Outlook | None = None, *, now: Callable[[], float] = time.perf_counter
    ) -> None:
        """`outlook`: of the run, which this tells of its stages; None: nothing is planned, and no end foretold."""
        self._console, self._now = console, now
        self._outlook = Outlook({}) if outlook is None else outlook
        self._started = self._stage_started = self._said_at = now()
        self._stage, self._unit = "", ""
        self._units = self._found = self._total = 0
        self._task: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> ConsoleObserver:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int, unit: str = "") -> None:
        """End the stage before and begin the next."""
        self._close()
        self._outlook.begin(name)
        self._stage, self._stage_started, self._said_at = name, self._now(), self._now()
        self._unit, self._units, self._found, self._total = unit, 0, 0, total
        shown = _plural(total, unit) if unit else ""
        self._task = self._progress.add_task(name, total=total or 1, unit=shown, left=self._left())
        if not self._console.is_terminal:
            self._line(name + (f" ({total} {shown})" if unit else ""))

    def advance(self, units: int = 1) -> None:
        """Move the bar, or on a plain pipe print a line if none was printed for long."""
        self._units += units
        if self._elapsed < FOUND_S:
            self._found += units
        if self._console.is_terminal:
            if self._task is not None:
                self._progress.update(self._task, advance=units, left=self._left())
        elif self._unit and self._now() - self._said_at >= LINE_EVERY_S:
            self._said_at = self._now()
            done = f"{self._stage}: {self._units} of {self._total} {_plural(self._total, self._unit)}"
            self._line(done + self._more())

    def say(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(f"[{self._clock()}] {text}", highlight=False, markup=False)

    def finished(self) -> None:
        """Close the last stage."""
        self._close()

    @property
    def _elapsed(self) -> float:
        """Seconds since the current stage began."""
        return self._now() - self._stage_started

    def _share(self, units: int) -> float:
        return min(1.0, max(0, units) / self._total) if self._total else 0.0

    def _close(self) -> None:
        if not self._stage:
            return
        self._outlook.end(self._elapsed, self._share(self._found))
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._console.is_terminal:
            self.say(f"{self._stage}: {self._elapsed:.0f} s")
        self._stage = ""

    def _line(self, text: str) -> None:
        left = self._left()
        self.say(f"{text}; {left}" if left else text)

    def _more(self) -> str:
        """How long the rest of the current stage takes, if it goes on as it went."""
        done = self._share(self._units) - self._share(self._found)
        if done < LEAST_SHARE or self._units >= self._total:
            return ""
        seconds = self._elapsed * (1.0 - self._share(self._units)) / done
        return f", {Span(low=seconds, high=seconds).words} more"

    def _left(self) -> str:
        """How long the whole still takes."""
        left = self._outlook.left(self._elapsed, self._share(self._units), self._share(self._found))
        return "" if left is None else f"whole run: {left.words} to go"

    def _clock(self) -> str:
        seconds = int(self._now() - self._started)
        return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _plural(count: int, unit: str) -> str:
    return unit if count == 1 else f"{unit}s"
