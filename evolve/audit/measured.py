"""Reliability of members from a run's own judged traces: what weights, pairs and confidences rest on."""

from __future__ import annotations

import re
from pathlib import Path

from evolve.config import ConfigError
from evolve.evaluate import Judgements
from evolve.run_files import COUNCILS, DEV, HARVEST, OPEN_STAGES
from memory.ledger import publish_json, read_json, read_record
from mesh.measuring import measure_traces
from mesh.reliability import Reliability
from serving.traces import read_traces

RELIABILITY = "reliability.json"
STAGES = (f"{HARVEST}.parquet", f"{DEV}.parquet", f"{DEV}/*.parquet")
"""Where proposals are judged for learning. GATE and AUDIT stay sealed: their figures must not steer anything."""
_JUDGED_OPENLY = re.compile(rf"judge-generation-\d+-(?:{'|'.join(OPEN_STAGES)})(?:-.+)?-[0-9a-f]{{12}}\.json")


def measure_run(directory: Path) -> Reliability:
    """What the judged first proposals of a run's harvests and DEV stages say of its members.

    Raises:
        ConfigError: no judged proposals there.
    """
    measured = what_is_measured(directory)
    if not measured.answers:
        raise ConfigError(f"{directory}: expected a run with judged proposals, found none; let its harvest end first")
    return measured


def what_is_measured(directory: Path) -> Reliability:
    """As `measure_run`, of a run that may have nothing yet, or not any more."""
    right = open_judgements(directory)
    traces = [trace for name in STAGES for path in sorted(directory.glob(f"generation-*/{name}"))
              for trace in read_traces(path)]  # fmt: skip
    councils = [
        trace for path in sorted(directory.glob(f"generation-*/{COUNCILS}.parquet")) for trace in read_traces(path)
    ]
    return measure_traces(traces, right, councils=councils)


def read_reliability(path: Path) -> Reliability:
    """A published reliability. Raises ConfigError if it is none."""
    try:
        return read_record(path, Reliability)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"{path}: expected what `evomesh reliability RUN` wrote, got: {error}") from error


def publish_reliability(path: Path, reliability: Reliability) -> None:
    """Write it whole or not at all."""
    publish_json(path, reliability)


def open_judgements(directory: Path) -> dict[tuple[str, str], bool]:
    """(task id, answer) to correct, as judged in the harvests and DEV stages of a run, and nowhere else."""
    found: dict[tuple[str, str], bool] = {}
    for path in sorted((directory / "steps").glob("judge-*.json")):
        if _JUDGED_OPENLY.fullmatch(path.name):
            found |= Judgements.model_validate(read_json(path)).lookup()
    return found
