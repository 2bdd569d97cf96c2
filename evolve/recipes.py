"""Recipes: which adapters a generation tries to breed, and which examples each of them learns from."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from evolve.training_config import RecipesConfig, TrainingConfig
from memory.types import Record, content_hash
from mesh.types import Member, Message

if TYPE_CHECKING:
    from evolve.curate import Example

Ingredient = Literal["own_correct", "revision", "cross_family"]

OWN: tuple[Ingredient, ...] = ("own_correct", "revision")
CROSS: tuple[Ingredient, ...] = (*OWN, "cross_family")


class Recipe(Record):
    """How one candidate adapter is made."""

    name: str = Field(description="unique within a run; the candidate is called after it")
    base: str = Field(description="name of the engine whose base model the adapter is for")
    family: str = Field(description="model family of that engine")
    mix: tuple[Ingredient, ...] = Field(description="which examples go in; cross_family: verified by another family")
    task_types: tuple[str, ...] = Field(default=(), description="only these task types; empty: all")
    training: TrainingConfig
    placebo: bool = Field(default=False, description="True: targets are shuffled, so that only form can be learned")
    seed: int = Field(ge=0, description="of the choice of rows, their order, the adapter's first weights")


class TrainingRow(Record):
    """One example to learn from: what the member saw, and what it should have said."""

    task_id: str
    task_type: str
    messages: tuple[Message, ...] = Field(description="the prompt, exactly as the engine gets it")
    completion: str = Field(description="the assistant's text, without any terminator")
    weight: float = Field(default=1.0, gt=0, description="weight of this row in the loss, relative to the other rows")


class RowSelection(Record):
    """The rows of one recipe, and what became of the other examples."""

    rows: tuple[TrainingRow, ...]
    left_out: dict[str, int] = Field(default_factory=dict, description="reason to number of examples")
    refusal: str = Field(default="", description="why this recipe is not worth training; empty: it is")


def recipes_for(
    generation: int,
    seats: Sequence[Member],
    config: RecipesConfig,
    training: TrainingConfig,
    *,
    task_types: Sequence[str],
    seed: int,
) -> tuple[Recipe, ...]:
    """Every recipe of a generation, engine by engine in seat order; `task_types` matter for `per_task_type` alone."""
    families = {member.engine: member.family for member in reversed(seats)}
    recipes = []
    for engine in dict.fromkeys(member.engine for member in seats):
        for arm, mix, niche, placebo in _arms(config, task_types):
            name = f"g{generation}-{engine}-{arm}"
            recipes.append(
                Recipe(
                    name=name,
                    base=engine,
                    family=families[engine],
                    mix=mix,
                    task_types=niche,
                    training=training,
                    placebo=placebo,
                    seed=_seed(seed, name),
                )
            )
    return tuple(recipes)


def rows_for(recipe: Recipe, examples: Iterable[Example], config: RecipesConfig) -> RowSelection:
    """Choose the recipe's rows: the same examples and seed give the same rows in the same order.

    A limit of rows is shared out evenly over task types. A placebo's targets are shuffled within each task type.
    """
    left_out: Counter[str] = Counter()
    chosen: dict[tuple[str, str], TrainingRow] = {}
    for example in examples:
        reason = _unfit(recipe, example)
        row = TrainingRow(
            task_id=example.task_id,
            task_type=example.task_type,
            messages=example.messages,
            completion=example.completion,
            weight=example.weight,
        )
        if reason is None and (row.task_id, row.completion) in chosen:
            reason = "same task and answer text as another row"
        if reason is None:
            chosen[row.task_id, row.completion] = row
        else:
            left_out[reason] += 1
    rows = _spread(chosen.values(), recipe.seed)
    if config.max_rows is not None and len(rows) > config.max_rows:
        left_out["more than max_rows"] = len(rows) - config.max_rows
        rows = rows[: config.max_rows]
    if recipe.placebo:
        rows = shuffle_targets(rows, recipe.seed)
    refusal = ""
    if len(rows) < config.min_rows:
        refusal = f"{len(rows)} rows, fewer than min_rows ({config.min_rows})"
    return RowSelection(rows=tuple(rows), left_out=dict(sorted(left_out.items())), refusal=refusal)


def shuffle_targets(rows: Sequence[TrainingRow], seed: int) -> list[TrainingRow]:
    """The same prompts with the completions of their own task type dealt anew.

    The completions stay the same multiset per type. No row keeps its completion, unless more than half of a type's rows
    share one: then as few keep it as can be.
    """
    result = list(rows)
    by_type: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_type[row.task_type].append(index)
    for task_type, indices in by_type.items():
        rng = random.Random(f"{seed}/{task_type}")
        counts = Counter(rows[index].completion for index in indices)
        groups = sorted(counts)
        rng.shuffle(groups)
        rank = {completion: number for number, completion in enumerate(groups)}
        rng.shuffle(indices)
        indices.sort(key=lambda index: rank[rows[index].completion])
        # Equal completions now stand together, so a shift by the largest group takes every row out of its own.
        shift = max(counts.values())
        for position, index in enumerate(indices):
            source = rows[indices[(position + shift) % len(indices)]]
            result[index] = result[index].model_copy(update={"completion": source.completion})
    return result


def _arms(
    config: RecipesConfig, task_types: Sequence[str]
) -> list[tuple[str, tuple[Ingredient, ...], tuple[str, ...], bool]]:
    arms: list[tuple[str, tuple[Ingredient, ...], tuple[str, ...], bool]] = []
    if config.own:
        arms.append(("own", OWN, (), False))
    if config.cross_family:
        arms.append(("cross", CROSS, (), False))
    if config.per_task_type:
        arms.extend((f"own-{task_type}", OWN, (task_type,), False) for task_type in task_types)
    if config.placebo:
        arms.append(("placebo", OWN, (), True))
    return arms


def _unfit(recipe: Recipe, example: Example) -> str | None:
    if recipe.task_types and example.task_type not in recipe.task_types:
        return "another task type"
    ingredient = example.source if example.family == recipe.family else "cross_family"
    return None if ingredient in recipe.mix else f"not in the mix: {ingredient}"


def _spread(rows: Iterable[TrainingRow], seed: int) -> list[TrainingRow]:
    """In a seeded order that takes one row of each task type in turn, so that any beginning of it is balanced."""
    by_type: dict[str, list[TrainingRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: content_hash([seed, row.task_id, row.completion])):
        by_type[row.task_type].append(row)
    queues = [by_type[task_type] for task_type in sorted(by_type)]
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def _seed(seed: int, name: str) -> int:
    return int(content_hash([seed, name])[:8], 16)
