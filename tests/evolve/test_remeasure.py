from __future__ import annotations

import numpy as np
import pytest

from evolve.gates.paired import paired_test
from evolve.gates.remeasure import expected_luck, remeasured


def test_the_best_of_twenty_equal_ones_looks_six_points_better_on_two_hundred_problems() -> None:
    assert expected_luck(20, 200, 0.24) == pytest.approx(0.065, abs=0.001)
    assert expected_luck(1, 200, 0.24) == pytest.approx(0.0, abs=1e-9)
    assert expected_luck(2, 100, 1.0) == pytest.approx(np.pi**-0.5 / 10, abs=1e-6)


def test_a_winner_is_stored_with_what_it_showed_on_fresh_items() -> None:
    chosen = paired_test([False] * 30 + [True] * 70, [True] * 10 + [False] * 20 + [True] * 70, seed=0)
    fresh = paired_test([False] * 30 + [True] * 70, [True] * 4 + [False] * 28 + [True] * 68, seed=0)
    found = remeasured("new", chosen, 8, fresh)
    assert (found.chosen_gain, found.fresh.gain) == (0.1, 0.02)
    assert found.shrinkage == pytest.approx(0.08)
    assert found.interval.low < 0.02 < found.interval.high
    assert found.sentence.startswith("new: +10.0 points where it was chosen among 8")
