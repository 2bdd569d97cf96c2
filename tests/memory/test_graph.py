"""Walks along problem, attempt, error, solution, outcome."""

from __future__ import annotations

from collections.abc import Sequence

from memory.graph import follow
from memory.types import Edge, Kind, Relation

KINDS = {
    "p": Kind.PROBLEM,
    "q": Kind.PROBLEM,
    "a": Kind.ATTEMPT,
    "e": Kind.ERROR,
    "s": Kind.SOLUTION,
    "o": Kind.OUTCOME,
}


def edge(source: str, relation: Relation, target: str) -> Edge:
    return Edge(source=source, relation=relation, target=target)


STORY = [
    edge("p", Relation.ATTEMPTED, "a"),
    edge("a", Relation.FAILED_WITH, "e"),
    edge("e", Relation.RESOLVED_BY, "s"),
    edge("s", Relation.LED_TO, "o"),
]


def walk(starts: Sequence[str], edges: Sequence[Edge] = STORY, max_hops: int = 2) -> list[tuple[str, str, int]]:
    steps = follow(
        starts,
        lambda ids: [edge for edge in edges if edge.source in ids],
        lambda ids: {id: KINDS[id] for id in ids},
        max_hops,
    )
    return [(step.start, step.edge.target, step.num_hops) for step in steps]


def test_a_problem_leads_to_its_attempt_and_through_it_to_the_error() -> None:
    assert walk(["p"]) == [("p", "a", 1), ("p", "e", 2)]


def test_a_walk_does_not_go_on_from_an_error_that_other_problems_share() -> None:
    assert ("p", "s", 3) not in walk(["p"], max_hops=5)


def test_starting_at_the_error_gives_what_resolved_it() -> None:
    assert walk(["e"]) == [("e", "s", 1)]


def test_what_several_starts_reach_belongs_to_the_best_of_them_and_comes_once() -> None:
    shared = [edge("p", Relation.RESOLVED_BY, "s"), edge("q", Relation.RESOLVED_BY, "s")]
    assert walk(["q", "p"], shared) == [("q", "s", 1)]


def test_edges_that_tell_no_story_are_not_followed() -> None:
    assert walk(["p"], [edge("p", Relation.CONTRADICTS, "s"), edge("p", Relation.SUPERSEDES, "q")]) == []


def test_circles_end() -> None:
    circle = [edge("p", Relation.ATTEMPTED, "a"), edge("a", Relation.LED_TO, "p"), edge("a", Relation.LED_TO, "a")]
    assert walk(["p"], circle, max_hops=9) == [("p", "a", 1)]


def test_no_starts_no_steps() -> None:
    assert walk([]) == []
