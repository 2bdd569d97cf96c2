"""When a person is asked and what; and a queue that forgets nothing, whoever writes to it and however they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from memory.ledger import AlreadyLocked, Ledger, LedgerError, exclusive_lock
from memory.types import content_hash
from mesh.equivalence import Equality, Sameness, canonical
from mesh.oversight import MAX_CHOICES, NO_ANSWER, Desk, OversightConfig, question_for, reason_to_ask
from mesh.parse import MAX_ANSWER_CHARS
from mesh.reviews import REVIEWS, REVIEWS_LOCK, ReviewDesk, ReviewError, verify
from mesh.types import Cluster, Diagnosis, Failure, Question, Shape, Task, Verdict

FORK = multiprocessing.get_context("fork")
TASK = Task(id="t1", question="What is 3 + 4?", answer_kind="number", tags=("medical",))
NEVER = OversightConfig(task_tags=("none of the tasks",))


def diagnosed(shape: Shape = "split by family", without: tuple[tuple[str, str | None], ...] = ()) -> Diagnosis:
    seven = Cluster(answer="7", weight=0.67, members=("ana", "bo"), families=("fox", "ant"), argument="3 and 4 make 7")
    eight = Cluster(answer="8", weight=0.33, members=("cy",), families=("owl",), argument="one more than 7")
    return Diagnosis(
        shape=shape, clusters=(seven, eight), num_ballots=3, n_eff=2.0, weighting="equal", entropy=0.9,
        without_family=without,
    )  # fmt: skip


def decided(confidence: float = 0.67, *, tied: bool = False, diagnosis: Diagnosis | None = None) -> Verdict:
    return Verdict(
        answer="7", method="m", support=(("7", 2.0), ("8", 1.0)), confidence=confidence, tied=tied,
        diagnosis=diagnosis or diagnosed(),
    )  # fmt: skip


def asked(
    config: OversightConfig, verdict: Verdict, failures: tuple[Failure, ...] = (), equality: Equality = "number"
) -> str | None:
    return reason_to_ask(config, TASK, verdict, failures, equality)


def question(number: int = 0, *, deliberation: str = "d1", step: str = "") -> Question:
    return Question(
        deliberation=deliberation, task_id="t1", step=step, reason="a tie", question=f"What is {number} + 4?",
        choices=("7", "8"), arguments=("because", ""),
    )  # fmt: skip


# When


def test_a_configuration_that_watches_nothing_is_refused_and_told_what_there_is() -> None:
    with pytest.raises(ValidationError, match=r"at least one condition of always, task_tags, below_confidence, .*none"):
        OversightConfig()
    with pytest.raises(ValidationError, match="greater than 0"):
        OversightConfig(below_confidence=0.0)


def test_no_answer_is_always_shown_and_an_undisputed_one_is_not() -> None:
    assert asked(NEVER, Verdict(answer=None, method="m")) == NO_ANSWER
    assert asked(NEVER, decided()) is None


def test_always_and_tags_do_not_look_at_the_verdict() -> None:
    assert asked(OversightConfig(always=True), decided(1.0)) == "this step is always shown"
    assert asked(OversightConfig(task_tags=("legal", "medical")), decided(1.0)) == "the task is tagged 'medical'"


@pytest.mark.parametrize(
    ("confidence", "reason"),
    [
        (0.41, "confidence 0.41 is below 0.60 (not calibrated)"),
        (0.5999, "confidence 0.5999 is below 0.6000 (not calibrated)"),
        (0.6, None),
        (0.9, None),
    ],
)
def test_low_confidence_is_told_in_numbers_that_differ(confidence: float, reason: str | None) -> None:
    assert asked(OversightConfig(below_confidence=0.6), decided(confidence)) == reason


def test_calibrated_confidence_is_not_called_uncalibrated() -> None:
    verdict = decided(0.41).model_copy(update={"calibrated": True})
    assert asked(OversightConfig(below_confidence=0.6), verdict) == "confidence 0.41 is below 0.60"


def test_split_by_family_names_the_sides() -> None:
    config = OversightConfig(on_family_split=True)
    assert asked(config, decided()) == "split by family: fox and ant (2) against owl (1)"
    assert asked(config, decided(diagnosis=diagnosed("mixed"))) is None


def test_instability_names_the_families_without_which_another_answer_wins() -> None:
    config = OversightConfig(on_instability=True)
    turning = decided(diagnosis=diagnosed("mixed", (("fox", "8"), ("ant", "7.0"), ("owl", None))))
    assert asked(config, turning) == "without one of 3 families the verdict differs: fox, owl"
    same = Sameness(kind="number", merged=(("7", "8"),))
    stable = decided(diagnosis=diagnosed("mixed", (("fox", "8"), ("ant", "7"))))
    assert asked(config, stable, equality=same) is None


def test_conditions_on_families_want_a_diagnosis() -> None:
    bare = Verdict(answer="7", method="m")
    for config in (OversightConfig(on_family_split=True), OversightConfig(on_instability=True)):
        with pytest.raises(ValueError, match="expected a verdict with a diagnosis"):
            asked(config, bare)
    assert asked(OversightConfig(on_tie=True), bare) is None


def test_only_what_the_budget_left_undone_counts_as_budget() -> None:
    config = OversightConfig(on_budget=True)
    slow = Failure(member="ana", phase="vote", kind="TimeoutError", message="")
    undone = tuple(Failure(member=m, phase="revise", kind="BudgetExhausted", message="") for m in ("ana", "bo"))
    assert asked(config, decided(), (slow,)) is None
    assert asked(config, decided(), (slow, *undone)) == "budget: 2 calls were left undone (revise)"


def test_tie_counts_the_answers_that_share_the_first_place() -> None:
    verdict = decided(tied=True).model_copy(update={"support": (("7", 2.0), ("8", 2.0), ("9", 1.0))})
    assert asked(OversightConfig(on_tie=True), verdict) == "a tie: 2 answers with 2 each"


# What


def test_question_offers_the_verdict_first_and_each_answer_with_its_argument() -> None:
    put = question_for(TASK, decided(), "a tie", "number", deliberation="d1", step="draft/check")
    assert (put.choices, put.arguments) == (("7", "8"), ("3 and 4 make 7", "one more than 7"))
    assert (put.deliberation, put.task_id, put.step, put.question) == ("d1", "t1", "draft/check", TASK.question)


def test_question_without_a_diagnosis_takes_its_choices_from_the_support() -> None:
    verdict = Verdict(answer="7", method="m", support=(("7.0", 2.0), ("8", 1.0)))
    put = question_for(TASK, verdict, "a tie", "number", deliberation="d1")
    assert (put.choices, put.arguments) == (("7", "8"), ("", ""))


def test_question_about_nothing_has_no_choices() -> None:
    put = question_for(TASK, Verdict(answer=None, method="m"), NO_ANSWER, "number", deliberation="d1")
    assert put.choices == ()


def test_question_with_too_many_answers_says_how_many_there_are() -> None:
    verdict = Verdict(answer="0", method="m", support=tuple((str(n), 1.0) for n in range(100)))
    put = question_for(TASK, verdict, "a tie", "number", deliberation="d1")
    assert put.choices == tuple(str(n) for n in range(MAX_CHOICES))
    assert put.reason == "a tie; the first 26 of 100 distinct answers are shown"


@given(
    answers=st.lists(st.tuples(st.sampled_from(["7", "7.0", "07", "8", "8.50", "a", "A"]), st.text(max_size=3))),
    chosen=st.sampled_from([None, "7", "a"]),
    merged=st.booleans(),
)
def test_choices_are_distinct_and_complete_and_the_verdict_comes_first(answers, chosen, merged) -> None:
    kind: Equality = Sameness(kind="number", merged=(("7", "8"),)) if merged else "number"
    clusters = tuple(Cluster(answer=a, weight=0.1, members=(), families=(), argument=why) for a, why in answers)
    diagnosis = diagnosed().model_copy(update={"clusters": clusters})
    put = question_for(TASK, Verdict(answer=chosen, method="m", diagnosis=diagnosis), "r", kind, deliberation="d")
    keys = [canonical(choice, kind) for choice in put.choices]
    assert len(set(keys)) == len(keys) == len(put.arguments)
    assert set(keys) == {canonical(a, kind) for a in [*(a for a, _ in answers), chosen] if a is not None}
    assert chosen is None or put.choices[0] == chosen


# The queue


def test_question_is_recorded_once_and_its_answer_is_found_again(tmp_path: Path) -> None:
    desk: Desk = ReviewDesk(tmp_path)
    assert desk.put(question()) is None
    assert desk.put(question()) is None
    given_answer = ReviewDesk(tmp_path).answer(question().id, by=" Ana \n B ", choice=1, note=" sure ")
    assert (given_answer.by, given_answer.note, given_answer.choice) == ("Ana B", "sure", 1)
    assert desk.put(question()) == ReviewDesk(tmp_path).put(question()) == given_answer
    assert verify(tmp_path).model_dump(exclude={"head"}) == {
        "num_asked": 1, "num_answered": 1, "num_edited": 0, "num_torn_bytes": 0,
    }  # fmt: skip


def test_one_deliberation_has_several_open_questions_at_once(tmp_path: Path) -> None:
    desk = ReviewDesk(tmp_path)
    steps = [question(step=step) for step in ("draft", "draft/check", "")]
    for one in steps:
        assert desk.put(one) is None
    desk.answer(steps[1].id, by="ana", choice=0)
    assert desk.open_questions() == (steps[0], steps[2])
    answers = [desk.put(one) for one in steps]
    assert [answer is not None for answer in answers] == [False, True, False]
    assert [review.id for review in desk.all()] == [one.id for one in steps]
    summary = verify(tmp_path)
    assert (summary.num_asked, summary.num_open, summary.head) == (3, 2, Ledger(tmp_path / REVIEWS).head)


def test_queue_that_nobody_wrote_to_is_empty_and_reading_makes_no_file(tmp_path: Path) -> None:
    desk = ReviewDesk(tmp_path / "none")
    assert desk.all() == desk.open_questions() == ()
    with pytest.raises(ReviewError, match="expected questions there, found no such file"):
        desk.answer("abc", by="ana", choice=0)
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"choice": 2}, "expected one of its 2 choices, got number 3"),
        ({"choice": -1}, "expected one of its 2 choices, got number 0"),
        ({}, "expected one of choice and edit, got neither"),
        ({"choice": 0, "edit": "9"}, "expected one of choice and edit, got both"),
        ({"edit": " \n"}, "says nothing"),
        ({"edit": '"."'}, "says nothing"),
        ({"edit": "9" * (MAX_ANSWER_CHARS + 1)}, "at most 500 characters, got 501"),
        ({"choice": 0, "by": " "}, "expected the name of whoever answers"),
        ({"choice": 0, "content": "0" * 64}, "this is not the question that you saw"),
    ],
)
def test_refused_answer_is_not_written(tmp_path: Path, arguments, message: str) -> None:
    desk = ReviewDesk(tmp_path)
    desk.put(question())
    with pytest.raises(ReviewError, match=message):
        desk.answer(question().id, **({"by": "ana"} | arguments))
    assert desk.open_questions() == (question(),)
    assert desk.answer(question().id, by="ana", choice=0, content=content_hash(question())).choice == 0


def test_second_answer_to_one_question_is_refused_and_names_the_first(tmp_path: Path) -> None:
    desk = ReviewDesk(tmp_path)
    desk.put(question())
    desk.answer(question().id, by="ana", edit="  nine \n")
    with pytest.raises(ReviewError, match=r"already answered by 'ana' at 20.*; an answer stays"):
        ReviewDesk(tmp_path).answer(question().id, by="bo", choice=0)
    found = desk.put(question())
    assert found is not None
    assert (found.by, found.edit) == ("ana", "nine")


def test_an_id_may_be_shortened_while_it_is_unique_and_a_wrong_one_is_met_with_the_nearest(tmp_path: Path) -> None:
    desk = ReviewDesk(tmp_path)
    many = [question(number) for number in range(40)]  # more than 16: two of them begin with the same character
    for one in many:
        desk.put(one)
    shared = next(one.id[0] for one in many if sum(other.id[0] == one.id[0] for other in many) > 1)
    assert desk.find(many[0].id[:9]).question == many[0]
    with pytest.raises(ReviewError, match=f"did you mean {shared}.* or {shared}"):
        desk.find(shared)
    with pytest.raises(ReviewError, match=f"did you mean .*{many[0].id}"):
        desk.find(many[0].id[:-1] + "x")
    for nothing in ("", "zzzz"):
        with pytest.raises(ReviewError, match="40 questions are known"):
            desk.find(nothing)


def test_put_of_a_known_question_reads_no_file_again(tmp_path: Path) -> None:
    desk = ReviewDesk(tmp_path)
    desk.put(question())
    (tmp_path / REVIEWS).chmod(0)
    with exclusive_lock(tmp_path / REVIEWS_LOCK):
        assert desk.put(question()) is None


# Whoever writes, and however they end


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a process of its own, which is killed the moment it returns."""

    def and_die() -> None:
        work()
        os.kill(os.getpid(), signal.SIGKILL)

    child = FORK.Process(target=and_die)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_a_process_killed_after_put_or_answer_returned_has_lost_nothing(tmp_path: Path) -> None:
    desk = ReviewDesk(tmp_path)
    in_child(lambda: desk.put(question()) and None)
    assert desk.open_questions() == (question(),)
    in_child(lambda: ReviewDesk(tmp_path).answer(question().id, by="ana", choice=0) and None)
    found = desk.put(question())
    assert found is not None
    assert found.choice == 0


def test_holder_of_the_lock_that_is_killed_does_not_block_the_others(tmp_path: Path) -> None:
    def hold() -> None:
        exclusive_lock(tmp_path / REVIEWS_LOCK).__enter__()

    in_child(hold)
    assert ReviewDesk(tmp_path, lock_wait_s=0.0).put(question()) is None


def test_queue_held_for_too_long_is_reported_and_takes_the_question_later(tmp_path: Path) -> None:
    desk = ReviewDesk(tmp_path, lock_wait_s=0.02)
    with exclusive_lock(tmp_path / REVIEWS_LOCK), pytest.raises(AlreadyLocked, match=f"{REVIEWS_LOCK} is locked by"):
        desk.put(question())
    assert desk.put(question()) is None
    assert desk.open_questions() == (question(),)


def test_a_moment_of_another_writer_is_waited_for(tmp_path: Path) -> None:
    desk, held = ReviewDesk(tmp_path), threading.Event()

    def hold() -> None:
        with exclusive_lock(tmp_path / REVIEWS_LOCK):
            held.set()
            time.sleep(0.05)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    assert desk.put(question()) is None
    other.join()


def test_torn_last_line_takes_only_the_write_that_was_never_acknowledged(tmp_path: Path) -> None:
    first, path = ReviewDesk(tmp_path), tmp_path / REVIEWS
    first.put(question())
    whole = path.read_bytes()
    first.answer(question().id, by="ana", choice=1)
    path.write_bytes(path.read_bytes()[:-40])  # what a crash leaves of the answer
    with pytest.raises(LedgerError, match="line 2: the last line is no whole entry"):
        verify(tmp_path)
    for desk in (first, ReviewDesk(tmp_path)):
        assert desk.open_questions() == (question(),)
    assert first.put(question()) is None
    assert first.answer(question().id, by="ana", choice=0).choice == 0
    assert path.read_bytes().startswith(whole)
    summary = verify(tmp_path)
    assert summary.num_answered == 1
    assert summary.num_torn_bytes > 0


def test_a_batch_that_asks_and_people_who_answer_at_once_lose_nothing(tmp_path: Path) -> None:
    num_questions, num_askers, num_people = 12, 2, 2

    def ask(number: int) -> None:
        desk = ReviewDesk(tmp_path)
        mine = [question(n, deliberation=f"d{number}") for n in range(num_questions)]
        while any([desk.put(one) is None for one in mine]):
            time.sleep(0.001)

    def answer(number: int) -> None:
        desk, num_done = ReviewDesk(tmp_path), 0
        while num_done < num_questions * num_askers:
            num_done = sum(review.answer is not None for review in desk.all())
            for one in desk.open_questions()[number::num_people] or desk.open_questions():
                try:
                    desk.answer(one.id, by=f"person {number}", choice=number)
                except ReviewError as error:
                    assert "already answered" in str(error)  # noqa: PT017
            time.sleep(0.001)

    work = [(ask, n) for n in range(num_askers)] + [(answer, n) for n in range(num_people)]
    children = [FORK.Process(target=target, args=(number,)) for target, number in work]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * len(children)
    summary = verify(tmp_path)
    assert (summary.num_asked, summary.num_answered) == (num_questions * num_askers,) * 2


def test_threads_of_one_process_share_a_desk(tmp_path: Path) -> None:
    desk = ReviewDesk(tmp_path)
    threads = [threading.Thread(target=desk.put, args=(question(n % 5),)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.open_questions()) == verify(tmp_path).num_asked == 5


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.sampled_from(["put", "answer", "torn"]))))
def test_two_desks_on_one_directory_agree_whatever_the_order(tmp_path_factory, steps) -> None:
    directory = tmp_path_factory.mktemp("desk")
    desks = ReviewDesk(directory), ReviewDesk(directory)
    expected: dict[str, int | None] = {}
    for who, number, what in steps:
        one = question(number)
        if what == "put":
            expected.setdefault(one.id, None)
            found = desks[who].put(one)
            assert (None if found is None else found.choice) == expected[one.id]
        elif what == "torn":
            with (directory / REVIEWS).open("ab") as file:
                file.write(b'{"hash":"' if expected else b"")
        elif expected.get(one.id, 0) is None:
            expected[one.id] = desks[who].answer(one.id, by="ana", choice=number % 2).choice
        else:
            with pytest.raises(ReviewError):
                desks[who].answer(one.id, by="ana", choice=0)
    for desk in (*desks, ReviewDesk(directory)):
        assert {r.id: None if r.answer is None else r.answer.choice for r in desk.all()} == expected


# The audit


def test_audit_finds_every_changed_byte(tmp_path: Path) -> None:
    desk, path = ReviewDesk(tmp_path), tmp_path / REVIEWS
    desk.put(question())
    desk.answer(question().id, by="ana", choice=0)
    whole = path.read_bytes()
    places = [*range(0, len(whole) - 1, len(whole) // 12), len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(LedgerError, match=r"reviews\.jsonl, line [12]: "):
            verify(tmp_path)
    path.write_bytes(whole)
    assert verify(tmp_path).num_answered == 1


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("answered", {"question": "0" * 12}, "expected an answer to a question that was asked"),
        ("answered", {"content": "0" * 64}, "this is not the question that you saw"),
        ("answered", {"choice": 5}, "expected one of its 2 choices, got number 6"),
        ("answered", {"choice": None}, "expected one of choice and edit, got neither"),
        ("answered", {"color": "red"}, "Extra inputs are not permitted"),
        ("approved", {}, "expected 'asked' or 'answered', got 'approved'"),
    ],
)
def test_audit_refuses_an_answer_that_does_not_fit_even_with_intact_hashes(tmp_path, kind, change, message) -> None:
    ReviewDesk(tmp_path).put(question())
    good = {"question": question().id, "content": content_hash(question()), "choice": 0, "by": "ana"}
    Ledger(tmp_path / REVIEWS).append(kind, {"at": "now", "answer": good | change})
    with pytest.raises(LedgerError, match=f"(?s)line 2: .*{message}"):
        verify(tmp_path)
    with pytest.raises(LedgerError, match="line 2"):
        ReviewDesk(tmp_path).put(question())


def test_audit_refuses_a_question_that_is_not_the_one_its_hash_names(tmp_path: Path) -> None:
    payload = {"at": "now", "content": content_hash(question()), "question": question(1).model_dump(mode="json")}
    Ledger(tmp_path / REVIEWS).append("asked", payload)
    with pytest.raises(LedgerError, match="line 1: expected a new question with the hash of its content"):
        verify(tmp_path)


def test_question_with_half_a_character_is_kept_and_verified(tmp_path: Path) -> None:
    odd = question().model_copy(update={"reason": "half \ud800", "question": "\u2028 ü"})
    assert ReviewDesk(tmp_path).put(odd) is None
    assert ReviewDesk(tmp_path).open_questions() == (odd,)
    assert verify(tmp_path).num_open == 1
