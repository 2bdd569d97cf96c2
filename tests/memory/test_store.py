"""Memory as its users see it: what is kept, believed and taken back, and what cannot go wrong silently."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from memory.database import FILE_NAME, StoreError
from memory.embed import EmbedderError, HashedNgramEmbedder
from memory.ledger import GENESIS, AlreadyLocked
from memory.store import MAX_TEXT_CHARS, Memory, Submission
from memory.types import Artefact, Kind, Level, Namespace, Relation, Use
from tests.memory.doubles import (
    APPLES,
    EMBEDDER,
    HERE,
    PEARS,
    Broken,
    derived_tables,
    edge,
    evidence,
    failed,
    files_with,
    note,
    raw,
    shown,
    solved,
    texts,
    thing,
    use,
)

PROBLEM, SOLUTION = (one.experience.id for one in solved(APPLES, "5")[0])


@pytest.fixture
def memory(tmp_path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", EMBEDDER) as opened:
        yield opened


def level(memory: Memory, id: str) -> Level | None:
    standing = memory.standing(id)
    return None if standing is None else standing.level


# What is remembered


def test_remembering_twice_changes_nothing(memory) -> None:
    observations, edges = failed(APPLES, "9")
    ids = memory.remember(observations, edges)
    before = memory.stats()
    assert memory.remember(observations + observations, edges) == ids + ids
    assert memory.stats() == before
    assert ids == [seen.experience.id for seen in observations]
    assert (before.num_experiences, before.num_edges, before.num_events) == (3, 2, 1)


def test_what_is_stored_reads_back_equal_and_knows_its_neighbours(memory) -> None:
    where = {"namespace": Namespace(team="acme"), "error_code": "E5", "environment": (("vllm", "0.32"), ("a", "ü"))}
    observations, edges = failed(f"{APPLES}\u2028\0 ü 🎲", "9", **where)
    problem, attempt, error = (seen.experience for seen in observations)
    memory.remember(observations, edges)
    assert [memory.get(one.id) for one in (problem, attempt, error)] == [problem, attempt, error]
    assert memory.edges_of(attempt.id) == edges
    assert memory.neighbours(attempt.id) == [problem, error]
    assert memory.find(attempt.id[:12]) == [attempt.id]


def test_a_further_episode_or_source_is_a_further_observation_of_one_entry(memory) -> None:
    for source, episode in (("ann", "e1"), ("ann", "e2"), ("bob", "e2"), ("ann", "e1"), ("bob, cid", "e2")):
        memory.remember([note(Kind.SOLUTION, "5", source=source, episode=episode)])
    id = thing(Kind.SOLUTION, "5").id
    said = [(seen.source, seen.episode) for seen in memory.observations_of(id)]
    assert said == [("ann", "e1"), ("ann", "e2"), ("bob", "e2"), ("cid", "e2")]
    assert memory.stats().num_experiences == 1
    assert level(memory, id) is Level.CANDIDATE


def test_the_namespace_belongs_to_what_an_entry_is(memory) -> None:
    ids = memory.remember([note(Kind.PROBLEM, APPLES), note(Kind.PROBLEM, APPLES, namespace=Namespace(team="acme"))])
    assert len(set(ids)) == 2
    assert memory.stats().by_namespace == {"acme/default/default": 1, "default/default/default": 1}


@pytest.mark.parametrize(
    "text", ["", " \t\n", "a\ud800b", "x" * (MAX_TEXT_CHARS + 1)], ids=["none", "space", "lone", "long"]
)
def test_text_that_cannot_be_kept_is_refused_and_nothing_of_the_call_is_stored(memory, text) -> None:
    with pytest.raises(ValueError, match=r"observation 1 \(problem\)"):
        memory.remember([note(Kind.PROBLEM, "fine"), note(Kind.PROBLEM, text)])
    assert memory.stats().num_experiences == 0
    assert memory.head == GENESIS


@pytest.mark.parametrize("field", ["source", "episode"])
def test_names_that_are_no_unicode_are_refused_as_texts_are(memory, field) -> None:
    with pytest.raises(ValueError, match="valid Unicode"):
        memory.remember([note(Kind.PROBLEM, "fine", **{field: "a\ud800b"})])
    assert memory.stats().num_experiences == 0


def test_binary_text_of_valid_characters_is_kept_as_it_is(memory) -> None:
    text = "".join(map(chr, range(1, 0xD800, 7))) + "\0\x1b[0m"
    memory.remember([note(Kind.SOLUTION, text, "passed")])
    found = memory.get(thing(Kind.SOLUTION, text).id)
    assert found is not None
    assert found.text == text


def test_the_longest_allowed_text_is_kept_whole(memory) -> None:
    longest = note(Kind.SOLUTION, APPLES + " y" * ((MAX_TEXT_CHARS - len(APPLES)) // 2), "passed")
    memory.remember([longest])
    assert memory.get(longest.experience.id) == longest.experience


def test_an_edge_to_nowhere_is_refused_and_nothing_of_the_call_is_stored(memory) -> None:
    observations, edges = solved(APPLES, "5")
    with pytest.raises(StoreError, match="expected stored experiences at both ends"):
        memory.remember(observations[:1], edges)
    assert memory.head == GENESIS
    memory.remember(observations[:1])
    memory.remember(observations[1:], edges)
    assert len(shown(memory, APPLES)) == 1


def test_of_many_submissions_a_bad_one_is_refused_alone(memory) -> None:
    good, other = solved(APPLES, "5"), solved(PEARS, "6")
    orphan = Submission([note(Kind.PROBLEM, "lonely")], [edge(other[0][0], Relation.LED_TO, note(Kind.PROBLEM, "no"))])
    empty = Submission([note(Kind.PROBLEM, "fine"), note(Kind.PROBLEM, "")])
    done = memory.remember_many([Submission(*good), empty, orphan, Submission(*other)])
    assert [type(one) for one in (done[1], done[2])] == [ValueError, type(done[2])]
    assert isinstance(done[2], StoreError)
    assert done[0] == [seen.experience.id for seen in good[0]]
    assert done[3] == [seen.experience.id for seen in other[0]]
    assert memory.stats().num_experiences == 4
    assert memory.search("lonely fine", limit=9)[0].text not in ("lonely", "fine")
    before = derived_tables(memory)
    memory.rebuild()
    assert derived_tables(memory) == before


def test_a_vector_of_nan_is_refused_by_name_and_the_entry_stays(tmp_path) -> None:
    memory = Memory.open(tmp_path, Broken())
    memory.remember([note(Kind.PROBLEM, "fine"), note(Kind.PROBLEM, "nan")])
    with pytest.raises(EmbedderError, match="length nan"):
        memory.embed_pending()
    with pytest.raises(EmbedderError, match="length nan"):
        memory.close()  # and lets go of the store all the same
    with Memory.open(tmp_path, EMBEDDER) as healed:
        assert healed.stats().num_experiences == 2
        assert healed.embed_pending() == 2


def test_equal_histories_have_equal_heads_and_recollections(tmp_path) -> None:
    def live(directory: Path, *, interrupted: bool) -> tuple[str, str]:
        memory = Memory.open(directory, EMBEDDER)
        for number in range(12):
            story = solved if number % 2 else failed
            memory.remember(*story(f"What is {number} + 5 of the sums?", str(number), source=f"s{number}"))
            if interrupted and number % 5 == 0:
                memory.close()
                memory = Memory.open(directory, EMBEDDER)
                memory.remember(*story(f"What is {number} + 5 of the sums?", str(number), source=f"s{number}"))
        found = repr([shown(memory, f"What is {number} + 5 of the sums?", limit=9) for number in (4, 5, 40)])
        memory.close()
        with Memory.open(directory, EMBEDDER, readonly=True) as reader:
            again = repr([shown(reader, f"What is {number} + 5 of the sums?", limit=9) for number in (4, 5, 40)])
            assert again == found
            return reader.stats().head, found

    first = live(tmp_path / "a", interrupted=False)
    assert first == live(tmp_path / "b", interrupted=True)
    assert "Answer" in first[1]
    assert "Wrong" in first[1]


# What is believed


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], Level.OBSERVED),
        ([("exact", "passed")], Level.VERIFIED),
        ([("ann", "passed")], Level.CANDIDATE),
        ([("person:ann", "passed")], Level.CANDIDATE),
        ([("person:bob", "passed")], Level.VERIFIED),
        ([("gut feeling", "passed")], Level.CANDIDATE),
        ([("exact", "unknown")], Level.OBSERVED),
        ([("exact", "passed"), ("exact", "failed")], Level.CANDIDATE),
    ],
    ids=str,
)
def test_only_an_independent_passed_check_verifies_a_solution(memory, steps, expected) -> None:
    (id,) = memory.remember([note(Kind.SOLUTION, f"{APPLES} 5")])
    for number, (verifier, verdict) in enumerate(steps):
        memory.verify(id, evidence(verdict, verifier=verifier, digest=f"d{number}"), episode=f"e{number}")
    assert level(memory, id) is expected
    assert len(shown(memory, APPLES)) == (expected is Level.VERIFIED)


def test_a_check_that_is_reported_with_the_observation_counts_as_one_reported_later(tmp_path) -> None:
    with Memory.open(tmp_path / "a", EMBEDDER) as one, Memory.open(tmp_path / "b", EMBEDDER) as other:
        (id,) = one.remember([note(Kind.SOLUTION, "5", "passed")])
        other.remember([note(Kind.SOLUTION, "5")])
        assert one.standing(id) == other.verify(id, evidence("passed"), source="ann", episode="e1")
        assert one.checks_of(id) == other.checks_of(id) == [evidence("passed")]


def test_a_pattern_from_one_episode_is_not_verified_however_often_it_passed(memory) -> None:
    (id,) = memory.remember([note(Kind.PATTERN, "sums of odd numbers are even", "passed")])
    for number in range(5):
        memory.verify(id, evidence("passed", digest=str(number)), episode="e1")
    assert level(memory, id) is Level.CANDIDATE
    assert memory.verify(id, evidence("passed"), episode="e2").level is Level.VERIFIED


def test_a_followed_reuse_that_fails_demotes_and_only_more_than_repetition_restores(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.used(use(SOLUTION, success=False, episode="e2"))
    assert level(memory, SOLUTION) is Level.CANDIDATE
    assert memory.verify(SOLUTION, evidence(digest="again"), episode="e3").level is Level.CANDIDATE
    assert memory.verify(SOLUTION, evidence(digest="and again"), episode="e4").level is Level.VERIFIED


def test_a_source_cannot_raise_trust_without_end(memory) -> None:
    (id,) = memory.remember([note(Kind.SOLUTION, "5")])
    trust = [
        memory.verify(id, evidence(digest=str(number)), source="loud", episode=f"e{number}").trust
        for number in range(6)
    ]
    assert trust[0] < trust[1] < trust[2] == trust[5]
    assert memory.verify(id, evidence(digest="other"), source="quiet", episode="e9").trust > trust[5]


def test_verifying_twice_changes_nothing(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    first = memory.verify(SOLUTION, evidence(digest="x"), source="bob", episode="e2")
    head, tables = memory.head, derived_tables(memory)
    assert memory.verify(SOLUTION, evidence(digest="x"), source="bob", episode="e2") == first
    assert (memory.head, derived_tables(memory)) == (head, tables)


def test_the_same_use_twice_changes_nothing_and_unknown_ids_are_passed_over(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.used(use(SOLUTION, success=True, episode="e2"))
    head = memory.head
    memory.used(use(SOLUTION, success=True, episode="e2"))
    memory.used(use("gone", success=True, episode="e3"))
    assert memory.head == head
    standing = memory.standing(SOLUTION)
    assert standing is not None
    assert standing.num_uses == 1


# Merges


def test_a_merged_entry_stands_behind_the_other_and_lends_it_its_evidence(memory) -> None:
    memory.remember([note(Kind.SOLUTION, f"{APPLES} 5", "passed"), note(Kind.SOLUTION, f"{APPLES} five", "passed")])
    one, other = (thing(Kind.SOLUTION, f"{APPLES} {answer}").id for answer in ("5", "five"))
    before = [memory.standing(id) for id in (one, other)]
    memory.merge(other, one, "the same answer")
    merged, kept = memory.standing(other), memory.standing(one)
    assert (merged.level, merged.merged_into) == (Level.RETIRED, one)
    assert texts(shown(memory, APPLES)) == [f"{APPLES} 5"]
    assert kept.num_passed == 1  # the same check in the same episode is no second test
    memory.verify(other, evidence(digest="more"), episode="e7")
    assert memory.standing(one).num_passed == 2
    memory.unmerge(other)
    assert memory.standing(one) == before[0]
    assert memory.standing(other).num_passed == 2
    assert len(shown(memory, APPLES)) == 2


def test_merging_and_unmerging_leaves_everything_as_it_was(memory) -> None:
    for question in (APPLES, PEARS):
        memory.remember(*solved(question, "5"))
        memory.remember(*failed(question, "9"))
    ids = [seen.experience.id for seen in (*solved(APPLES, "5")[0], *failed(APPLES, "9")[0])]
    into = [seen.experience.id for seen in (*solved(PEARS, "5")[0], *failed(PEARS, "9")[0])]

    def state() -> tuple[object, ...]:
        found = [shown(memory, question, limit=16) for question in (APPLES, PEARS)]
        return found, [memory.standing(id) for id in (*ids, *into)], memory.edges_of(ids[0])

    before = state()
    for id, other in zip(ids, into, strict=True):
        memory.merge(id, other, "near")
    assert state() != before
    for id in ids:
        memory.unmerge(id)
    assert state() == before


def test_a_merged_problem_is_still_recognised_and_answered(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    (twin,) = memory.remember([note(Kind.PROBLEM, f"Tell me: {APPLES}")])
    memory.merge(PROBLEM, twin, "the same question")
    for question in (APPLES, f"Tell me: {APPLES}"):
        (found,) = shown(memory, question)
        assert (found.lane, found.same, found.experience_id) == ("fingerprint", True, SOLUTION)


def test_merges_that_make_no_sense_are_refused(memory) -> None:
    a, b, c = memory.remember([note(Kind.SOLUTION, text) for text in "abc"])
    memory.merge(a, b, "")
    memory.merge(b, c, "")
    head = memory.head
    for duplicate, into in ((a, a), (b, a), (c, a), (c, b)):
        with pytest.raises(ValueError, match="unmerge it first"):
            memory.merge(duplicate, into, "")
    memory.merge(a, b, "again")
    memory.unmerge(c)
    assert memory.head == head


@pytest.mark.parametrize(
    "act",
    [
        lambda memory: memory.verify("no such id", evidence()),
        lambda memory: memory.merge("no such id", PROBLEM, ""),
        lambda memory: memory.merge(PROBLEM, "no such id", ""),
        lambda memory: memory.unmerge("no such id"),
        lambda memory: memory.retire("no such id", ""),
        lambda memory: memory.restore("no such id"),
        lambda memory: memory.erase("no such id"),
    ],
)
def test_an_unknown_id_is_refused_and_changes_nothing(memory, act: Callable[[Memory], object]) -> None:
    memory.remember(*solved(APPLES, "5"))
    head = memory.head
    with pytest.raises(StoreError, match="expected the id of a stored experience"):
        act(memory)
    assert memory.head == head


# Taking back


def test_retiring_and_restoring_twice_changes_nothing_more(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    before = memory.standing(SOLUTION)
    for act, state in ((memory.retire, Level.RETIRED), (memory.restore, Level.VERIFIED)):
        act(SOLUTION, "because")
        head = memory.head
        act(SOLUTION, "because")
        assert (memory.head, level(memory, SOLUTION)) == (head, state)
    assert memory.standing(SOLUTION) == before


def test_what_is_of_no_use_retires_by_itself_and_may_be_restored(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    for number in range(3):
        memory.used(use(SOLUTION, success=False, episode=f"u{number}", followed=()))
    standing = memory.standing(SOLUTION)
    assert (standing.level, standing.reason) == (Level.RETIRED, "useless: 0 of 3 uses succeeded")
    memory.restore(SOLUTION, "the task had changed")
    assert level(memory, SOLUTION) is Level.VERIFIED


def poisoned(memory: Memory, *, with_poison: bool) -> None:
    """A story in which mallory meddles with everything, or the same story without him."""
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*failed(PEARS, "9", source="bob", episode="e2"))
    if with_poison:
        memory.remember(*solved(APPLES, "77", source="mallory", episode="m1"))
        memory.verify(SOLUTION, evidence("failed", digest="lie"), source="mallory", episode="m2")
        memory.verify(SOLUTION, evidence("failed", verifier="judge:mallory", digest="lie"), episode="m3")
        memory.remember([note(Kind.SOLUTION, f"Question: {APPLES}\nAnswer: 5", source="mallory", episode="m4")])
        old, new = solved(APPLES, "5")[0][1], note(Kind.SOLUTION, "78", "passed", source="mallory", episode="m5")
        memory.remember([new], [edge(new, Relation.SUPERSEDES, old)])
        memory.used(use(SOLUTION, success=False, episode="m6", verifier="judge:mallory"))
    memory.remember(*solved(PEARS, "6", source="bob", episode="e3"))
    memory.used(use(SOLUTION, success=True, episode="e4", verifier="judge:zoe"))


QUESTIONS = (APPLES, PEARS, "How many figs are left when four of five figs are eaten?")


def test_a_source_that_is_rolled_back_is_as_if_it_had_never_spoken(tmp_path) -> None:
    with Memory.open(tmp_path / "a", EMBEDDER) as memory, Memory.open(tmp_path / "b", EMBEDDER) as spared:
        poisoned(memory, with_poison=True)
        poisoned(spared, with_poison=False)
        ids = [one.experience_id for one in spared.search("apples pears question answer wrong tried", limit=99)]
        assert [memory.standing(id) for id in ids] != [spared.standing(id) for id in ids]
        assert (memory.rollback(source="mallory"), memory.rollback(source="judge:mallory")) == (4, 1)
        assert [memory.standing(id) for id in ids] == [spared.standing(id) for id in ids]
        for question in QUESTIONS:
            ours, theirs = shown(memory, question, limit=16), shown(spared, question, limit=16)
            assert [(one.experience_id, one.warning, one.level) for one in ours] == [
                (one.experience_id, one.warning, one.level) for one in theirs
            ]
            assert ours
        (lie,) = (seen.experience.id for seen in solved(APPLES, "77")[0][1:])
        assert memory.standing(lie).reason == "withdrawn: no report of it is left"
        assert memory.get(lie) is not None


def test_what_came_after_an_event_is_rolled_back_as_if_it_had_never_been(tmp_path) -> None:
    with Memory.open(tmp_path / "a", EMBEDDER) as memory, Memory.open(tmp_path / "b", EMBEDDER) as spared:
        for one in (memory, spared):
            one.remember(*solved(APPLES, "5"))
            one.remember(*failed(PEARS, "9"))
            one.remember([note(Kind.SOLUTION, "five", "passed")])
            one.merge(thing(Kind.SOLUTION, "five").id, SOLUTION, "the same")
        since = memory.stats().num_events + 1
        memory.unmerge(thing(Kind.SOLUTION, "five").id)
        memory.retire(SOLUTION, "by mistake")
        memory.remember(*solved(PEARS, "7"))
        memory.verify(SOLUTION, evidence("failed", digest="x"), episode="e8")
        memory.used(use(SOLUTION, success=False, episode="e9"))
        assert memory.rollback(since=since) > 0
        ids = [one.experience_id for one in spared.search("apples pears question answer wrong tried five", limit=99)]
        assert len(ids) == 6
        assert [memory.standing(id) for id in ids] == [spared.standing(id) for id in ids]
        for question in QUESTIONS:
            assert [one.experience_id for one in shown(memory, question)] == [
                one.experience_id for one in shown(spared, question)
            ]


@pytest.mark.parametrize("arguments", [{}, {"source": "a", "since": 1}, {"source": ""}])
def test_a_rollback_needs_a_source_or_an_event(memory, arguments) -> None:
    with pytest.raises(ValueError, match="give one"):
        memory.rollback(**arguments)


def test_a_second_rollback_bears_on_nothing(memory) -> None:
    memory.remember(*solved(APPLES, "5", source="mallory"))
    assert memory.rollback(source="mallory") == 2
    tables = derived_tables(memory)
    assert memory.rollback(source="mallory") == 0
    assert derived_tables(memory) == tables


def test_what_is_said_anew_after_a_rollback_counts_as_what_is_said_now(memory) -> None:
    memory.remember([note(Kind.SOLUTION, "5", source="ann")])
    id = thing(Kind.SOLUTION, "5").id
    memory.verify(id, evidence(), source="bob", episode="e2")
    memory.used(use(id, success=True, episode="e3", verifier="judge:zoe"))
    memory.rollback(since=2)
    memory.verify(id, evidence(), source="cid", episode="e2")
    memory.used(use(id, success=False, episode="e3", verifier="judge:yan", followed=()))
    before = memory.standing(id)
    assert (before.level, before.num_passed, before.num_uses) == (Level.VERIFIED, 1, 1)
    memory.rollback(source="bob")
    memory.rollback(source="judge:zoe")
    assert memory.standing(id) == before
    memory.rollback(source="cid")
    assert level(memory, id) is Level.OBSERVED


def test_what_two_report_stays_when_one_of_them_is_rolled_back(memory) -> None:
    memory.remember(*solved(APPLES, "5", source="ann"))
    memory.remember(*solved(APPLES, "5", source="bob"))
    memory.verify(SOLUTION, evidence(digest="other"), source="ann", episode="e5")
    memory.verify(SOLUTION, evidence(digest="other"), source="bob", episode="e5")
    memory.rollback(source="ann")
    assert memory.standing(SOLUTION).num_passed == 2
    assert len(shown(memory, APPLES)) == 1


# Erasing


SECRET = "Zanzibar quokka 4711 confidential"


def test_what_is_erased_is_found_in_no_file_and_nothing_else_is_harmed(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        for number in range(60):
            memory.remember(*solved(f"What is {number} plus one?", str(number + 1), source=f"s{number}"))
        observations, edges = solved(SECRET, "yes", source="ann", episode="e7")
        problem, solution = (seen.experience.id for seen in observations)
        memory.remember(observations, edges)
        memory.publish_index(force=True)
        assert len(shown(memory, SECRET)) == 1
        others = {id: (memory.get(id), memory.standing(id)) for id in memory.find("")}
        vectors = [EMBEDDER.embed([seen.experience.text])[0] for seen in observations]
        needles = [b"Zanzibar quokka", b"zanzibar", b"quokka", *(vector.astype("<f4").tobytes() for vector in vectors)]
        assert all(files_with(tmp_path, needle) for needle in needles)
        for id in (problem, solution):
            assert memory.erase(id).is_scrubbed
        assert [files_with(tmp_path, needle) for needle in needles] == [[]] * len(needles)
        memory.publish_index(force=True)
        assert [files_with(tmp_path, needle) for needle in needles] == [[]] * len(needles)
        assert shown(memory, SECRET) == []
        assert not [one for one in memory.search(SECRET, limit=200) if "Zanzibar" in one.text]
        assert memory.get(problem) is None
        assert memory.standing(problem) is None
        assert memory.edges_of(solution) == []
        assert {id: (memory.get(id), memory.standing(id)) for id in others if id not in (problem, solution)} == {
            id: found for id, found in others.items() if id not in (problem, solution)
        }
        assert shown(memory, "What is 7 plus one?")[0].text.endswith("Answer: 8")
        memory.check()
    assert [files_with(tmp_path, needle) for needle in needles] == [[]] * len(needles)


def test_erasing_many_leaves_no_copies_that_moving_pages_made(tmp_path) -> None:
    words = [f"quokka{number:03d}" for number in range(160)]
    said = [" ".join([word, *(f"{word}x{part}" for part in range(place % 12))]) for place, word in enumerate(words)]
    erased = np.random.default_rng(5).permutation(160).tolist()[:120]
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory._connection.pragma("synchronous", "OFF")
        memory.remember([note(Kind.PROBLEM, text) for text in said])
        memory.embed_pending()
        scrub = memory.scrub
        memory.scrub = lambda: True  # type: ignore[method-assign]
        for number in erased:
            memory.erase(thing(Kind.PROBLEM, said[number]).id)
        assert scrub()
        whole = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert [words[number] for number in erased if words[number].encode() in whole] == []
    assert all(word.encode() in whole for number, word in enumerate(words) if number not in erased)


def test_an_erase_lists_what_was_made_of_it(memory) -> None:
    memory.remember(*solved(APPLES, "5", episode="e1"))
    memory.remember(*solved(PEARS, "6", episode="e2"))
    artefacts = [
        Artefact(id="set a", kind="dataset", made_from=("e1", "e9")),
        Artefact(id="set b", kind="dataset", made_from=("e2",)),
        Artefact(id="adapter", kind="adapter", made_from=("set a", "set b")),
        Artefact(id="child", kind="adapter", made_from=("adapter",)),
        Artefact(id="reader", kind="dataset", made_from=("e5",)),
    ]
    for artefact in (*artefacts, *artefacts):
        memory.record_artefact(artefact)
    memory.used(Use(episode="e5", success=True, verifier="exact", shown=(SOLUTION,)))
    memory.used(Use(episode="e6", success=True, verifier="exact", withheld=(SOLUTION,)))
    done = memory.erase(SOLUTION)
    assert done.episodes == ("e1", "e5")
    assert [one.id for one in done.artefacts] == ["set a", "adapter", "child", "reader"]
    assert done.artefacts[0] == artefacts[0]


def test_what_is_remembered_again_after_an_erase_starts_anew(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.retire(SOLUTION, "bad")
    memory.erase(SOLUTION)
    memory.remember([note(Kind.SOLUTION, f"Question: {APPLES}\nAnswer: 5", source="bob", episode="e9")])
    standing = memory.standing(SOLUTION)
    assert (standing.level, standing.num_passed) == (Level.OBSERVED, 0)
    assert memory.edges_of(PROBLEM) == []
    before = derived_tables(memory)
    memory.rebuild()
    assert derived_tables(memory) == before


def test_a_reader_that_holds_the_pages_of_before_is_told_of(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember([note(Kind.PROBLEM, SECRET)])
        with Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
            with reader.reading() as connection:
                memory._connection.set_busy_timeout(50)
                connection.execute("BEGIN; SELECT count(*) FROM entries").fetchall()
                assert not memory.erase(thing(Kind.PROBLEM, SECRET).id).is_scrubbed
                connection.execute("COMMIT")
            assert reader.search(SECRET) == []
    assert files_with(tmp_path, b"Zanzibar") == []


def test_an_erase_that_a_crash_overtook_is_finished_by_the_next_writer(tmp_path) -> None:
    with Memory.open(tmp_path / "a", EMBEDDER) as memory:
        memory.remember([note(Kind.PROBLEM, SECRET)])
        memory.publish_index(force=True)
        memory.scrub = lambda: shutil.copytree(tmp_path / "a", tmp_path / "b") is None  # type: ignore[method-assign]
        memory._mirror.forget = lambda: None  # type: ignore[method-assign]
        memory.erase(thing(Kind.PROBLEM, SECRET).id)
    assert files_with(tmp_path / "b", b"Zanzibar")
    with Memory.open(tmp_path / "b", EMBEDDER) as survivor:
        assert survivor.get(thing(Kind.PROBLEM, SECRET).id) is None
        assert files_with(tmp_path / "b", b"Zanzibar") == []
        assert files_with(tmp_path / "b", EMBEDDER.embed([SECRET])[0].tobytes()) == []


# Another embedder


def test_another_embedder_takes_over_and_a_reader_with_the_former_is_refused(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
    other = HashedNgramEmbedder(dim=64)
    with Memory.open(tmp_path, other) as memory:
        memory.embed_pending()
        memory.publish_index()
        assert memory.stats().index.embedder == other.id
        assert memory.stats().index.is_active
        assert len(shown(memory, PEARS)) == 1
    with pytest.raises(StoreError, match="expected the active one"):
        Memory.open(tmp_path, EMBEDDER, readonly=True)


def test_an_embedder_that_changed_its_size_but_not_its_id_is_refused(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
    impostor = HashedNgramEmbedder(dim=64)
    impostor.id = EMBEDDER.id
    with pytest.raises(StoreError, match="expected vectors of 256 numbers, got 64"):
        Memory.open(tmp_path, impostor)


# One writer, many readers, crashes


def test_a_second_writer_is_refused_and_a_reader_sees_new_entries_at_once(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as writer:
        with pytest.raises(AlreadyLocked):
            Memory.open(tmp_path, EMBEDDER)
        with Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
            assert shown(reader, APPLES) == []
            writer.remember(*solved(APPLES, "5"))
            assert shown(reader, APPLES) == shown(writer, APPLES) != []
            writer.embed_pending()
            assert shown(reader, PEARS) == shown(writer, PEARS) != []
            writer.retire(SOLUTION, "")
            assert shown(reader, APPLES) == []


@pytest.mark.parametrize(
    "act",
    [
        lambda memory: memory.remember(*solved(PEARS, "6")),
        lambda memory: memory.verify(SOLUTION, evidence()),
        lambda memory: memory.used(use(SOLUTION, success=True, episode="e")),
        lambda memory: memory.merge(SOLUTION, PROBLEM, ""),
        lambda memory: memory.unmerge(SOLUTION),
        lambda memory: memory.retire(SOLUTION, ""),
        lambda memory: memory.restore(SOLUTION),
        lambda memory: memory.rollback(source="ann"),
        lambda memory: memory.erase(SOLUTION),
        lambda memory: memory.record_artefact(Artefact(id="a", kind="dataset", made_from=())),
        lambda memory: memory.rebuild(),
        lambda memory: memory.embed_pending(),
        lambda memory: memory.publish_index(),
    ],
)
def test_a_reader_can_change_nothing(tmp_path, act: Callable[[Memory], object]) -> None:
    with Memory.open(tmp_path, EMBEDDER) as writer:
        writer.remember(*solved(APPLES, "5"))
        with Memory.open(tmp_path, EMBEDDER, readonly=True) as reader, pytest.raises(StoreError, match="read-only"):
            act(reader)


def test_a_recall_sees_one_state_whatever_a_writer_does_meanwhile(tmp_path) -> None:
    observations, edges = solved(APPLES, "5")
    with Memory.open(tmp_path, EMBEDDER) as writer, Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
        writer.remember(observations, edges)
        writer.embed_pending()
        before = shown(reader, PEARS)
        retired = [writer.retire, writer.restore]
        places = []
        for place in range(1, 30):
            seen = 0

            def meddle(cursor, sql: str, bindings, *, place: int = place) -> bool:
                nonlocal seen
                seen += 1
                if seen == place:
                    for one in observations:
                        retired[0](one.experience.id, "in the middle")
                return True

            with reader.reading() as connection:
                connection.exec_trace = meddle
            found = shown(reader, PEARS)
            with reader.reading() as connection:
                connection.exec_trace = None
            if seen < place:
                break
            places.append(place)
            assert found in (before, shown(reader, PEARS))
            before = shown(reader, PEARS)
            retired.reverse()
        assert len(places) > 8


def test_a_recall_goes_well_though_what_it_found_is_erased_meanwhile(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as writer, Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
        writer._connection.set_busy_timeout(1)
        for place in range(2, 30, 3):
            observations, edges = solved(APPLES, "5")
            writer.remember(observations, edges)
            writer.embed_pending()
            before, seen = shown(reader, PEARS), 0

            def meddle(cursor, sql: str, bindings, *, place: int = place, observations=observations) -> bool:
                nonlocal seen
                seen += 1
                if seen == place:
                    for one in observations:
                        writer.erase(one.experience.id)
                return True

            with reader.reading() as connection:
                connection.exec_trace = meddle
            found = shown(reader, PEARS)
            with reader.reading() as connection:
                connection.exec_trace = None
            assert found in (before, [])
            assert before != []
            if seen < place:
                break
            assert shown(reader, PEARS) == []


def test_a_closed_memory_says_so(tmp_path) -> None:
    memory = Memory.open(tmp_path, EMBEDDER)
    memory.close()
    memory.close()
    with pytest.raises(StoreError, match="closed"):
        shown(memory, APPLES)
    Memory.open(tmp_path, EMBEDDER).close()


def test_threads_share_one_memory(memory) -> None:
    trouble: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(6):
                memory.remember(*solved(f"{APPLES} {name} {number}", "5"))
                assert shown(memory, APPLES)
                memory.embed_pending()
        except BaseException as error:  # noqa: BLE001
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    stats = memory.stats()
    assert (stats.num_experiences, stats.index.num_delta, memory.check()) == (48, 48, 24)


def test_nothing_acknowledged_is_lost_to_kills_and_damage_is_found() -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "bench_memory_crash.py"
    done = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 kills, 0 violations" in done.stdout


# The index is a cache


def published(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "index").rglob("*") if path.is_file() and path.name != ".lock")


def answers(directory: Path) -> tuple[bool, str]:
    with Memory.open(directory, EMBEDDER, readonly=True) as memory:
        found = [shown(memory, question, limit=9) for question in (APPLES, "How many figs are eaten?")]
        return bool(memory.stats().index.generation), repr(found)


def test_a_damaged_missing_or_stale_index_never_changes_an_answer(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
    shutil.copytree(tmp_path / "index", tmp_path / "old_index")
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(PEARS, "6"))
        memory.remember(*failed(PEARS, "7", source="bob"))
    used, expected = answers(tmp_path)
    assert used
    assert "Wrong: 7" in expected
    for path in published(tmp_path):
        whole = path.read_bytes()
        for damaged in (whole[:-20], whole[:20] + b"zzzz" + whole[24:], b""):
            path.write_bytes(damaged)
            assert answers(tmp_path)[1] == expected
        path.write_bytes(whole)
    shutil.rmtree(tmp_path / "index")
    assert answers(tmp_path) == (False, expected)
    shutil.copytree(tmp_path / "old_index", tmp_path / "index")
    assert answers(tmp_path) == (True, expected)  # a true beginning; the rest was taken from SQLite


def test_the_index_of_another_history_is_not_believed(tmp_path) -> None:
    for name, question in (("a", APPLES), ("b", PEARS)):
        with Memory.open(tmp_path / name, EMBEDDER) as memory:
            memory.remember(*solved(question, "5"))
    expected = answers(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "index")
    shutil.copytree(tmp_path / "b" / "index", tmp_path / "a" / "index")
    assert answers(tmp_path / "a") == (False, expected[1])


def test_times_are_nowhere_but_in_their_own_column(tmp_path) -> None:
    dumps = []
    for name, now in (("a", 5.0), ("b", 9e9)):
        with Memory.open(tmp_path / name, EMBEDDER, clock=lambda now=now: now) as memory:
            memory.remember(*failed(APPLES, "9"))
            memory.embed_pending()
        connection = raw(tmp_path / name / FILE_NAME)
        tables = {"events": "seq, kind, payload, prev, hash", "entries": "*", "edges": "*", "vectors": "*"}
        dumps.append([connection.execute(f"SELECT {what} FROM {table}").fetchall() for table, what in tables.items()])
        connection.close()
    assert dumps[0] == dumps[1]
    assert len(dumps[0][3]) == 2


def test_namespaces_asked_by_a_reader_that_nobody_wrote_to_are_empty(tmp_path) -> None:
    Memory.open(tmp_path, EMBEDDER).close()
    with Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
        assert shown(reader, APPLES, [*HERE, "acme/*/*"]) == []


def test_a_text_that_was_changed_behind_our_back_is_refused_and_not_recalled(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "476"))
    connection = raw(tmp_path / FILE_NAME)
    connection.execute("UPDATE entries SET text = replace(text, '476', '576') WHERE kind = 'solution'")
    connection.close()
    with Memory.open(tmp_path, EMBEDDER, readonly=True) as memory, pytest.raises(StoreError, match="doctor"):
        shown(memory, APPLES)


@pytest.mark.parametrize("name", ["..", "a/b", "*", "", " a", "a\nb"])
def test_a_namespace_of_odd_characters_is_refused(name) -> None:
    with pytest.raises(ValueError, match="String should match pattern"):
        Namespace(team=name)
