"""What was accepted is read back as it was, and what is missing or was changed since is told, not made again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from evolve.journal import Journal, JournalError
from memory.types import Record
from mesh.types import Deliberation, Member, Task, Verdict
from serving.traces import read_traces, write_traces

ADA = Member(name="ada", engine="ada", family="alpha")
NOTHING = Verdict(answer=None, method="none")


class Sum(Record):
    """The result of a step."""

    value: int


def held(number: int) -> Deliberation:
    task = Task(id=f"t{number}", question=f"{number} + 1 =")
    return Deliberation(
        id=f"d{number}", task=task, protocol="vote", seed=0, members=(ADA,), first_verdict=NOTHING, verdict=NOTHING
    )


def step(directory: Path, *, value: int = 7) -> Sum:
    async def work() -> Sum:
        return Sum(value=value)

    return asyncio.run(Journal(directory).record("add", [1, 2], Sum, work))


def stage(directory: Path, *, first: int = 1) -> list[Deliberation]:
    def working(number: int) -> Callable[[], Awaitable[Deliberation]]:
        async def work() -> Deliberation:
            return held(number)

        return work

    works = [(f"t{number}", working(number)) for number in (first, first + 1)]
    return asyncio.run(
        Journal(directory).deliberations("harvest", [1, 2], directory / "harvest.parquet", works, concurrency=1)
    )


def test_what_was_accepted_is_read_and_not_worked_out_again(tmp_path: Path) -> None:
    assert step(tmp_path) == step(tmp_path, value=8) == Sum(value=7)
    assert stage(tmp_path) == stage(tmp_path, first=5) == [held(1), held(2)]


def test_an_accepted_step_whose_result_is_missing_is_told_and_not_worked_out_again(tmp_path: Path) -> None:
    step(tmp_path)
    [path] = (tmp_path / "steps").glob("add-*.json")
    path.unlink()
    with pytest.raises(JournalError, match=rf"{path.name} is missing, but the journal accepted it; restore it"):
        step(tmp_path)
    assert not path.exists()


def test_accepted_traces_that_are_missing_are_told_and_not_drawn_again(tmp_path: Path) -> None:
    stage(tmp_path)
    (tmp_path / "harvest.parquet").unlink()
    with pytest.raises(JournalError, match=r"harvest\.parquet is missing, but the journal accepted it; restore it"):
        stage(tmp_path)
    assert not (tmp_path / "harvest.parquet").exists()


def test_sealed_traces_that_were_changed_are_noticed(tmp_path: Path) -> None:
    stage(tmp_path)
    path = tmp_path / "harvest.parquet"
    first, second = read_traces(path)
    write_traces(path, [first, second.model_copy(update={"seed": 1})])
    with pytest.raises(JournalError, match=r"harvest\.parquet was changed after it was accepted: expected digest"):
        stage(tmp_path)
    write_traces(path, [first])
    with pytest.raises(JournalError, match="was changed after it was accepted"):
        stage(tmp_path)
