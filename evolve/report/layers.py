"""Where the boxes and lines of a story go: columns from left to right by kind, few crossings, no line through a box."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from memory.story import Story
from memory.types import Kind, Relation

BOX_WIDTH, BOX_HEIGHT = 200.0, 78.0
GUTTER, GAP, MARGIN = 72.0, 16.0, 14.0
HEAD = 26.0
"""Room above the boxes for the names of the columns."""

_LANE = 12.0
"""Height that a line takes where it passes a column."""

_SWEEPS = 12

COLUMNS: tuple[tuple[Kind, ...], ...] = (
    (Kind.PROBLEM,),
    (Kind.ATTEMPT,),
    (Kind.ERROR,),
    (Kind.SOLUTION,),
    (Kind.OUTCOME,),
    (Kind.PATTERN, Kind.DECISION),
)
"""From left to right; a column that would be empty is left out."""


class Point(NamedTuple):
    """In pixels, from the left and from the top."""

    x: float
    y: float


class Box(NamedTuple):
    """Where an experience is drawn: its left upper corner and its column, from 0."""

    id: str
    x: float
    y: float
    column: int


class Line(NamedTuple):
    """How two experiences are joined: points from left to right, in pairs between which it passes a column level.

    `relation` None: the first repeats the second. `forward`: its arrow is at the last point, else at the first.
    `loops`: both ends are on the right side of one column.
    """

    source: str
    target: str
    relation: Relation | None
    points: tuple[Point, ...]
    forward: bool
    loops: bool


class Layout(NamedTuple):
    """A whole picture; `titles` are the names of its columns."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    titles: tuple[str, ...]


class _Link(NamedTuple):
    source: str
    target: str
    relation: Relation | None


class _Lane(NamedTuple):
    """A place that a link keeps free in a column it passes."""

    link: _Link
    column: int


_Item = str | _Lane


def lay_out(story: Story) -> Layout:
    """Place everything (Sugiyama's layers: barycentres order a column, lanes keep long lines off the boxes)."""
    column_of, titles = _columns(story)
    links = [_Link(edge.source, edge.target, edge.relation) for edge in story.edges if edge.source != edge.target]
    links += [_Link(duplicate, into, None) for duplicate, into in story.merges]
    paths = {link: _path(link, column_of) for link in links}
    columns: list[list[_Item]] = [[] for _ in titles]
    for node in story.nodes:
        columns[column_of[node.id]].append(node.id)
    for path in paths.values():
        for item in path:
            if isinstance(item, _Lane):
                columns[item.column].append(item)
    beside = _beside(paths.values(), column_of)
    columns = _ordered(columns, beside)
    centres = _centres(columns, beside)
    boxes = tuple(
        Box(node.id, _left(column_of[node.id]), centres[node.id] - BOX_HEIGHT / 2, column_of[node.id])
        for node in story.nodes
    )
    lines = tuple(_lines(paths, column_of, centres))
    bottom = max(centre + (BOX_HEIGHT if isinstance(item, str) else _LANE) / 2 for item, centre in centres.items())
    has_loop = any(line.loops and column_of[line.source] == len(titles) - 1 for line in lines)
    width = _left(len(titles) - 1) + BOX_WIDTH + MARGIN + (GUTTER if has_loop else 0.0)
    return Layout(width, bottom + MARGIN, boxes, lines, titles)


def _columns(story: Story) -> tuple[dict[str, int], tuple[str, ...]]:
    kinds = {node.experience.kind for node in story.nodes}
    used = [tuple(kind for kind in column if kind in kinds) for column in COLUMNS]
    used = [column for column in used if column]
    place = {kind: number for number, column in enumerate(used) for kind in column}
    titles = tuple(" and ".join(f"{kind.value}s" for kind in column) for column in used)
    return {node.id: place[node.experience.kind] for node in story.nodes}, titles


def _path(link: _Link, column_of: Mapping[str, int]) -> list[_Item]:
    """The ends of a link from left to right, and the lanes between them."""
    left, right = sorted((link.source, link.target), key=lambda id: column_of[id])
    lanes = [_Lane(link, column) for column in range(column_of[left] + 1, column_of[right])]
    return [left, *lanes, right]


_Beside = dict[_Item, tuple[list[_Item], list[_Item]]]
"""What an item is joined to on its left, and on its right; lines within a column do not count."""


def _beside(paths: Iterable[Sequence[_Item]], column_of: Mapping[str, int]) -> _Beside:
    beside: _Beside = {}
    for path in paths:
        if _column(path[0], column_of) == _column(path[-1], column_of):
            continue
        for one, other in pairwise(path):
            beside.setdefault(one, ([], []))[1].append(other)
            beside.setdefault(other, ([], []))[0].append(one)
    return beside


def _column(item: _Item, column_of: Mapping[str, int]) -> int:
    return column_of[item] if isinstance(item, str) else item.column


def _ordered(columns: Sequence[Sequence[_Item]], beside: _Beside) -> list[list[_Item]]:
    """Each column in the order of the middle of what its items are joined to, swept to and fro."""
    ordered = [list(column) for column in columns]
    for sweep in range(_SWEEPS):
        side = sweep % 2
        steps = range(1, len(ordered)) if side == 0 else range(len(ordered) - 2, -1, -1)
        for number in steps:
            there = ordered[number - 1 if side == 0 else number + 1]
            place = {item: (rank + 0.5) / len(there) for rank, item in enumerate(there)}
            own = {item: (rank + 0.5) / len(ordered[number]) for rank, item in enumerate(ordered[number])}
            middle = {item: _middle(beside.get(item, ([], []))[side], place, own[item]) for item in ordered[number]}
            ordered[number].sort(key=middle.__getitem__)
    return ordered


def _middle(joined: Sequence[_Item], place: Mapping[_Item, float], otherwise: float) -> float:
    return fmean(place[item] for item in joined) if joined else otherwise


def _centres(columns: Sequence[Sequence[_Item]], beside: _Beside) -> dict[_Item, float]:
    """Heights of the middles: each item as near to what it is joined to as its column's order leaves room for."""
    centres: dict[_Item, float] = {}
    for column in columns:
        centres.update(zip(column, _apart(column, [0.0] * len(column)), strict=True))
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 else reversed(columns):
            wanted = [_middle([*left, *right], centres, centres[item]) for item, left, right in _with(column, beside)]
            centres.update(zip(column, _apart(column, wanted), strict=True))
    top = min(centre - _height(item) / 2 for item, centre in centres.items())
    return {item: centre - top + HEAD + MARGIN for item, centre in centres.items()}


def _with(column: Sequence[_Item], beside: _Beside) -> Iterator[tuple[_Item, list[_Item], list[_Item]]]:
    for item in column:
        yield (item, *beside.get(item, ([], [])))


def _apart(column: Sequence[_Item], wanted: Sequence[float]) -> list[float]:
    """Heights in this order and far enough apart, nearest to `wanted` in squares (pool adjacent violators)."""
    offsets = [0.0]
    for one, other in pairwise(column):
        offsets.append(offsets[-1] + (_height(one) + _height(other)) / 2 + GAP)
    blocks: list[tuple[float, int]] = []  # mean of what its members want, without their offsets, and how many
    for height, offset in zip(wanted, offsets, strict=False):
        blocks.append((height - offset, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (high, count), (low, more) = blocks[-2:]
            blocks[-2:] = [((high * count + low * more) / (count + more), count + more)]
    bases = [mean for mean, count in blocks for _ in range(count)]
    return [base + offset for base, offset in zip(bases, offsets, strict=False)]


def _height(item: _Item) -> float:
    return BOX_HEIGHT if isinstance(item, str) else _LANE


def _left(column: int) -> float:
    return MARGIN + column * (BOX_WIDTH + GUTTER)


def _lines(
    paths: Mapping[_Link, Sequence[_Item]], column_of: Mapping[str, int], centres: Mapping[_Item, float]
) -> Iterator[Line]:
    ports = _ports(paths, column_of, centres)
    for link, path in paths.items():
        first, last = path[0], path[-1]
        loops = _column(first, column_of) == _column(last, column_of)
        start = Point(_left(_column(first, column_of)) + BOX_WIDTH, ports[link, 0])
        end = Point(_left(_column(last, column_of)) + (BOX_WIDTH if loops else 0.0), ports[link, 1])
        points = [start]
        for lane in path[1:-1]:
            left = _left(_column(lane, column_of))
            points += [Point(left, centres[lane]), Point(left + BOX_WIDTH, centres[lane])]
        yield Line(link.source, link.target, link.relation, (*points, end), first == link.source, loops)


def _ports(
    paths: Mapping[_Link, Sequence[_Item]], column_of: Mapping[str, int], centres: Mapping[_Item, float]
) -> dict[tuple[_Link, int], float]:
    """Heights at which each line leaves and arrives: the lines of one side spread over it, in the order of where
    they go."""
    sides: dict[tuple[_Item, bool], list[tuple[float, int, _Link, int]]] = {}
    for number, (link, path) in enumerate(paths.items()):
        loops = _column(path[0], column_of) == _column(path[-1], column_of)
        sides.setdefault((path[0], True), []).append((centres[path[1]], number, link, 0))
        sides.setdefault((path[-1], loops), []).append((centres[path[-2]], number, link, 1))
    ports: dict[tuple[_Link, int], float] = {}
    for (item, _), ends in sides.items():
        for place, (_, _, link, end) in enumerate(sorted(ends, key=lambda one: one[:2]), start=1):
            ports[link, end] = centres[item] - BOX_HEIGHT / 2 + BOX_HEIGHT * place / (len(ends) + 1)
    return ports
