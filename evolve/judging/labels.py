"""Late labels: a file that says of finished tasks what the right answer was, or whether the mesh's was right."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from memory.types import Record
from serving.row_files import JSONL_SUFFIXES, RowFileError, Rows, csv_rows, jsonl_rows, parquet_rows, printable

ANSWER, CORRECT = "answer", "correct"
MAX_ANSWER_CHARS = 4000

_YES = ("true", "yes", "right", "correct", "passed", "1")
_NO = ("false", "no", "wrong", "incorrect", "failed", "0")


class LabelError(ValueError):
    """The label file as a whole cannot be read."""


class Label(Record):
    """What one row says of one task. At least one of `answer` and `correct` is set."""

    row: int = Field(description="line of the file, from 1")
    id: str
    answer: str | None = Field(default=None, description="the right answer; never shown to a member")
    correct: bool | None = Field(default=None, description="whether the mesh's answer was right")


class BadRow(Record):
    """A row that was not taken."""

    row: int
    problem: str


class LabelFile(Record):
    """What a file of labels holds, in its order."""

    digest: str = Field(description="sha256 of the file's bytes")
    labels: tuple[Label, ...]
    bad: tuple[BadRow, ...]


def read_labels(path: Path, key: str) -> LabelFile:
    """Labels of a CSV, JSONL or Parquet file: the task's id under `key`, and `answer` or `correct` (or both).

    `correct` is true or false, in the words a spreadsheet would use. A second row for an id that says the same is
    passed over; one that says something else is bad.

    Raises:
        LabelError: not there, of an unknown kind, without the columns.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        labels: dict[str, Label] = {}
        bad: list[BadRow] = []
        for number, row, _ in _rows(path, key):
            label = _label(number, row, key)
            if isinstance(label, str):
                bad.append(BadRow(row=number, problem=label))
            elif (first := labels.setdefault(label.id, label)).model_copy(update={"row": number}) != label:
                bad.append(BadRow(row=number, problem=f"id {label.id!r} has another label in row {first.row}"))
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error.strerror}; give a file of labels") from error
    except RowFileError as error:
        raise LabelError(str(error)) from error
    return LabelFile(digest=digest, labels=tuple(labels.values()), bad=tuple(bad))


def _rows(path: Path, key: str) -> Rows:
    if path.suffix == ".csv":
        return csv_rows(path, key)
    if path.suffix == ".parquet":
        return parquet_rows(path, key)
    if path.suffix in JSONL_SUFFIXES:
        return jsonl_rows(path)
    raise LabelError(f"{path}: expected a file ending in .csv, .parquet, {' or '.join(JSONL_SUFFIXES)}")


def _label(number: int, row: object, key: str) -> Label | str:
    """The label in `row`, or what is wrong with it."""
    if isinstance(row, ValueError | RecursionError):
        return f"expected a row with {key}, got: {row}"
    if not isinstance(row, Mapping):
        return f"expected an object with {key!r}, got {type(row).__name__}"
    name, answer, correct = row.get(key), _text(row.get(ANSWER)), _truth(row.get(CORRECT))
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        return f"expected {key!r} to be a text or a whole number, got {str(name)[:40]!r}"
    if isinstance(answer, ValueError):
        return str(answer)
    if isinstance(correct, ValueError):
        return str(correct)
    if answer is None and correct is None:
        return f"expected {ANSWER!r} or {CORRECT!r}, got neither"
    if any(printable(text) != text for text in (str(name), answer or "")):
        return "expected text, got a lone surrogate (half of a character); write the file as UTF-8"
    return Label(row=number, id=str(name), answer=answer, correct=correct)


def _text(value: object) -> str | ValueError | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None  # what a table library writes for an empty cell
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ValueError(
            f"expected {ANSWER!r} to be a text or a number, got {type(value).__name__}; or give {CORRECT!r}"
        )
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if len(text) > MAX_ANSWER_CHARS:
        return ValueError(f"expected {ANSWER!r} of at most {MAX_ANSWER_CHARS} characters, got {len(text)}")
    return text


def _truth(value: object) -> bool | ValueError | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    word = str(value).strip().casefold().removesuffix(".0")
    if word in _YES or word in _NO:
        return word in _YES
    return None if not word else ValueError(f"expected {CORRECT!r} to be true or false, got {str(value)[:40]!r}")
