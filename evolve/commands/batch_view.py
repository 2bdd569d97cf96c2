"""What a person sees of a batch: a bar or lines while it runs, an estimate, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from mesh.inert import describe_talk
from serving.batch_estimate import BatchEstimate, Range
from serving.batch_types import BatchProgress, BatchSummary

LINE_EVERY_S = 30.0
"""Seconds between two lines where nobody looks at a terminal: a log of a night stays readable."""


class BatchObserver:
    """Shows how far a batch is: a bar on a terminal, now and then a line in a log, nothing when `quiet`."""

    def __init__(self, console: Console, *, quiet: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._quiet = quiet
        self._now = now
        self._said_at: float | None = None
        self._protocol = ""
        self._bar: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )

    def __enter__(self) -> BatchObserver:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def told(self, progress: BatchProgress) -> None:
        """One more task is done with."""
        if self._quiet:
            return
        if progress.fallback and progress.protocol != self._protocol:
            self._say(f"from here on {progress.protocol}: {progress.fallback}")
        self._protocol = progress.protocol
        if not self._progress.disable:
            if self._bar is None:
                self._bar = self._progress.add_task("", total=progress.num_tasks)
            self._progress.update(self._bar, completed=progress.num_done, description=throughput(progress))
            return
        now, is_last = self._now(), progress.num_done == progress.num_tasks
        if self._said_at is None or now - self._said_at >= LINE_EVERY_S or is_last:
            self._said_at = now
            self._say(f"{progress.num_done}/{progress.num_tasks} tasks, {throughput(progress)}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


def throughput(progress: BatchProgress) -> str:
    """How fast this start is, and how long the rest will take at that pace."""
    done = progress.num_done - progress.num_resumed
    if done <= 0 or progress.seconds <= 0.0:
        return ""
    rate = done / progress.seconds
    left = (progress.num_tasks - progress.num_done) / rate
    return f"{rate:.2f} tasks/s, {progress.output_tokens / progress.seconds:.0f} tok/s, {duration(left)} to go"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"


def print_estimate(console: Console, estimate: BatchEstimate, *, has_prices: bool) -> None:
    """What the whole batch will take; ranges hold in nine cases of ten."""
    lines = [
        f"From {estimate.num_sampled} of {estimate.num_tasks} tasks, {estimate.concurrency} at a time; in nine cases "
        "of ten, if the others are like them:",
        f"  output tokens  {_tokens(estimate.output_tokens)}",
        f"  prompt tokens  {_tokens(estimate.prompt_tokens)}",
        f"  requests       {_tokens(estimate.num_calls)}",
        f"  time           {_span(estimate.seconds)} for the {estimate.num_left} tasks that are left",
    ]
    if has_prices:
        cost = estimate.cost
        lines.append(f"  cost           {cost.expected:.4f} ({cost.low:.4f} to {cost.high:.4f})")
    lines.append("The sample is done and kept: the same command without --estimate goes on with the rest.")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def print_summary(console: Console, summary: BatchSummary, out: Path) -> None:
    """What a batch came to, and what is left to do."""
    for line in summary_lines(summary, out):
        console.print(line, highlight=False, markup=False)


def summary_lines(summary: BatchSummary, out: Path) -> list[str]:
    """The same, a sentence or two a line."""
    lines = [
        f"{summary.num_answered} of {summary.num_tasks} tasks answered, {summary.num_malformed} malformed lines, "
        f"{summary.num_resumed} finished by an earlier start, {summary.usage.output_tokens:,} output tokens, "
        f"{summary.usage.engine_seconds:,.0f} engine seconds. Answers: {out / 'answers.jsonl'}"
    ]
    if summary.num_review:
        lines.append(f"{summary.num_review} answers need a look: needs_review and review_reason in the answers file.")
    if summary.num_misshapen:
        lines.append(f"{summary.num_misshapen} answers do not follow the schema; `said` has them as they were given.")
    if summary.num_cut:
        lines.append(
            f"The budget ended before {summary.num_cut} tasks were done with: what was left out is in their traces."
        )
    lines += _fallback_lines(summary)
    if summary.cost:
        lines.append(f"Cost: {summary.cost:.4f}, by the engines' prices per hour.")
    if len(summary.rosters) > 1:
        held = ", ".join(f"{roster} ({count} tasks)" for roster, count in summary.rosters)
        lines.append(f"The channel changed meanwhile; rosters: {held}.")
    if summary.ignored_keys:
        lines.append(f"Keys that were not used: {', '.join(summary.ignored_keys)}.")
    lines += describe_talk(summary.talk)
    if summary.num_left:
        lines.append(f"The deadline left {summary.num_left} tasks undone; the same command goes on with them.")
    if summary.num_waiting:
        lines.append(
            f"{summary.num_waiting} tasks wait for a person: evomesh review list {out}; then the same command goes on."
        )
    return lines


def _fallback_lines(summary: BatchSummary) -> list[str]:
    return [
        f"{share.num_tasks} tasks were decided by {share.protocol}, first {share.first_task!r}: {share.reason}."
        for share in summary.protocols
        if share.reason
    ]


def _tokens(amount: Range) -> str:
    return f"{amount.expected:,.0f} ({amount.low:,.0f} to {amount.high:,.0f})"


def _span(seconds: Range) -> str:
    return f"{duration(seconds.expected)} ({duration(seconds.low)} to {duration(seconds.high)})"
