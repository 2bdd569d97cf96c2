from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.garbage import broken, shifted

WELL = {7: math.log(0.6), 9: math.log(0.2), 11: math.log(0.001)}


@pytest.mark.parametrize("odd", [math.nan, -math.inf, math.inf, 0.5])
def test_what_is_no_log_probability_is_garbage(odd: float) -> None:
    assert "expected finite" in broken(WELL | {9: odd})
    assert "expected finite" in shifted(WELL, WELL | {9: odd})


def test_nothing_at_all_is_garbage() -> None:
    assert broken({})
    assert shifted(WELL, {7: WELL[7]})


@given(noise=st.lists(st.floats(-0.15, 0.15), min_size=3, max_size=3))
def test_rounding_is_no_garbage(noise: list[float]) -> None:
    found = {token: min(0.0, value + change) for (token, value), change in zip(WELL.items(), noise, strict=True)}
    assert shifted(WELL, found) == ""


@pytest.mark.parametrize(
    "found",
    [
        {7: math.log(0.2), 9: math.log(0.6), 11: math.log(0.001)},
        {token: math.log(1 / 50_000) for token in WELL},
        {7: math.log(0.5), 9: math.log(0.1), 11: math.log(0.001) - 9},
    ],
)
def test_another_distribution_is_garbage(found: dict[int, float]) -> None:
    assert "expected what it said when it started" in shifted(WELL, found)
