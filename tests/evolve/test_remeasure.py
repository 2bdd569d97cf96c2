from __future__ import annotations

import numpy as np
import pytest

from evolve.gates.aa import aa_is_due, aa_record
from evolve.gates.conjunction import Contest, Rival, hold
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


def test_aa_arms_that_would_have_passed_are_counted_and_many_raise_an_alarm() -> None:
    def record(gain: int, name: str) -> object:
        before, after = (False,) * 40, (True,) * gain + (False,) * (40 - gain)
        now = Rival(kind="incumbent", name="now", right=before)
        kind = "aa" if name.startswith("aa") else "candidate"
        return hold([Contest(name=name, kind=kind, right=after, rivals=(now,), task_types=("a",) * 40)], 0.05, seed=0)

    quiet = aa_record([record(0, "aa") for _ in range(10)] + [record(40, "new")], 0.05)  # type: ignore[misc]
    assert (quiet.num_arms, quiet.num_would_pass, quiet.p_exceeds, quiet.is_alarm) == (10, 0, 1.0, False)
    loud = aa_record([record(40, "aa")] * 3 + [record(0, "aa")] * 2, 0.05)  # type: ignore[list-item]
    assert loud.is_alarm
    assert loud.sentence.endswith("the gate cannot be trusted, and what passes it is not seated")
    assert (quiet.objection, loud.objection.startswith(loud.sentence)) == ("", True)
    assert not aa_record([record(40, "aa")], 0.05).is_alarm, "one alone may be chance"  # type: ignore[list-item]
    assert aa_record([], 0.05).sentence == "no A/A arm was held"


def test_an_aa_arm_rides_along_first_and_regularly() -> None:
    assert [number for number in range(8) if aa_is_due(number, 3)] == [0, 3, 6]
    assert [number for number in range(8) if aa_is_due(number, 0)] == [0]
