from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from evolve.gates.halving import HalvingPlan, Step, balanced_order, kept_whole, next_step, plan_halving


def play(plan: HalvingPlan, incumbent: list[bool], arms: dict[str, list[bool]]) -> tuple[Step, int]:
    """Measure what is asked for until nothing is; the last step and the evaluations paid."""
    results: dict[str, list[bool]] = {name: [] for name in arms}
    paid = 0
    while (step := next_step(plan, incumbent, results)).arms:
        for name in step.arms:
            results[name] += arms[name][step.start : step.stop]
            paid += step.stop - step.start
    return step, paid


def test_rungs_halve_the_field_until_the_finalists_have_seen_everything() -> None:
    plan = plan_halving(12, 96)
    assert (plan.rungs, plan.survivors) == ((48, 96), (6, 3))
    assert plan_halving(20, 96) == HalvingPlan(rungs=(24, 48, 96), survivors=(10, 5, 3))
    assert plan_halving(2, 96) == HalvingPlan(rungs=(96,), survivors=(3,))
    assert plan_halving(40, 2).rungs[-1] == 2
    assert plan_halving(20, 96).num_evaluations(20) == 20 * 24 + 10 * 24 + 5 * 48


def test_the_better_get_more_problems_and_the_worse_get_a_reason() -> None:
    rng = np.random.default_rng(0)
    incumbent = (rng.random(96) < 0.5).tolist()
    arms = {f"arm {index}": (rng.random(96) < 0.3 + 0.03 * index).tolist() for index in range(20)}
    plan = plan_halving(20, 96)
    step, paid = play(plan, incumbent, arms)
    assert paid == plan.num_evaluations(20) == 20 * 96 / 2
    assert 1 <= len(step.finalists) <= 3
    assert set(step.finalists) | set(step.dropped) == set(arms)
    assert "arm 0" in step.dropped
    assert step.dropped["arm 0"].startswith("place ")


def test_a_candidate_that_is_no_better_on_dev_is_no_finalist() -> None:
    step, _ = play(plan_halving(2, 10), [True] * 5 + [False] * 5, {"same": [True] * 5 + [False] * 5, "up": [True] * 10})
    assert step.finalists == ("up",)
    assert step.dropped == {"same": "no better than the incumbents after 10 problems (+0.0%)"}
    assert play(plan_halving(1, 4), [True] * 4, {"down": [False] * 4})[0].finalists == ()


def test_halving_keeps_the_best_far_more_often_than_chance() -> None:
    rng, kept = np.random.default_rng(1), 0
    plan = plan_halving(16, 120)
    for _ in range(60):
        incumbent = (rng.random(120) < 0.5).tolist()
        arms = {str(index): (rng.random(120) < 0.5 + 0.15 * (index == 7)).tolist() for index in range(16)}
        kept += "7" in play(plan, incumbent, arms)[0].finalists
    assert kept >= 45


def test_the_same_scores_give_the_same_step_whatever_their_order() -> None:
    results = {"a": [True, False], "b": [False, True], "c": [True, False]}
    turned = dict(reversed(results.items()))
    plan = HalvingPlan(rungs=(2, 4), survivors=(2, 1))
    assert next_step(plan, [False] * 4, results) == next_step(plan, [False] * 4, turned)
    assert next_step(plan, [False] * 4, {}) == Step()


def test_every_beginning_of_the_order_is_balanced_over_task_types() -> None:
    types = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    order = balanced_order(types, [str(index) for index in range(100)], seed=3)
    assert sorted(order) == list(range(100))
    counts = {name: [types[index] for index in order[:20]].count(name) for name in "abc"}
    assert counts == {"a": 12, "b": 6, "c": 2}
    assert order != balanced_order(types, [str(index) for index in range(100)], seed=4)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValidationError, match="more problems"):
        HalvingPlan(rungs=(4, 2), survivors=(2, 1))
    with pytest.raises(ValueError, match="at least one arrangement"):
        plan_halving(0, 5)
    with pytest.raises(ValueError, match="results of the incumbents"):
        next_step(HalvingPlan(rungs=(2,), survivors=(1,)), [True], {"a": [True, True]})


def test_a_cluster_is_kept_whole_or_not_at_all_and_one_without_room_is_passed_over() -> None:
    assert kept_whole([2, 0, 1, 3, 4], ["a", "b", "a", "c", "d"], 3) == {"d", "c", "b"}
    assert kept_whole([1, 3, 4, 0, 2], ["a", "b", "a", "c", "d"], 3) == {"a", "d"}
    assert kept_whole([0, 1, 2], ["a", "a", "a"], 2) == frozenset()
    assert kept_whole([0, 1], ["a", "b"], 0) == frozenset()
