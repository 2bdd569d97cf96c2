"""Recipes: which adapters a generation tries to breed, how, and from which parents. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field

from evolve.learning.bandit import BanditState, choose
from evolve.learning.merged_rank import merged_rank
from evolve.learning.mutate import mutate, partners
from evolve.training.config import (
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
from mesh.types import Member

PLACEBO_SUFFIX = "-placebo"
"""Ends the name of a recipe's twin on shuffled targets."""

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
    solves: dict[str, float] = Field(
        default_factory=dict,
        description="task type to the share of DEV it solved when last measured; empty: unmeasured",
    )
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
    arm: str = Field(default="", description="what a bandit knows it by in every generation; empty: a control")
    changes: tuple[str, ...] = Field(default=(), description="hyper-parameters that a mutation changed, in words")

    @property
    def start(self) -> Literal["fresh", "warm", "merge"]:
        """What the adapter is made from: the base alone, a parent, or several."""
        if self.training.kind == "merge":
            return "merge"
        return "warm" if self.parents else "fresh"


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

    Args:
        parents: adapters that may be trained further or merged, the best first; those of engines without a seat are
            not used.
        bandit: what is known of the arms; with `config.bandit` it chooses among an engine's recipes.
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
        recipes += _chosen(made, config, bandit or BanditState(), generation, seed)
    return tuple(recipes)


def placebo_of(recipe: Recipe) -> Recipe:
    """The recipe's twin: the same seed, start, parents and hyper-parameters, on shuffled targets; no bandit's arm."""
    return recipe.model_copy(update={"name": f"{recipe.name}{PLACEBO_SUFFIX}", "placebo": True, "arm": ""})


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
    """The best parent merged with those that add most to it; none where they are too few, or the rank too large."""
    wanted = len(merge.weights) or config.merge_parents
    # A critic's weights and a proposer's have learned different work.
    alike = {parent.adapter: parent for parent in parents if parent.role == parents[0].role}
    chosen = _complementary(list(alike.values()), wanted)
    if len(chosen) < wanted or (max_rank is not None and merged_rank([p.rank for p in chosen], merge) > max_rank):
        return
    same = sum(one.method == merge.method for one in config.merges[:number])
    yield _Arm(
        name=f"merge-{merge.method}" + (f"-{same + 1}" if same else ""),
        mix=(),
        training=merge,
        task_types=_common_niche(chosen),
        role=chosen[0].role,
        parents=tuple(parent.adapter for parent in chosen),
    )


def _complementary(parents: Sequence[Parent], num: int) -> list[Parent]:
    """The first parent and the others that solve what those before them do not, by task type; unmeasured, in order."""
    if not parents:
        return []
    kinds = sorted({kind for parent in parents for kind in parent.solves})
    known = {parent.adapter: parent for parent in parents}
    scores = {parent.adapter: [parent.solves.get(kind, 0.0) for kind in kinds] for parent in parents}
    return [known[adapter] for adapter in partners(scores, parents[0].adapter, num)]


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


def _seed(seed: int, name: str) -> int:
    return int(content_hash([seed, name])[:8], 16)
