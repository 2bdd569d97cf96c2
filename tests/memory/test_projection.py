"""From events to tables: whatever happened, deriving everything anew gives the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations

import pytest

from memory.config import MemoryConfig
from memory.database import StoreError
from memory.events import append_event
from memory.projection import apply
from memory.store import Memory
from memory.trust import TrustRules
from memory.types import Artefact, Kind, Level, Relation
from tests.memory.doubles import (
    APPLES,
    EMBEDDER,
    PEARS,
    derived_tables,
    edge,
    evidence,
    failed,
    note,
    shown,
    solved,
    texts,
    thing,
    use,
    words_found,
)

PROBLEM, SOLUTION = (one.experience.id for one in solved(APPLES, "5")[0])


@pytest.fixture
def memory(tmp_path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", EMBEDDER) as opened:
        opened._connection.pragma("synchronous", "OFF")
        yield opened


STEPS: dict[str, Callable[[Memory], object]] = {
    "verify": lambda memory: memory.verify(SOLUTION, evidence("failed", digest="x"), source="eve", episode="e7"),
    "use": lambda memory: memory.used(use(SOLUTION, success=False, episode="e8")),
    "merge": lambda memory: memory.merge(thing(Kind.SOLUTION, "five").id, SOLUTION, "the same"),
    "erase": lambda memory: memory.erase(SOLUTION),
    "again": lambda memory: memory.remember(*solved(APPLES, "5", source="eve", episode="e9")),
    "rollback": lambda memory: memory.rollback(source="eve"),
}
"""Verbs whose order might matter, applied in every order of four."""


@pytest.mark.parametrize("first", STEPS)
def test_a_rebuild_gives_the_same_tables_whatever_the_order_of_the_verbs(tmp_path, first) -> None:
    others = [name for name in STEPS if name != first]
    for number, order in enumerate(permutations(others, 3)):
        if number % 5:
            continue
        with Memory.open(tmp_path / str(number), EMBEDDER) as memory:
            memory._connection.pragma("synchronous", "OFF")
            memory.scrub = lambda: True  # type: ignore[method-assign]
            memory.remember(*solved(APPLES, "5", source="ann"))
            memory.remember([note(Kind.SOLUTION, "five", "passed", source="bob")])
            for name in (first, *order):
                try:
                    STEPS[name](memory)
                except StoreError:
                    assert "erase" in (first, *order)
            before = derived_tables(memory)
            memory.rebuild()
            assert derived_tables(memory) == before, (first, *order)


def test_a_rebuild_makes_the_words_and_the_counts_anew(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*failed(PEARS, "9"))
    memory.erase(PROBLEM)
    before, tables = words_found(memory, ["apples", "pears", "5"]), derived_tables(memory)
    with memory.reading() as connection:
        connection.execute("DELETE FROM words WHERE rowid = 3")
        connection.execute("UPDATE terms SET num_entries = 99")
        connection.execute("DELETE FROM standings; DELETE FROM edges")
    assert words_found(memory, ["apples", "pears", "5"]) != before
    memory.rebuild()
    assert (words_found(memory, ["apples", "pears", "5"]), derived_tables(memory)) == (before, tables)


def test_an_event_of_a_later_version_is_refused_not_passed_over(memory) -> None:
    with memory.reading() as connection:
        event = append_event(connection, "prophesied", {}, 0.0)
        with pytest.raises(StoreError, match=r"got 'prophesied'; use a newer evomesh"):
            apply(connection, event, MemoryConfig())
    with pytest.raises(StoreError, match="use a newer evomesh"):
        memory.rebuild()


def test_other_rules_of_trust_derive_every_standing_anew_and_the_former_bring_it_back(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
        before = derived_tables(memory)
    strict = MemoryConfig(trust=TrustRules(trusted_verifiers=("judge:*",)))
    with Memory.open(tmp_path, EMBEDDER, config=strict) as memory:
        assert shown(memory, APPLES) == []
        assert memory.standing(SOLUTION).level is Level.CANDIDATE
        tables = derived_tables(memory)
        memory.rebuild()
        assert derived_tables(memory) == tables
        assert memory.check() == 1
    with Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
        assert shown(reader, APPLES) == []  # the rules are the writer's
        assert reader.check() == 1
    with Memory.open(tmp_path, EMBEDDER) as memory:
        assert shown(memory, APPLES) == []  # without a word about them, the rules stay
    with Memory.open(tmp_path, EMBEDDER, config=MemoryConfig()) as memory:
        assert derived_tables(memory) == before


# Who supersedes whom


def superseding(memory: Memory, *, by: str, verdict: str | None) -> Level:
    """What becomes of ann's verified answer when somebody writes that another supersedes it."""
    old = note(Kind.SOLUTION, f"{APPLES} 5", "passed", source="ann")
    new = note(Kind.SOLUTION, f"{APPLES} 6", verdict, source=by, episode="e2")  # type: ignore[arg-type]
    memory.remember([old])
    memory.remember([new], [edge(new, Relation.SUPERSEDES, old)])
    return memory.standing(old.experience.id).level


@pytest.mark.parametrize(
    ("by", "verdict", "level"),
    [
        ("bob", None, Level.VERIFIED),
        ("bob", "failed", Level.VERIFIED),
        ("bob", "unknown", Level.VERIFIED),
        ("bob", "passed", Level.RETIRED),
        ("ann", None, Level.RETIRED),
        ("bob, ann", None, Level.RETIRED),
        ("", None, Level.VERIFIED),
    ],
)
def test_only_checks_or_its_own_author_let_another_supersede_an_entry(memory, by, verdict, level) -> None:
    assert superseding(memory, by=by, verdict=verdict) is level
    before = derived_tables(memory)
    memory.rebuild()
    assert derived_tables(memory) == before


def test_nobody_is_nobodys_author(memory) -> None:
    old, new = note(Kind.SOLUTION, "5", "passed", source=""), note(Kind.SOLUTION, "6", source="")
    memory.remember([old])
    memory.remember([new], [edge(new, Relation.SUPERSEDES, old)])
    assert memory.standing(old.experience.id).level is Level.VERIFIED


def test_what_was_superseded_comes_back_when_its_successor_fails_or_goes(memory) -> None:
    assert superseding(memory, by="bob", verdict="passed") is Level.RETIRED
    old, new = (thing(Kind.SOLUTION, f"{APPLES} {answer}").id for answer in "56")
    memory.verify(new, evidence("failed", digest="x"), episode="e3")
    assert memory.standing(old).level is Level.VERIFIED
    memory.verify(new, evidence("passed", digest="y"), episode="e4")
    assert memory.standing(old).level is Level.RETIRED
    memory.erase(new)
    assert memory.standing(old).level is Level.VERIFIED
    assert texts(shown(memory, APPLES)) == [f"{APPLES} 5"]


def test_two_that_supersede_each_other_are_derived_alike_at_once_and_anew(memory) -> None:
    one, other = note(Kind.SOLUTION, "5", "passed"), note(Kind.SOLUTION, "6", "passed", source="bob")
    memory.remember([one, other], [edge(one, Relation.SUPERSEDES, other), edge(other, Relation.SUPERSEDES, one)])
    before = derived_tables(memory)
    memory.rebuild()
    assert derived_tables(memory) == before


# What an erase and a rollback leave


def test_an_entry_that_others_were_merged_into_gives_them_back_when_it_is_erased(memory) -> None:
    twin = thing(Kind.SOLUTION, "five").id
    memory.remember(*solved(APPLES, "5"))
    memory.remember([note(Kind.SOLUTION, "five", "passed", source="bob")])
    before = memory.standing(twin)
    memory.merge(twin, SOLUTION, "the same")
    memory.erase(SOLUTION)
    assert memory.standing(twin) == before
    tables = derived_tables(memory)
    memory.rebuild()
    assert derived_tables(memory) == tables


def test_artefacts_outlive_rollbacks(memory) -> None:
    memory.remember(*solved(APPLES, "5", episode="e1"))
    memory.record_artefact(Artefact(id="set", kind="dataset", made_from=("e1",)))
    memory.rollback(since=1)
    assert memory.standing(SOLUTION).level is Level.RETIRED
    assert [one.id for one in memory.erase(SOLUTION).artefacts] == ["set"]


def test_a_source_that_is_part_of_anothers_name_is_another(memory) -> None:
    memory.remember(*solved(APPLES, "5", source="anna"))
    assert memory.rollback(source="ann") == 0
    memory.remember(*solved(PEARS, "6", source="bob, ann"))
    assert memory.rollback(source="ann") == 2
    assert len(shown(memory, APPLES)) == 1
