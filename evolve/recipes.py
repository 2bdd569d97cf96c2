"""Recipes: which adapters a generation tries to breed, from which parents, and which examples each learns from."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from evolve.bandit import BanditState, choose
from evolve.merged_rank import merged_rank
from evolve.mutate import mutate
from evolve.training_config import (
    LoraTraining,
    MergeTraining,
    RecipesConfig,
    RecipeTraining,
    Role,
    ScriptedTraining,
    TrainingConfig,
    WarmStart,
)
from memory.types import Record, content_hash
from mesh.types import Member, Message

if TYPE_CHECKING:
    from evolve.curate import Example

Ingredient = Literal["own_correct", "revision", "cross_family", "critique", "synthesis"]

OWN: tuple[Ingredient, ...] = ("own_correct", "revision")
CROSS: tuple[Ingredient, ...] = (*OWN, "cross_family")
DISTIL: tuple[Ingredient, ...] = ("cross_family",)
ROLE_MIX: dict[Role, tuple[Ingredient, ...]] = {
    "proposer": OWN,
    "critic": ("critique",),
    "synthesiser": ("synthesis",),
}


class Parent(Record):
    """An adapter that a recipe may start from: what seated or archived specialists are to this module."""

    name: str
    adapter: str = Field(description="content hash")
    engine: str = Field(description="engine whose base model it is for")
    rank: int = Field(ge=1)
    task_types: tuple[str, ...] = Field(default=(), description="what it was bred for; empty: all")
    role: Role = "proposer"
    training: LoraTraining | None = Field(
        default=None, description="how it was trained, which mutations start from; None: not known, or not trained"
    )


class Recipe(Record):
    """How one candidate adapter is made."""

    name: str = Field(description="unique within a run; the candidate is called after it")
    base: str = Field(description="name of the engine whose base model the adapter is for")
    family: str = Field(description="model family of that engine")
    mix: tuple[Ingredient, ...] = Field(description="which examples go in; cross_family: verified by another family")
    task_types: tuple[str, ...] = Field(default=(), description="only these task types; empty: all")
    training: RecipeTraining
    placebo: bool = Field(default=False, description="True: targets are shuffled, so that only form can be learned")
    seed: int = Field(ge=0, description="of the choice of rows, their order, the adapter's first weights")
    role: Role = "proposer"
    parents: tuple[str, ...] = Field(
        default=(), description="hashes of adapters: the one that is trained further, or those that are merged"
    )
    arm: str = Field(
        default="", description="what a bandit knows it by in every generation; empty: a control, always bred"
    )
    changes: tuple[str, ...] = Field(default=(), description="hyper-parameters that a mutation changed, in words")

    @property
    def start(self) -> Literal["fresh", "warm", "merge"]:
        """What the adapter is made from: the base alone, a parent, or several."""
        if self.training.kind == "merge":
            return "merge"
        return "warm" if self.parents else "fresh"


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


def recipes_for(
    generation: int,
    seats: Sequence[Member],
    config: RecipesConfig,
    training: TrainingConfig,
    *,
    task_types: Sequence[str],
    seed: int,
    parents: Sequence[Parent] = (),
    bandit: BanditState | None = None,
    max_ranks: Mapping[str, int] | None = None,
) -> tuple[Recipe, ...]:
    """Every recipe of a generation, engine by engine in seat order; `task_types` matter for `per_task_type` alone.

    An engine's placebo is the twin of its first recipe that learns from rows: same rows, seed and hyper-parameters,
    shuffled targets. Without such a recipe it has none.

    Args:
        parents: adapters that may be trained further or merged, the best first; those of engines without a seat are
            not used.
        bandit: what is known of the arms; with `config.bandit` it chooses among an engine's recipes. Controls always
            stay.
        max_ranks: engine to the largest rank it takes; a merge or mutation beyond that is not made.
    """
    families = {member.engine: member.family for member in reversed(seats)}
    recipes: list[Recipe] = []
    for engine in dict.fromkeys(member.engine for member in seats):
        own_parents = [parent for parent in parents if parent.engine == engine]
        limit = (max_ranks or {}).get(engine)
        made = [
            _recipe(generation, engine, families[engine], arm, seed)
            for arm in _arms(config, training, task_types, own_parents, limit, (seed, generation, engine))
        ]
        made = _chosen(made, config, bandit or BanditState(), generation, seed)
        twin = next((recipe for recipe in made if recipe.start != "merge"), None)
        recipes += made
        if config.placebo and twin is not None:
            recipes.append(_placebo_of(twin, f"g{generation}-{engine}-placebo"))
    return tuple(recipes)


def rows_for(recipe: Recipe, examples: Iterable[Example], config: RecipesConfig) -> RowSelection:
    """Choose the recipe's rows: the same examples and seed give the same rows in the same order.

    A limit of rows is shared out evenly over task types. A placebo's targets are shuffled within each task type.
    A merge learns from no rows.
    """
    chosen, left_out = examples_for(recipe, examples, config)
    rows = [
        TrainingRow(
            task_id=example.task_id,
            task_type=example.task_type,
            messages=example.messages,
            completion=example.completion,
            weight=example.weight,
        )
        for example in chosen
    ]
    if recipe.placebo:
        rows = shuffle_targets(rows, recipe.seed)
    refusal = ""
    if len(rows) < config.min_rows and recipe.start != "merge":
        refusal = f"{len(rows)} rows, fewer than min_rows ({config.min_rows})"
    return RowSelection(
        rows=tuple(rows),
        left_out=left_out,
        refusal=refusal,
        adapters=tuple(sorted({example.adapter for example in chosen if example.adapter is not None})),
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
    be theirs. A placebo's pairs are turned round by a seeded
    coin, so that nothing but the form of the two texts can be learned. Fewer than `min_pairs` give none at all.
    """
    settings = recipe.training.preference if isinstance(recipe.training, LoraTraining) else None
    if settings is None:
        return PairSelection()
    left_out: Counter[str] = Counter()
    chosen: dict[tuple[str, str, str], PreferenceRow] = {}
    for pair in pairs:
        reason = _unfit_pair(recipe, pair)
        if reason is None and (pair.task_id, pair.chosen, pair.rejected) in chosen:
            reason = "same task and texts as another pair"
        if reason is not None:
            left_out[reason] += 1
            continue
        chosen[pair.task_id, pair.chosen, pair.rejected] = PreferenceRow(
            task_id=pair.task_id,
            task_type=pair.task_type,
            messages=pair.messages,
            chosen=pair.chosen,
            rejected=pair.rejected,
            weight=pair.weight,
        )
    key = {one: content_hash([recipe.seed, one.task_id, one.chosen, one.rejected]) for one in chosen.values()}
    rows = sorted(chosen.values(), key=lambda one: key[one])
    if recipe.placebo:
        rows = [_turned(one) if int(key[one][-1], 16) % 2 else one for one in rows]
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


class _Arm(Record):
    """A recipe without what the generation, engine and seed add."""

    name: str
    mix: tuple[Ingredient, ...]
    training: RecipeTraining
    task_types: tuple[str, ...] = ()
    role: Role = "proposer"
    parents: tuple[str, ...] = ()
    key: str = Field(default="", description="under which a bandit counts it; empty: `name`")
    changes: tuple[str, ...] = ()


def _arms(
    config: RecipesConfig,
    training: TrainingConfig,
    task_types: Sequence[str],
    parents: Sequence[Parent],
    max_rank: int | None,
    place: tuple[int, int, str],
) -> Iterator[_Arm]:
    if config.own:
        yield _Arm(name="own", mix=OWN, training=training)
    if config.cross_family:
        yield _Arm(name="cross", mix=CROSS, training=training)
    if config.distil:
        yield _Arm(name="distil", mix=DISTIL, training=training)
    if config.per_task_type:
        for task_type in task_types:
            yield _Arm(name=f"own-{task_type}", mix=OWN, training=training, task_types=(task_type,))
    for role in config.roles:
        if role != "proposer":
            yield _Arm(name=role, mix=ROLE_MIX[role], training=training, role=role)
    if config.warm_start is not None:
        yield from _warm_arms(training, parents[: config.warm_start.num_parents], config.warm_start)
    for number, merge in enumerate(config.merges):
        yield from _merge_arms(merge, number, config, parents, max_rank)
    yield from _mutated_arms(config, training, parents, max_rank, place)


def _warm_arms(training: TrainingConfig, parents: Sequence[Parent], settings: WarmStart) -> Iterator[_Arm]:
    """Every parent trained further on what it was bred for, with its own rank."""
    for number, parent in enumerate(parents):
        changes: dict[str, float] = {"rank": parent.rank}
        if isinstance(training, LoraTraining):
            changes["num_epochs"] = settings.num_epochs or training.num_epochs
            changes["learning_rate"] = settings.learning_rate or training.learning_rate
        ranked = training.model_copy(update=changes)
        key = "-".join(["warm", *([parent.role] if parent.role != "proposer" else []), *parent.task_types])
        yield _Arm(
            name=key if number == 0 else f"{key}-{number + 1}",
            mix=CROSS if settings.mix == "cross" and parent.role == "proposer" else ROLE_MIX[parent.role],
            training=ranked,
            task_types=parent.task_types,
            role=parent.role,
            parents=(parent.adapter,),
            key=key,
        )


def _merge_arms(
    merge: MergeTraining, number: int, config: RecipesConfig, parents: Sequence[Parent], max_rank: int | None
) -> Iterator[_Arm]:
    """The best parents merged; none where there are too few, or where the engine would not take the rank."""
    wanted = len(merge.weights) or config.merge_parents
    chosen = list({parent.adapter: parent for parent in parents}.values())[:wanted]
    if len(chosen) < wanted or (max_rank is not None and merged_rank([p.rank for p in chosen], merge) > max_rank):
        return
    same = sum(one.method == merge.method for one in config.merges[:number])
    roles = {parent.role for parent in chosen}
    yield _Arm(
        name=f"merge-{merge.method}" + (f"-{same + 1}" if same else ""),
        mix=(),
        training=merge,
        task_types=_common_niche(chosen),
        role=roles.pop() if len(roles) == 1 else "proposer",
        parents=tuple(parent.adapter for parent in chosen),
    )


def _mutated_arms(
    config: RecipesConfig,
    training: TrainingConfig,
    parents: Sequence[Parent],
    max_rank: int | None,
    place: tuple[int, int, str],
) -> Iterator[_Arm]:
    """Like `own`, with hyper-parameters near those of the best parent whose are known, else near the run's."""
    if isinstance(training, ScriptedTraining):
        start: TrainingConfig = training
    else:
        start = next((parent.training for parent in parents if parent.training is not None), training)
    for number in range(1, config.mutations + 1):
        mutated = mutate(start, config.mutation, int(content_hash([*place, number])[:8], 16), max_rank)
        yield _Arm(name=f"mutated-{number}", mix=OWN, training=mutated.training, key="mutated", changes=mutated.changes)


def _common_niche(parents: Sequence[Parent]) -> tuple[str, ...]:
    """Task types of all parents together; empty, which is all, where one of them was bred for all."""
    if any(not parent.task_types for parent in parents):
        return ()
    return tuple(sorted({task_type for parent in parents for task_type in parent.task_types}))


def _recipe(generation: int, engine: str, family: str, arm: _Arm, seed: int) -> Recipe:
    name = f"g{generation}-{engine}-{arm.name}"
    return Recipe(
        name=name,
        base=engine,
        family=family,
        mix=arm.mix,
        task_types=arm.task_types,
        training=arm.training,
        seed=_seed(seed, name),
        role=arm.role,
        parents=arm.parents,
        arm=f"{engine}/{arm.key or arm.name}",
        changes=arm.changes,
    )


def _placebo_of(twin: Recipe, name: str) -> Recipe:
    return twin.model_copy(update={"name": name, "placebo": True, "arm": "", "changes": ()})


def _chosen(
    made: Sequence[Recipe], config: RecipesConfig, bandit: BanditState, generation: int, seed: int
) -> list[Recipe]:
    if config.bandit is None:
        return list(made)
    arms = [recipe.arm for recipe in made]
    taken = Counter(choose(bandit, arms, config.bandit, generation=generation, seed=seed))
    kept = []
    for recipe in made:
        # Several recipes of one arm come in order, so the first ones are its best.
        if taken[recipe.arm] > 0:
            kept.append(recipe)
            taken[recipe.arm] -= 1
    return kept


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


def _seed(seed: int, name: str) -> int:
    return int(content_hash([seed, name])[:8], 16)
