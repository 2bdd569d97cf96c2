"""What a generation is expected to breed, before it does: recipes, rows, who comes as far as the gate."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from evolve.config import RunConfig
from evolve.recipes import Parent, Recipe, recipes_for
from evolve.sealed import Asked
from evolve.seats import base_seats
from evolve.training_config import LoraTraining
from memory.types import Record

EXAMPLES_PER_PROBLEM = 0.4
"""Verified, distinct examples that one member gives for one TRAIN problem; small models solve less than half."""


class Bred(Record):
    """Who is expected to be measured in a generation."""

    num_contenders: int = Field(description="candidates without placebos, and specialists of the archive tried again")
    num_placebos: int
    num_finalists: int = Field(description="distinct candidates in the arrangements that go to the gate")


def bred_in(config: RunConfig, train: Sequence[Asked], number: int) -> Bred:
    """What generation `number` measures, if every recipe with enough rows gives a candidate."""
    recipes = [one for one in planned_recipes(config, train, number) if _is_trained(one, config, train, number)]
    candidates = [recipe for recipe in recipes if not recipe.placebo]
    elites = config.evaluation.max_elites if number > 1 else 0
    return Bred(
        num_contenders=len(candidates) + elites,
        num_placebos=len(recipes) - len(candidates),
        num_finalists=len({recipe.base for recipe in candidates}),
    )


def planned_recipes(config: RunConfig, train: Sequence[Asked], number: int) -> tuple[Recipe, ...]:
    """The recipes of a generation; from the second on every engine is taken to have a specialist to start from."""
    engines = [engine for engine in config.serving.engines if engine.kind != "remote"]
    seats = [seat for seat in base_seats(config) if any(engine.name == seat.engine for engine in engines)]
    parents = [
        Parent(name=f"parent-{place}-{engine.name}", adapter=f"{engine.name}-{place}", engine=engine.name, rank=rank)
        for engine in engines
        for place in range(min(number, config.recipes.merge_parents))
        for rank in [config.training.rank]
    ]
    types = sorted({problem.task.type for problem in train})
    return recipes_for(
        number + 1, seats, config.recipes, config.training, task_types=types, seed=config.seed, parents=parents
    )


def rows_trained(config: RunConfig, train: Sequence[Asked], number: int) -> float:
    """Rows that all adapters of generation `number` are trained on, every pass counted."""
    total = 0.0
    for recipe in planned_recipes(config, train, number):
        if isinstance(recipe.training, LoraTraining) and _is_trained(recipe, config, train, number):
            total += rows_of(recipe, config, train, number) * recipe.training.num_epochs
    return total


def rows_of(recipe: Recipe, config: RunConfig, train: Sequence[Asked], number: int) -> float:
    """Rows of one recipe: of this generation and all before it, since sets grow."""
    own = EXAMPLES_PER_PROBLEM * len(train) * (number + 1)
    if config.accumulation.max_rows is not None:
        own = min(own, config.accumulation.max_rows / len(config.serving.engines))
    own *= config.seats_per_engine
    others = own * (len(config.serving.engines) - 1)
    rows = own * ("own_correct" in recipe.mix) + others * ("cross_family" in recipe.mix)
    if recipe.task_types:
        rows *= len(recipe.task_types) / max(1, len({problem.task.type for problem in train}))
    return rows if config.recipes.max_rows is None else min(rows, float(config.recipes.max_rows))


def _is_trained(recipe: Recipe, config: RunConfig, train: Sequence[Asked], number: int) -> bool:
    if recipe.start == "merge":
        return True
    return rows_of(recipe, config, train, number) >= config.recipes.min_rows
