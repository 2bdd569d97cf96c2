"""Plots as inline SVG that takes its colours and its type from the page, so that light and dark both read."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import TYPE_CHECKING, Any

from evolve.report.data import AccuracyRow, CandidateView, StageView
from evolve.report.measure import Accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib wants literal colours; these stand for the page's own and are exchanged in the finished SVG.
_INK, _FAINT, _BEFORE, _AFTER = "#010203", "#040506", "#070809", "#0a0b0c"
_SERIES = ("#0d0e0f", "#101112", "#131415", "#161718", "#191a1b", "#1c1d1e")
_VARIABLES = {_INK: "--ink", _FAINT: "--rule", _BEFORE: "--before", _AFTER: "--after"} | {
    colour: f"--series-{index}" for index, colour in enumerate(_SERIES, start=1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "evomesh",  # ids are the same in every run, so one record makes one page
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
}


def accuracy_plot(row: AccuracyRow) -> str:
    """Each method before and after as a dot with its 95% interval; the best constant as a line. Empty: no numbers."""
    comparisons = [comparison for comparison in row.comparisons if comparison.before or comparison.after]
    if not comparisons:
        return ""
    with _themed():
        figure, [axes] = _figure(height_in=0.7 + 0.46 * len(comparisons))
        if row.constant is not None and row.constant.accuracy.mean is not None:
            axes.axvline(row.constant.accuracy.mean, color=_INK, linewidth=1.0, linestyle=(0, (2, 3)))
            axes.text(row.constant.accuracy.mean, -0.55, " best constant", va="bottom", fontsize=8)
        for index, comparison in enumerate(comparisons):
            _dot(axes, comparison.before, index - 0.14, _BEFORE, "before" if index == 0 else None)
            _dot(axes, comparison.after, index + 0.14, _AFTER, "after" if index == 0 else None)
        axes.set_yticks(range(len(comparisons)), [comparison.method for comparison in comparisons])
        axes.set_ylim(len(comparisons) - 0.5, -0.6)
        axes.set_xlim(left=0.0)
        axes.set_xlabel("accuracy, with 95% intervals")
        axes.grid(axis="x", linewidth=0.6)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, handletextpad=0.3)
        said = "; ".join(f"{one.method} {_said(one.before)} to {_said(one.after)}" for one in comparisons)
        return _svg(figure, "accuracy", f"Accuracy before and after: {said}")


def stage_plot(stages: Sequence[StageView]) -> str:
    """Seconds and tokens of every stage, side by side. Empty: no stages."""
    if not stages:
        return ""
    with _themed():
        figure, [left, right] = _figure(height_in=0.7 + 0.26 * len(stages), num_panels=2)
        names, rows = [stage.name for stage in stages], range(len(stages))
        left.barh(rows, [stage.seconds for stage in stages], color=_AFTER, height=0.6)
        left.set_xlabel("seconds")
        output = [stage.output_tokens for stage in stages]
        right.barh(rows, output, color=_AFTER, height=0.6, label="output")
        trained = [stage.trained_tokens for stage in stages]
        right.barh(rows, trained, left=output, color=_BEFORE, height=0.6, label="trained on")
        right.set_xlabel("tokens")
        right.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        right.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, handlelength=1.0)
        left.set_yticks(rows, names)
        left.set_ylim(len(stages) - 0.5, -0.5)
        for axes in (left, right):
            axes.grid(axis="x", linewidth=0.6)
            axes.set_axisbelow(True)
        return _svg(figure, "stages", "Seconds and tokens of every stage; the table below says the same.")


def loss_plot(candidates: Sequence[CandidateView]) -> str:
    """Training loss by step, one line a candidate; a quarantined one is dashed. Empty: no curve to draw."""
    drawn = [candidate for candidate in candidates if candidate.loss_curve]
    if not drawn:
        return ""
    with _themed():
        # The legend stands beside the curves, so the plot has to be as high as the legend is long.
        figure, [axes] = _figure(height_in=max(2.6, 0.6 + 0.19 * len(drawn)))
        for index, candidate in enumerate(drawn):
            steps, losses = zip(*candidate.loss_curve, strict=True)
            dashes = "solid" if candidate.status == "ok" else "dashed"
            colour = _SERIES[index % len(_SERIES)]
            axes.plot(steps, losses, color=colour, linewidth=1.6, linestyle=dashes, label=candidate.name)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")
        axes.grid(axis="y", linewidth=0.6)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure, "loss", f"Training loss by step of {', '.join(one.name for one in drawn)}")


def _dot(axes: Axes, value: Accuracy | None, y: float, colour: str, label: str | None) -> None:
    if value is None or value.mean is None or value.interval is None:
        return
    low, high = value.interval
    axes.plot([low, high], [y, y], color=colour, linewidth=2.0, solid_capstyle="round")
    axes.plot([value.mean], [y], "o", color=colour, markersize=6, label=label)


def _themed() -> AbstractContextManager[None]:
    """Everything from the figure to its file must be made inside: artists take their style when they are made."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def _figure(height_in: float, num_panels: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, height_in), layout="constrained")
    panels = figure.subplots(1, num_panels, sharey=True, squeeze=False)
    return figure, list(panels[0])


def _said(value: Accuracy | None) -> str:
    return "not measured" if value is None or value.mean is None else f"{value.mean:.2f}"


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an <svg> element: no prolog, no metadata, ids that differ from plot to plot, words for `alt`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font(-family)?: [^;\"]*", _font, text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def _font(match: re.Match[str]) -> str:
    """Keep the size, drop the family: the page's own type is used."""
    size = re.search(r"([\d.]+)px", match.group(0))
    return f"font-size: {size.group(1)}px" if size else "font-family: inherit"
