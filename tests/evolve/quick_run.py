"""Whole runs of scripted engines on a few sums in a file: a second or two a generation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolve.config import RunConfig
from evolve.progress import Silent
from evolve.report.data import ReportData
from evolve.run import run

ENGINES = [
    {"kind": "scripted", "name": "ada", "family": "alpha", "skill": 0.35, "adapter_gain": 0.6, "price_per_hour": 2.0},
    {"kind": "scripted", "name": "ben", "family": "beta", "skill": 0.3, "adapter_gain": 0.6, "price_per_hour": 2.0},
]


SIZES = {"train": 12, "dev": 12, "gate": 24, "audit": 6}


def quick_config(
    directory: Path,
    *,
    sizes: dict[str, int] = SIZES,
    grid: tuple[int, int] = (20, 8),
    answer: Callable[[int], str] = str,
    verifier: dict[str, Any] | None = None,
    **changes: Any,
) -> RunConfig:
    """One generation; its tasks and its run lie in `directory`.

    Args:
        grid: how many first and second summands there are.
        answer: how the reference of a sum is written.
        verifier: None reads it as a number.
        changes: whole sections.
    """
    tasks = directory / "tasks.jsonl"
    pairs = [(11 + a, 30 + b) for a in range(grid[0]) for b in range(grid[1])]
    rows = [{"question": f"{a} + {b} =", "answer": answer(a + b), "type": "sum"} for a, b in pairs]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "name": "quick",
        "run_dir": str(directory / "run"),
        "seed": 3,
        "serving": {"in_process": True, "engines": ENGINES},
        "problems": {
            "kind": "file",
            "path": str(tasks),
            "verifier": verifier or {"kind": "numeric"},
            "answer_kind": "number" if verifier is None else "free",
            "sizes": sizes,
        },
        "training": {"kind": "scripted"},
        "memory": {"enabled": False},
        "harvest": {"problems_per_type": 4, "samples_per_member": 2, "councils_per_type": 1},
        "evaluation": {
            "audit_councils_per_type": 1,
            "emergence_samples": 2,
            "dev_samples_per_member": 1,
            "screen_items": 4,
            "audit_samples_per_member": 1,
        },
        "gate": {"samples_per_member": 1, "required": [], "aa_every": 0},
        "recipes": {"min_rows": 1},
        "concurrency": 4,
    }
    return RunConfig.model_validate(settings | changes)


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def ran(
    config: RunConfig, on_commit: Callable[[str], None] | None = None, observer: Silent | None = None
) -> ReportData:
    """The report of a run, carried to its end."""
    return asyncio.run(run(config, observer or Silent(), on_commit=on_commit))


def steps_of(directory: Path) -> list[str]:
    """Names of the steps that a run has accepted."""
    return [json.loads(line)["payload"]["step"] for line in (directory / "journal.jsonl").read_text().splitlines()]


class Stop(Exception):
    """The run was interrupted here."""


def stop_at(step: str) -> Callable[[str], None]:
    """Stops a run right after a step was accepted, as its `on_commit`."""

    def stop(accepted: str) -> None:
        if accepted == step:
            raise Stop(step)

    return stop
