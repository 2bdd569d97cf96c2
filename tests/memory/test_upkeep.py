"""Between the uses of a memory: what repeats is merged, what nothing confirmed is archived, a copy stands still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memory.database import StoreError
from memory.recall import SECONDS_PER_DAY
from memory.store import Memory
from memory.types import WRONG_ANSWER, Experience, Kind, Level, Observation
from memory.upkeep import Tidied, freeze, tidy
from tests.memory.doubles import APPLES, EMBEDDER, PEARS, Clock, note, shown, solved, texts

LATER = 200 * SECONDS_PER_DAY


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(tmp_path: Path, clock: Clock) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", EMBEDDER, clock=clock) as opened:
        yield opened


def polite(question: str) -> Observation:
    return note(Kind.PROBLEM, f"Please: {question}", episode="e2")


def level(memory: Memory, experience: Experience) -> Level:
    standing = memory.standing(experience.id)
    assert standing is not None
    return standing.level


def test_a_question_in_other_words_is_merged_and_leads_to_what_solved_the_first(memory, clock) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember([polite(APPLES)])
    assert tidy(memory, clock.now) == Tidied(num_merged=1, num_archived=0)
    (found,) = shown(memory, f"Please: {APPLES}")
    assert (found.lane, found.same) == ("fingerprint", True)


def test_a_merge_is_taken_back_and_both_stand_for_themselves_again(memory, clock) -> None:
    memory.remember(*solved(APPLES, "5"))
    repeated = polite(APPLES).experience
    memory.remember([polite(APPLES)])
    tidy(memory, clock.now)
    assert level(memory, repeated) is Level.RETIRED
    memory.unmerge(repeated.id, "they differ")
    assert level(memory, repeated) is Level.OBSERVED
    assert tidy(memory, clock.now).num_merged == 0  # only what is new is looked at


def test_look_alikes_are_not_merged(memory, clock) -> None:
    memory.remember(*solved("What is 17 + 25 of the sums?", "42"))
    memory.remember(*solved("What is 17 + 26 of the sums?", "43"))
    assert tidy(memory, clock.now).num_merged == 0


def test_wrong_answers_are_not_merged_though_only_their_numbers_differ(memory, clock) -> None:
    for number in (6150, 4815):
        memory.remember(
            [note(Kind.ERROR, f"What is the product of these?\nWrong: {number}", "failed", error_code=WRONG_ANSWER)]
        )
    assert tidy(memory, clock.now).num_merged == 0


def test_one_error_of_a_tool_met_at_two_places_is_merged(memory, clock) -> None:
    for number, episode in ((12, "e1"), (97, "e2")):
        text = f"ValueError: could not load the tensor at offset 0x7f{number}a of the file"
        memory.remember([note(Kind.ERROR, text, "failed", episode=episode)])
    assert tidy(memory, clock.now).num_merged == 1


@pytest.mark.parametrize("where", [{"task_type": "riddle"}, {"split": "gate"}])
def test_nothing_is_merged_across_task_types_or_splits(memory, clock, where) -> None:
    memory.remember([note(Kind.PROBLEM, APPLES), note(Kind.PROBLEM, f"Please: {APPLES}", **where)])
    assert tidy(memory, clock.now).num_merged == 0


def test_tidying_twice_changes_nothing_the_second_time(memory, clock) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember([polite(APPLES)])
    tidy(memory, clock.now)
    head = memory.head
    assert tidy(memory, clock.now) == Tidied(num_merged=0, num_archived=0)
    assert memory.head == head


def test_what_nothing_ever_confirmed_is_archived_and_may_be_restored(memory, clock) -> None:
    claim = note(Kind.SOLUTION, f"{APPLES} Answer: 4")
    memory.remember([claim])
    assert tidy(memory, clock.now + SECONDS_PER_DAY).num_archived == 0
    assert tidy(memory, clock.now + LATER).num_archived == 1
    assert level(memory, claim.experience) is Level.RETIRED
    assert memory.search(APPLES) != []  # kept, not erased
    memory.restore(claim.experience.id)
    assert level(memory, claim.experience) is Level.OBSERVED


def test_what_a_check_spoke_for_stays_however_old_it_grows_and_so_do_problems(memory, clock) -> None:
    memory.remember(*solved(APPLES, "5"))
    assert tidy(memory, clock.now + 10 * LATER).num_archived == 0
    assert texts(shown(memory, APPLES)) == [f"Question: {APPLES}\nAnswer: 5"]


def test_a_frozen_copy_answers_as_the_memory_did_and_never_changes(tmp_path, memory, clock) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.publish_index(force=True)
    head = freeze(memory, tmp_path / "frozen")
    before = shown(memory, PEARS)
    memory.remember(*solved(PEARS, "6"))
    assert memory.head != head
    with Memory.open(tmp_path / "frozen", EMBEDDER, readonly=True, clock=clock) as frozen:
        assert frozen.head == head
        assert shown(frozen, PEARS) == before


def test_freezing_again_keeps_the_copy_that_is_the_same_and_refuses_to_replace_another(tmp_path, memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    assert freeze(memory, tmp_path / "frozen") == freeze(memory, tmp_path / "frozen")
    memory.remember(*solved(PEARS, "6"))
    with pytest.raises(StoreError, match="expected nothing, or the memory with head"):
        freeze(memory, tmp_path / "frozen")


def test_a_freeze_that_fails_leaves_nothing_behind(tmp_path, memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "in the way").touch()
    with pytest.raises(OSError, match="not empty"):
        freeze(memory, tmp_path / "frozen")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frozen", "memory"]
