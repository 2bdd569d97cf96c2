from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.together import MAX_CORRELATION, made_to_fit, worth_together

FEW = settings(max_examples=50, deadline=None)
WEIGHTS = st.lists(st.floats(0.0, 5.0), min_size=1, max_size=7)


def _alike(size: int, correlation: float) -> list[list[float]]:
    return [[1.0 if i == j else correlation for j in range(size)] for i in range(size)]


@st.composite
def _supporters(draw: st.DrawFn) -> tuple[list[float], list[list[float]]]:
    weights = draw(WEIGHTS)
    table = _alike(len(weights), 0.0)
    for i in range(len(weights)):
        for j in range(i):
            table[i][j] = table[j][i] = draw(st.sampled_from([-0.5, 0.0, 0.2, 0.5, 0.9, 1.0]))
    return weights, made_to_fit(table)


@pytest.mark.parametrize("size", [1, 2, 5, 26])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.95])
def test_members_alike_are_worth_kishs_effective_number(size: int, correlation: float) -> None:
    adds = worth_together([2.0] * size, _alike(size, correlation))
    assert math.fsum(adds) == pytest.approx(2.0 * size / (1 + (size - 1) * correlation))
    assert max(adds) == pytest.approx(min(adds))


def test_of_near_copies_the_heaviest_alone_counts() -> None:
    adds = worth_together([1.0, 3.0, 2.0], _alike(3, MAX_CORRELATION))
    assert adds == (0.0, pytest.approx(3.0), 0.0)


@FEW
@given(_supporters())
def test_nobody_adds_more_than_its_weight_and_all_at_least_the_heaviest(
    supporters: tuple[list[float], list[list[float]]],
) -> None:
    weights, table = supporters
    adds = worth_together(weights, table)
    assert all(-1e-9 <= add <= weight + 1e-9 for add, weight in zip(adds, weights, strict=True))
    assert math.fsum(adds) >= max(weights) - 1e-9


@FEW
@given(_supporters())
def test_one_more_supporter_never_lowers_what_all_are_worth(
    supporters: tuple[list[float], list[list[float]]],
) -> None:
    weights, table = supporters
    fewer = worth_together(weights[:-1], [row[:-1] for row in table[:-1]])
    assert math.fsum(worth_together(weights, table)) >= math.fsum(fewer) - 1e-9


@FEW
@given(_supporters())
def test_the_sum_is_the_maximum_it_is_said_to_be(supporters: tuple[list[float], list[list[float]]]) -> None:
    weights, table = supporters
    roots, draw = [math.sqrt(weight) for weight in weights], random.Random(1)
    best = math.fsum(worth_together(weights, table))
    for _ in range(20):
        y = [draw.random() * 2 for _ in weights]
        quadratic = math.fsum(y[i] * table[i][j] * y[j] for i in range(len(y)) for j in range(len(y)))
        assert 2 * math.fsum(u * v for u, v in zip(roots, y, strict=True)) - quadratic <= best + 1e-9


def test_correlations_that_cannot_hold_at_once_are_lowered_alike() -> None:
    # a goes with b and with c, and yet b never goes with c.
    table = made_to_fit([[1.0, 0.9, 0.9], [0.9, 1.0, -0.9], [0.9, -0.9, 1.0]])
    assert table[0][1] == table[0][2] < 0.71
    assert (table[1][2], table[0][0]) == (0.0, 1.0)
    assert made_to_fit(_alike(3, 0.4)) == _alike(3, 0.4)


def test_correlations_that_fit_by_a_hair_are_lowered_too() -> None:
    """What each adds would hang on the last digit of what was measured."""
    table = made_to_fit([[1.0, 0.707, 0.707], [0.707, 1.0, 0.0], [0.707, 0.0, 1.0]])
    assert table[0][1] == pytest.approx(0.9 * 0.707)


def test_correlations_that_were_not_made_to_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="made_to_fit"):
        worth_together([1.0, 1.0], _alike(2, 1.0))
