"""Reliability of members from a run's own judged traces: what weights, pairs and confidences rest on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evolve.config import ConfigError
from evolve.evaluate import Judgements
from memory.ledger import publish_json, read_json, read_record
from mesh.reliability import Reliability, judged_answers, judged_talks, measure
from mesh.types import Deliberation, Member, Proposal
from mesh.weigh import weighted
from serving.traces import read_traces

RELIABILITY = "reliability.json"
COUNCILS = "councils.parquet"
STAGES = ("harvest.parquet", "dev.parquet")
"""Where proposals are judged for learning. GATE and AUDIT stay sealed: their figures must not steer anything."""


def measure_run(directory: Path) -> Reliability:
    """What the judged first proposals of a run's harvests and DEV stages say of its members.

    Confidence is calibrated on the weighted vote over each task's proposals, a verdict a task.

    Raises:
        ConfigError: no judged proposals there.
    """
    right = _judged(directory)
    traces = [trace for name in STAGES for path in sorted(directory.glob(f"generation-*/{name}"))
              for trace in read_traces(path)]  # fmt: skip
    judged = list(judged_answers(traces, right))
    if not judged:
        raise ConfigError(f"{directory}: expected a run with judged proposals, found none; let its harvest end first")
    first = measure(judged)
    councils = [trace for path in sorted(directory.glob(f"generation-*/{COUNCILS}")) for trace in read_traces(path)]
    return measure(judged, list(_confidences(traces, right, first)), judged_talks(councils, right))


def read_reliability(path: Path) -> Reliability:
    """A published reliability. Raises ConfigError if it is none."""
    try:
        return read_record(path, Reliability)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"{path}: expected what `evomesh reliability RUN` wrote, got: {error}") from error


def publish_reliability(path: Path, reliability: Reliability) -> None:
    """Write it whole or not at all."""
    publish_json(path, reliability)


def _judged(directory: Path) -> dict[tuple[str, str], bool]:
    found: dict[tuple[str, str], bool] = {}
    for path in sorted((directory / "steps").glob("judge-*.json")):
        if "-gate-" not in path.name and "-audit-" not in path.name:
            found |= Judgements.model_validate(read_json(path)).lookup()
    return found


def _confidences(
    traces: list[Deliberation], right: dict[tuple[str, str], bool], reliability: Reliability
) -> Iterator[tuple[float, bool]]:
    """(raw confidence, right or not) of the weighted vote over all proposals of each task."""
    proposals: dict[str, list[Proposal]] = {}
    members: dict[str, dict[str, Member]] = {}
    tasks = {trace.task.id: trace.task for trace in traces}
    for trace in traces:
        proposals.setdefault(trace.task.id, []).extend(trace.round_of(0))
        members.setdefault(trace.task.id, {}).update({member.name: member for member in trace.members})
    for task_id, said in proposals.items():
        task = tasks[task_id]
        verdict = weighted(said, task.answer_kind, reliability, list(members[task_id].values()), task.type)
        if verdict.answer is not None and (task_id, verdict.answer) in right:
            yield verdict.confidence, right[task_id, verdict.answer]
