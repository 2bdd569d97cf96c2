"""Renders a `ReportData` as one self-contained HTML file: no script, no request, nothing outside it."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evolve.judging.unchecked import GATE_LIMIT
from evolve.report.answer import alarms, cost_card, paid_card, rival_sentences, sure_card
from evolve.report.data import MemoryView, ReportData
from evolve.report.evolution_page import evolution_parts
from evolve.report.formats import FILTERS, is_smaller_than
from evolve.report.headline import caveats, headline
from evolve.report.holdings import STATES
from evolve.report.plots import accuracy_plot, loss_plot, stage_plot
from evolve.report.story_picture import story_svg
from evolve.report.trust_plot import trust_plot
from memory.ledger import publish_bytes

_HERE = Path(__file__).resolve().parent


def render(data: ReportData) -> str:
    """The page as text. A pure function of the record; the same record gives the same page."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    environment.filters.update(FILTERS)
    environment.filters["safe_svg"] = Markup  # our own drawings; the text in them is escaped
    environment.tests["smaller_than"] = is_smaller_than
    plots = {
        "accuracy": "" if data.overall is None else accuracy_plot(data.overall),
        "stages": stage_plot(data.stages),
        "loss": loss_plot(data.candidates),
        **_memory_plots(data.memory),
    }
    parts = evolution_parts(data)
    plots |= parts.plots
    return environment.get_template("report.html").render(
        data=data,
        css=Markup((_HERE / "report.css").read_text("utf-8")),  # noqa: S704  our own file
        plots={name: Markup(svg) for name, svg in plots.items()} | {"life": parts.life},  # noqa: S704  the text in them is escaped
        headline=headline(data),
        caveats=(*caveats(data), *rival_sentences(data)),
        cards=(paid_card(data), sure_card(data), cost_card(data)),
        alarms=alarms(data),
        gate_limit=GATE_LIMIT,
        sections=_sections(data),
        inert=_inert(data),
        splits=_splits(data),
        states=STATES,
        stage_seconds=sum(stage.seconds for stage in data.stages),
        prompt_tokens=sum(stage.prompt_tokens for stage in data.stages),
        output_tokens=sum(stage.output_tokens for stage in data.stages),
        trained_tokens=sum(stage.trained_tokens for stage in data.stages),
        **parts.values,
    )


def write_report(data: ReportData, path: Path) -> None:
    """Publish the page at `path`; a reader sees the old page or the whole new one. Raises OSError."""
    publish_bytes(path, render(data).encode("utf-8", "backslashreplace"))


def _memory_plots(memory: MemoryView | None) -> dict[str, str]:
    held = None if memory is None else memory.holdings
    return {
        "trust": "" if held is None else trust_plot(held.trust),
        "story": "" if held is None or held.story is None else story_svg(held.story),
    }


def _sections(data: ReportData) -> list[tuple[str, str]]:
    """(anchor, name) of the page's parts, for its navigation."""
    view = data.evolution
    parts = [
        ("accuracy", "Accuracy", True),
        ("gate", "Gate", True),
        ("candidates", "Candidates", True),
        ("lineage", "Lineage", True),
        ("archive", "Archive", bool(view.heat)),
        ("novelty", "Novelty", bool(view.num_generations)),
        ("changed", "Changed results", bool(view.changed)),
        ("problems", "Problems", True),
        ("harvest", "Data", True),
        ("talk", "Talk", True),
        ("memory", "Memory", True),
        ("cost", "Cost", True),
        ("run", "Configuration", True),
    ]
    return [(anchor, name) for anchor, name, is_there in parts if is_there]


def _splits(data: ReportData) -> list[str]:
    names: dict[str, None] = {}
    for family in data.families:
        names.update(dict.fromkeys(split for split, _ in family.problems))
    return list(names)


def _inert(data: ReportData) -> str:
    """A sentence about phases that were paid for and did nothing; empty when there is none."""
    idle = []
    if sum(talk.num_critiques for talk in data.talk) and not sum(talk.num_valid_critiques for talk in data.talk):
        idle.append("no critique was valid")
    if sum(talk.num_revisions for talk in data.talk) and not sum(talk.num_changed for talk in data.talk):
        idle.append("no revision changed an answer")
    return f"The talking was inert: {' and '.join(idle)}." if idle else ""
