from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.curate import Example
from evolve.recipes import Recipe, TrainingRow, recipes_for, rows_for, shuffle_targets
from evolve.training_config import RecipesConfig, ScriptedTraining
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
    config = RecipesConfig(own=False, cross_family=True, per_task_type=True, placebo=True)
    assert names(config)[:4] == ["g1-left-cross", "g1-left-own-gcd", "g1-left-own-sum", "g1-left-placebo"]
    assert len(names(config)) == 8


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


def test_a_placebo_learns_from_the_same_rows_with_other_targets():
    examples = [example(n) for n in range(10)]
    real = rows_for(recipe(), examples, ALL).rows
    placebo = rows_for(recipe(placebo=True), examples, ALL).rows
    assert [row.messages for row in placebo] == [row.messages for row in real]
    assert all(p.completion != r.completion for p, r in zip(placebo, real, strict=True))


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
