from __future__ import annotations

import random

import pytest

from evolve.learning.bandit import ArmResult, BanditState, choose, replay, reward
from evolve.training.config import BanditConfig

ARMS = ("left/own", "left/cross", "left/warm")


def result(arm: str, generation: int, value: float, number: int = 0) -> ArmResult:
    return ArmResult(arm=arm, recipe=f"g{generation}-{arm}-{number}", generation=generation, reward=value)


def play(config: BanditConfig, means: dict[str, float], generations: int, seed: int = 0) -> list[str]:
    """Arms taken in a run where every arm pays 1 with its own chance."""
    rng, results, taken = random.Random(seed), [], []
    for generation in range(generations):
        for arm in choose(replay(results, config, generation), list(means), config, generation=generation, seed=seed):
            taken.append(arm)
            results.append(result(arm, generation, float(rng.random() < means[arm])))
    return taken


@pytest.mark.parametrize("method", ["thompson", "ucb"])
def test_the_arm_that_pays_is_taken_most_and_every_arm_is_tried(method):
    config = BanditConfig(method=method, num_recipes=1, discount=1.0)
    taken = play(config, {"left/own": 0.1, "left/cross": 0.8, "left/warm": 0.2}, 300)
    assert taken[-100:].count("left/cross") > 70
    assert set(taken) == set(ARMS)


def test_with_a_discount_the_choice_follows_what_pays_now():
    config = BanditConfig(num_recipes=1, discount=0.7)
    old = [result("left/own", g, 1.0) for g in range(10)] + [result("left/cross", g, 0.0) for g in range(10)]
    new = [result("left/own", g, 0.0) for g in range(10, 16)] + [result("left/cross", g, 1.0) for g in range(10, 16)]
    state = replay(old + new, config, 16)
    assert state.of("left/cross").mean > 0.85
    assert state.of("left/own").mean < 0.15


def test_the_state_is_replayed_from_results_whatever_their_order_and_however_often_given():
    config = BanditConfig()
    results = [result(arm, g, (g * 7 % 10) / 10, n) for g in range(4) for n, arm in enumerate(ARMS)]
    state = replay(results, config, 3)
    assert replay([*reversed(results), *results[:5]], config, 3) == state
    assert state.of("left/own").num_tried == 3, "results of generation 3 are not known before it"
    assert BanditState.model_validate_json(state.model_dump_json()) == state
    assert replay([], config, 3) == BanditState()


def test_an_arms_draw_does_not_depend_on_which_other_arms_there_are():
    config = BanditConfig(num_recipes=3)
    state = replay([result("left/own", 0, 0.5)], config, 1)
    whole = choose(state, ARMS, config, generation=1, seed=3)
    without = choose(state, [arm for arm in ARMS if arm != "left/warm"], config, generation=1, seed=3)
    assert tuple(arm for arm in whole if arm != "left/warm") == without
    assert choose(state, ARMS[::-1], config, generation=1, seed=3) == whole


def test_ucb_takes_what_was_never_tried_first():
    config = BanditConfig(method="ucb", num_recipes=2)
    state = replay([result("left/own", 0, 1.0)], config, 1)
    assert set(choose(state, ARMS, config, generation=1, seed=0)) == {"left/cross", "left/warm"}


def test_an_arm_that_is_named_twice_may_be_taken_twice():
    config = BanditConfig(num_recipes=3)
    assert sorted(choose(BanditState(), ["a", "b", "a"], config, generation=0, seed=0)) == ["a", "a", "b"]


def test_a_reward_is_the_gain_on_dev_up_to_one_and_one_for_passing_the_gate():
    config = BanditConfig(full_gain=0.1)
    assert [reward(gain, passed_gate=False, config=config) for gain in (None, -0.2, 0.05, 0.3)] == [0, 0, 0.5, 1]
    assert reward(0.01, passed_gate=True, config=config) == 1
