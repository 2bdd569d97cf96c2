"""Read a file of tasks: the good lines become tasks, the bad ones are recorded with their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from memory.types import Record
from mesh.types import Task
from serving.row_files import JSONL_SUFFIXES, RowFileError, Rows, jsonl_rows, parquet_rows, printable

KEYS = ("id", "question", "type", "answer_kind", "tags")
MAX_SHOWN_CHARS = 200


class TaskFileError(ValueError):
    """The file as a whole cannot be read: missing, of an unknown kind, torn, or without questions."""


class MalformedLine(Record):
    """A line that gives no task."""

    line: int = Field(description="1-based line of a JSONL file, or row of a Parquet file")
    problem: str
    text: str = Field(description="start of the line as it was found")


class TaskFile(Record):
    """What a file of tasks holds, in its order."""

    digest: str = Field(description="sha256 of the file's bytes")
    tasks: tuple[Task, ...]
    malformed: tuple[MalformedLine, ...]
    ignored_keys: tuple[str, ...] = Field(description="keys that say nothing about a task here, such as a reference")


def read_tasks(path: Path) -> TaskFile:
    """Tasks of a JSONL (`.jsonl`, `.ndjson`) or Parquet (`.parquet`) file.

    A line has "question" and may have "id" (a string or an integer, unique; without one `line-<number>`), "type",
    "answer_kind" (number, text, math or free) and "tags" (a list of texts).
    Other keys are ignored, and so never reach a member. Blank lines are skipped.

    Raises:
        TaskFileError: the file as a whole cannot be read.
    """
    if path.suffix not in (*JSONL_SUFFIXES, ".parquet"):
        raise TaskFileError(f"{path}: expected a file ending in {', '.join(JSONL_SUFFIXES)} or .parquet")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TaskFileError(f"{path}: cannot be read: {error.strerror}; give a file of tasks") from error
    rows = _rows(path)
    tasks: dict[str, tuple[int, Task]] = {}
    malformed: list[MalformedLine] = []
    ignored: dict[str, None] = {}
    for number, row, shown in rows:
        task = _task(number, row)
        if isinstance(task, Task) and task.id in tasks:
            task = f"id {task.id!r} was used on line {tasks[task.id][0]}; give every task an id of its own"
        if isinstance(task, str):
            malformed.append(MalformedLine(line=number, problem=task, text=shown[:MAX_SHOWN_CHARS]))
            continue
        tasks[task.id] = (number, task)
        ignored |= dict.fromkeys(printable(key) for key in row if key not in KEYS) if isinstance(row, Mapping) else {}
    return TaskFile(
        digest=digest,
        tasks=tuple(task for _, task in tasks.values()),
        malformed=tuple(malformed),
        ignored_keys=tuple(ignored),
    )


def _rows(path: Path) -> Rows:
    if path.suffix != ".parquet":
        yield from jsonl_rows(path)
        return
    try:
        yield from parquet_rows(path, "question")
    except RowFileError as error:
        raise TaskFileError(str(error)) from error


def _task(number: int, row: object) -> Task | str:
    """The task in `row`, or what is wrong with it."""
    if isinstance(row, ValueError | RecursionError):
        return f"expected one JSON object, got: {row}"
    if not isinstance(row, Mapping):
        return f"expected an object with a 'question', got {type(row).__name__}"
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        return f"expected a 'question' that is a text with something in it, got {str(question)[:40]!r}"
    name = row.get("id")
    if name is None:
        name = f"line-{number}"
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        return f"expected an 'id' that is a text or a whole number, got {str(name)[:40]!r}"
    fields = {key: row[key] for key in KEYS[1:] if row.get(key) is not None}
    if any(printable(value) != value for value in (name, *fields.values()) if isinstance(value, str)):
        return "expected text, got a lone surrogate (half of a character); write the file as UTF-8"
    try:
        return Task.model_validate({**fields, "id": str(name)})
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {str(first['input'])[:40]!r}"
