"""Fading: half-lives over whole days, and an end for what nothing ever confirmed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.decay import decay, is_stale
from memory.types import Level, Standing

ages = st.floats(-1e4, 1e6)
half_lives = st.floats(0.1, 1e5)


def test_half_is_left_after_a_half_life() -> None:
    assert [decay(age, 30) for age in (0, 30, 60)] == [1.0, 0.5, 0.25]


@given(st.integers(0, 10_000), st.floats(0, 0.999), half_lives)
def test_a_recall_gives_the_same_all_day(day: int, hour: float, half_life: float) -> None:
    assert decay(day + hour, half_life) == decay(day, half_life)


@given(ages, ages, half_lives)
def test_the_older_never_counts_more(one: float, other: float, half_life: float) -> None:
    young, old = sorted((one, other))
    assert 0.0 <= decay(old, half_life) <= decay(young, half_life) <= 1.0


@given(st.floats(-1e6, 0))
def test_a_clock_that_was_set_back_makes_nothing_younger_than_new(age: float) -> None:
    assert decay(age, 10.0) == 1.0


def test_forever_is_allowed_on_either_side() -> None:
    assert decay(1e9, math.inf) == 1.0
    assert decay(math.inf, 10.0) == 0.0


@pytest.mark.parametrize("half_life", [0.0, -1.0, math.nan])
def test_a_half_life_that_is_none_is_refused(half_life: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        decay(1.0, half_life)


def test_an_age_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="got NaN"):
        decay(math.nan, 1.0)


def test_only_what_nothing_ever_tested_is_archived() -> None:
    written = Standing(level=Level.CANDIDATE, num_episodes=5)
    assert is_stale(written, 120, 30)
    assert not is_stale(written, 119.9, 30)
    assert not is_stale(written, 1e9, math.inf)
    for tested in ({"num_passed": 1}, {"num_failed": 1}, {"num_uses": 1}, {"level": Level.RETIRED}):
        assert not is_stale(written.model_copy(update=tested), 1e9, 30)
