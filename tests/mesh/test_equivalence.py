from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.equivalence import canonical, same_answer

KINDS = st.sampled_from(["number", "text"])


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


@given(st.text(), KINDS)
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
