"""What a generation is expected to breed, before it does: recipes, rows, who comes as far as the gate."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from evolve.asks import first_of_each_type
from evolve.config import RunConfig
from evolve.learning.recipes import Parent, Recipe, placebo_of, recipes_for
from evolve.problems.sealed import Asked
from evolve.seats import base_seats
from evolve.training.config import LoraTraining
from memory.types import Record

EXAMPLES_PER_PROBLEM = 0.4
"""Verified, distinct examples that one member gives for one TRAIN problem: 0.38 in the quickstart's run in a fresh
clone, 0.39 in the first generation of the experiment of seed 62669."""
DISTINCT_SHARE = 0.8
"""Of the rows of two families together, as they often give the same answer: 0.68 and 0.74 in these runs' first
generations, up to 0.92 of all rows by the second, when more is solved."""
CRITIQUES_PER_COUNCIL, SYNTHESES_PER_COUNCIL = 0.1, 0.4
"""Of one member: critiques after which somebody ended right who had not been, and right answers after reading."""


class Bred(Record):
    """Who is expected to be measured in a generation."""

    num_contenders: int = Field(description="candidates, and specialists of the archive tried again")
    num_placebos: int = Field(description="twins of what goes to the gate")
    num_finalists: int = Field(description="distinct candidates in the arrangements that go to the gate")
    helpers: tuple[str, ...] = Field(
        default=(), description="critics and synthesisers, which are measured in councils and counted nowhere else"
    )
    helper_placebos: tuple[str, ...] = ()


def bred_in(config: RunConfig, train: Sequence[Asked], number: int) -> Bred:
    """What generation `number` measures, if every recipe with enough rows gives a candidate."""
    everything = recipes_trained(config, train, number)
    helpers = [recipe.name for recipe in everything if recipe.role != "proposer"]
    recipes = [recipe for recipe in everything if recipe.role == "proposer"]
    placebos = placebos_trained(config, train, number)
    # One seat changes in a generation; what else was bred so far may wait in the archive.
    elites = min(config.evaluation.max_elites, number * max(0, len(recipes) - 1))
    return Bred(
        num_contenders=len(recipes) + elites,
        num_placebos=len([twin for twin in placebos if twin.role == "proposer"]),
        num_finalists=len({recipe.base for recipe in recipes}),
        helpers=tuple(helpers),
        helper_placebos=tuple(twin.name for twin in placebos if twin.role != "proposer"),
    )


def recipes_trained(config: RunConfig, train: Sequence[Asked], number: int) -> list[Recipe]:
    """The recipes of a generation that give an adapter, merges included."""
    return [one for one in planned_recipes(config, train, number) if _is_trained(one, config, train, number)]


def placebos_trained(config: RunConfig, train: Sequence[Asked], number: int) -> list[Recipe]:
    """The twins of what is expected at the gate: of each engine's recipe that takes most to train, role by role.

    None where nothing has to beat them and no controls are due.
    """
    from evolve.gates.aa import aa_is_due  # SciPy, which a plan can do without

    take_part = "placebo" in config.gate.required or aa_is_due(number, config.gate.aa_every)
    if not (config.recipes.placebo and take_part):
        return []
    learning = [recipe for recipe in recipes_trained(config, train, number) if recipe.start != "merge"]
    dearest: dict[tuple[str, str], Recipe] = {}
    for recipe in sorted(learning, key=lambda one: -rows_trained([one], config, train, number)):
        dearest.setdefault((recipe.base, recipe.role), recipe)
    return [placebo_of(recipe) for recipe in dearest.values()]


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


def rows_trained(recipes: Sequence[Recipe], config: RunConfig, train: Sequence[Asked], number: int) -> float:
    """Rows that these adapters of generation `number` are trained on, every pass counted."""
    total = 0.0
    for recipe in recipes:
        if isinstance(recipe.training, LoraTraining):
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
    rows *= DISTINCT_SHARE if {"own_correct", "cross_family"} <= set(recipe.mix) else 1.0
    councils = len(first_of_each_type(train, config.harvest.councils_per_type)) * (number + 1) * config.seats_per_engine
    rows += councils * CRITIQUES_PER_COUNCIL * ("critique" in recipe.mix)
    rows += councils * SYNTHESES_PER_COUNCIL * ("synthesis" in recipe.mix)
    if recipe.task_types:
        rows *= len(recipe.task_types) / max(1, len({problem.task.type for problem in train}))
    return rows if config.recipes.max_rows is None else min(rows, float(config.recipes.max_rows))


def _is_trained(recipe: Recipe, config: RunConfig, train: Sequence[Asked], number: int) -> bool:
    if recipe.start == "merge":
        return True
    return rows_of(recipe, config, train, number) >= config.recipes.min_rows
