"""Pieces of hand-drawn plots: SVG in the page's own colours, every text escaped, every plot with an alt text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape


def picture(width: float, height: float, alt: str, parts: Iterable[str], kind: str = "plot") -> str:
    """An <svg> element that screen readers read as `alt`; it takes the width it is given."""
    words = escape(alt)
    return "\n".join(
        [
            f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{words}">',
            *parts,
            "</svg>",
        ]
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "soft") -> str:
    """One line of text; `y` is its base line."""
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(points: Iterable[tuple[float, float]], colour: str, *, width: float = 1.5, dash: str = "") -> str:
    """A line through points; `colour` is the name of a variable of the page."""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashes = f";stroke-dasharray:{dash}" if dash else ""
    return f'<path d="M{path}" style="fill:none;stroke:var({colour});stroke-width:{width:g}{dashes}"/>'


def marker(x: float, y: float, colour: str, shape: int, words: str, radius: float = 4.0) -> str:
    """A circle, square, diamond or triangle that says `words` when pointed at."""
    style = f'style="fill:var({colour})"'
    title = f"<title>{escape(words)}</title>"
    if shape % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {style}>{title}</circle>'
    corners = {
        1: [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        2: [(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)],
        3: [(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    }[shape % 4]
    path = "L".join(f"{x + radius * dx:.1f} {y + radius * dy:.1f}" for dx, dy in corners)
    return f'<path d="M{path}Z" {style}>{title}</path>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values that cover `low` to `high`, at most `most` steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    step = next(
        mantissa * 10.0**power
        for power in range(math.floor(math.log10(span)) - 2, math.floor(math.log10(span)) + 2)
        for mantissa in (1, 2, 5)
        if span / (mantissa * 10.0**power) <= most - 1
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]
