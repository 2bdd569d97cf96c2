"""What a person sees while a run goes on: the stage, how far it is, and how long the whole will take."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class ConsoleObserver:
    """Draws one bar for the current stage and a clock for the run. On a plain pipe it prints a line per stage."""

    def __init__(self, console: Console, planned_seconds: Mapping[str, float]) -> None:
        """`planned_seconds`: expected seconds by stage name; stages without an entry count as nothing."""
        self._console = console
        self._planned = dict(planned_seconds)
        self._started = time.perf_counter()
        self._stage = ""
        self._stage_started = self._started
        self._done_planned = 0.0
        self._done_actual = 0.0
        self._task: TaskID | None = None
        self._units = 0
        self._total = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
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

    def stage(self, name: str, total: int) -> None:
        """End the stage before and begin the next."""
        self._close()
        self._stage, self._stage_started, self._units, self._total = name, time.perf_counter(), 0, total
        self._task = self._progress.add_task(name, total=total or 1, left=self._left())
        if not self._console.is_terminal:
            self._console.print(f"[{self._clock()}] {name} ({total}) {self._left()}", highlight=False, markup=False)

    def advance(self, units: int = 1) -> None:
        """Move the bar."""
        self._units += units
        if self._task is not None:
            self._progress.update(self._task, advance=units, left=self._left())

    def say(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(f"[{self._clock()}] {text}", highlight=False, markup=False)

    def finished(self) -> None:
        """Close the last stage."""
        self._close()

    def _close(self) -> None:
        if not self._stage:
            return
        seconds = time.perf_counter() - self._stage_started
        self._done_planned += self._planned.pop(self._stage, 0.0)
        self._done_actual += seconds
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._console.is_terminal:
            self._console.print(f"[{self._clock()}] {self._stage}: {seconds:.0f} s", highlight=False, markup=False)
        self._stage = ""

    def _left(self) -> str:
        """Expected time to the end, scaled by how the plan held so far."""
        if not self._planned:
            return ""
        current = self._planned.get(self._stage, 0.0)
        share = min(1.0, self._units / self._total) if self._total else 0.0
        pace = self._done_actual / self._done_planned if self._done_planned > 30 else 1.0
        seconds = pace * (sum(self._planned.values()) - current * share)
        return f"about {seconds / 60:.0f} min to go" if seconds >= 90 else "about a minute to go"

    def _clock(self) -> str:
        seconds = int(time.perf_counter() - self._started)
        return f"{seconds // 60:02d}:{seconds % 60:02d}"
