"""What a new session reads, and the counts over a memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memory.brief import estimated_tokens
from memory.ledger import GENESIS
from memory.store import Memory
from memory.types import Kind, Namespace, Relation
from tests.memory.doubles import APPLES, EMBEDDER, HERE, PEARS, edge, evidence, failed, note, solved, use

ELSEWHERE = Namespace(team="acme")


@pytest.fixture
def memory(tmp_path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", EMBEDDER) as opened:
        yield opened


def test_an_empty_memory_says_so(memory) -> None:
    assert memory.brief(10) == "Memory is empty."
    assert memory.brief(0) == ""
    assert memory.stats().head == memory.head == GENESIS


def test_a_brief_tells_counts_solutions_errors_and_patterns_within_its_tokens(memory) -> None:
    for number in range(3):
        memory.remember(*solved(f"What is {number} + 1?", str(number + 1)))
        memory.remember(*failed(f"What is {number} + 1?", "99", task_type="riddle"))
    error, fix = note(Kind.ERROR, "timeout after 30 s", "failed"), note(Kind.SOLUTION, "raise the limit", "passed")
    memory.remember([error, fix], [edge(error, Relation.RESOLVED_BY, fix)])
    memory.remember([note(Kind.ERROR, "timeout after 30 s", episode="e2")])
    memory.remember([note(Kind.ERROR, "disk full", episode=episode) for episode in ("e1", "e2")])
    (pattern,) = memory.remember([note(Kind.PATTERN, "add one", "passed")])
    memory.verify(pattern, evidence(), episode="e2")
    memory.remember([note(Kind.DECISION, "use metric units")])
    text = memory.brief(400)
    assert text.startswith("Memory of 6 problems of 2 types: 4 solved and checked, 4 known failures.")
    assert "Error met in 2 episodes: timeout after 30 s Resolved by: raise the limit" in text
    assert "Error met in 2 episodes: disk full Not resolved." in text
    assert "Pattern: add one" in text
    assert "Decided: use metric units" in text
    assert "riddle: 3 problems, 0 solutions, 3 failures." in text
    assert "Solved: Question: What is 2 + 1? Answer: 3" in text
    for max_tokens in range(0, 200, 7):
        short = memory.brief(max_tokens)
        assert estimated_tokens(short) <= max_tokens or not short
        assert text.startswith(short)
    with pytest.raises(ValueError, match="max_tokens"):
        memory.brief(-1)


def test_a_brief_counts_tokens_as_it_is_told(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    assert memory.brief(1, count_tokens=lambda text: 0) == memory.brief(10_000)
    assert memory.brief(10_000, count_tokens=lambda text: 10_001) == ""


def test_a_brief_stays_in_its_namespaces(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*solved(PEARS, "6", namespace=ELSEWHERE))
    assert "pears" not in memory.brief(500, HERE)
    assert "apples" not in memory.brief(500, ["acme/*/*"])
    assert "apples" in memory.brief(500)
    assert memory.brief(500, ["nobody/*/*"]) == "Memory is empty."


def test_a_brief_leaves_out_what_was_retired_or_superseded(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.retire(solved(APPLES, "5")[0][1].experience.id, "")
    assert "Solved" not in memory.brief(500)
    assert "0 solved and checked" in memory.brief(500)


def test_the_worth_of_notes_is_told_once_both_sides_were_measured(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    id = solved(APPLES, "5")[0][1].experience.id
    memory.used(use(id, success=True, episode="e1"))
    assert "Right with notes" not in memory.brief(500)
    memory.used(use(id, success=False, episode="e2", shown=(), followed=(), withheld=(id,)))
    assert "Right with notes: 1 of 1; with notes held out: 0 of 1." in memory.brief(500)


def test_tokens_are_estimated_on_the_high_side() -> None:
    assert [estimated_tokens(text) for text in ("", "a", "a b c", "abcdefgh")] == [0, 1, 3, 2]


def test_stats_count_by_kind_type_level_and_namespace(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*failed(PEARS, "7", task_type="riddle", namespace=ELSEWHERE))
    id = solved(APPLES, "5")[0][0].experience.id
    memory.retire(id, "")
    stats = memory.stats()
    assert stats.by_kind == {"attempt": 1, "error": 1, "problem": 2, "solution": 1}
    assert stats.by_task_type == {"riddle": 3, "sum": 2}
    assert stats.by_namespace == {"acme/default/default": 3, "default/default/default": 2}
    assert stats.by_level == {"observed": 1, "retired": 1, "verified": 3}
    assert (stats.num_verified, stats.num_failed, stats.num_edges, stats.num_retired) == (1, 1, 3, 1)
    assert (stats.num_experiences, stats.num_events) == (5, 3)
