from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from evolve.problems.config import FileProblems, NumericVerifier
from evolve.problems.draw import check_problems, draw_open, draw_problems
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split, SplitShares, SplitSizes
from evolve.problems.types import ProblemsError, ProblemSet


def rows(count: int, **extra: Any) -> list[dict[str, Any]]:
    return [{"question": f"What is {n} + {n}?", "answer": 2 * n} | extra for n in range(count)]


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def everything(drawn: ProblemSet | SplitProblems) -> list[str]:
    return sorted(problem.task.question for split in Split for problem in drawn.of(split))


def test_every_row_lands_in_exactly_one_split(tmp_path: Path) -> None:
    config = FileProblems(path=write(tmp_path / "t.jsonl", rows(200)), answer_kind="number", instruction="Go.")
    drawn = draw_problems(config, seed=0)
    assert everything(drawn) == sorted(row["question"] for row in rows(200))
    assert {split for split in Split if drawn.of(split)} == set(Split)
    assert drawn.of(Split.TRAIN)[0].task.instruction == "Go."
    assert not drawn.report.warnings


def test_splits_do_not_depend_on_seed_order_or_other_rows(tmp_path: Path) -> None:
    all_rows = rows(100)
    long = FileProblems(path=write(tmp_path / "long.jsonl", all_rows))
    short = FileProblems(path=write(tmp_path / "short.jsonl", list(reversed(all_rows[:50]))))
    first, second, third = draw_problems(long, 0), draw_problems(long, 9), draw_problems(short, 4)
    for split in Split:
        assert first.keys(split) == second.keys(split)
        assert third.keys(split) <= first.keys(split)
    assert first.of(Split.TRAIN) != second.of(Split.TRAIN)  # same items, another order


def test_parquet_gives_the_same_problems(tmp_path: Path) -> None:
    lines = [{**row, "answer": str(row["answer"])} for row in rows(30)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), tmp_path / "t.parquet")
    from_parquet = draw_problems(FileProblems(path=tmp_path / "t.parquet"), 0)
    from_lines = draw_problems(FileProblems(path=write(tmp_path / "t.jsonl", lines)), 0)
    assert all(from_parquet.of(split) == from_lines.of(split) for split in Split)


def test_a_bad_line_is_recorded_with_its_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        [
            {"question": "one?", "answer": "1"},
            "{not json",
            "",
            ["a", "list"],
            {"question": "", "answer": "1"},
            {"question": "two?"},
            {"question": "three?", "answer": True},
            '{"question": "four?", "answer": NaN}',
            {"question": "five?", "answer": "5", "type": 3},
            {"question": "six?", "answer": "6", "id": [1]},
            {"id": "x", "question": "seven?", "answer": 7.0},
            {"id": "x", "question": "eight?", "answer": "8"},
        ],
    )
    with path.open("ab") as file:
        file.write(b'{"question": "\xff", "answer": "9"}\n')
    drawn = draw_open(FileProblems(path=path), 0)
    assert everything(drawn) == ["one?", "seven?"]
    reasons = {skipped.where: skipped.reason for skipped in drawn.report.malformed}
    assert list(reasons) == [f"line {n}" for n in (2, 4, 5, 6, 7, 8, 9, 10, 12, 13)]
    assert "not a line of JSON" in reasons["line 2"]
    assert reasons["line 4"] == "expected a JSON object, got list"
    assert reasons["line 6"] == "expected 'answer' to be text or a number, got nothing"
    assert "finite" in reasons["line 8"]
    assert reasons["line 12"] == "id 'x' is already used on line 11"
    found = [problem for split in Split for problem in drawn.of(split) if problem.task.id == "x"]
    assert [problem.reference for problem in found] == ["7"]


def test_near_duplicates_are_left_out_by_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        [
            {"id": "a", "question": "What is 5?", "answer": "5"},
            {"question": " what  IS 5 ?", "answer": "5"},
            {"question": "what is 5", "answer": "6"},
            {"question": "What is 5!", "answer": "120"},
        ],
    )
    drawn = draw_problems(FileProblems(path=path), 0)
    assert everything(drawn) == ["What is 5!", "What is 5?"]
    assert [(d.where, d.reason) for d in drawn.report.duplicates] == [
        ("line 2", "same question as line 1 (id a)"),
        ("line 3", "same question as line 1 (id a), with another answer; line 1 was kept"),
    ]


def test_types_come_from_the_column_or_the_default(tmp_path: Path) -> None:
    lines = [*rows(3), {"question": "capital of France?", "answer": "Paris", "type": "geography"}]
    drawn = draw_problems(FileProblems(path=write(tmp_path / "t.jsonl", lines), default_type="sums"), 0)
    assert [(family.type, family.num_distinct) for family in drawn.report.families] == [("geography", 1), ("sums", 3)]


def test_a_numeric_verifier_refuses_references_that_are_no_number(tmp_path: Path) -> None:
    lines = [{"question": "a?", "answer": "about 3"}, {"question": "b?", "answer": "1,000.5"}]
    config = FileProblems(path=write(tmp_path / "t.jsonl", lines), verifier=NumericVerifier(tolerance=0.1))
    drawn = draw_problems(config, 0)
    assert everything(drawn) == ["b?"]
    assert "no number" in drawn.report.malformed[0].reason


def test_demonstrations_are_taken_from_no_split_and_move_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(200))
    plain = draw_problems(FileProblems(path=path), 0)
    shown = draw_problems(FileProblems(path=path, num_demonstrations=3, demonstration_share=0.1), 0)
    used = {demonstration.question for demonstration in shown.demonstrations["general"]}
    assert len(used) == 3
    assert not used & set(everything(shown))
    for split in Split:
        assert shown.keys(split) <= plain.keys(split)


def test_sizes_limit_a_split_and_exclude_passes_items_over(tmp_path: Path) -> None:
    config = FileProblems(path=write(tmp_path / "t.jsonl", rows(100)), sizes=SplitSizes(train=10, gate=5))
    drawn = draw_problems(config, 0)
    assert [len(drawn.of(split)) for split in Split] == [10, 0, 5, 0]
    fresh = draw_problems(config, 0, exclude=drawn.keys(Split.TRAIN))
    assert len(fresh.of(Split.TRAIN)) == 10
    assert not fresh.keys(Split.TRAIN) & drawn.keys(Split.TRAIN)


def test_an_empty_split_and_missing_demonstrations_are_said(tmp_path: Path) -> None:
    config = FileProblems(
        path=write(tmp_path / "t.jsonl", rows(2)),
        shares=SplitShares(train=0.97, dev=0.01, gate=0.01, audit=0.01),
        num_demonstrations=4,
    )
    warnings = draw_problems(config, 0).report.warnings
    assert any("split audit is empty" in warning for warning in warnings)
    assert any("of the 4 demonstrations that were asked for" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "question,answer\n", r"expected a .jsonl or .parquet file, got '.*/t.csv'"),
        ("t.jsonl", "\n\n", "no usable line"),
        ("t.jsonl", "nonsense\n", r"no usable line \(first: line 1: not a line of JSON"),
        ("t.parquet", "nonsense", "expected a Parquet file"),
    ],
)
def test_a_file_without_tasks_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ProblemsError, match=message):
        draw_problems(FileProblems(path=path), 0)


def test_a_missing_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="found none at"):
        check_problems(FileProblems(path=tmp_path / "no.jsonl"))
