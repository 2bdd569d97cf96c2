from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.gates.gate import mcnemar_p
from evolve.gates.paired import flip_p, paired_test


@given(st.integers(0, 30), st.integers(0, 30))
def test_clusters_of_one_problem_give_mcnemar(wins: int, losses: int) -> None:
    assert flip_p([1] * wins + [-1] * losses) == pytest.approx(mcnemar_p(wins, losses))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), max_size=9))
def test_flipping_whole_clusters_is_the_count_over_every_sign(sums: list[int]) -> None:
    totals = [sum(s * v for s, v in zip(signs, sums, strict=True)) for signs in product((-1, 1), repeat=len(sums))]
    assert flip_p(sums) == pytest.approx(sum(total >= sum(sums) for total in totals) / len(totals))


def test_copies_of_a_problem_are_no_evidence() -> None:
    before, after = [False] * 8, [True] * 8
    alone = paired_test(before, after, seed=0)
    copies = paired_test(before * 4, after * 4, [str(i) for i in range(8)] * 4, seed=0)
    assert alone.p == copies.p == pytest.approx(1 / 256)
    assert paired_test(before * 4, after * 4, seed=0).p < 1e-9
    assert (copies.n, copies.num_clusters, copies.wins) == (32, 8, 32)


def test_clustered_errors_grow_with_copies_and_say_so() -> None:
    rng = np.random.default_rng(3)
    before, after = (rng.random(60) < 0.5).tolist(), (rng.random(60) < 0.5).tolist()
    names = [str(index) for index in range(60)]
    alone = paired_test(before, after, seed=1)
    copied = paired_test(before * 5, after * 5, names * 5, seed=1)
    assert alone.design_effect == pytest.approx(1.0)
    assert copied.design_effect == pytest.approx(5.0, rel=0.05)
    assert copied.standard_error == pytest.approx(alone.standard_error, rel=0.01)
    assert copied.difference.width >= alone.difference.width * 0.95


def test_one_cluster_shows_no_spread_and_bounds_nothing() -> None:
    before, after = [False] * 30 + [True] * 10, [True] * 30 + [True] * 10
    found = paired_test(before, after, ["a"] * 40, seed=0)
    assert (found.difference.low, found.difference.high) == (-1.0, 1.0)
    assert (found.p, found.design_effect) == (0.5, 40.0)
    alone = paired_test([False], [True], ["a"], seed=0)
    assert alone == paired_test([False], [True], seed=0)
    assert alone.difference.width < 2.0, "a problem that stands alone is no cluster of several"


def test_the_cross_checks_agree_with_the_exact_test() -> None:
    rng = np.random.default_rng(7)
    for seed in range(20):
        before = rng.random(150) < 0.5
        after = before ^ (rng.random(150) < 0.25)
        names = [str(index // 3) for index in range(150)]
        found = paired_test(before.tolist(), after.tolist(), names, seed=seed)
        assert found.is_consistent
        assert found.p_clustered == pytest.approx(found.p, abs=0.1)


def test_equal_arrangements_show_nothing() -> None:
    same = paired_test([True, False] * 10, [True, False] * 10, seed=0)
    assert (same.p, same.p_two_sided, same.p_flips, same.p_clustered) == (1.0, 1.0, 1.0, None)
    assert (same.gain, same.standard_error, same.design_effect) == (0.0, 0.0, 1.0)


def test_the_same_input_gives_the_same_record() -> None:
    before, after = [True, False, False, True] * 20, [True, True, False, False] * 20
    assert paired_test(before, after, seed=4) == paired_test(before, after, seed=4)


def test_a_wrong_exact_p_is_noticed() -> None:
    found = paired_test([False] * 6 + [True] * 30, [True] * 6 + [True] * 30, seed=0)
    assert found.is_consistent
    assert not found.model_copy(update={"p": 0.3}).is_consistent


def test_other_problems_are_refused() -> None:
    for bad in (((), (), ()), ((True,), (True, False), ()), ((True,), (True,), ("a", "b"))):
        with pytest.raises(ValueError, match="expected results of the same problems"):
            paired_test(*bad, seed=0)
