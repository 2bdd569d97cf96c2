from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.gates.intervals import Interval, paired_difference, wilson

COUNTS = st.integers(min_value=0, max_value=300)


def test_wilson_agrees_with_the_textbook() -> None:
    assert wilson(15, 148).low == pytest.approx(0.0624, abs=1e-4)  # Newcombe 1998, table I
    assert wilson(15, 148).high == pytest.approx(0.1605, abs=1e-4)
    assert wilson(0, 20).low == 0.0
    assert wilson(0, 20).high == pytest.approx(0.1611, abs=1e-4)


@given(COUNTS, COUNTS)
def test_wilson_holds_the_share_and_stays_within_bounds(successes: int, failures: int) -> None:
    n = successes + failures
    interval = wilson(successes, n)
    assert 0.0 <= interval.low <= interval.high <= 1.0
    if n:
        assert interval.low <= successes / n <= interval.high


def test_more_problems_narrow_the_interval() -> None:
    assert wilson(5, 10).width > wilson(50, 100).width > wilson(500, 1000).width
    assert wilson(0, 0) == Interval(low=0.0, high=1.0)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and n=3"):
        wilson(4, 3)
    with pytest.raises(ValueError, match="at least 0"):
        paired_difference(1, -1, 0, 0)
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 3, confidence=1.0)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_paired_interval_holds_the_difference_and_is_antisymmetric(a: int, b: int, c: int, d: int) -> None:
    interval, mirrored = paired_difference(a, b, c, d), paired_difference(a, c, b, d)
    n = a + b + c + d
    if n:
        assert interval.low - 1e-9 <= (b - c) / n <= interval.high + 1e-9
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-9)


def test_the_paired_interval_has_a_width_without_any_disagreement() -> None:
    interval = paired_difference(60, 0, 0, 40)
    assert interval.low < 0.0 < interval.high


@pytest.mark.parametrize(("win", "lose"), [(0.1, 0.1), (0.15, 0.05), (0.02, 0.02)])
def test_the_paired_interval_covers_at_its_level(win: float, lose: float) -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(800):
        cells = [0, 0, 0, 0]
        for _ in range(120):
            draw = rng.random()
            cells[1 if draw < win else 2 if draw < win + lose else 0 if draw < 0.6 else 3] += 1
        interval = paired_difference(cells[0], cells[1], cells[2], cells[3])
        covered += interval.low <= win - lose <= interval.high
    assert 0.93 <= covered / 800 <= 0.995
