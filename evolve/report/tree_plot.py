"""Who descends from whom: base models at the left, specialists in the column of the generation they were seated in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from evolve.report.data import GenerationView, SpecialistView
from evolve.report.svg import text

_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _MARGIN, _HEAD = 172.0, 52.0, 54.0, 22.0, 4.0, 24.0


class _Box(NamedTuple):
    x: float
    y: float

    @property
    def middle(self) -> float:
        return self.y + _BOX_H / 2


def tree_plot(generations: Sequence[GenerationView], specialists: Sequence[SpecialistView]) -> str:
    """One <svg> element of its natural size, or empty where nobody was ever seated.

    A solid line: whose weights it started from. A dashed one: whose traces it learned from.
    """
    if not generations:
        return ""
    engines = list(dict.fromkeys([*(seat.engine for seat in generations[0].seats), *(s.engine for s in specialists)]))
    last = max(generation.number for generation in generations)
    boxes, height = _places(engines, specialists)
    width = _MARGIN * 2 + (last + 1) * _BOX_W + last * _GAP_X
    words = f"Lines of descent of {len(specialists)} specialists over {last} generations"
    parts = [
        f'<svg class="tree" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{words}; the table below says the same.">'
    ]
    for generation in generations:
        x = _MARGIN + generation.number * (_BOX_W + _GAP_X)
        parts.append(text(x, 15.0, "base models" if generation.number == 0 else f"generation {generation.number}"))
    for specialist in specialists:
        parts += _lines(specialist, boxes)
    family = {seat.engine: seat.family for seat in generations[0].seats}
    seated = _seated(generations)
    for engine in engines:
        in_use = seated.get((engine, None), ())
        parts += _box(boxes[f"{engine} base"], engine, family.get(engine, ""), _when(in_use, last), last in in_use)
    for specialist in specialists:
        numbers = seated.get((specialist.engine, specialist.adapter), ())
        about = specialist.niche or ("every task" if specialist.role == "proposer" else specialist.role)
        parts += _box(boxes[specialist.name], specialist.name, about, _when(numbers, last), last in numbers)
    return "\n".join([*parts, "</svg>"])


def _places(engines: Sequence[str], specialists: Sequence[SpecialistView]) -> tuple[dict[str, _Box], float]:
    """Every engine has a lane as high as its fullest generation."""
    boxes: dict[str, _Box] = {}
    top = _HEAD
    for engine in engines:
        boxes[f"{engine} base"] = _Box(_MARGIN, top)
        rows: dict[int, int] = {}
        for one in specialists:
            if one.engine == engine:
                row = rows.get(one.generation, 0)
                rows[one.generation] = row + 1
                x = _MARGIN + one.generation * (_BOX_W + _GAP_X)
                boxes[one.name] = _Box(x, top + row * (_BOX_H + _GAP_Y))
        top += max([1, *rows.values()]) * (_BOX_H + _GAP_Y)
    return boxes, top


def _seated(generations: Sequence[GenerationView]) -> dict[tuple[str, str | None], tuple[int, ...]]:
    found: dict[tuple[str, str | None], tuple[int, ...]] = {}
    for generation in generations:
        for seat in generation.seats:
            for adapter in (seat.adapter, *(adapter for _, adapter in seat.helpers)):
                key = (seat.engine, adapter)
                found[key] = (*found.get(key, ()), generation.number)
    return found


def _when(numbers: Sequence[int], last: int) -> str:
    if not numbers:
        return "not seated"
    if numbers[-1] == last:
        return f"seated since {numbers[0]}" if numbers[0] != last else "seated now"
    return f"seated in {numbers[0]}" if len(numbers) == 1 else f"seated in {numbers[0]} to {numbers[-1]}"


def _lines(one: SpecialistView, boxes: Mapping[str, _Box]) -> Iterator[str]:
    target = boxes[one.name]
    started = [name for name in one.inherits if name in boxes] or [f"{one.engine} base"]
    read = [name for name in one.parents if name in boxes and name not in started and name != one.name]
    for name in read:
        yield from _line(boxes[name], target, f"{one.name} learned from traces of {name}", "read", boxes)
    for name in started:
        yield from _line(boxes[name], target, f"{one.name} started from {name}", "started", boxes)


def _line(start: _Box, end: _Box, words: str, css: str, boxes: Mapping[str, _Box]) -> Iterator[str]:
    left, right = start.x + _BOX_W, end.x
    if right <= left:
        return
    y1, y2 = start.middle, end.middle
    is_free = not any(left < box.x < right and abs(box.y - start.y) < _BOX_H for box in boxes.values() if box != end)
    if is_free and y1 == y2:
        path = f"M{left:g} {y1:g}H{right:g}"
    elif right - left <= _GAP_X + 1.0:
        middle = (left + right) / 2
        path = f"M{left:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {right:g} {y2:g}"
    else:  # past the boxes between them, in the room below their row
        below = start.y + _BOX_H + _GAP_Y / 2
        half = _GAP_X / 2
        path = (
            f"M{left:g} {y1:g}C{left + half:g} {y1:g} {left + half / 2:g} {below:g} {left + _GAP_X:g} {below:g}"
            f"H{right - _GAP_X:g}C{right - half / 2:g} {below:g} {right - half:g} {y2:g} {right:g} {y2:g}"
        )
    yield f'<path class="{css}" d="{path}"><title>{escape(words)}</title></path>'


def _box(box: _Box, name: str, about: str, when: str, is_seated: bool) -> Iterator[str]:
    yield f'<g class="{"node seated" if is_seated else "node"}">'
    yield f"<title>{escape(name)}: {escape(about)}, {when}</title>"
    yield f'<rect x="{box.x:g}" y="{box.y:g}" width="{_BOX_W:g}" height="{_BOX_H:g}" rx="6"/>'
    # An inner <svg> cuts off what its width cannot hold, whatever the font.
    yield f'<svg x="{box.x + 10:g}" y="{box.y:g}" width="{_BOX_W - 16:g}" height="{_BOX_H:g}">'
    yield text(0.0, 17.0, name, css="name")
    yield text(0.0, 32.0, about)
    yield text(0.0, 46.0, when)
    yield "</svg></g>"
