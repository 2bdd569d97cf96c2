from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.batch_tasks import TaskFileError, read_tasks


def write(tmp_path: Path, *lines: str | bytes, name: str = "tasks.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def test_good_lines_become_tasks_in_their_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"id": "b", "question": "What is 1 + 1?", "type": "sum", "answer_kind": "number"}',
        "",
        '{"id": 7, "question": "Who?"}',
        '{"question": "Where?", "type": null}',
    )
    tasks = read_tasks(path).tasks
    assert [task.id for task in tasks] == ["b", "7", "line-4"]
    assert (tasks[0].type, tasks[0].answer_kind) == ("sum", "number")
    assert (tasks[2].type, tasks[2].answer_kind) == ("general", "text")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json", "expected one JSON object"),
        ('{"question": "torn', "expected one JSON object"),
        ("[1]", "expected an object with a 'question', got list"),
        ("null", "got NoneType"),
        ('{"id": "x"}', "expected a 'question'"),
        ('{"question": "  "}', "expected a 'question'"),
        ('{"question": 5}', "expected a 'question'"),
        ('{"question": "q", "id": ["x"]}', "expected an 'id'"),
        ('{"question": "q", "id": true}', "expected an 'id'"),
        ('{"question": "q", "id": 1.5}', "expected an 'id'"),
        ('{"question": "q", "id": "first"}', "was used on line 1"),
        ('{"question": "q", "answer_kind": "essay"}', "answer_kind"),
        ('{"question": "q", "type": 3}', "type"),
        ('{"question": "\\ud800"}', "lone surrogate"),
        ('{"question": "q", "id": "\\udfff"}', "lone surrogate"),
        (b'{"question": "\xff"}', "expected one JSON object"),
        ("[" * 100_000, "expected one JSON object"),
        ('{"question": ' + "9" * 5000 + "}", "expected one JSON object"),
    ],
)
def test_malformed_line_is_recorded_with_its_number_and_the_rest_goes_on(
    line: str | bytes, problem: str, tmp_path: Path
) -> None:
    path = write(tmp_path, '{"id": "first", "question": "a?"}', line, '{"id": "last", "question": "b?"}')
    found = read_tasks(path)
    assert [task.id for task in found.tasks] == ["first", "last"]
    (malformed,) = found.malformed
    assert malformed.line == 2
    assert problem in malformed.problem
    assert len(malformed.text) <= 200


def test_references_and_other_keys_are_named_and_never_become_part_of_a_task(tmp_path: Path) -> None:
    found = read_tasks(write(tmp_path, '{"question": "What is 1 + 1?", "answer": "SECRET", "\\ud800": 1}'))
    assert found.ignored_keys == ("answer", "?")
    assert "SECRET" not in found.tasks[0].model_dump_json()


def test_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    found = read_tasks(write(tmp_path, b'\xef\xbb\xbf{"question": "a?"}'))
    assert (len(found.tasks), found.malformed) == (1, ())


def test_parquet_gives_the_same_tasks_as_jsonl(tmp_path: Path) -> None:
    jsonl = write(tmp_path, '{"id": "a", "question": "x?"}', '{"id": "b", "question": "", "type": "t"}')
    parquet = tmp_path / "tasks.parquet"
    rows = [{"id": "a", "question": "x?", "type": None}, {"id": "b", "question": "", "type": "t"}]
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    one, other = read_tasks(jsonl), read_tasks(parquet)
    assert one.tasks == other.tasks
    assert [bad.line for bad in one.malformed] == [bad.line for bad in other.malformed] == [2]


def test_file_that_cannot_be_read_as_a_whole_stops_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match="No such file"):
        read_tasks(tmp_path / "missing.jsonl")
    with pytest.raises(TaskFileError, match=r"ending in \.jsonl"):
        read_tasks(write(tmp_path, "x", name="tasks.csv"))
    with pytest.raises(TaskFileError, match="expected a Parquet file"):
        read_tasks(write(tmp_path, "x", name="torn.parquet"))
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(TaskFileError, match="column 'question', got prompt"):
        read_tasks(tmp_path / "other.parquet")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(TaskFileError, match="Is a directory"):
        read_tasks(tmp_path / "folder.jsonl")
