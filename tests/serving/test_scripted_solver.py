from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scripted_solver import draw, near_miss, pick, solve


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("State the final answer to the following arithmetic problem: 4 + 3 =", ("sum", "7")),
        ("What is 12+5-30?", ("sum", "-13")),
        ("Calculate -5 * -6.", ("product", "30")),
        ("What is ( 3 + 2 ) * 4?", ("product", "20")),
        ("Add 007 + 1", ("sum", "8")),
        ("Find the Greatest Common Divisor (GCD) of these numbers: 26, 760.", ("gcd", "2")),
        ("Find the Least Common Multiple (LCM) of these numbers: 18, 4", ("lcm", "36")),
        ("Call 555-1234, then 10 + 20 + 30", ("sum", "60")),
    ],
)
def test_question_it_can_read_is_solved(question: str, expected: tuple[str, str]) -> None:
    assert solve(question) == expected


@pytest.mark.parametrize("question", ["hello", "", "3.5 + 2", "1 2 3", "7 / 2", "(2)(3)", "2**9", "9" * 5000])
def test_question_it_cannot_read_has_one_stable_stand_in(question: str) -> None:
    operation, answer = solve(question)
    assert operation == "other"
    assert solve(f"  {question.upper()}\n") == (operation, answer)
    assert 0 <= int(answer) < 100


@given(st.text(alphabet="0123456789 +-*()./\n", max_size=400))
def test_no_text_breaks_it(text: str) -> None:
    assert int(solve(text)[1]) == int(solve(text)[1])
    assert solve("gcd " + text)[1]
    assert solve("lcm " + text)[1]


@given(st.integers(0, 999), st.integers(0, 999), st.integers(0, 999))
def test_chain_sums_agree_with_python(first: int, second: int, third: int) -> None:
    assert solve(f"What is {first} + {second} - {third}?") == ("sum", str(first + second - third))


@given(st.integers(-(10**6), 10**6), st.integers())
def test_near_miss_is_never_right(value: int, seed: int) -> None:
    assert near_miss(str(value), seed) != str(value)


def test_draws_are_spread_evenly() -> None:
    draws = [draw("seed", number) for number in range(2000)]
    assert math.isclose(sum(draws) / len(draws), 0.5, abs_tol=0.03)
    assert {pick(6, number) for number in range(200)} == set(range(6))
