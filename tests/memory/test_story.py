"""The story around an experience: what is in it, how it reads, and a picture in which nothing lies on anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.report.layers import BOX_HEIGHT, BOX_WIDTH, Layout, lay_out
from evolve.report.story_page import story_page
from evolve.report.story_picture import _two_lines, _width, story_svg
from memory.database import StoreError
from memory.store import Memory
from memory.story import MAX_BRANCH, Node, Story, as_text, most_connected, readable, shortened, story
from memory.types import Edge, Experience, Kind, Level, Observation, Relation, Standing
from tests.memory.doubles import APPLES, EMBEDDER, HERE, PEARS, edge, note, use

PROBLEM = note(Kind.PROBLEM, APPLES)
ATTEMPT = note(Kind.ATTEMPT, f"{APPLES} Tried: 9", "failed")
ERROR = note(Kind.ERROR, "Wrong: 9", "failed")
SOLUTION = note(Kind.SOLUTION, f"{APPLES} Answer: 5", "passed")
REPEAT = note(Kind.SOLUTION, f"{APPLES} It is 5", episode="e2")
OUTCOME = note(Kind.OUTCOME, "right", "passed")
OLD = note(Kind.SOLUTION, "perhaps 5")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", EMBEDDER) as found:
        yield found


def tell(memory: Memory) -> None:
    memory.remember(
        [PROBLEM, ATTEMPT, ERROR, SOLUTION, REPEAT, OUTCOME, OLD],
        [
            edge(PROBLEM, Relation.ATTEMPTED, ATTEMPT),
            edge(ATTEMPT, Relation.FAILED_WITH, ERROR),
            edge(ERROR, Relation.RESOLVED_BY, SOLUTION),
            edge(SOLUTION, Relation.LED_TO, OUTCOME),
            edge(SOLUTION, Relation.SUPERSEDES, OLD),
        ],
    )
    memory.merge(id_of(REPEAT), id_of(SOLUTION), "says the same")


def id_of(one: Observation) -> str:
    return one.experience.id


def test_the_whole_story_is_found_from_any_part_of_it(memory: Memory) -> None:
    tell(memory)
    everything = {id_of(one) for one in (PROBLEM, ATTEMPT, ERROR, SOLUTION, REPEAT, OUTCOME, OLD)}
    for asked in everything:
        found = story(memory, asked)
        assert {node.id for node in found.nodes} == everything
        assert (found.nodes[0].id, found.nodes[0].distance) == (asked, 0)
        assert found.roots == (id_of(PROBLEM),)
        assert not found.is_cut


def test_it_says_what_solved_it_what_failed_and_what_followed(memory: Memory) -> None:
    tell(memory)
    found = story(memory, id_of(PROBLEM))
    assert found.solved_by == (id_of(SOLUTION),)
    assert found.failed == (id_of(ATTEMPT),)
    assert set(found.followed) == {id_of(one) for one in (ATTEMPT, ERROR, SOLUTION, OUTCOME)}
    assert found.merges == ((id_of(REPEAT), id_of(SOLUTION)),)
    assert [check.verifier for check in found.node(id_of(SOLUTION)).checks] == ["exact"]


def test_a_story_ends_at_so_many_nodes_and_says_what_is_left_out(memory: Memory) -> None:
    tries = [note(Kind.ATTEMPT, f"try {number}") for number in range(40)]
    memory.remember([PROBLEM, *tries], [edge(PROBLEM, Relation.ATTEMPTED, one) for one in tries])
    found = story(memory, id_of(PROBLEM))
    assert len(found.nodes) == 1 + MAX_BRANCH
    assert found.nodes[0].num_hidden == 40 - MAX_BRANCH
    assert found.is_cut
    assert len(story(memory, id_of(PROBLEM), max_nodes=5).nodes) == 5
    assert f"and {40 - MAX_BRANCH} more" in as_text(found)
    for bad in (0, 501):
        with pytest.raises(ValueError, match="max_nodes"):
            story(memory, id_of(PROBLEM), max_nodes=bad)
    with pytest.raises(StoreError, match="search for it"):
        story(memory, "nobody")


def test_what_was_rolled_back_is_no_part_of_the_story(memory: Memory) -> None:
    tell(memory)
    false = note(Kind.SOLUTION, "7", source="mallory")
    memory.remember([false], [edge(false, Relation.SUPERSEDES, SOLUTION)])
    memory.rollback(source="mallory")
    assert id_of(false) not in story(memory, id_of(SOLUTION)).by_id


def test_it_reads_as_a_tree_with_trust_and_checks_and_tells_nothing_twice(memory: Memory) -> None:
    tell(memory)
    memory.remember([], [edge(PROBLEM, Relation.RESOLVED_BY, SOLUTION)])
    text = as_text(story(memory, id_of(SOLUTION)))
    assert text.startswith(f"problem {id_of(PROBLEM)[:8]} [observed]")
    assert "check: exact passed (d)" in text
    assert re.search(r"solution \w{8} \[verified, trust 0\.\d\d, 1 passed 0 failed\] <<<", text)
    assert text.count("It is 5") == 1
    assert "(told above)" in text
    assert f"Solved by: {id_of(SOLUTION)[:8]}" in text


def test_a_circle_of_edges_is_told_once(memory: Memory) -> None:
    one, other = note(Kind.DECISION, "a"), note(Kind.DECISION, "b")
    memory.remember([one, other], [edge(one, Relation.LED_TO, other), edge(other, Relation.LED_TO, one)])
    found = story(memory, id_of(other))
    assert len(found.roots) == 1
    assert as_text(found).count("(told above)") == 1


def test_the_most_used_is_the_story_worth_telling_then_the_most_connected(memory: Memory) -> None:
    assert most_connected(memory, HERE) is None
    tell(memory)
    assert most_connected(memory, HERE) == id_of(SOLUTION)
    other = note(Kind.SOLUTION, PEARS, "passed")
    memory.remember([other, note(Kind.PROBLEM, PEARS)], [edge(note(Kind.PROBLEM, PEARS), Relation.RESOLVED_BY, other)])
    memory.used(use(id_of(other), success=True, episode="e9"))
    assert most_connected(memory, HERE) == id_of(other)
    assert most_connected(memory, ["default/other/*"]) is None


def test_nothing_that_a_text_holds_can_hide_or_reorder_what_stands_beside_it() -> None:
    assert readable("a\n\tb\u202ec\x1b[2J\ud800") == "a b·c·[2J·"
    assert shortened("question " * 20 + "answer", 30).endswith("answer")
    assert len(shortened("x" * 200, 30)) == 30


def test_the_picture_is_xml_that_holds_no_markup_of_a_text(memory: Memory) -> None:
    evil = note(Kind.PROBLEM, "</text><script>alert(1)</script>\x00]]> & \u202e \"'")
    memory.remember([evil, SOLUTION], [edge(evil, Relation.RESOLVED_BY, SOLUTION)])
    found = story(memory, id_of(evil))
    for text in (story_svg(found, alone=True), story_page(found)):
        assert "<script" not in text
        assert "\x00" not in text
    root = ElementTree.fromstring(story_svg(found, alone=True))
    assert root.get("width") is not None
    assert "prefers-color-scheme:dark" in story_svg(found, alone=True)
    assert story_svg(found) == story_svg(found)


def crossings(layout: Layout) -> list[tuple[str, str]]:
    """Lines that pass through a box on their level parts."""
    bad = []
    for line in layout.lines:
        for one, other in zip(line.points[1::2], line.points[2::2], strict=False):
            for box in layout.boxes:
                is_beside = other.x <= box.x or one.x >= box.x + BOX_WIDTH
                if not is_beside and box.y < one.y < box.y + BOX_HEIGHT:
                    bad.append((line.source, box.id))
    return bad


def drawn(kinds: list[Kind], links: list[tuple[int, int, Relation]]) -> Story:
    things = [Experience(kind=kind, text=f"{kind} {place}") for place, kind in enumerate(kinds)]
    edges = dict.fromkeys(
        Edge(source=things[one % len(things)].id, relation=relation, target=things[other % len(things)].id)
        for one, other, relation in links
    )
    nodes = [Node(id=one.id, experience=one, standing=Standing(level=Level.OBSERVED), distance=0) for one in things]
    return Story(id=things[0].id, nodes=tuple(nodes), edges=tuple(edges), roots=(things[0].id,))


LINKS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from(list(Relation)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=30), st.lists(LINKS, max_size=40))
def test_no_box_lies_on_another_no_line_runs_through_one_and_all_lie_within(
    kinds: list[Kind], links: list[tuple[int, int, Relation]]
) -> None:
    told = drawn(kinds, links)
    layout = lay_out(told)
    assert {box.id for box in layout.boxes} == {node.id for node in told.nodes}
    for one, other in combinations(layout.boxes, 2):
        assert one.column != other.column or abs(one.y - other.y) >= BOX_HEIGHT
    assert crossings(layout) == []
    places = [*((box.x, box.y) for box in layout.boxes), *(point for line in layout.lines for point in line.points)]
    assert all(0 <= x <= layout.width and 0 <= y <= layout.height for x, y in places)
    ElementTree.fromstring(story_svg(told, alone=True))


@given(st.text(max_size=300))
def test_a_text_takes_two_lines_at_most_and_each_has_room(text: str) -> None:
    lines = _two_lines(readable(text))
    assert len(lines) <= 2
    assert all(_width(line) <= 185.0 for line in lines)
