from __future__ import annotations

import time
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mesh.equivalence import Sameness, by_frequency, canonical, is_number, merge_groups, same_answer

KINDS = st.sampled_from(["number", "text", "math", "free"])
PIECES = (
    *("\\frac", "\\dfrac", "\\boxed", "\\text", "\\left", "\\pi", "\\", "\\!", "\\,", "\\%", "{", "}", "(", ")", "$"),
    *("1", "2", "000", "/", ".", ",", "-", "−", "+", "*", "**", "×", "%", " ", "\n", "'", '"'),
    *("x", "r", "pi", "Pi", "No", "yes", "İ", "ß", "ŉ"),
)
ANSWERS = st.text() | st.lists(st.sampled_from(PIECES), max_size=10).map("".join)
INDEX = st.integers(0, 3)
GROUPS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=4), max_size=4)


@pytest.mark.parametrize(
    ("answer", "spelling"),
    [
        ("07.0", "7"),
        ("7.", "7"),
        ("+7", "7"),
        ("-0.0", "0"),
        ("−3", "-3"),
        (".50", "0.5"),
        ("1,000", "1000"),
        ("1/2", "0.5"),
        ("-6/4", "-1.5"),
        ("2/6", "1/3"),
        ("8/4", "2"),
        ("1/8", "0.125"),
        ("1/0", "1/0"),
        ("Seven ", "seven"),
    ],
)
def test_equal_numbers_have_one_spelling(answer: str, spelling: str) -> None:
    assert canonical(answer, "number") == spelling


@pytest.mark.parametrize("answer", ["Paris", " paris. ", '"Paris"', "PARIS", "‘Paris’.", "paris\n"])
def test_case_space_quotes_and_the_last_period_do_not_make_another_text(answer: str) -> None:
    assert canonical(answer, "text") == "paris"


@pytest.mark.parametrize(
    ("formula", "spelling"),
    [
        ("$x + 1$", "x+1"),
        (r"\( x+1 \)", "x+1"),
        (r"\boxed{x+1}.", "x+1"),
        (r"{\left( x + 1 \right)}^2", "{(x+1)}^2"),
        ("x**2", "x^2"),
        ("2*pi r", r"2*\pi r"),
        ("2π", r"2\pi"),
        (r"\dfrac{x}{2}", r"\frac{x}{2}"),
        (r"\frac{1}{2}", "0.5"),
        (r"-\tfrac{2}{6}", "-1/3"),
        ("2 1/2", "2.5"),
        (r"-2\frac{1}{2}", "-2.5"),
        (r"1,\!000", "1000"),
        ("07.0", "7"),
        (r"\$5", "5"),
        ("1, 200", "1, 200"),
        (r"50\%", "50%"),
        (r"\text{No solution}", "no solution"),
        ("X", "X"),
        ("0.333...", "0.333..."),
        (r"\frac{1}{0}", "1/0"),
        (".", ""),
    ],
)
def test_a_formula_is_written_in_one_notation(formula: str, spelling: str) -> None:
    assert canonical(formula, "math") == spelling


def test_prose_is_compared_without_case_and_layout() -> None:
    assert same_answer("Because it  rains.\n", "because it rains", "free")
    assert not same_answer("Because it rains", "Because it does not rain", "free")


@given(ANSWERS, KINDS)
def test_a_canonical_spelling_is_its_own(answer: str, kind: str) -> None:
    once = canonical(answer, kind)
    assert canonical(once, kind) == once


@given(st.fractions())
def test_a_fraction_keeps_its_value(value: Fraction) -> None:
    if abs(value.numerator) < 10**30 and value.denominator < 10**30:
        assert Fraction(canonical(f"{value.numerator}/{value.denominator}", "number")) == value


def test_ten_thousand_digits_are_compared_as_they_are() -> None:
    assert canonical("0" + "9" * 10_000, "number") == "9" * 10_000


def test_an_abstention_equals_only_an_abstention() -> None:
    assert same_answer(None, None, "number")
    assert not same_answer(None, "7", "number")
    assert same_answer("7", "7.0", "number")
    assert not same_answer("7", "7.0", "text")


@given(st.lists(ANSWERS, min_size=4, max_size=4), st.lists(st.tuples(INDEX, INDEX), max_size=3), KINDS)
def test_sameness_is_reflexive_symmetric_and_transitive(
    answers: list[str], found: list[tuple[int, int]], kind: str
) -> None:
    spellings = [canonical(answer, kind) for answer in answers]
    same = Sameness(kind=kind, merged=merge_groups([{spellings[i], spellings[j]} for i, j in found], ()))
    for a, b, c in product(answers, repeat=3):
        assert same_answer(a, a, same)
        assert same_answer(a, b, same) == same_answer(b, a, same)
        assert not (same_answer(a, b, same) and same_answer(b, c, same)) or same_answer(a, c, same)
        assert same.key(same.key(a)) == same.key(a)


@given(GROUPS)
def test_what_was_merged_is_one_answer_and_nothing_else_is(groups: list[list[str]]) -> None:
    same = Sameness(kind="text", merged=merge_groups(groups, ()))
    assert all(same_answer(group[0], spelling, same) for group in groups for spelling in group)
    known = {spelling for group in groups for spelling in group}
    assert all(same.key(letter) == letter for letter in "abcdefgh" if letter not in known)


@given(GROUPS, GROUPS, GROUPS)
def test_merging_is_idempotent_commutative_and_associative(
    a: list[list[str]], b: list[list[str]], c: list[list[str]]
) -> None:
    once = merge_groups(a, b)
    assert merge_groups(once, once) == merge_groups(once, a) == once == merge_groups(b, a)
    assert merge_groups(merge_groups(a, b), c) == merge_groups(a, merge_groups(b, c))
    spellings = [spelling for group in once for spelling in group]
    assert len(set(spellings)) == len(spellings)
    assert all(len(group) > 1 for group in once)


def test_merging_follows_every_chain() -> None:
    assert merge_groups([["d", "c"], ["x"], ["a", "b"]], [["ccc", "b"], ["ccc", "d"]]) == (("a", "b", "c", "d", "ccc"),)


def test_overlapping_or_foreign_groups_are_refused() -> None:
    with pytest.raises(ValidationError, match="disjoint"):
        Sameness(kind="text", merged=(("a", "b"), ("b", "c")))
    with pytest.raises(ValidationError, match="canonical"):
        Sameness(kind="text", merged=(("a", "B"),))


@given(st.permutations(["a", "b", "b", "ccc", "ccc", "dd"]))
def test_the_order_of_the_answers_does_not_change_which_is_more_frequent(answers: list[str]) -> None:
    assert by_frequency(answers) == ["b", "ccc", "a", "dd"]


def test_only_a_number_is_a_number() -> None:
    assert [is_number(text) for text in ("7", "-1/3", "0.5", "1/0", "x", "", "07")] == [True] * 3 + [False] * 4


@pytest.mark.parametrize(
    "piece", ["{", "}", "{}", "\\", "\\left", "$", "*", "pi", "1", "1,", " ", ".", "\\boxed{", "a'", "\x00"]
)
@pytest.mark.parametrize("kind", ["math", "free"])
def test_two_hundred_thousand_characters_are_compared_quickly(piece: str, kind: str) -> None:
    started = time.process_time()
    canonical(piece * (200_000 // len(piece)), kind)
    assert time.process_time() - started < 3.0
