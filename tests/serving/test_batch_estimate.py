from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batch_estimate import Taken, estimate, sample_of, t_quantile


def taken(tokens: int, seconds: float = 1.0) -> Taken:
    return Taken(prompt_tokens=2 * tokens, output_tokens=tokens, num_calls=3, seconds=seconds, cost=tokens / 1000)


def test_a_sample_is_drawn_from_the_whole_file_and_is_the_same_every_time() -> None:
    drawn = sample_of(1000, 50, seed=7)
    assert drawn == sorted(set(drawn)) == sample_of(1000, 50, seed=7) != sample_of(1000, 50, seed=8)
    assert drawn[0] < 200
    assert drawn[-1] > 800
    assert sample_of(3, 50, seed=7) == [0, 1, 2]


def test_tasks_that_are_all_alike_leave_nothing_open() -> None:
    found = estimate([taken(10)] * 5, num_tasks=100, num_left=95, concurrency=5)
    assert (found.output_tokens.low, found.output_tokens.expected, found.output_tokens.high) == (1000, 1000, 1000)
    assert found.num_calls.expected == 300
    assert (found.seconds.expected, found.cost.expected) == (19.0, pytest.approx(1.0))


def test_a_sample_of_everything_is_no_estimate_but_the_sum() -> None:
    found = estimate([taken(1), taken(5)], num_tasks=2, num_left=0, concurrency=4)
    assert (found.output_tokens.low, found.output_tokens.high, found.seconds.high) == (6, 6, 0)


def test_one_task_gives_a_figure_without_an_interval() -> None:
    assert estimate([taken(7)], num_tasks=10, num_left=9, concurrency=1).output_tokens.expected == 70


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        estimate([], num_tasks=10, num_left=10, concurrency=1)


def test_the_interval_holds_what_comes_nine_times_in_ten() -> None:
    draw, held = random.Random(1), 0
    for _ in range(300):
        tokens = [round(draw.lognormvariate(4.0, 0.6)) for _ in range(400)]
        found = estimate([taken(one) for one in tokens[:40]], num_tasks=400, num_left=360, concurrency=8)
        held += found.output_tokens.low <= sum(tokens) <= found.output_tokens.high
    assert 0.84 <= held / 300 <= 0.95


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=20), st.integers(0, 1000))
def test_the_figure_lies_in_its_interval_and_what_was_spent_is_never_forgotten(seen: list[int], unseen: int) -> None:
    found = estimate([taken(one) for one in seen], num_tasks=len(seen) + unseen, num_left=unseen, concurrency=3)
    tokens = found.output_tokens
    assert sum(seen) - 1e-6 <= tokens.low <= tokens.expected <= tokens.high
    assert 0.0 <= found.seconds.low <= found.seconds.expected <= found.seconds.high


@pytest.mark.parametrize(("degrees", "expected"), [(1, 6.313752), (2, 2.919986), (9, 1.833113), (120, 1.657651)])
def test_quantiles_of_t_are_those_of_the_tables(degrees: int, expected: float) -> None:
    assert t_quantile(0.95, degrees) == pytest.approx(expected, abs=1e-5)
