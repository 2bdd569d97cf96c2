from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.gates.coverage import choose_seats

SCORES = {"strong": [1, 1, 1, 1, 0, 0], "twin": [1, 1, 1, 1, 0, 0], "odd": [0, 0, 0, 0, 1, 1]}


def test_the_mesh_is_seated_not_the_best_alone() -> None:
    found = choose_seats(SCORES, 2)
    assert found.members == ("strong", "odd")
    assert (found.coverage, found.is_exact) == (pytest.approx(1.0), True)
    assert found.order == (("strong", pytest.approx(4 / 6)), ("odd", pytest.approx(2 / 6)))


def test_one_member_an_engine_where_the_limits_say_so() -> None:
    groups = {"strong": "e1", "twin": "e2", "odd": "e1"}
    assert choose_seats(SCORES, 2, groups=groups).members == ("twin", "odd")
    assert choose_seats(SCORES, 3, groups=groups).members == ("twin", "odd")


def test_required_members_stay_and_weights_count() -> None:
    assert choose_seats(SCORES, 2, required=["twin"]).members == ("twin", "odd")
    assert choose_seats(SCORES, 1, weights=[0, 0, 0, 0, 1, 1]).members == ("odd",)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_small_cases_are_the_best_of_all_and_greedy_is_not_far(seed: int, size: int) -> None:
    table = np.random.default_rng(seed).random((6, 8)) ** 2
    scores = {str(index): row.tolist() for index, row in enumerate(table)}
    best = max(1 - np.prod(1 - table[list(one)], axis=0).mean() for one in combinations(range(6), size))
    exact, greedy = choose_seats(scores, size), choose_seats(scores, size, max_exact=0)
    assert (exact.is_exact, greedy.is_exact) == (True, False)
    assert exact.coverage == pytest.approx(best)
    assert (1 - 1 / math.e) * best - 1e-9 <= greedy.coverage <= best + 1e-9
    assert len(greedy.members) == size


def test_large_cases_are_chosen_greedily_and_say_so() -> None:
    found = choose_seats(SCORES, 2, max_exact=1)
    assert (found.members, found.is_exact) == (("strong", "odd"), False)


def test_greedy_takes_the_best_alone_first_even_where_two_others_cover_more_together() -> None:
    scores = {"wide": [1, 1, 0, 1, 1, 0], "left": [1, 1, 1, 0, 0, 0], "right": [0, 0, 0, 1, 1, 1]}
    greedy, exact = choose_seats(scores, 2, max_exact=0), choose_seats(scores, 2)
    assert (greedy.members, greedy.coverage) == (("wide", "left"), pytest.approx(5 / 6))
    assert (exact.members, exact.coverage) == (("left", "right"), pytest.approx(1.0))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="same problems"):
        choose_seats({"a": [1], "b": [1, 0]}, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        choose_seats({"a": [2.0]}, 1)
    with pytest.raises(ValueError, match="required members"):
        choose_seats(SCORES, 2, required=["nobody"])
