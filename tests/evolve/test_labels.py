from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evolve.judging.labels import Label, LabelError, read_labels


def write(tmp_path: Path, name: str, data: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_spreadsheet_saved_as_csv_is_read_with_its_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "labels.csv", '\ufefftask,answer,correct\na,7,\nb,"two\nlines",yes\nc,,0\n\nd, ,WRONG\n')
    found = read_labels(path, "task")
    assert found.labels == (
        Label(row=2, id="a", answer="7"),
        Label(row=3, id="b", answer="two\nlines", correct=True),
        Label(row=5, id="c", correct=False),
        Label(row=7, id="d", correct=False),
    )
    assert found.bad == ()


def test_jsonl_and_parquet_say_the_same(tmp_path: Path) -> None:
    rows = [{"id": "a", "answer": "7"}, {"id": "b", "correct": True}, {"id": "c", "answer": "8", "correct": False}]
    lines = write(tmp_path, "labels.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = [{"id": None, "answer": None, "correct": None, **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "labels.parquet")
    assert read_labels(lines, "id").labels == read_labels(tmp_path / "labels.parquet", "id").labels


def test_numbers_are_read_as_they_would_be_written(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"id": [1, 2, 3, 4], "answer": [7.0, 7.5, None, float("nan")]}), tmp_path / "labels.parquet"
    )
    found = read_labels(tmp_path / "labels.parquet", "id")
    assert [(label.id, label.answer) for label in found.labels] == [("1", "7"), ("2", "7.5")]
    assert [bad.row for bad in found.bad] == [3, 4]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "a"}', "neither"),
        ('{"answer": "7"}', "'id' to be a text"),
        ('{"id": true, "answer": "7"}', "'id' to be a text"),
        ('{"id": "", "answer": "7"}', "'id' to be a text"),
        ('{"id": "a", "answer": {"total": 7}}', "text or a number, got dict; or give 'correct'"),
        ('{"id": "a", "answer": true}', "got bool"),
        ('{"id": "a", "correct": "perhaps"}', "true or false, got 'perhaps'"),
        ('{"id": "a", "answer": "\\ud800"}', "surrogate"),
        ('["a", "7"]', "got list"),
        ("{torn", "got: "),
        ('{"id": "a", "answer": "' + "7" * 5000 + '"}', "at most 4000"),
    ],
)
def test_a_row_that_says_nothing_is_told_by_its_number_and_the_rest_is_taken(
    line: str, told: str, tmp_path: Path
) -> None:
    found = read_labels(write(tmp_path, "labels.jsonl", f'{line}\n{{"id": "b", "answer": "8"}}\n'), "id")
    ((row, problem),) = [(bad.row, bad.problem) for bad in found.bad]
    assert row == 1
    assert told in problem
    assert [label.id for label in found.labels] == ["b"]


def test_an_id_that_is_labelled_twice_is_taken_once_and_a_contradiction_is_told(tmp_path: Path) -> None:
    found = read_labels(write(tmp_path, "labels.csv", "id,answer\na,7\na,7\na,8\n"), "id")
    assert found.labels == (Label(row=2, id="a", answer="7"),)
    assert [(bad.row, bad.problem) for bad in found.bad] == [(4, "id 'a' has another label in row 2")]


def test_torn_csv_rows_are_told_by_their_number(tmp_path: Path) -> None:
    found = read_labels(write(tmp_path, "labels.csv", "id,answer\na\nb,8,9\nc,7\n"), "id")
    assert [(bad.row, "expected 2 fields" in bad.problem) for bad in found.bad] == [(2, True), (3, True)]
    assert [label.id for label in found.labels] == ["c"]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("labels.csv", "task,answer\na,7\n", "a header with id"),
        ("labels.csv", "", "a header with id"),
        ("labels.csv", "id,id\n1,2\n", "each once"),
        ("labels.csv", b"id,answer\na,\xff\n", "expected UTF-8"),
        ("labels.parquet", "no parquet", "Parquet"),
        ("labels.xlsx", "", r"\.csv, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_labels_is_refused(name: str, data: str | bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=told):
        read_labels(write(tmp_path, name, data), "id")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot be read"):
        read_labels(tmp_path / "labels.csv", "id")
