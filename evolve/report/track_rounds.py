"""A generation's numbers for TensorBoard as soon as it has ended, hours before the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from evolve.config import RunConfig
from evolve.loop import Round
from evolve.progress import StageTime
from evolve.report.tracking import Number, cost_numbers, flow_numbers, gate_numbers, loss_numbers, track_generation
from evolve.report.view_evolution import costs, flow_view
from evolve.report.view_gate import decision_view


def track_round(one: Round, config: RunConfig, times: Sequence[StageTime], started: datetime) -> None:
    """Leave the event file of a generation that has ended; nothing where TensorBoard is switched off."""
    if config.tracking.tensorboard:
        found = round_numbers(one, config, times)
        track_generation(one.generation.number, found, config.run_dir, started, datetime.now(UTC))


def round_numbers(one: Round, config: RunConfig, times: Sequence[StageTime]) -> Iterator[Number]:
    """What is known of a generation before the audit: the gate, its cost, its rows and its losses."""
    yield from gate_numbers([decision_view(one)])
    yield from cost_numbers(costs(config, [one], times))
    yield from flow_numbers([flow_view(one)])
    for report in one.reports:
        yield from loss_numbers(report.recipe, enumerate(report.losses, start=1))
