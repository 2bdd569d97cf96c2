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


def quick_config(directory: Path, **changes: Any) -> RunConfig:
    """One generation; its tasks and its run lie in `directory`."""
    tasks = directory / "tasks.jsonl"
    pairs = [(a, b) for a in range(11, 31) for b in range(30, 38)]
    rows = [{"question": f"{a} + {b} =", "answer": str(a + b), "type": "sum"} for a, b in pairs]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "name": "quick",
        "run_dir": str(directory / "run"),
        "seed": 3,
        "serving": {"in_process": True, "engines": ENGINES},
        "problems": {
            "kind": "file",
            "path": str(tasks),
            "verifier": {"kind": "numeric"},
            "answer_kind": "number",
            "sizes": {"train": 12, "dev": 12, "gate": 24, "audit": 6},
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


def ran(config: RunConfig, on_commit: Callable[[str], None] | None = None) -> ReportData:
    """The report of a run, carried to its end."""
    return asyncio.run(run(config, Silent(), on_commit=on_commit))


def steps_of(directory: Path) -> list[str]:
    """Names of the steps that a run has accepted."""
    return [json.loads(line)["payload"]["step"] for line in (directory / "journal.jsonl").read_text().splitlines()]
