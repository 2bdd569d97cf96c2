import json
import random
from math import isinf, isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.problems.types import Problem, ReasoningGymVerifier
from mesh.types import Task
from scripts.memory_stream import (
    BANDS,
    CHANGES,
    WORDINGS,
    Kind,
    Row,
    lookalike,
    mean_of,
    ordered,
    paired,
    ratio_of,
    reworded,
    stream,
)

NAMES = ("Ann", "Bob", "Cyd", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon")


def problem(family: str, question: str, answer: str, **metadata: object) -> Problem:
    entry = {"question": question, "answer": answer, "metadata": metadata}
    verifier = ReasoningGymVerifier(family=family, entry=json.dumps(entry))
    task = Task(id=question, question=question, type=family)
    return Problem(task=task, reference=answer, verifier=verifier, key=question)


def needle(number: int) -> Problem:
    one, two = NAMES[number % 10], NAMES[(number + 1 + number // 10) % 10]
    question = f"{one} likes tea {number}. {two} hates rain {number}.\nWho likes tea {number}? Reply only with a name."
    return problem("needle_haystack", question, one)


def filtering(number: int) -> Problem:
    numbers = [str(number + 10), str(number + 30), str(number + 50)]
    question = f"Keep all numbers larger than 40 in this list: {numbers}\nReturn the new list in the same format."
    kept = [n for n in numbers if int(n) > 40]
    return problem(
        "number_filtering", question, str(kept), operation="keep_larger", original_numbers=numbers, filter_value="40"
    )


def reversal(number: int) -> Problem:
    words = [f"red{number}", f"blue{number}", f"green{number}"]
    question = f"Solve it.\n\nReverse this list of words: {', '.join(words)}"
    return problem("word_sequence_reversal", question, ", ".join(reversed(words)), words=words)


MAKERS = (needle, filtering, reversal)


@given(st.integers(0, 5), st.integers(0, 4), st.integers(0, 10_000))
def test_in_every_order_each_item_returns_within_its_window(per_band: int, num_fillers: int, seed: int) -> None:
    windows = [window for window in BANDS.values() for _ in range(per_band)]
    order = ordered(windows, num_fillers + 40, seed)
    place = {slot: number for number, slot in enumerate(order)}
    assert len(place) == len(order) == 2 * len(windows) + num_fillers + 40
    for item, (low, high) in enumerate(windows):
        assert low <= place["again", item] - place["first", item] <= high


def test_an_order_that_nothing_can_fill_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match="add fillers"):
        ordered([(5, 6)], 0, seed=1)


def test_a_stream_holds_every_kind_in_every_band_and_names_its_first_sights() -> None:
    problems = [maker(number) for number in range(29) for maker in MAKERS]
    visits = stream(problems, per_cell=2, num_siblings=11, seed=3)
    assert [visit.place for visit in visits] == list(range(len(visits)))
    for visit in visits:
        if visit.first is not None:
            first = visits[visit.first]
            assert first.kind is Kind.FIRST
            low, high = BANDS[visit.band]
            assert low <= visit.place - visit.first <= high
            assert (visit.problem == first.problem) == (visit.kind is Kind.IDENTICAL)
    counts = {(v.kind, v.band): 0 for v in visits}
    for visit in visits:
        counts[visit.kind, visit.band] += 1
    assert counts[Kind.SIBLING, ""] == 33
    assert all(count == 6 for (kind, _), count in counts.items() if kind in (Kind.IDENTICAL, Kind.LOOKALIKE))


def test_a_stream_is_the_same_for_the_same_seed_and_needs_enough_problems() -> None:
    problems = [maker(number) for number in range(20) for maker in MAKERS]
    assert stream(problems, 1, 11, seed=5) == stream(problems, 1, 11, seed=5)
    with pytest.raises(ValueError, match=r"needle_haystack: expected 29 problems, got 20"):
        stream(problems, 2, 11, seed=5)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("wording", WORDINGS)
def test_rewording_changes_the_words_and_keeps_particulars_and_answer(maker, wording) -> None:
    before = maker(7)
    after = reworded(before, wording)
    assert after.task.question != before.task.question
    assert after.task.id != before.task.id
    assert after.reference == before.reference
    told = [word.strip("',[]().?") for word in before.task.question.split() if any(c.isdigit() for c in word)]
    assert all(word in after.task.question for word in told)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_look_alike_reads_alike_and_has_another_answer(maker, change) -> None:
    before = maker(7)
    after = lookalike(before, change, random.Random(1), [maker(number) for number in range(9)])
    same = set(before.task.question.split()) & set(after.task.question.split())
    assert len(same) > 0.6 * len(set(before.task.question.split()))
    assert after.reference != before.reference
    assert isinstance(after.verifier, ReasoningGymVerifier)
    assert json.loads(after.verifier.entry)["answer"] == after.reference


def test_a_family_without_templates_is_refused() -> None:
    with pytest.raises(ValueError, match="chain_sum"):
        reworded(problem("chain_sum", "1 + 1", "2"), "polite")
    with pytest.raises(ValueError, match="chain_sum"):
        lookalike(problem("chain_sum", "1 + 1", "2"), "operand", random.Random(0), [])


def row(arm: str, place: int, right: bool) -> Row:
    return Row(
        arm=arm, place=place, kind=Kind.SIBLING, family="f", right=right, share_right=float(right), output_tokens=3,
        prompt_tokens=5,
    )  # fmt: skip


def test_a_paired_difference_takes_places_that_both_arms_have() -> None:
    rows = [row("a", 1, True), row("a", 2, False), row("a", 3, True), row("b", 2, True), row("b", 1, False)]
    assert paired(rows, "a", "b", lambda r: float(r.right)) == [1.0, -1.0]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_an_interval_of_a_mean_holds_it_and_lies_within_the_values(values: list[bool]) -> None:
    found = mean_of(values)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0


def test_a_ratio_without_anything_below_is_infinite_and_no_values_give_no_number() -> None:
    assert isinf(ratio_of([3.0, 4.0], [0.0, 0.0]).value)
    assert ratio_of([3.0, 5.0], [1.0, 1.0]).value == 4.0
    assert isnan(mean_of([]).value)
