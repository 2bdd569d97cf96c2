"""Which examples and pairs a recipe learns from, and in what order; and what a placebo learns instead. Pure."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from evolve.learning.recipes import Recipe
from evolve.training.config import LoraTraining, RecipesConfig
from memory.types import Record, content_hash
from mesh.types import Message

if TYPE_CHECKING:
    from evolve.learning.curate import Example


class TrainingRow(Record):
    """One example to learn from: what the member saw, and what it should have said."""

    task_id: str
    task_type: str
    messages: tuple[Message, ...] = Field(description="the prompt, exactly as the engine gets it")
    completion: str = Field(description="the assistant's text, without any terminator")
    weight: float = Field(default=1.0, gt=0, description="weight of this row in the loss, relative to the other rows")


class PreferenceRow(Record):
    """A pair to learn from: the better and the worse answer to one prompt."""

    task_id: str
    task_type: str
    messages: tuple[Message, ...] = Field(description="the prompt, exactly as the engine gets it")
    chosen: str = Field(description="the better text, without any terminator")
    rejected: str = Field(description="the worse text, without any terminator")
    weight: float = Field(default=1.0, gt=0, description="weight of this pair in the loss, relative to the others")


class Pair(Protocol):
    """What curation has to say of a chosen and a rejected answer to one problem."""

    @property
    def task_id(self) -> str:
        """The problem."""
        ...

    @property
    def task_type(self) -> str:
        """Its task family."""
        ...

    @property
    def family(self) -> str:
        """Model family of the member whose wrong answer it is, which the pair teaches."""
        ...

    @property
    def author_family(self) -> str:
        """Model family of the chosen text's author."""
        ...

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt."""
        ...

    @property
    def chosen(self) -> str:
        """The better text."""
        ...

    @property
    def rejected(self) -> str:
        """The worse text."""
        ...

    @property
    def weight(self) -> float:
        """Weight in the loss."""
        ...


class PairSelection(Record):
    """The pairs of one recipe, and what became of the others."""

    pairs: tuple[PreferenceRow, ...] = ()
    left_out: dict[str, int] = Field(default_factory=dict, description="reason to number of pairs")


class RowSelection(Record):
    """The rows of one recipe, and what became of the other examples."""

    rows: tuple[TrainingRow, ...]
    left_out: dict[str, int] = Field(default_factory=dict, description="reason to number of examples")
    refusal: str = Field(default="", description="why this recipe is not worth training; empty: it is")
    adapters: tuple[str, ...] = Field(
        default=(), description="adapters that wrote the rows, sorted; bases are not named"
    )


def rows_for(recipe: Recipe, examples: Iterable[Example], config: RecipesConfig) -> RowSelection:
    """Choose the recipe's rows: the same examples and seed give the same rows in the same order.

    A limit of rows is shared out evenly over task types. A merge learns from no rows.
    """
    chosen, left_out = examples_for(recipe, examples, config)
    rows = [training_row(example) for example in chosen]
    refusal = ""
    if len(rows) < config.min_rows and recipe.start != "merge":
        refusal = f"{len(rows)} rows, fewer than min_rows ({config.min_rows})"
    return RowSelection(
        rows=tuple(rows),
        left_out=left_out,
        refusal=refusal,
        adapters=tuple(sorted({example.adapter for example in chosen if example.adapter is not None})),
    )


def training_row(example: Example) -> TrainingRow:
    """An example as a job gets it: without who wrote it."""
    return TrainingRow(
        task_id=example.task_id,
        task_type=example.task_type,
        messages=example.messages,
        completion=example.completion,
        weight=example.weight,
    )


def examples_for(
    recipe: Recipe, examples: Iterable[Example], config: RecipesConfig
) -> tuple[list[Example], dict[str, int]]:
    """The examples that the recipe's rows are made of, in their order; and reason to number of the others."""
    if recipe.start == "merge":
        return [], {}
    left_out: Counter[str] = Counter()
    found: dict[tuple[str, str, str], Example] = {}
    for example in examples:
        reason = _unfit(recipe, example)
        # Task ids may come again in another generation, for another question.
        place = (example.task_id, _asked(example), example.completion)
        if reason is None and place in found:
            reason = "same task and answer text as another row"
        if reason is None:
            found[place] = example
        else:
            left_out[reason] += 1
    chosen = _spread(found.values(), recipe.seed)
    if config.max_rows is not None and len(chosen) > config.max_rows:
        left_out["more than max_rows"] = len(chosen) - config.max_rows
        chosen = chosen[: config.max_rows]
    return chosen, dict(sorted(left_out.items()))


def ingredient_of(example: Example, family: str) -> str:
    """What an example is to a recipe for `family`; what another family said as critic or synthesiser is in no mix."""
    if example.family == family:
        return example.source
    return "cross_family" if example.role == "proposer" else f"another family's {example.source}"


def pairs_for(recipe: Recipe, pairs: Iterable[Pair]) -> PairSelection:
    """Choose the recipe's pairs; none where its training learns from none.

    A pair teaches the family whose mistake it holds; where a recipe takes other families' answers, the chosen text may
    be theirs. Fewer than `min_pairs` give none at all.
    """
    settings = recipe.training.preference if isinstance(recipe.training, LoraTraining) else None
    if settings is None:
        return PairSelection()
    left_out: Counter[str] = Counter()
    chosen: dict[tuple[str, ...], PreferenceRow] = {}
    for pair in pairs:
        reason = _unfit_pair(recipe, pair)
        # Task ids may come again in another generation, for another question.
        place = (pair.task_id, *(message.text for message in pair.messages[-1:]), pair.chosen, pair.rejected)
        if reason is None and place in chosen:
            reason = "same task and texts as another pair"
        if reason is not None:
            left_out[reason] += 1
            continue
        chosen[place] = PreferenceRow(
            task_id=pair.task_id,
            task_type=pair.task_type,
            messages=pair.messages,
            chosen=pair.chosen,
            rejected=pair.rejected,
            weight=pair.weight,
        )
    rows = sorted(chosen.values(), key=lambda one: _key(one, recipe.seed))
    if len(rows) < settings.min_pairs:
        if rows:
            left_out[f"fewer than min_pairs ({settings.min_pairs})"] = len(rows)
        rows = []
    return PairSelection(pairs=tuple(rows), left_out=dict(sorted(left_out.items())))


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


def turn_pairs(pairs: Iterable[PreferenceRow], seed: int) -> list[PreferenceRow]:
    """The same pairs, about half of them turned round by a seeded coin: only the form of both texts can be learned."""
    return [_turned(one) if int(_key(one, seed)[-1], 16) % 2 else one for one in pairs]


def _unfit_pair(recipe: Recipe, pair: Pair) -> str | None:
    if recipe.task_types and pair.task_type not in recipe.task_types:
        return "another task type"
    if recipe.role != "proposer":
        return "pairs are of first answers"
    if pair.family != recipe.family:
        return "another family's mistake"
    if pair.author_family != recipe.family and "cross_family" not in recipe.mix:
        return "another family's answer"
    return "chosen and rejected are the same text" if pair.chosen == pair.rejected else None


def _key(pair: PreferenceRow, seed: int) -> str:
    return content_hash([seed, pair.task_id, pair.chosen, pair.rejected])


def _turned(row: PreferenceRow) -> PreferenceRow:
    return row.model_copy(update={"chosen": row.rejected, "rejected": row.chosen})


def _unfit(recipe: Recipe, example: Example) -> str | None:
    if recipe.task_types and example.task_type not in recipe.task_types:
        return "another task type"
    ingredient = ingredient_of(example, recipe.family)
    return None if ingredient in recipe.mix else f"not in the mix: {ingredient}"


def _spread(examples: Iterable[Example], seed: int) -> list[Example]:
    """In a seeded order that takes one of each task type in turn, so that any beginning of it is balanced."""

    def rank(example: Example) -> tuple[str, str]:
        return content_hash([seed, example.task_id, example.completion]), _asked(example)

    by_type: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=rank):
        by_type[example.task_type].append(example)
    queues = [by_type[task_type] for task_type in sorted(by_type)]
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def _asked(example: Example) -> str:
    return "\n".join(message.text for message in example.messages[-1:])
