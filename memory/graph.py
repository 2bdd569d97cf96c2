"""Walks over the experience graph: what solved this, what was tried and failed, what followed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from memory.types import Edge, Kind, Relation

FORWARD = frozenset({Relation.ATTEMPTED, Relation.FAILED_WITH, Relation.RESOLVED_BY, Relation.LED_TO})
"""The relations along which a story goes on: problem -> attempt -> error -> solution -> outcome."""

EdgesFrom = Callable[[Sequence[str]], Iterable[Edge]]
KindOf = Callable[[Sequence[str]], dict[str, Kind]]


class Step(NamedTuple):
    """An experience that a walk reached: from which start, along which last edge, after how many."""

    start: str
    edge: Edge
    num_hops: int


def follow(starts: Sequence[str], edges_from: EdgesFrom, kind_of: KindOf, max_hops: int = 2) -> list[Step]:
    """What came of `starts` (ids, best first), nearest first, each experience once.

    A walk passes through attempts alone, which belong to one problem. It may end at an error but does not go on
    from there: many problems share an error, and its resolutions are those of other problems. Start at the error
    itself to get them.
    """
    steps: list[Step] = []
    seen = set(starts)
    frontier = {start: start for start in starts}
    for num_hops in range(1, max_hops + 1):
        if not frontier:
            break
        rank = {node: place for place, node in enumerate(frontier)}
        edges = [edge for edge in edges_from(list(frontier)) if edge.relation in FORWARD]
        edges.sort(key=lambda edge: rank[edge.source])  # stable: the order of writing decides among equals
        reached: dict[str, str] = {}
        for edge in edges:
            if edge.target not in seen:
                seen.add(edge.target)
                reached[edge.target] = frontier[edge.source]
                steps.append(Step(reached[edge.target], edge, num_hops))
        kinds = kind_of(list(reached))
        frontier = {node: start for node, start in reached.items() if kinds.get(node) is Kind.ATTEMPT}
    return steps
