"""Marks that stand in table cells: an interval around zero, and a bar of parts."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.report.headline import signed
from evolve.report.svg import line, marker, picture

_WIDTH, _HEIGHT = 180.0, 22.0


def interval_mark(
    low: float, mean: float, high: float, reach: float, *, is_shown: bool | None = None, wide: bool = False
) -> str:
    """An interval of a difference on a scale from -reach to reach, with zero as a line.

    `is_shown`: whether the claim counts as shown, which colours it; None: by the interval's own bounds.
    """
    width = 320.0 if wide else _WIDTH
    height = 34.0 if wide else _HEIGHT
    reach = max(reach, 1e-6)

    def x(value: float) -> float:
        return width / 2 + (width / 2 - 8.0) * max(-1.0, min(1.0, value / reach))

    shown = (low > 0.0) if is_shown is None else is_shown
    colour = "--good" if shown else "--bad" if high < 0.0 else "--soft"
    middle = height / 2
    words = f"{signed(100 * mean, 1)} points, 95% interval {signed(100 * low, 1)} to {signed(100 * high, 1)}"
    parts = [
        line([(4.0, middle), (width - 4.0, middle)], "--rule", width=0.8),
        line([(x(0.0), 2.0), (x(0.0), height - 2.0)], "--before", width=1.2),
        line([(x(low), middle), (x(high), middle)], colour, width=4.0 if wide else 2.6),
        marker(x(mean), middle, colour, 0, words, 7.0 if wide else 4.4),
    ]
    return picture(width, height, words, parts, "mark wide" if wide else "mark")


def reach_of(intervals: Sequence[tuple[float, float]]) -> float:
    """The scale on which all of these intervals fit, at least two points either way."""
    return max([0.02, *(abs(bound) for pair in intervals for bound in pair)]) * 1.05


def stacked_bar(parts: Sequence[tuple[float, str, str]], whole: float) -> str:
    """A bar of (value, variable of the page's colour, words), `whole` wide at most."""
    x, drawn, said = 0.0, [], []
    for value, colour, words in parts:
        width = _WIDTH * value / whole if whole > 0.0 else 0.0
        if width > 0.0:
            drawn.append(
                f'<rect x="{x:.1f}" y="4" width="{max(width, 0.6):.1f}" height="14" style="fill:var({colour})"/>'
            )
            said.append(words)
        x += width
    return picture(_WIDTH, _HEIGHT, ", ".join(said) or "nothing", drawn, "mark")
