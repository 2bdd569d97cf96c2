"""What a person sees while a run goes on."""

from __future__ import annotations

import io

from rich.console import Console

from evolve.commands.console import ConsoleObserver
from evolve.planning.outlook import Outlook
from evolve.planning.span import around


class Clock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def piped(outlook: Outlook | None = None) -> tuple[ConsoleObserver, Clock, io.StringIO]:
    out, clock = io.StringIO(), Clock()
    return ConsoleObserver(Console(file=out, width=200), outlook, now=clock), clock, out


def test_on_a_pipe_every_stage_says_what_it_counts() -> None:
    observer, clock, out = piped()
    observer.stage("draw problems", 1)
    clock.seconds += 61.0
    observer.stage("start engines", 2, "engine")
    observer.stage("reflect generation 0", 1, "council")
    observer.finished()
    assert out.getvalue().splitlines() == [
        "[00:00] draw problems",
        "[01:01] start engines (2 engines)",
        "[01:01] reflect generation 0 (1 council)",
    ]


def test_on_a_pipe_a_long_stage_has_a_line_a_minute_with_how_far_it_is() -> None:
    observer, clock, out = piped(
        Outlook({"generation 0 training": around(500.0, 1.0), "generation 0 gate": around(600.0, 1.5)})
    )
    observer.stage("generation 0 training", 60, "step")
    for _ in range(60):
        clock.seconds += 5.0
        observer.advance()
    observer.finished()
    assert out.getvalue().splitlines() == [
        "[00:00] generation 0 training (60 steps); whole run: 15 to 23 minutes to go",
        "[01:00] generation 0 training: 12 of 60 steps, about 4 minutes more; whole run: 11 to 20 minutes to go",
        "[02:00] generation 0 training: 24 of 60 steps, about 3 minutes more; whole run: 10 to 18 minutes to go",
        "[03:00] generation 0 training: 36 of 60 steps, about 2 minutes more; whole run: 9 to 17 minutes to go",
        "[04:00] generation 0 training: 48 of 60 steps, about a minute more; whole run: 8 to 16 minutes to go",
        "[05:00] generation 0 training: 60 of 60 steps; whole run: 7 to 15 minutes to go",
    ]


def test_how_long_a_stage_takes_is_not_said_by_what_an_earlier_start_had_done() -> None:
    observer, clock, out = piped()
    observer.stage("generation 0 training", 100, "step")
    observer.advance(50)
    clock.seconds += 60.0
    observer.advance()
    clock.seconds += 600.0
    observer.advance(24)
    assert out.getvalue().splitlines()[1:] == [
        "[01:00] generation 0 training: 51 of 100 steps",
        "[11:00] generation 0 training: 75 of 100 steps, about 11 minutes more",
    ]


def test_a_terminal_has_a_bar_that_moves_with_every_step_and_no_lines_in_between() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=160)
    with ConsoleObserver(console, Outlook({"generation 0 training": around(600.0, 1.0)}), now=clock) as observer:
        observer.stage("generation 0 training", 54, "step")
        clock.seconds += 120.0
        observer.advance(27)
        observer._progress.refresh()
        drawn = out.getvalue()
        observer.finished()
    assert "27/54" in drawn
    assert "steps" in drawn
    assert "whole run: about 2 minutes to go" in drawn
    assert "27 of 54" not in drawn
    assert "generation 0 training: 120 s" in out.getvalue()
