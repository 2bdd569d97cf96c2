"""How far training is, in steps that can be told before it starts."""

from __future__ import annotations

import pytest

from evolve.learning.recipe_rows import PreferenceRow, TrainingRow
from evolve.learning.recipes import Recipe
from evolve.training.config import LoraTraining, PreferenceTraining, RecipeTraining, ScriptedTraining
from evolve.training.job import TrainingJob, TrainingProgress, quarantined
from evolve.training.steps import StepsDone, steps_of

ROW = TrainingRow(task_id="t", task_type="sums", messages=(), completion="7")
PAIR = PreferenceRow(task_id="t", task_type="sums", messages=(), chosen="7", rejected="8")


def job(name: str, training: RecipeTraining, num_rows: int, num_pairs: int = 0) -> TrainingJob:
    recipe = Recipe(name=name, base="b", family="f", mix=("own_correct",), training=training, seed=1)
    rows, pairs = (ROW,) * num_rows, (PAIR,) * num_pairs
    return TrainingJob(base_name="b", base_dir="/b", recipe=recipe, rows=rows, pairs=pairs, seed=1, out_dir="/out")


def far(recipe: str, step: int, num_steps: int) -> TrainingProgress:
    return TrainingProgress(recipe=recipe, step=step, num_steps=num_steps, seconds=1.0)


@pytest.mark.parametrize(
    ("training", "num_rows", "num_pairs", "steps"),
    [
        (LoraTraining(batch_size=16, num_epochs=3), 91, 0, 18),
        (LoraTraining(batch_size=16, num_epochs=3, max_steps=5), 91, 0, 5),
        (LoraTraining(batch_size=16, num_epochs=1, preference=PreferenceTraining(batch_size=8)), 16, 20, 1 + 3),
        (LoraTraining(batch_size=16, num_epochs=1, preference=PreferenceTraining(min_pairs=21)), 16, 20, 1),
        (ScriptedTraining(), 91, 0, 1),
        (LoraTraining(), 0, 0, 1),
    ],
)
def test_the_steps_of_a_job_follow_from_its_rows_and_pairs(
    training: RecipeTraining, num_rows: int, num_pairs: int, steps: int
) -> None:
    assert steps_of(job("r", training, num_rows, num_pairs)) == steps


def test_all_jobs_together_are_so_far_and_a_job_that_ended_is_done_whatever_was_heard_of_it() -> None:
    told: list[int] = []
    lora = LoraTraining(batch_size=10, num_epochs=2)
    first, second = job("first", lora, 100), job("second", lora, 50)
    steps = StepsDone([first, second], told.append)
    assert steps.total == 20 + 10
    steps.hear(far("first", 0, 0))  # alive, and nothing done
    assert told == []
    steps.hear(far("first", 8, 20))
    steps.hear(far("second", 4, 8))  # rows were left out: half of it
    assert told == [8, 5]
    steps.hear(far("first", 6, 20))  # its process died, and it goes on from a checkpoint
    assert told == [8, 5, -2]
    steps.ended(quarantined(first, "why"))
    steps.ended(quarantined(second, "why"))
    assert sum(told) == steps.total
