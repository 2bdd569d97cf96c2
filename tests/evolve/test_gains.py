"""Shares and paired gains, with errors by clusters."""

import numpy as np
import pytest

from evolve.gates.gains import gain, share


def test_a_gain_is_absolute_and_relative_with_intervals_that_hold_it() -> None:
    before, after = [1.0] * 40 + [0.0] * 60, [1.0] * 60 + [0.0] * 40
    found = gain(before, after, seed=1)
    assert found is not None
    assert (found.before, found.after, found.n, found.num_clusters) == (0.4, 0.6, 100, 100)
    assert found.relative == pytest.approx(0.5)
    assert found.absolute.low < 0.2 < found.absolute.high
    assert found.relative_low is not None
    assert found.relative_high is not None
    assert 0.0 < found.relative_low < 0.5 < found.relative_high
    assert found.is_shown
    assert found.p < 0.001
    assert found == gain(before, after, seed=1)


def test_without_a_right_answer_before_there_is_no_relative_gain() -> None:
    found = gain([0.0] * 10, [1.0] * 5 + [0.0] * 5, seed=1)
    assert found is not None
    assert (found.relative, found.relative_low, found.relative_high) == (None, None, None)
    assert "no relative gain" in found.sentence


def test_a_single_right_answer_before_leaves_the_relative_gain_without_an_upper_bound() -> None:
    found = gain([1.0] + [0.0] * 19, [1.0] * 10 + [0.0] * 10, seed=1)
    assert found is not None
    assert found.relative == pytest.approx(9.0)
    assert found.relative_high is None
    assert "?" in found.sentence


def test_near_duplicates_widen_every_interval() -> None:
    rng = np.random.default_rng(0)
    old = np.repeat(rng.random(30) < 0.4, 10).astype(float).tolist()
    new = np.repeat(rng.random(30) < 0.6, 10).astype(float).tolist()
    clusters = [str(place // 10) for place in range(300)]
    alone, together = gain(old, new, seed=1), gain(old, new, clusters, seed=1)
    assert alone is not None
    assert together is not None
    assert together.absolute.width > 1.5 * alone.absolute.width
    assert together.p > alone.p
    single, grouped = share(new), share(new, clusters)
    assert single is not None
    assert grouped is not None
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)


def test_shares_of_samples_have_gains_too_and_equal_steps_do_not_pretend_certainty() -> None:
    found = gain([0.5] * 8, [0.75] * 8, seed=1)
    assert found is not None
    assert found.difference == pytest.approx(0.25)
    assert found.absolute.width > 0.1
    assert found.p == pytest.approx(2 * 0.5**8)


def test_nothing_measured_is_none_and_other_problems_are_an_error() -> None:
    assert share([]) is None
    assert gain([], [], seed=1) is None
    with pytest.raises(ValueError, match="got 1 before and 2 after"):
        gain([1.0], [1.0, 0.0], seed=1)
    with pytest.raises(ValueError, match="expected a cluster for each of 2"):
        share([1.0, 0.0], ["a"])


def test_the_interval_of_the_relative_gain_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(7), 0
    for trial in range(60):
        before = (rng.random(150) < 0.4).astype(float)
        after = np.where(rng.random(150) < 0.5, before, rng.random(150) < 0.6).astype(float)
        found = gain(before.tolist(), after.tolist(), seed=trial)
        assert found is not None
        assert found.relative_low is not None
        assert found.relative_high is not None
        hits += found.relative_low <= 0.25 <= found.relative_high  # 0.5 of 0.4 becomes 0.6: 0.5 / 0.4 - 1
    assert hits >= 52
