from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.learning.bandit import ArmState, BanditState
from evolve.learning.curate import Example
from evolve.learning.recipe_rows import (
    PairSelection,
    RowSelection,
    TrainingRow,
    pairs_for,
    rows_for,
    shuffle_targets,
    turn_pairs,
)
from evolve.learning.recipes import Parent, Recipe, placebo_of, recipes_for
from evolve.training.config import (
    BanditConfig,
    LoraTraining,
    MergeTraining,
    PreferenceTraining,
    RecipesConfig,
    ScriptedTraining,
    WarmStart,
)
from mesh.types import Member, Message, Part

SEATS = (
    Member(name="left", engine="left", family="llama"),
    Member(name="right", engine="right", family="gemma", adapter="ab"),
)


def example(number: int, task_type: str = "sum", family: str = "llama", source: str = "own_correct") -> Example:
    return Example(
        task_id=f"{task_type}-{number}",
        task_type=task_type,
        member="somebody",
        family=family,
        source=source,
        messages=(Message(role="user", parts=(Part(text=f"{task_type} {number}?"),)),),
        completion=str(number),
    )


def recipe(**changes: object) -> Recipe:
    plain = Recipe(
        name="r", base="left", family="llama", mix=("own_correct", "revision"), training=ScriptedTraining(), seed=3
    )
    return plain.model_copy(update=changes)


ALL = RecipesConfig(min_rows=1)


def names(config: RecipesConfig, generation: int = 1) -> list[str]:
    made = recipes_for(generation, SEATS, config, ScriptedTraining(), task_types=("gcd", "sum"), seed=7)
    return [r.name for r in made]


def test_every_engine_gets_each_of_the_recipes_that_are_asked_for():
    assert names(RecipesConfig()) == ["g1-left-own", "g1-right-own"]
    config = RecipesConfig(own=False, cross_family=True, per_task_type=True)
    assert names(config)[:3] == ["g1-left-cross", "g1-left-own-gcd", "g1-left-own-sum"]
    assert len(names(config)) == 6


def test_recipes_differ_in_seed_between_engines_and_generations_and_not_between_calls():
    def made(generation: int) -> list[Recipe]:
        return list(recipes_for(generation, SEATS, ALL, ScriptedTraining(), task_types=(), seed=7))

    assert made(0) == made(0)
    assert len({r.seed for r in made(0) + made(1)}) == 4
    assert [(r.base, r.family) for r in made(0)] == [("left", "llama"), ("right", "gemma")]


def test_own_takes_the_own_family_alone_and_cross_adds_the_others():
    examples = [
        example(1),
        example(2, source="revision"),
        example(3, family="gemma"),
        example(4, family="gemma", source="revision"),
    ]
    own = rows_for(recipe(), examples, ALL)
    assert sorted(row.completion for row in own.rows) == ["1", "2"]
    assert own.left_out == {"not in the mix: cross_family": 2}
    cross = rows_for(recipe(mix=("own_correct", "revision", "cross_family")), examples, ALL)
    assert sorted(row.completion for row in cross.rows) == ["1", "2", "3", "4"]


def test_one_answer_text_to_one_task_is_learned_once():
    both = rows_for(recipe(mix=("own_correct", "cross_family")), [example(1), example(1, family="gemma")], ALL)
    assert len(both.rows) == 1
    assert both.left_out == {"same task and answer text as another row": 1}


def test_a_niche_keeps_other_task_types_out():
    narrow = rows_for(recipe(task_types=("gcd",)), [example(1), example(2, "gcd")], ALL)
    assert [row.task_type for row in narrow.rows] == ["gcd"]
    assert narrow.left_out == {"another task type": 1}


def test_a_limit_of_rows_is_shared_out_evenly_and_does_not_depend_on_the_order_of_examples():
    examples = [example(n) for n in range(50)] + [example(n, "gcd") for n in range(6)]
    config = RecipesConfig(min_rows=1, max_rows=20)
    chosen = rows_for(recipe(), examples, config)
    assert Counter(row.task_type for row in chosen.rows) == {"sum": 14, "gcd": 6}
    assert chosen.left_out == {"more than max_rows": 36}
    assert rows_for(recipe(), examples[::-1], config) == chosen
    assert rows_for(recipe(seed=4), examples, config).rows != chosen.rows


def test_too_few_rows_are_refused_with_both_numbers():
    assert rows_for(recipe(), [example(1)], RecipesConfig(min_rows=2)).refusal == "1 rows, fewer than min_rows (2)"
    assert rows_for(recipe(), [], ALL).refusal
    assert not rows_for(recipe(), [example(1)], ALL).refusal


def test_a_placebo_is_its_recipe_in_everything_but_its_targets():
    real = recipe(training=lora(), parents=("hash1",), arm="left/warm", changes=("rank 8 → 16",))
    twin = placebo_of(real)
    assert (twin.name, twin.placebo, twin.arm) == (f"{real.name}-placebo", True, "")
    assert twin.model_copy(update={"name": real.name, "placebo": False, "arm": real.arm}) == real


def test_shuffled_rows_are_the_same_prompts_with_other_targets_of_their_type():
    examples = [example(n) for n in range(10)] + [example(n, "gcd") for n in range(20, 30)]
    rows = rows_for(recipe(), examples, ALL).rows
    dealt = shuffle_targets(rows, 3)
    assert [row.messages for row in dealt] == [row.messages for row in rows]
    assert all(new.completion != old.completion for new, old in zip(dealt, rows, strict=True))
    assert Counter((r.task_type, r.completion) for r in dealt) == Counter((r.task_type, r.completion) for r in rows)


def test_twins_of_critics_and_synthesisers_do_their_work():
    config = RecipesConfig(roles=("critic", "synthesiser"), min_rows=1)
    for recipe in bred(config):
        twin = placebo_of(recipe)
        assert (twin.role, twin.mix, twin.seed) == (recipe.role, recipe.mix, recipe.seed)


def test_a_merge_takes_parents_of_one_role():
    config = RecipesConfig(own=False, merges=(MergeTraining(),))
    critics = [parent(number, role="critic") for number in (2, 4)]
    [made] = bred(config, parent(1), *critics, parent(3))
    assert (made.parents, made.role) == (("hash1", "hash3"), "proposer")
    [made] = bred(config, *critics, parent(1))
    assert (made.parents, made.role) == (("hash2", "hash4"), "critic")
    assert bred(config, critics[0], parent(1)) == []


def test_critics_and_synthesisers_learn_from_their_own_family_and_nobody_else_learns_from_them():
    examples = [
        example(1, source="critique"),
        example(2, source="synthesis"),
        example(3, source="critique", family="gemma"),
        example(4),
    ]
    config = RecipesConfig(own=False, cross_family=True, roles=("critic", "synthesiser"), min_rows=1)
    cross, critic, synthesiser = bred(config)
    assert [[row.completion for row in rows_for(r, examples, config).rows] for r in (cross, critic, synthesiser)] == [
        ["4"],
        ["1"],
        ["2"],
    ]
    assert rows_for(cross, examples, config).left_out == {
        "not in the mix: another family's critique": 1,
        "not in the mix: critique": 1,
        "not in the mix: synthesis": 1,
    }


def test_one_task_id_with_two_questions_is_two_tasks_and_authors_are_named():
    first = example(1).model_copy(update={"adapter": "aa"})
    other = first.model_copy(update={"messages": example(2).messages, "adapter": "bb"})
    found = rows_for(recipe(), [first, other], ALL)
    assert len(found.rows) == 2
    assert found.adapters == ("aa", "bb")


ROWS = st.lists(
    st.builds(
        lambda task_type, completion, number: TrainingRow(
            task_id=str(number), task_type=task_type, messages=example(number).messages, completion=completion
        ),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["1", "2", "3", "4"]),
        st.integers(0, 99),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(ROWS, st.integers(0, 5))
def test_shuffled_targets_stay_in_their_type_and_leave_their_row_wherever_that_can_be(rows, seed):
    shuffled = shuffle_targets(rows, seed)
    assert shuffle_targets(rows, seed) == shuffled
    for task_type in ("a", "b"):
        before = [row for row in rows if row.task_type == task_type]
        after = [row for row in shuffled if row.task_type == task_type]
        assert [row.messages for row in after] == [row.messages for row in before]
        counts = Counter(row.completion for row in before)
        assert Counter(row.completion for row in after) == counts
        kept = sum(a.completion == b.completion for a, b in zip(after, before, strict=True))
        unavoidable = max(0, 2 * max(counts.values(), default=0) - len(before))
        assert kept == unavoidable


def test_a_larger_mix_never_changes_which_rows_the_smaller_one_had():
    examples = [example(n, family="gemma" if n % 3 else "llama") for n in range(12)]
    own = {row.task_id for row in rows_for(recipe(), examples, ALL).rows}
    cross = {row.task_id for row in rows_for(recipe(mix=("own_correct", "cross_family")), examples, ALL).rows}
    assert own < cross


def parent(number: int, engine: str = "left", **changes: object) -> Parent:
    return Parent.model_validate(
        {"name": f"p{number}", "adapter": f"hash{number}", "engine": engine, "rank": 8, **changes}
    )


def bred(config: RecipesConfig, *parents: Parent, **settings: object) -> list[Recipe]:
    training = settings.pop("training", ScriptedTraining())
    made = recipes_for(1, SEATS, config, training, task_types=("gcd", "sum"), seed=7, parents=parents, **settings)
    return [r for r in made if r.base == "left"]


def test_a_distilled_recipe_learns_from_other_families_alone():
    (made,) = bred(RecipesConfig(own=False, distil=True, min_rows=1))
    rows = rows_for(made, [example(1), example(2, family="gemma")], ALL).rows
    assert [row.task_id for row in rows] == ["sum-2"]
    assert (made.start, made.arm) == ("fresh", "left/distil")


def test_other_roles_learn_from_their_own_kind_of_example():
    made = bred(RecipesConfig(own=False, roles=("critic", "synthesiser")))
    assert [(r.role, r.mix, r.arm) for r in made] == [
        ("critic", ("critique",), "left/critic"),
        ("synthesiser", ("synthesis",), "left/synthesiser"),
    ]


def test_every_parent_of_the_engine_is_trained_further_for_what_it_was_bred_for():
    parents = [parent(1), parent(2, task_types=("gcd",), rank=4), parent(3, engine="right"), parent(4)]
    made = bred(RecipesConfig(own=False, warm_start=WarmStart(num_parents=3)), *parents)
    assert [(r.name, r.parents, r.task_types, r.training.rank) for r in made] == [
        ("g1-left-warm", ("hash1",), (), 8),
        ("g1-left-warm-gcd-2", ("hash2",), ("gcd",), 4),
        ("g1-left-warm-3", ("hash4",), (), 8),
    ]
    assert [r.start for r in made] == ["warm"] * 3
    assert [r.arm for r in made] == ["left/warm", "left/warm-gcd", "left/warm"]


def test_a_short_way_on_has_its_own_mix_passes_and_rate():
    short = WarmStart(mix="cross", num_epochs=1, learning_rate=1e-4)
    [made] = bred(RecipesConfig(own=False, warm_start=short), parent(1), parent(2), training=LoraTraining(rank=8))
    assert "cross_family" in made.mix
    assert (made.training.num_epochs, made.training.learning_rate) == (1, 1e-4)


def test_merges_take_the_best_distinct_parents_and_no_rows():
    config = RecipesConfig(own=False, merges=(MergeTraining(method="cat"), MergeTraining(), MergeTraining(rank=4)))
    parents = [
        parent(1, task_types=("gcd",)),
        parent(1, task_types=("gcd",)),
        parent(2, task_types=("sum",)),
        parent(3),
    ]
    made = bred(config, *parents)
    assert [(r.name, r.parents) for r in made] == [
        ("g1-left-merge-cat", ("hash1", "hash2")),
        ("g1-left-merge-svd", ("hash1", "hash2")),
        ("g1-left-merge-svd-2", ("hash1", "hash2")),
    ]
    assert {r.start for r in made} == {"merge"}
    assert {r.task_types for r in made} == {("gcd", "sum")}
    assert rows_for(made[0], [example(1)], RecipesConfig()) == RowSelection(rows=())


def test_a_merge_prefers_a_parent_that_solves_what_the_best_one_does_not():
    config = RecipesConfig(own=False, merges=(MergeTraining(),))
    alike = parent(2, solves={"gcd": 0.9, "sum": 0.1})
    other = parent(3, solves={"gcd": 0.1, "sum": 0.8})
    [made] = bred(config, parent(1, solves={"gcd": 0.8, "sum": 0.2}), alike, other)
    assert made.parents == ("hash1", "hash3")


def test_a_merge_that_the_engine_would_not_take_or_without_enough_parents_is_not_made():
    config = RecipesConfig(own=False, merges=(MergeTraining(method="cat"), MergeTraining()))
    assert [r.name for r in bred(config, parent(1), parent(2), max_ranks={"left": 8})] == ["g1-left-merge-svd"]
    assert bred(config, parent(1)) == []
    weighted = RecipesConfig(own=False, merges=(MergeTraining(weights=(1, 1, 1)),))
    assert bred(weighted, parent(1), parent(2)) == []
    assert len(bred(weighted, parent(1), parent(2), parent(3))[0].parents) == 3


def test_mutations_start_from_the_best_parents_settings_and_differ_from_each_other():
    settled = LoraTraining(learning_rate=1e-3, rank=16)
    config = RecipesConfig(own=False, mutations=3)
    made = bred(config, parent(1, training=settled), training=LoraTraining(), max_ranks={"left": 16})
    assert [r.arm for r in made] == ["left/mutated"] * 3
    assert len({r.training for r in made}) == 3
    assert all(any(change.startswith("learning_rate 0.001 → ") for change in r.changes) for r in made)
    assert made == bred(config, parent(1, training=settled), training=LoraTraining(), max_ranks={"left": 16})


def test_a_bandit_chooses_among_recipes():
    config = RecipesConfig(
        cross_family=True, distil=True, mutations=2, bandit=BanditConfig(num_recipes=2, method="ucb")
    )
    known = BanditState(
        arms=tuple(
            ArmState(arm=f"left/{arm}", num_tried=50, weight=50, total=total)
            for arm, total in (("own", 5), ("cross", 45), ("distil", 2), ("mutated", 40))
        )
    )
    assert [r.name for r in bred(config, bandit=known)] == ["g1-left-cross", "g1-left-mutated-1"]
    assert len(bred(config)) == 2, "nothing known: two arms by chance"


class Made(NamedTuple):
    task_id: str
    chosen: str
    rejected: str
    family: str = "llama"
    author_family: str = "llama"
    task_type: str = "sum"
    messages: tuple[Message, ...] = (Message(role="user", parts=(Part(text="?"),)),)
    weight: float = 1.0


def lora(min_pairs: int = 1) -> LoraTraining:
    return LoraTraining(preference=PreferenceTraining(min_pairs=min_pairs))


def test_pairs_are_chosen_as_rows_are_and_every_other_one_is_counted():
    pairs = [
        Made("a", "4", "5"),
        Made("a", "4", "5"),
        Made("b", "7", "7"),
        Made("c", "1", "2", family="gemma"),
        Made("d", "1", "2", task_type="gcd"),
        Made("e", "1", "2", author_family="gemma"),
    ]
    found = pairs_for(recipe(training=lora(), task_types=("sum",)), pairs)
    assert [(p.task_id, p.chosen, p.rejected) for p in found.pairs] == [("a", "4", "5")]
    assert found.left_out == {
        "another family's answer": 1,
        "another family's mistake": 1,
        "another task type": 1,
        "chosen and rejected are the same text": 1,
        "same task and texts as another pair": 1,
    }
    cross = pairs_for(recipe(training=lora(), mix=("cross_family",)), pairs)
    assert sorted(p.task_id for p in cross.pairs) == ["a", "d", "e"]
    critic = pairs_for(recipe(training=lora(), mix=("critique",), role="critic"), pairs)
    assert (critic.pairs, critic.left_out) == ((), {"pairs are of first answers": 6})


def test_too_few_pairs_give_none_and_a_training_without_that_stage_takes_none():
    pairs = [Made("a", "4", "5"), Made("b", "4", "5")]
    assert pairs_for(recipe(training=lora(3)), pairs).pairs == ()
    assert pairs_for(recipe(training=lora(3)), pairs).left_out == {"fewer than min_pairs (3)": 2}
    assert pairs_for(recipe(), pairs) == PairSelection()


def test_a_placebos_pairs_are_turned_round_by_a_coin():
    pairs = [Made(str(number), "right", "wrong") for number in range(200)]
    found = turn_pairs(pairs_for(recipe(training=lora()), pairs).pairs, 3)
    assert 70 < sum(pair.chosen == "wrong" for pair in found) < 130
    assert {frozenset((pair.chosen, pair.rejected)) for pair in found} == {frozenset(("right", "wrong"))}
