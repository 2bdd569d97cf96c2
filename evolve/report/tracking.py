"""A run's numbers for other tools: TensorBoard's files as it goes, trackio and MLflow at its end where asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from evolve.config import ConfigError, TrackingConfig
from evolve.report.data import ReportData
from evolve.report.event_file import Scalar, event_file
from evolve.report.evolution import CostView, DecisionView, FlowView
from memory.ledger import publish_bytes

DIRECTORY = "tensorboard"
_UNFIT = re.compile(r"[^A-Za-z0-9_./ -]")


def check_tracking(config: TrackingConfig) -> None:
    """Are the libraries there that the configuration asks for? Call it before anything is spent.

    Raises:
        ConfigError: one is missing.
    """
    for name, setting in (("trackio", config.trackio), ("mlflow", config.mlflow)):
        if setting is not None and find_spec(name) is None:
            raise ConfigError(
                f"tracking.{name} is '{setting}', but {name} is not installed; run 'pip install {name}', or set "
                f"tracking.{name}: null (TensorBoard's files need nothing)"
            )


def track_generation(number: int, found: Iterable[Number], directory: Path, started: datetime, at: datetime) -> None:
    """Leave TensorBoard a file of one generation while others are still to come; `track` replaces all of these.

    Raises OSError where it cannot be written.
    """
    path = directory / DIRECTORY / f"{_stem(started)}.generation-{number}.evomesh"
    path.parent.mkdir(parents=True, exist_ok=True)
    publish_bytes(path, event_file(_fit(found), at.timestamp()))


def track(data: ReportData, directory: Path, config: TrackingConfig) -> None:
    """Hand the numbers to every tool that is set up. Writing again replaces the event file, and adds an MLflow run.

    Raises:
        ConfigError: a library is missing.
        OSError: the event file cannot be written.
    """
    check_tracking(config)
    found = list(scalars(data))
    if config.tensorboard:
        at = (data.finished_at or data.started_at).timestamp()
        path = directory / DIRECTORY / f"{_stem(data.started_at)}.evomesh"
        path.parent.mkdir(parents=True, exist_ok=True)
        publish_bytes(path, event_file(found, at))
        for part in path.parent.glob(f"{_stem(data.started_at)}.generation-*.evomesh"):
            part.unlink()
    if config.trackio is not None:
        trackio = import_module("trackio")
        trackio.init(project=config.trackio, name=data.run)
        for one in found:
            trackio.log({one.tag: one.value}, step=one.step)
        trackio.finish()
    if config.mlflow is not None:
        mlflow = import_module("mlflow")
        mlflow.set_tracking_uri(config.mlflow)
        mlflow.set_experiment("evomesh")
        with mlflow.start_run(run_name=data.run):
            for one in found:
                mlflow.log_metric(one.tag, one.value, step=one.step)


def scalars(data: ReportData) -> Iterator[Scalar]:
    """Every number over generations, and every loss over steps; names are fit for all three tools."""
    return _fit(_numbers(data))


Number = tuple[str, int, float | None]
"""Name, step, and value; None: there is none."""


def gate_numbers(decisions: Iterable[DecisionView]) -> Iterator[Number]:
    """What the gate saw in these generations."""
    for decision in decisions:
        tested = [contest for contest in decision.contests if contest.kind == "candidate"]
        if tested:
            yield "gate/best_gain", decision.generation, max(contest.versus[0].gain for contest in tested)
            yield "gate/smallest_p", decision.generation, min(contest.p_adjusted for contest in tested)
        yield "gate/promoted", decision.generation, float(decision.chosen is not None)


def cost_numbers(costs: Iterable[CostView]) -> Iterator[Number]:
    """What these generations took."""
    for cost in costs:
        if cost.generation is not None:
            yield "cost/seconds", cost.generation, cost.seconds
            yield "cost/output_tokens", cost.generation, float(cost.output_tokens)
            yield "cost/trained_tokens", cost.generation, float(cost.trained_tokens)
            yield "cost/training_flops", cost.generation, cost.flops
            yield "cost/idle_share", cost.generation, cost.idle_share


def flow_numbers(flows: Iterable[FlowView]) -> Iterator[Number]:
    """Rows that these generations verified and used."""
    for flow in flows:
        yield "data/rows_all", flow.generation, float(flow.num_all)
        yield "data/rows_used", flow.generation, float(flow.num_used)


def loss_numbers(name: str, curve: Iterable[tuple[int, float]]) -> Iterator[Number]:
    """A candidate's loss over its steps."""
    for step, loss in curve:
        yield f"loss/{name}", step, loss


def _numbers(data: ReportData) -> Iterator[Number]:
    view = data.evolution
    for curve in view.curves:
        for point in curve.points:
            yield f"accuracy/{curve.method}", point.generation, point.mean
            yield f"accuracy_low/{curve.method}", point.generation, point.low
            yield f"accuracy_high/{curve.method}", point.generation, point.high
    yield from gate_numbers(view.decisions)
    yield from _lives(data)
    yield from cost_numbers(view.costs)
    yield from flow_numbers(view.flows)
    for candidate in data.candidates:
        yield from loss_numbers(candidate.name, candidate.loss_curve)


def _fit(found: Iterable[Number]) -> Iterator[Scalar]:
    for tag, step, value in found:
        if value is not None:
            yield Scalar(_UNFIT.sub("_", tag), step, float(value))


def _stem(started: datetime) -> str:
    return f"events.out.tfevents.{int(started.timestamp())}"


def _lives(data: ReportData) -> Iterator[Number]:
    for life in data.evolution.life:
        if life.diversity is not None:
            yield "diversity/n_eff", life.generation, life.diversity.n_eff
            yield "diversity/double_fault", life.generation, life.diversity.double_fault
            yield "diversity/same_wrong", life.generation, life.diversity.same_wrong
        if life.emergence is not None:
            yield "emergence/tasks", life.generation, float(life.emergence.num_emergent)
        for health in life.health:
            yield f"pass_at_1/{health.name}", life.generation, health.pass_at_1[1]
            yield f"pass_at_k/{health.name}", life.generation, health.pass_at_k[1]
            yield f"distinct_n/{health.name}", life.generation, health.distinct_n[1]
