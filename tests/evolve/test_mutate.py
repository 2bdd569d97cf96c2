from __future__ import annotations

import math
import statistics

import pytest
from pydantic import ValidationError

from evolve.learning.mutate import attraction, mutate, partners
from evolve.training.config import LoraTraining, MutationConfig, ScriptedTraining

BOUNDS = MutationConfig()


def test_every_mutation_stays_within_its_bounds_and_changes_no_more_than_it_may():
    training = LoraTraining()
    for seed in range(300):
        changed, changes = mutate(training, BOUNDS, seed, max_rank=16)
        assert isinstance(changed, LoraTraining)
        assert BOUNDS.learning_rate[0] <= changed.learning_rate <= BOUNDS.learning_rate[1]
        assert changed.rank in (8, 16)
        assert changed.alpha / changed.rank in BOUNDS.alpha_ratio
        assert changed.num_epochs in BOUNDS.num_epochs
        assert changed.batch_size in BOUNDS.batch_size
        assert changed.weight_decay in BOUNDS.weight_decay
        assert 1 <= len(changes) <= 3, "rank and alpha change together"
        training = changed


def test_the_same_seed_gives_the_same_mutation_and_another_seed_another():
    one, again, other = (mutate(LoraTraining(), BOUNDS, seed) for seed in (4, 4, 5))
    assert one == again
    assert one.training != other.training


def test_what_is_not_mutated_is_kept():
    changed = mutate(LoraTraining(max_length=99, schedule="cosine", num_threads=1), BOUNDS, 1).training
    assert isinstance(changed, LoraTraining)
    assert (changed.max_length, changed.schedule, changed.num_threads) == (99, "cosine", 1)


def test_the_rate_wanders_without_a_drift_and_does_not_stick_to_its_bounds():
    config = MutationConfig(num_changes=1)
    steps = [
        math.log(mutate(LoraTraining(learning_rate=2e-4), config, seed).training.learning_rate / 2e-4)  # type: ignore[union-attr]
        for seed in range(400)
    ]
    assert abs(statistics.mean(steps)) < 0.1
    assert statistics.stdev(steps) == pytest.approx(0.5, rel=0.15)
    far = MutationConfig(num_changes=1, step=3.0)
    rates = [mutate(LoraTraining(learning_rate=1e-3), far, seed).training.learning_rate for seed in range(200)]  # type: ignore[union-attr]
    assert max(map(rates.count, rates)) < 6


def test_a_value_outside_its_bounds_is_brought_back():
    changed = mutate(LoraTraining(learning_rate=0.5, rank=64, alpha=64), BOUNDS, 3).training
    assert isinstance(changed, LoraTraining)
    assert changed.learning_rate <= 1.5e-3


def test_a_scripted_training_has_nothing_to_mutate():
    assert mutate(ScriptedTraining(), BOUNDS, 1) == (ScriptedTraining(), ())


@pytest.mark.parametrize("wrong", [{"rank": (32, 8)}, {"num_epochs": ()}, {"learning_rate": (0.0, 1e-3)}])
def test_bounds_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError, match="expected"):
        MutationConfig.model_validate(wrong)


def test_attraction_counts_only_what_the_other_adds_weighted_by_difficulty():
    assert attraction([1, 0, 0], [0, 1, 1], [1.0] * 3) == 2
    assert attraction([1, 0, 0], [0, 1, 1], [1.0, 0.5, 0.25]) == 0.75
    assert attraction([1, 1], [1, 1], [1.0, 1.0]) == 0


def test_of_two_partners_the_one_that_solves_what_is_harder_is_taken():
    scores = {"first": [1, 0, 0], "easy": [0, 1, 0], "hard": [0, 0, 1], "too": [1, 1, 0]}
    assert partners(scores, "first", 2) == ("first", "hard")


def test_partners_complement_each_other_rather_than_being_best_alone():
    scores = {"first": [1, 1, 1, 0, 0], "strong": [1, 1, 1, 1, 0], "odd": [0, 0, 0, 1, 1], "last": [0, 0, 0, 0, 1]}
    assert partners(scores, "first", 2) == ("first", "odd")
    assert partners(scores, "first", 9) == ("first", "odd", "strong", "last")  # nothing is left to add: in order
