from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evolve.problems.config import FileProblems, GymFamily, GymProblems
from evolve.problems.draw import check_problems, draw_problems
from evolve.problems.gym import OPERANDS, demonstrations_of, distinct_items, open_family, operand_key
from evolve.problems.splits import Split, SplitShares, SplitSizes, is_reserved, split_of
from evolve.problems.types import ProblemsError, ReasoningGymVerifier

SUMS = GymFamily(name="chain_sum", settings={"min_terms": 2, "max_terms": 3, "min_digits": 2, "max_digits": 2})
GCD = GymFamily(name="gcd", instruction="Say the number only.", max_tokens=7)


def gym(*families: GymFamily, **changes: Any) -> GymProblems:
    settings: dict[str, Any] = {
        "items_per_family": SplitSizes(train=40, dev=10, gate=30, audit=20),
        "min_distinct_items": 0,
    }
    return GymProblems(families=families, **(settings | changes))


def sum_key(expression: str) -> str:
    return operand_key("chain_sum", {"metadata": {"expression": expression}, "question": "", "answer": ""})


@pytest.mark.parametrize("name", ["acre", "gsm_symbolic", "list_functions"])
def test_a_family_that_lists_its_items_is_opened_without_filling_the_memory(name: str) -> None:
    dataset = open_family(GymFamily(name=name), 0)
    assert len(dataset) <= 100_000
    assert dataset[0]["question"]
    assert distinct_items(GymFamily(name=name), 20) >= 20


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 + 14", "14 + 3", True),
        ("3 - 14 + 5", "5 + 3 - 14", True),
        ("3 - 14", "14 - 3", False),
        ("3 + 14", "31 + 4", False),
        ("3 + 3", "3", False),
        ("-3 + 14", "14 - 3", True),
    ],
)
def test_sums_are_one_item_whatever_the_order_of_their_terms(one: str, other: str, same: bool) -> None:
    assert (sum_key(one) == sum_key(other)) is same


@given(st.permutations([(1, 12), (-1, 7), (1, 7), (-1, 30)]))
def test_every_order_of_the_terms_gives_one_key(terms: list[tuple[int, int]]) -> None:
    text = "".join(f" {'-' if sign < 0 else '+'} {number}" for sign, number in terms)
    assert sum_key(text) == sum_key("12 - 7 + 7 - 30")


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("gcd", {"numbers": [12, 18]}, {"numbers": [18, 12]}),
        ("lcm", {"numbers": [4, 6, 10]}, {"numbers": [10, 6, 4]}),
        ("products", {"expression": "12 * 5"}, {"expression": "5 * 12"}),
        (
            "number_sorting",
            {"original_numbers": ["3.0", "-1"], "direction": "ascending"},
            {"original_numbers": ["-1.0", "3"], "direction": "ascending"},
        ),
        (
            "letter_counting",
            {"target_letter": "a", "span": ["A", "banana"]},
            {"target_letter": "a", "span": ["banana", "a"]},
        ),
        ("leg_counting", {"animals": {"cow": 2, "hen": 3}}, {"animals": {"hen": 3, "cow": 2}}),
        (
            "word_sorting",
            {"transformed_words": ["tea", "Ale", "rum"], "direction": "ascending"},
            {"transformed_words": ["rum", "tea", "Ale"], "direction": "ascending"},
        ),
        ("group_anagrams", {"words": ["ale", "lea", "tea"]}, {"words": ["tea", "ale", "lea"]}),
        ("palindrome_generation", {"letters": ["o", "c", "o"]}, {"letters": ["c", "o", "o"]}),
        ("countdown", {"numbers": [6, 61, 4], "target": 9}, {"numbers": [61, 4, 6], "target": 9}),
        (
            "fraction_simplification",
            {"numerator": 6, "denominator": 8, "style": "plain"},
            {"numerator": 6, "denominator": 8, "style": "latex_frac"},
        ),
        ("number_format", {"candidates": [2.5, 1.5], "size": "largest"}, {"candidates": [1.5, 2.5], "size": "largest"}),
        ("basic_arithmetic", {"expression": "3 * (4 - 1)"}, {"expression": "3*(4-1)"}),
        ("spell_backward", {}, {}),
    ],
)
def test_an_item_is_known_again_by_its_operands(name: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    first = operand_key(name, {"metadata": one, "question": "Spell  SUN"})
    assert first == operand_key(name, {"metadata": other, "question": "spell sun"})
    assert first.startswith(f"{name}|")


@pytest.mark.parametrize("name", sorted(OPERANDS))
def test_every_rule_reads_what_its_family_really_leaves_and_ends_in_distinct_keys(name: str) -> None:
    dataset = open_family(GymFamily(name=name), seed=3)
    entries = [dataset[number] for number in range(8)]
    keys = {operand_key(name, entry) for entry in entries}
    assert len(keys) == len({entry["question"] for entry in entries})


def test_direction_counts_for_sorting() -> None:
    keys = {
        operand_key("number_sorting", {"metadata": {"original_numbers": [1, 2], "direction": way}, "question": ""})
        for way in ("ascending", "descending")
    }
    assert len(keys) == 2


def test_no_item_is_in_two_splits_and_families_alternate() -> None:
    drawn = draw_problems(gym(SUMS, GCD), seed=1)
    keys = [problem.key for split in Split for problem in drawn.of(split)]
    assert len(keys) == len(set(keys)) == 200
    assert [p.task.type for p in drawn.of(Split.GATE)[:4]] == ["chain_sum", "gcd", "chain_sum", "gcd"]
    assert len(drawn.held_out_keys) == 120
    assert not drawn.held_out_keys & drawn.keys(Split.TRAIN)
    assert not drawn.report.warnings


def test_another_seed_brings_other_items_of_the_same_splits() -> None:
    config = gym(SUMS)
    draws = [draw_problems(config, seed=seed) for seed in range(4)]
    for first in draws:
        for second in draws:
            assert not first.keys(Split.TRAIN) & second.held_out_keys
    assert draws[0].keys(Split.AUDIT) != draws[1].keys(Split.AUDIT)
    assert draws[0] == draw_problems(config, seed=0)


def test_audit_can_have_a_seed_of_its_own() -> None:
    config = gym(SUMS)
    plain, sealed = draw_problems(config, seed=5), draw_problems(config, seed=5, split_seeds={Split.AUDIT: 77})
    for split in (Split.TRAIN, Split.DEV, Split.GATE):
        assert plain.of(split) == sealed.of(split)
    assert plain.keys(Split.AUDIT) != sealed.keys(Split.AUDIT)
    assert sealed.keys(Split.AUDIT) == draw_problems(config, seed=77).keys(Split.AUDIT)


def test_items_of_an_earlier_generation_can_be_passed_over() -> None:
    config = gym(SUMS)
    first = draw_problems(config, seed=5)
    fresh = draw_problems(config, seed=5, exclude=first.keys(Split.TRAIN))
    assert len(fresh.of(Split.TRAIN)) == 40
    assert not fresh.keys(Split.TRAIN) & first.keys(Split.TRAIN)


def test_two_labels_of_one_family_never_share_an_item() -> None:
    small = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    one = GymFamily(name="chain_sum", settings=small)
    two = GymFamily(name="chain_sum", label="again", settings=small)
    drawn = draw_problems(gym(one, two, items_per_family=SplitSizes(train=10, gate=5)), seed=0)
    keys = [problem.key for split in Split for problem in drawn.of(split)]
    assert len(keys) == len(set(keys)) == 30
    assert {problem.task.type for problem in drawn.of(Split.TRAIN)} == {"chain_sum", "again"}


def test_demonstrations_come_from_a_reserve_that_no_split_draws_on() -> None:
    family = SUMS.model_copy(update={"num_demonstrations": 3})
    config = gym(family, demonstration_share=0.1)
    shown = demonstrations_of(family, config)
    assert len({demonstration.question for demonstration in shown}) == 3
    for seed in (1, 2):
        drawn = draw_problems(config, seed=seed)
        assert drawn.demonstrations == {"chain_sum": shown}
        for split in Split:
            for problem in drawn.of(split):
                assert problem.task.demonstrations == shown
                assert not is_reserved(problem.key, config.split_seed, config.demonstration_share)
                assert split_of(problem.key, config.split_seed, config.shares) is split


def test_a_task_holds_nothing_of_the_answer() -> None:
    problem = draw_problems(gym(GCD), seed=2).of(Split.TRAIN)[0]
    assert isinstance(problem.verifier, ReasoningGymVerifier)
    assert set(type(problem.task).model_fields) == {
        "id",
        "question",
        "type",
        "answer_kind",
        "instruction",
        "demonstrations",
        "history",
        "context",
        "tags",
    }
    assert (problem.task.instruction, problem.max_tokens) == ("Say the number only.", 7)
    assert "reference" not in repr(problem)
    assert "entry" not in repr(problem)


def test_a_small_family_is_reported_and_the_draw_goes_on() -> None:
    tiny = GymFamily(name="gcd", settings={"min_value": 1, "max_value": 12})
    drawn = draw_problems(gym(tiny, SUMS, min_distinct_items=300), seed=0)
    assert drawn.report.families[0].num_distinct is not None
    assert drawn.report.families[0].num_distinct < 300
    assert drawn.report.families[0].num_duplicates > 0
    assert drawn.report.families[1].num_distinct == 300
    assert any("distinct items, fewer than 300" in warning for warning in drawn.report.warnings)
    assert any(warning.startswith("gcd gave ") for warning in drawn.report.warnings)
    assert len(drawn.of(Split.TRAIN)) > 40


def test_counting_distinct_items_stops_when_there_are_enough() -> None:
    assert distinct_items(SUMS, 500) == 500
    assert distinct_items(GymFamily(name="gcd", settings={"min_value": 1, "max_value": 3}), 500) <= 6


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (GymFamily(name="chain_sums"), "nearest known one is 'chain_sum'"),
        (GymFamily(name="chain_sum", settings={"min_term": 2}), "nearest known one is 'min_terms'"),
        (GymFamily(name="chain_sum", settings={"seed": 2}), "has no setting 'seed'"),
        (GymFamily(name="chain_sum", settings={"min_terms": 9, "max_terms": 2}), "refuses its settings"),
        (GymFamily(name="chain_sum", settings={"min_terms": "many"}), "refuses its settings"),
    ],
)
def test_a_bad_family_or_setting_names_what_is_near(family: GymFamily, message: str) -> None:
    with pytest.raises(ProblemsError, match=message):
        check_problems(gym(family))


def test_a_bad_family_is_named_by_its_key_whether_it_is_checked_or_drawn() -> None:
    bad = gym(GymFamily(name="gcd"), GymFamily(name="chain_sum", settings={"min_term": 2}))
    with pytest.raises(ProblemsError, match=r"^problems\.families\.1: family 'chain_sum' has no setting"):
        check_problems(bad)
    with pytest.raises(ProblemsError, match=r"^problems\.families\.1: family 'chain_sum' has no setting"):
        draw_problems(bad, 1)


def test_a_bad_file_is_named_by_its_key_and_its_path(tmp_path: Path) -> None:
    absent, text = FileProblems(path=tmp_path / "none.jsonl"), FileProblems(path=tmp_path / "tasks.txt")
    text.path.touch()
    with pytest.raises(
        ProblemsError, match=rf"^problems\.path: expected a file of tasks, found none at '{absent.path}'"
    ):
        check_problems(absent)
    with pytest.raises(ProblemsError, match=rf"^problems\.path: expected a .* file, got '{text.path}'"):
        draw_problems(text, 1)


def test_a_type_may_occur_once_only() -> None:
    with pytest.raises(ValidationError, match="task type 'gcd' occurs more than once"):
        gym(GCD, GCD)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ProblemsError, match="no problem could be drawn"):
        draw_problems(gym(GCD, items_per_family=SplitSizes()), seed=0)


def test_a_split_without_a_share_is_reported() -> None:
    shares = SplitShares(train=0.5, dev=0.0, gate=0.25, audit=0.25)
    drawn = draw_problems(gym(GCD, shares=shares), seed=0)
    assert "gcd gave 0 of 10 dev items: it has no more; widen its settings" in drawn.report.warnings


def test_a_users_file_needs_no_reasoning_gym(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(f'{{"question": "q{n}", "answer": "a"}}\n' for n in range(20)))
    code = (
        "import sys; from pathlib import Path; from evolve.problems.draw import *;"
        "from evolve.problems.config import *;"
        f"draw_problems(FileProblems(path=Path({str(tasks)!r})), 0); assert 'reasoning_gym' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
    assert check_problems(FileProblems(path=tasks)) is None
