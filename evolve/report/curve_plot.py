"""Accuracy by generation as lines with intervals, and small plots of one measure each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evolve.report.evolution import Curve, CurveKind
from evolve.report.headline import share
from evolve.report.svg import line, marker, picture, text, ticks

_WIDTH, _HEIGHT = 480.0, 310.0
_LEFT, _RIGHT, _TOP, _BASE = 38.0, 14.0, 12.0, 268.0
_DODGE = 6.0
_ORDER: tuple[CurveKind, ...] = (
    "vote", "weighted_vote", "council", "self_consistency", "best_single", "members", "arm", "solo", "constant",
)  # fmt: skip
_LOOK: dict[CurveKind, tuple[tuple[str, ...], float, str]] = {
    "vote": (("--series-1",), 2.6, ""),
    "weighted_vote": (("--series-1",), 1.8, "7 2"),
    "council": (("--series-4",), 2.0, ""),
    "self_consistency": (("--series-2",), 1.8, "6 3"),
    "best_single": (("--series-3",), 1.6, ""),
    "members": (("--series-5",), 1.6, "2 3"),
    "arm": (("--series-2", "--series-3", "--series-5"), 1.6, "8 3 2 3"),
    "solo": (("--before",), 1.3, ""),
    "constant": (("--soft",), 1.4, "2 4"),
}


class Look(NamedTuple):
    """How a curve is drawn."""

    colour: str
    width: float
    dash: str
    shape: int


def looks(curves: Sequence[Curve]) -> list[tuple[Curve, Look]]:
    """Curves in the order of the legend, the primary one first, each with its look."""
    counts: dict[str, int] = {}
    found = []
    for number, curve in enumerate(sorted(curves, key=lambda curve: _ORDER.index(curve.kind))):
        colours, width, dash = _LOOK[curve.kind]
        turn = counts.get(curve.kind, 0)
        counts[curve.kind] = turn + 1
        found.append((curve, Look(colours[turn % len(colours)], width, dash, number)))
    return found


def swatch(look: Look) -> str:
    """The look of a curve, for the legend."""
    parts = [line([(1.0, 7.0), (27.0, 7.0)], look.colour, width=look.width, dash=look.dash)]
    if look.dash != "2 4":
        parts.append(marker(14.0, 7.0, look.colour, look.shape, ""))
    return f'<svg class="swatch" width="28" height="14" viewBox="0 0 28 14" aria-hidden="true">{"".join(parts)}</svg>'


def curves_plot(curves: Sequence[Curve]) -> str:
    """Every method by generation with 95% intervals. Empty: no curve has a point."""
    drawn = [(curve, look) for curve, look in looks(curves) if curve.points]
    if not drawn:
        return ""
    points = [point for curve, _ in drawn for point in curve.points]
    numbers = sorted({point.generation for point in points})
    marks = ticks(min(p.low for p in points), max(p.high for p in points))
    x, y = _scale_x(numbers, len(drawn)), _scale_y(marks, _TOP, _BASE)
    parts = []
    for mark in marks:
        parts.append(line([(_LEFT, y(mark)), (_WIDTH - _RIGHT, y(mark))], "--rule", width=0.8))
        parts.append(text(_LEFT - 7.0, y(mark) + 4.0, share(mark), anchor="end"))
    for number in numbers:
        parts.append(text(x(number, None), _BASE + 20.0, f"generation {number}" if len(numbers) < 5 else f"{number}",
                          anchor="middle"))  # fmt: skip
    if len(numbers) >= 5:
        parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, _BASE + 38.0, "generation", anchor="middle"))
    for turn, (curve, look) in reversed(list(enumerate(drawn))):  # the primary one is drawn last, above the others
        parts += _curve(curve, look, turn, x, y)
    return picture(_WIDTH, _HEIGHT, _alt(drawn), parts)


def small_plot(
    title: str,
    points: Mapping[int, tuple[float, float | None, float | None]],
    *,
    reference: Mapping[int, float] | None = None,
    alarm: Sequence[int] = (),
    digits: int = 2,
) -> str:
    """One measure by generation: (value, low, high), the last two None without an interval. Empty: no points.

    Args:
        title: what a screen reader reads first.
        points: by generation.
        reference: what chance alone would show, dashed.
        alarm: generations whose marker is drawn as an alarm.
        digits: after the point.
    """
    if not points:
        return ""
    width, height, left, top, base = 240.0, 132.0, 40.0, 10.0, 104.0
    around = [value for triple in points.values() for value in triple if value is not None]
    marks = ticks(min([*around, *(reference or {}).values()]), max([*around, *(reference or {}).values()]), 4)
    numbers = sorted(points)
    step = (width - left - 28.0) / max(1, len(numbers) - 1)
    place = {number: left + 14.0 + step * index for index, number in enumerate(numbers)}
    if len(numbers) == 1:
        place = {numbers[0]: (left + width) / 2}
    y = _scale_y(marks, top, base)
    digits = max(digits, 3 if len(marks) > 1 and marks[1] - marks[0] < 0.0095 else 0)
    parts = []
    for mark in marks:
        parts.append(line([(left, y(mark)), (width - 6.0, y(mark))], "--rule", width=0.8))
        parts.append(text(left - 6.0, y(mark) + 4.0, share(mark, digits), anchor="end"))
    if reference:
        known = [(place[number], y(value)) for number, value in sorted(reference.items()) if number in place]
        parts.append(line(known, "--series-2", width=1.4, dash="4 3"))
    parts.append(line([(place[number], y(points[number][0])) for number in numbers], "--after", width=1.8))
    for number in numbers:
        value, low, high = points[number]
        if low is not None and high is not None:
            parts.append(line([(place[number], y(low)), (place[number], y(high))], "--after", width=1.4))
        colour = "--bad" if number in alarm else "--after"
        parts.append(marker(place[number], y(value), colour, 0, f"generation {number}: {share(value, digits)}", 3.6))
        parts.append(text(place[number], base + 20.0, str(number), anchor="middle"))
    values = ", ".join(f"generation {number} {share(points[number][0], digits)}" for number in numbers)
    return picture(width, height, f"{title}: {values}", parts)


class _ScaleX(NamedTuple):
    places: dict[int, float]
    room: float
    num: int

    def __call__(self, number: int, turn: int | None) -> float:
        dodge = 0.0 if turn is None else (turn - (self.num - 1) / 2) * min(_DODGE, self.room / (self.num + 1))
        return self.places[number] + dodge


class _ScaleY(NamedTuple):
    low: float
    high: float
    top: float
    base: float

    def __call__(self, value: float) -> float:
        return self.base - (self.base - self.top) * (value - self.low) / max(self.high - self.low, 1e-9)


def _scale_x(numbers: Sequence[int], num_curves: int) -> _ScaleX:
    room = (_WIDTH - _LEFT - _RIGHT) / len(numbers)
    places = {number: _LEFT + room * (index + 0.5) for index, number in enumerate(numbers)}
    return _ScaleX(places, room, num_curves)


def _scale_y(marks: Sequence[float], top: float, base: float) -> _ScaleY:
    low, high = marks[0], marks[-1]
    return _ScaleY(low - (high == low) * 0.5, high + (high == low) * 0.5, top, base)


def _curve(curve: Curve, look: Look, turn: int, x: _ScaleX, y: _ScaleY) -> list[str]:
    points = sorted(curve.points, key=lambda point: point.generation)
    if curve.kind == "constant":
        return [line([(_LEFT, y(points[0].mean)), (_WIDTH - _RIGHT, y(points[0].mean))], look.colour,
                     width=look.width, dash=look.dash)]  # fmt: skip
    at = [(x(point.generation, turn), y(point.mean)) for point in points]
    parts = [line(at, look.colour, width=look.width, dash=look.dash)] if len(at) > 1 else []
    for point, (left, middle) in zip(points, at, strict=True):
        parts.append(line([(left, y(point.low)), (left, y(point.high))], look.colour, width=1.2))
        words = (
            f"{curve.method}, generation {point.generation}: {share(point.mean, 3)}, "
            f"95% interval {share(point.low)} to {share(point.high)}, n = {point.n}"
        )
        parts.append(marker(left, middle, look.colour, look.shape, words, 5.0 if curve.kind == "vote" else 3.8))
    return parts


def _alt(drawn: Sequence[tuple[Curve, Look]]) -> str:
    facts = []
    for curve, _ in drawn:
        first, last = curve.points[0], curve.points[-1]
        change = f"{share(first.mean)}" if first == last else f"{share(first.mean)} to {share(last.mean)}"
        facts.append(f"{curve.method} {change}")
    return f"Accuracy on AUDIT by generation: {'; '.join(facts)}."
