"""From an experiment's arms to what the report of its run shows of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from evolve.report.data import ReportData
from evolve.report.evolution import Curve, CurvePoint, Gain
from evolve.report.view_evolution import corrected, gain_view
from evolve.studies.experiment_results import ExperimentResults
from evolve.studies.rival_methods import MEANING, ArmName

LEARNED: tuple[ArmName, ...] = ("rft", "rft-equal", "rft-other", "naive")
"""Arms that have a curve of their own; the frozen one is the mesh's generation 0 all along."""


def with_arms(data: ReportData, found: ExperimentResults) -> ReportData:
    """The report of a run with the arms it was held against, in the place of those that it showed before."""
    view = data.evolution
    beside = corrected([*(one for one in view.beside if one.kind != "arm"), *_gains(found)])
    curves = (*(one for one in view.curves if one.kind != "arm"), *arm_curves(found))
    return data.model_copy(update={"evolution": view.model_copy(update={"curves": curves, "beside": beside})})


def arm_curves(found: ExperimentResults) -> Iterator[Curve]:
    """One curve for each arm that learned, from its first generation on."""
    for name in LEARNED:
        points = tuple(
            CurvePoint(
                generation=one.generation, mean=one.vote.mean, low=one.vote.low, high=one.vote.high, n=one.vote.n
            )
            for one in found.points
            if one.arm == name
        )
        if points:
            yield Curve(method=f"arm {name}", kind="arm", points=points, note=MEANING[name])


def _gains(found: ExperimentResults) -> Iterator[Gain]:
    """The mesh at its end beside each arm that learned, at the arm's end."""
    for one in found.against:
        if one.before.startswith(LEARNED):
            yield gain_view(one).model_copy(update={"kind": "arm"})
