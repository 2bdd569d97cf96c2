"""Patterns over several problems: forms of right answers, mistakes that come again, and never from one problem."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.types import Evidence, Kind, Namespace, Observation
from mesh.config import CouncilConfig
from mesh.deliberate import deliberate
from mesh.forms import difference, form_of
from mesh.recurring import patterns
from mesh.tally import plurality
from mesh.types import Deliberation, Member, Outcome, Proposal, Task

OURS = Namespace(run="r")
MEMBERS = tuple(Member(name=name, engine=name, family=name) for name in ("ana", "bo", "cy"))


def _case(
    question: str,
    said: Sequence[str | None] | str | None,
    correct: bool,
    *,
    judged: str | None = "",
    task_type: str = "spelling",
    verdict: str = "",
) -> tuple[Deliberation, Outcome]:
    answers = [said] if said is None or isinstance(said, str) else list(said)
    task = Task(id=question, question=question, type=task_type, answer_kind="text")
    proposals = tuple(
        Proposal(member=m.name, family=m.family, text=a or "?", answer=a)
        for m, a in zip(MEMBERS, answers, strict=False)
    )
    first = plurality(proposals, "text")
    trace = Deliberation(
        id=f"about {question}",
        task=task,
        protocol="vote",
        seed=1,
        members=MEMBERS[: len(answers)],
        proposals=proposals,
        first_verdict=first,
        verdict=first,
    )
    answer = first.answer if judged == "" else judged
    checked = verdict or ("passed" if correct else "failed")
    evidence = Evidence(verifier="exact", verdict=checked, digest=f"{question}: {answer}")  # type: ignore[arg-type]
    return trace, Outcome(task_id=question, task_type=task_type, answer=answer, correct=correct, evidence=evidence)


def _found(*cases: tuple[Deliberation, Outcome]) -> tuple[Observation, ...]:
    return patterns(cases, namespace=OURS, split="train")


def _sentences(*cases: tuple[Deliberation, Outcome]) -> set[str]:
    return {o.experience.text.partition("\n")[2] for o in _found(*cases)}


def test_the_form_of_right_answers_is_a_pattern_with_one_episode_and_check_for_every_problem() -> None:
    found = _found(
        _case("Spell this word backward: sun", "nus", True),
        _case("Spell this word backward: tower", "rewot", True),
    )
    (pattern,) = {o.experience for o in found}
    assert pattern.kind is Kind.PATTERN
    assert pattern.text == (
        "Questions of the kind: Spell this word backward: ...\nThe right answer is one lower-case word."
    )
    assert (pattern.namespace, pattern.split, pattern.task_type) == (OURS, "train", "spelling")
    assert [o.episode for o in found] == [
        "about Spell this word backward: sun",
        "about Spell this word backward: tower",
    ]
    assert [o.source for o in found] == ["ana", "ana"]
    assert {(o.evidence.verifier, o.evidence.verdict) for o in found if o.evidence} == {("exact", "passed")}
    assert len({o.evidence.digest for o in found if o.evidence}) == 2


@pytest.mark.parametrize("times", [1, 2, 9])
def test_one_problem_is_no_pattern_however_often_it_was_tried(times: int) -> None:
    again = [_case(f"Spell{' ' * n} sun", "nus", True) for n in range(1, times + 1)]
    wrong = [_case(f"Spell{' ' * n} sun", "sun", False) for n in range(1, times + 1)]
    assert _found(*again, *wrong) == ()


def test_fewer_than_two_problems_may_not_be_asked_for() -> None:
    with pytest.raises(ValueError, match="expected patterns from at least 2 problems, got 1"):
        patterns([], namespace=OURS, split="train", min_problems=1)


def test_an_outcome_of_another_task_is_refused() -> None:
    (trace, _), (_, outcome) = _case("a", "x", True), _case("b", "y", True)
    with pytest.raises(ValueError, match="expected an outcome of task 'a', got one of 'b'"):
        patterns([(trace, outcome)], namespace=OURS, split="train")


def test_one_right_answer_of_another_form_widens_the_pattern() -> None:
    alike = [_case("spell sun", "nus", True), _case("spell tower", "rewot", True)]
    assert _sentences(*alike, _case("spell Ann", "nnA", True)) == {"The right answer is one word."}
    assert _sentences(*alike, _case("spell R2", "2 R!", True)) == set()


def test_a_mistake_that_comes_again_is_told_by_its_kind_and_not_by_its_answers() -> None:
    found = _sentences(
        _case("spell sun", "nus", True), _case("spell sun", "uns", False),
        _case("spell tower", "rewot", True), _case("spell tower", "rowet", False),
    )  # fmt: skip
    assert found == {
        "The right answer is one lower-case word.",
        "A mistake that was made again and again: the right letters in another order.",
    }


def test_a_wrong_answer_that_comes_again_is_a_pattern_unless_it_was_ever_right() -> None:
    wrong = [_case("is it 1?", "maybe", False), _case("is it 2?", "Maybe.", False)]
    assert _sentences(*wrong) == {"This answer was given again and again, and never right: maybe"}
    assert _sentences(*wrong, _case("is it 3?", "maybe", True)) == set()


def test_few_right_answers_are_a_choice_and_small_numbers_are_not() -> None:
    chosen = [_case(f"is it {n}?", "Yes" if n % 2 else "No", True) for n in range(4)]
    assert "The right answer was always one of these: no, yes." in _sentences(*chosen)
    counted = [_case(f"how many {n}?", str(n % 2), True) for n in range(4)]
    assert _sentences(*counted) == {"The right answer is one whole number."}


def test_texts_without_an_answer_are_a_pattern_of_their_own() -> None:
    silent = [_case("spell sun", None, False), _case("spell tower", None, False)]
    assert _sentences(*silent) == {"Often no answer could be read: write the answer alone."}


def test_the_vote_is_believed_where_it_was_right_more_often_than_those_against_it() -> None:
    sentence = "Where first answers differed, the most frequent one was mostly right."
    right = [_case(f"spell {n}", ["x", "x", "y"], True) for n in range(2)]
    overruled = [_case(f"spell {n}", ["x", "x", "y"], True, judged="y") for n in range(5, 7)]
    assert sentence in _sentences(*right)
    assert sentence in _sentences(*right, overruled[0])
    assert sentence not in _sentences(*right, *overruled)
    assert sentence not in _sentences(*[_case(f"spell {n}", ["x", "x", "x"], True) for n in range(2)])


def test_task_types_are_kept_apart_and_unchecked_answers_are_passed_over() -> None:
    assert _found(_case("a", "x", True), _case("b", "y", True, task_type="other")) == ()
    assert _found(_case("a", "xy", True), _case("b", "yz", True, verdict="unknown")) == ()


def test_patterns_name_no_member_and_are_the_same_when_found_again() -> None:
    cases = [_case(f"spell {word}", ["nus", "nus", word], True) for word in ("ana", "bo", "cyan")]
    found = _found(*cases)
    assert found == _found(*cases)
    assert {o.experience.id for o in found} == {o.experience.id for o in _found(*cases[:2])}
    assert not any("ana" in o.experience.text for o in found)


def test_a_council_that_talks_gives_patterns_with_the_members_as_sources(double, three) -> None:
    says = {"critique": "that leaves a letter out of it", "vote": "olleh", "account": "none"}
    judged = []
    for word in ("hello", "jello"):
        right = word[::-1]
        engine = double({m.name: says | {"*": f"Answer: {right}", "vote": right} for m in three[:2]}
                        | {three[2].name: says | {"*": f"Answer: {word}", "vote": right}})  # fmt: skip
        task = Task(id=word, question=f"Spell backward: {word}", type="spell", answer_kind="text")
        trace = asyncio.run(deliberate(task, three, engine, CouncilConfig(), seed=1))
        for answer in (right, word):
            verdict = "passed" if answer == right else "failed"
            evidence = Evidence(verifier="exact", verdict=verdict, digest=answer)
            judged.append(
                (
                    trace,
                    Outcome(task_id=word, task_type="spell", answer=answer, correct=answer == right, evidence=evidence),
                )
            )
    found = patterns(judged, namespace=OURS, split="train")
    by_text = {o.experience.text.partition("\n")[2]: o.source for o in found}
    assert by_text == {
        "The right answer is one lower-case word.": "ZOE-SEAT, YAN-SEAT",
        "A mistake that was made again and again: the right letters in another order.": "XIA-SEAT",
        "Where first answers differed, the most frequent one was mostly right.": "ZOE-SEAT, YAN-SEAT",
    }


@pytest.mark.parametrize(
    ("answers", "form"),
    [
        (["7", "-12"], "one whole number"),
        (["7", "1.5"], "one number"),
        (["b", "A"], "one letter"),
        (["YES", "NO"], "one word in capitals"),
        (["Friday", "Monday"], "one capitalised word"),
        (["00:34:28", "06:09:11"], "digits written as 00:00:00"),
        (["1999-01-02"], "digits written as 0000-00-00"),
        (["thought, sentence", "they, go, on"], "a list of lower-case words joined by a comma and a space"),
        (["1 2 3", "4 5"], "a list of whole numbers joined by spaces"),
        (["['1', '2']", "['3']"], "a list in square brackets with each item in single quotes"),
        (["[1, 2]", "[]"], "a list in square brackets"),
        (["7", "a b"], None),
        (["x = 3", "y"], None),
        (["", "7"], None),
        ([], None),
        (["word " * 100, "word word"], None),
    ],
)
def test_the_narrowest_common_form_is_told(answers: list[str], form: str | None) -> None:
    assert form_of(answers) == form


@pytest.mark.parametrize(
    ("wrong", "right", "told"),
    [
        ("paris", "Paris", "other letter case alone"),
        ("a b c", "a, b, c", "other spaces or punctuation alone"),
        ("1, -2", "['1', '-2']", "other spaces or punctuation alone"),
        ("12", "1.2", None),
        ("4", "-4", "the wrong sign"),
        ("8", "7", "off by one"),
        ("b, a", "a, b", "the right items in another order"),
        ("uns", "nus", "the right letters in another order"),
        ("the answer is 7 apples", "7", "words around the answer"),
        ("a, b", "a, b, c", "right items left out"),
        ("a, b, c, d", "a, c, d", "items too many"),
        ("tower", "rewotx", "copied from the question"),
        ("something", "else", None),
        ("7", "7", None),
        ("9" * 5000, "7", None),
    ],
)
def test_a_wrong_answer_is_compared_with_the_right_one(wrong: str, right: str, told: str | None) -> None:
    assert difference(wrong, right, "spell the word tower") == told


@given(st.lists(st.text(max_size=12), max_size=4), st.text(max_size=12), st.text(max_size=30))
def test_any_answers_have_a_form_or_none_and_no_form_tells_an_answer(
    answers: list[str], other: str, question: str
) -> None:
    form = form_of(answers)
    assert form == form_of(answers[::-1])
    for answer in answers:
        difference(answer, other, question)
        if form and len(answer.strip()) > 10:
            assert answer.strip() not in form
