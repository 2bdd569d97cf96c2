from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evolve.problems.config import CurriculumConfig, GymFamily, GymProblems
from evolve.problems.curriculum import (
    SolveRate,
    apportion,
    level_of,
    next_levels,
    sizes_by_family,
    sizes_by_level,
    solve_rates,
    start_levels,
)
from evolve.problems.draw import check_problems, draw_generation, draw_problems, spread
from evolve.problems.permits import GatePermit
from evolve.problems.sealed import open_seal
from evolve.problems.splits import Split, SplitSizes
from evolve.problems.types import ProblemsError

SIZES = SplitSizes(train=20, dev=9, gate=9, audit=9)
SUMS = GymFamily(
    name="chain_sum",
    settings={"min_digits": 3, "max_digits": 3},
    levels=({"min_terms": 2, "max_terms": 2}, {"min_terms": 3, "max_terms": 3}, {"min_terms": 4, "max_terms": 4}),
)
FACTORS = GymFamily(name="gcd", settings={"min_value": 1, "max_value": 5000})


def gym(*families: GymFamily, **fields: object) -> GymProblems:
    return GymProblems.model_validate(
        {"families": families, "items_per_family": SIZES, "min_distinct_items": 0} | fields
    )


@given(st.integers(0, 500), st.lists(st.floats(0.01, 10.0), min_size=1, max_size=6))
def test_a_deal_by_weight_is_whole_and_each_part_is_within_one_of_its_share(total: int, weights: list[float]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1 + 1e-6


def test_a_deal_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="one above it"):
        apportion(3, [0.0, 0.0])


def test_a_mix_deals_all_items_by_the_weights_of_the_families() -> None:
    config = gym(SUMS.model_copy(update={"weight": 3.0}), FACTORS, mix=SplitSizes(train=10, dev=4, gate=0, audit=1))
    assert sizes_by_family(config) == [SplitSizes(train=8, dev=3, audit=1), SplitSizes(train=2, dev=1)]
    drawn = draw_problems(config, 0)
    types = [problem.task.type for problem in drawn.of(Split.TRAIN)]
    assert (types.count("chain_sum"), types.count("gcd")) == (8, 2)
    assert drawn.report.warnings == ()


def test_without_a_mix_every_family_gets_the_same() -> None:
    assert sizes_by_family(gym(SUMS, FACTORS)) == [SIZES, SIZES]


def test_train_stands_at_its_level_with_review_and_the_rest_is_even_over_all_levels() -> None:
    curriculum = CurriculumConfig(review_share=0.2)
    at_two = sizes_by_level(SUMS, SIZES, curriculum, 2)
    assert [part.train for part in at_two] == [2, 2, 16]
    assert [part.gate for part in at_two] == [3, 3, 3]
    assert [part.train for part in sizes_by_level(SUMS, SIZES, curriculum, None)] == [20, 0, 0]
    assert [part.train for part in sizes_by_level(SUMS, SIZES, None, 2)] == [7, 7, 6]
    assert sizes_by_level(FACTORS, SIZES, curriculum, 2) == [SIZES]


def test_any_slice_holds_the_levels_in_the_shares_of_the_whole() -> None:
    dealt = spread([["a1", "a2"], ["b1", "b2"], [f"c{n}" for n in range(16)]])
    assert len(dealt) == 20
    for half in (dealt[:10], dealt[10:]):
        assert [sum(name.startswith(level) for name in half) for level in "abc"] == [1, 1, 8]
    assert spread([["x", "y"]]) == ["x", "y"]
    assert spread([[], ["x"]]) == ["x"]


def test_generations_share_no_item_and_none_of_them_meets_audit() -> None:
    config = gym(SUMS, FACTORS, curriculum=CurriculumConfig())
    audit = draw_problems(config, 5).keys(Split.AUDIT)
    seen: set[str] = set()
    generations = []
    for generation in range(3):
        drawn = draw_generation(config, 5, generation, seen)
        assert drawn.of(Split.AUDIT) == ()
        assert [len(drawn.of(split)) for split in (Split.TRAIN, Split.DEV, Split.GATE)] == [40, 18, 18]
        keys = frozenset().union(*(drawn.keys(split) for split in Split))
        assert len(keys) == 76
        assert not keys & audit
        generations.append(keys)
        seen |= keys
    assert not any(first & second for first, second in combinations(generations, 2))


def test_a_generation_drawn_again_is_the_same_and_another_seed_or_number_is_not() -> None:
    config = gym(FACTORS)
    first = draw_generation(config, 5, 1, {"gcd|1 2"})
    assert draw_generation(config, 5, 1, {"gcd|1 2"}) == first
    assert draw_generation(config, 5, 2) != first
    assert draw_generation(config, 6, 1) != first


def test_a_generation_without_exclusions_may_repeat_but_one_with_them_passes_over() -> None:
    config = gym(FACTORS)
    first = draw_generation(config, 5, 0)
    again = draw_generation(config, 5, 0, first.keys(Split.GATE))
    assert not again.keys(Split.GATE) & first.keys(Split.GATE)
    assert again.keys(Split.TRAIN) == first.keys(Split.TRAIN)


def test_a_family_that_runs_out_says_so() -> None:
    tiny = GymFamily(name="gcd", settings={"min_value": 1, "max_value": 5, "max_numbers": 2})
    drawn = draw_generation(gym(tiny), 0, 0)
    assert any("it has no more; widen its settings" in warning for warning in drawn.report.warnings)


def test_a_family_that_has_run_out_gives_an_empty_draw_that_says_so() -> None:
    config = gym(GymFamily(name="gcd", settings={"min_value": 1, "max_value": 5, "max_numbers": 2}))
    first = draw_generation(config, 0, 0)
    drawn = draw_generation(config, 0, 1, first.all_keys)
    assert drawn.nothing_left == "no fresh train, dev, gate problems of gcd are left"
    with pytest.raises(ProblemsError, match="no problem could be drawn"):
        draw_problems(config, 0, exclude=draw_problems(config, 0).all_keys)


def test_levels_decide_what_train_holds_and_the_level_of_a_problem_can_be_read_back() -> None:
    config = gym(SUMS, curriculum=CurriculumConfig(review_share=0.0))
    drawn = draw_generation(config, 0, 3, levels={"chain_sum": 2})
    assert {level_of(problem, config) for problem in drawn.of(Split.TRAIN)} == {2}
    counts = [level_of(open_seal(problem, GatePermit("test")), config) for problem in drawn.of(Split.GATE)]
    assert [counts.count(level) for level in range(3)] == [3, 3, 3]
    assert counts[:3] == [0, 1, 2]  # a prefix holds every level
    assert drawn.report.families[0].got == SplitSizes(train=20, dev=9, gate=9)
    assert {problem.task.type for problem in drawn.of(Split.TRAIN)} == {"chain_sum"}


def test_levels_of_one_family_show_the_same_demonstrations() -> None:
    shown = SUMS.model_copy(update={"num_demonstrations": 1})
    drawn = draw_problems(gym(shown), 0)
    assert len({problem.task.demonstrations for problem in drawn.of(Split.DEV)}) == 1
    assert len(drawn.demonstrations["chain_sum"]) == 1


def test_a_problem_of_a_family_without_levels_has_none() -> None:
    config = gym(FACTORS)
    assert level_of(draw_problems(config, 0).of(Split.DEV)[0], config) is None


@pytest.mark.parametrize(
    ("level", "correct", "n", "after", "reason"),
    [
        (0, 36, 40, 1, "90% of 40 answers were right"),
        (2, 40, 40, 2, "100% of 40 answers were right, and there is no harder level"),
        (1, 2, 40, 0, "5% of 40 answers were right"),
        (0, 0, 40, 0, "0% of 40 answers were right, and there is no easier level"),
        (1, 20, 40, 1, "50% of 40 answers were right"),
        (1, 39, 39, 1, "39 answers, fewer than 40"),
    ],
)
def test_the_next_level_follows_from_the_solve_rate(level: int, correct: int, n: int, after: int, reason: str) -> None:
    config = gym(SUMS, FACTORS, curriculum=CurriculumConfig())
    rate = SolveRate(task_type="chain_sum", level=level, correct=correct, n=n)
    (step,) = next_levels({"chain_sum": level}, [rate], config)
    assert (step.task_type, step.before, step.after, step.reason) == ("chain_sum", level, after, reason)


def test_review_of_an_easier_level_moves_nothing() -> None:
    config = gym(SUMS, curriculum=CurriculumConfig())
    easy = SolveRate(task_type="chain_sum", level=0, correct=99, n=99)
    (step,) = next_levels({"chain_sum": 1}, [easy], config)
    assert (step.after, step.reason) == (1, "0 answers, fewer than 40")


def test_without_a_curriculum_no_level_moves() -> None:
    (step,) = next_levels(start_levels(gym(SUMS)), [], gym(SUMS))
    assert (step.before, step.after, step.reason) == (0, 0, "no curriculum is configured")


def test_solve_rates_count_every_answer_by_level() -> None:
    config = gym(SUMS)
    train = draw_problems(config, 0).of(Split.TRAIN)
    easy = [problem for problem in train if level_of(problem, config) == 0]
    hard = [problem for problem in train if level_of(problem, config) == 2]
    answers = {easy[0].task.id: [True, False], easy[1].task.id: [True], hard[0].task.id: [False], "unknown": [True]}
    assert sorted(solve_rates(train, answers, config), key=lambda rate: rate.level) == [
        SolveRate(task_type="chain_sum", level=0, correct=2, n=3),
        SolveRate(task_type="chain_sum", level=2, correct=0, n=1),
    ]


def test_the_start_level_is_at_most_the_last() -> None:
    assert start_levels(gym(SUMS, FACTORS, curriculum=CurriculumConfig(start=9))) == {"chain_sum": 2}


def test_a_wrong_setting_of_any_level_is_found_before_anything_is_drawn() -> None:
    broken = SUMS.model_copy(update={"levels": ({"min_terms": 2}, {"max_term": 3})})
    with pytest.raises(ProblemsError, match="no setting 'max_term'; the nearest known one is 'max_terms'"):
        check_problems(gym(broken))


def test_thresholds_that_cross_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be below raise_at"):
        CurriculumConfig(raise_at=0.3, lower_at=0.4)
