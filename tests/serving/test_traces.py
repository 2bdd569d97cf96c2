from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mesh.config import CouncilConfig
from mesh.deliberate import deliberate
from mesh.types import Deliberation, Member, Task
from serving.config import ScriptedSpec
from serving.scripted_engine import ScriptedEngine
from serving.traces import ROWS_PER_GROUP, TraceError, read_traces, write_traces

MEMBERS = [Member(name=name, engine="alpha", family="script") for name in ("ada", "bob")]


@pytest.fixture(scope="module")
def traces() -> list[Deliberation]:
    engine = ScriptedEngine(ScriptedSpec(name="alpha", family="script", skill=0.5))

    async def run() -> list[Deliberation]:
        tasks = [Task(id=f"t{n}", question=f"What is {n} + 5? \x00é∑", answer_kind="number") for n in range(6)]
        return [await deliberate(task, MEMBERS, engine, CouncilConfig(), seed=1) for task in tasks]

    return asyncio.run(run())


def test_whole_trace_comes_back(tmp_path: Path, traces: list[Deliberation]) -> None:
    write_traces(tmp_path / "traces.parquet", iter(traces))
    assert list(read_traces(tmp_path / "traces.parquet")) == traces


def test_columns_say_what_the_trace_says(tmp_path: Path, traces: list[Deliberation]) -> None:
    write_traces(tmp_path / "traces.parquet", traces)
    rows = pq.read_table(tmp_path / "traces.parquet").to_pylist()
    for row, trace in zip(rows, traces, strict=True):
        assert row["id"] == trace.task.id
        assert row["answer"] == trace.verdict.answer
        assert row["first_answer"] == trace.first_verdict.answer
        assert row["output_tokens"] == trace.usage.output_tokens > 0


def test_same_traces_give_the_same_bytes(tmp_path: Path, traces: list[Deliberation]) -> None:
    digest = write_traces(tmp_path / "one.parquet", traces)
    assert write_traces(tmp_path / "two.parquet", iter(traces)) == digest
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_more_than_one_row_group_keeps_the_order(tmp_path: Path, traces: list[Deliberation]) -> None:
    many = [trace.model_copy(update={"seed": seed}) for seed in range(ROWS_PER_GROUP // 3) for trace in traces]
    write_traces(tmp_path / "traces.parquet", iter(many))
    assert pq.ParquetFile(tmp_path / "traces.parquet").num_row_groups == 2
    assert [trace.seed for trace in read_traces(tmp_path / "traces.parquet")] == [trace.seed for trace in many]


def test_no_traces_are_an_empty_file(tmp_path: Path) -> None:
    write_traces(tmp_path / "traces.parquet", [])
    assert list(read_traces(tmp_path / "traces.parquet")) == []


def test_failure_while_writing_leaves_the_old_file(tmp_path: Path, traces: list[Deliberation]) -> None:
    path = tmp_path / "traces.parquet"
    write_traces(path, traces)

    def broken() -> object:
        yield traces[0]
        raise KeyError("gone")

    with pytest.raises(KeyError):
        write_traces(path, broken())  # type: ignore[arg-type]
    assert len(list(read_traces(path))) == len(traces)
    assert [file.name for file in tmp_path.iterdir()] == ["traces.parquet"]


def test_missing_torn_and_foreign_files_are_told_apart_from_traces(tmp_path: Path, traces: list[Deliberation]) -> None:
    path = tmp_path / "traces.parquet"
    with pytest.raises(TraceError, match="no such trace file"):
        list(read_traces(path))
    write_traces(path, traces)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TraceError, match="expected Parquet"):
        list(read_traces(path))
    pq.write_table(pa.table({"question": ["a"]}), path)
    with pytest.raises(TraceError, match="'trace' column"):
        list(read_traces(path))
    pq.write_table(pa.table({"trace": ["{}"]}), path)
    with pytest.raises(TraceError, match="row 1: expected a deliberation"):
        list(read_traces(path))
    pq.write_table(pa.table({"trace": [3]}), path)
    with pytest.raises(TraceError, match=r"traces\.parquet"):
        list(read_traces(path))
