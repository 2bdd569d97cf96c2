"""What the page's parts about evolution are filled with: plots, scales and lists made from the report's data. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from evolve.report.bars import interval_mark, reach_of, stacked_bar
from evolve.report.curve_plot import curves_plot, looks, small_plot, swatch
from evolve.report.data import ReportData
from evolve.report.evolution import CostView, DecisionView, EvolutionView, FlowView, HeatCell, LifeView
from evolve.report.formats import duration, number
from evolve.report.tree_plot import tree_plot

KINDS = {
    "aa": "the incumbents again (A/A)",
    "placebo": "shuffled targets",
    "budget": "one more sample",
}
RIVALS = {"incumbent": "incumbents", "placebo": "its placebo", "budget": "one more sample"}

_Points = dict[int, tuple[float, float | None, float | None]]
_Small = tuple[str, Markup, str]


class Parts(NamedTuple):
    """What the templates need."""

    plots: dict[str, str]
    life: list[_Small]
    values: dict[str, Any]


class Heat(NamedTuple):
    """The archive as a table."""

    rows: list[str]
    columns: list[tuple[str, str]]
    cells: dict[tuple[str, str, str], HeatCell]


def evolution_parts(data: ReportData) -> Parts:
    """Everything at once."""
    view = data.evolution
    drawn = [(curve, look) for curve, look in looks(view.curves) if curve.points]
    flows = max([flow.num_all for flow in view.flows], default=0)
    seconds = max([cost.seconds for cost in view.costs], default=0.0)
    differences = [(g.difference.low, g.difference.high) for g in (*view.gains, *view.beside, *view.by_type)]
    values: dict[str, Any] = {
        "curves": drawn,
        "numbers": sorted({point.generation for curve, _ in drawn for point in curve.points}),
        "swatch": _marked(swatch),
        "interval_mark": _marked(interval_mark),
        "gain_reach": reach_of(differences),
        "decision_reach": decision_reach,
        "dev_reach": lambda decision: reach_of([(one.low, one.high) for one in decision.dev]),
        "flow_bar": _marked(lambda flow: _flow_bar(flow, flows)),
        "cost_bar": _marked(lambda cost: _cost_bar(cost, seconds)),
        "KINDS": KINDS,
        "RIVALS": RIVALS,
        "heat": heat_table(view.heat),
        "emergence": [
            (life.generation, where, found)
            for life in view.life
            for where, found in (("TRAIN", life.emergence), ("AUDIT", life.emergence_audit))
            if found is not None
        ],
        "seat_shares": [(life.generation, life.shares) for life in view.life if life.shares is not None],
        "diversity": [(life.generation, life.diversity) for life in view.life if life.diversity is not None],
        "health": [(life.generation, one) for life in view.life for one in life.health],
    }
    plots = {"curves": curves_plot(view.curves), "tree": tree_plot(data.generations, data.specialists)}
    return Parts(plots, list(_life_plots(view)), values)


def decision_reach(decision: DecisionView) -> float:
    """The scale on which every interval of one gate fits."""
    return reach_of([(versus.low, versus.high) for contest in decision.contests for versus in contest.versus])


def heat_table(cells: Sequence[HeatCell]) -> Heat:
    """Task types down, bases and roles across."""
    return Heat(
        rows=sorted({cell.task_type for cell in cells}),
        columns=sorted(
            {(cell.base, cell.role) for cell in cells}, key=lambda pair: (pair[0], pair[1] != "proposer", pair[1])
        ),
        cells={(cell.task_type, cell.base, cell.role): cell for cell in cells},
    )


def _life_plots(view: EvolutionView) -> Iterable[_Small]:
    """Small plots of what is known in more than one generation."""
    measures: list[tuple[str, str, Callable[[LifeView], tuple[float, float | None, float | None] | None]]] = [
        ("Independent votes (n_eff)", "How many independent votes the members are worth.", _n_eff),
        ("Same wrong answer", "Where two members are wrong, how often alike; low is good.", _same_wrong),
        ("Double fault", "Share of tasks that a pair of members both get wrong.", _double_fault),
    ]
    for title, about, measure in measures:
        points: _Points = {life.generation: found for life in view.life if (found := measure(life)) is not None}
        if len(points) > 1:
            yield title, Markup(small_plot(title, points)), about  # noqa: S704  drawn by us, its text is escaped
    reports = {life.generation: life.emergence for life in view.life if life.emergence and life.emergence.num_measured}
    if len(reports) > 1:
        shares: _Points = {
            generation: (one.num_emergent / one.num_measured, one.low, one.high) for generation, one in reports.items()
        }
        svg = small_plot(
            "Solved by the mesh alone", shares, reference={generation: one.luck for generation, one in reports.items()}
        )
        yield "Solved by the mesh alone", Markup(svg), "Share of decided tasks; dashed: what luck explains."  # noqa: S704
    yield from _health_plots(view)


def _health_plots(view: EvolutionView) -> Iterable[_Small]:
    for title, about, name, sign in (
        ("pass@k of the seats", "Mean over the specialists; red: an alarm.", "pass_at_k", "pass_at_k"),
        (
            "Distinct wording",
            "Share of distinct pairs of words; red: an alarm.",
            "distinct_n",
            "distinct_n",
        ),
    ):
        points: _Points = {}
        alarm = []
        for life in view.life:
            if not life.health:
                continue
            pairs = [getattr(health, name) for health in life.health]
            points.setdefault(0, (sum(pair[0] for pair in pairs) / len(pairs), None, None))
            points[life.generation] = (sum(pair[1] for pair in pairs) / len(pairs), None, None)
            if any(found == sign for health in life.health for found, _ in health.alarms):
                alarm.append(life.generation)
        if len(points) > 1:
            yield title, Markup(small_plot(title, points, alarm=alarm)), about  # noqa: S704


def _n_eff(life: LifeView) -> tuple[float, float | None, float | None] | None:
    one = life.diversity
    return None if one is None else (one.n_eff, one.n_eff_low, one.n_eff_high)


def _same_wrong(life: LifeView) -> tuple[float, float | None, float | None] | None:
    one = life.diversity
    return None if one is None or one.same_wrong is None else (one.same_wrong, None, None)


def _double_fault(life: LifeView) -> tuple[float, float | None, float | None] | None:
    one = life.diversity
    return None if one is None or one.double_fault is None else (one.double_fault, None, None)


def _flow_bar(flow: FlowView, most: int) -> str:
    return stacked_bar(
        [
            (flow.num_used, "--after", f"{number(flow.num_used)} rows used"),
            (flow.num_all - flow.num_used, "--before", f"{number(flow.num_all - flow.num_used)} left out"),
        ],
        most,
    )


def _cost_bar(cost: CostView, most: float) -> str:
    rest = max(0.0, cost.seconds - cost.training_seconds)
    return stacked_bar(
        [
            (cost.training_seconds, "--series-2", f"training {duration(cost.training_seconds)}"),
            (rest, "--after", f"the rest {duration(rest)}"),
        ],
        most,
    )


def _marked(draw: Callable[..., str]) -> Callable[..., Markup]:
    """A drawing function for templates; the text in its drawings is escaped."""

    def drawn(*args: Any, **kwargs: Any) -> Markup:
        return Markup(draw(*args, **kwargs))  # noqa: S704

    return drawn
