"""Rows of a JSONL, CSV or Parquet file, one after the other; a row that cannot be read is an error in its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

JSONL_SUFFIXES = (".jsonl", ".ndjson")
MAX_FIELD_CHARS = 1 << 20

Rows = Iterator[tuple[int, object, str]]
"""(line or row number from 1, the row or why it cannot be read, the row as it was found)."""


class RowFileError(ValueError):
    """The file as a whole cannot be read."""


def printable(text: str) -> str:
    """`text` without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def jsonl_rows(path: Path) -> Rows:
    """Lines of a JSONL file; blank ones are skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            shown = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").strip()
            if not shown:
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
                row = error
            yield number, row, shown


def parquet_rows(path: Path, *needed: str) -> Rows:
    """Rows of a Parquet file. Raises RowFileError: it is none, or lacks a needed column."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = next((name for name in needed if name not in names), None)
            if missing is not None:
                raise RowFileError(f"{path}: expected a column {missing!r}, got {', '.join(names)}")
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row, str(row)
    except (pa.ArrowException, OSError) as error:
        raise RowFileError(f"{path}: expected a Parquet file, got: {error}; write it again") from error


def csv_rows(path: Path, *needed: str) -> Rows:
    """Rows of a CSV file with a header, by the number of their first line; an empty field is None.

    Raises RowFileError: no UTF-8, no header, or one that lacks a needed column.
    """
    csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            missing = next((name for name in needed if name not in header), None)
            if missing is not None or len(set(header)) != len(header):
                raise RowFileError(f"{path}: expected a header with {', '.join(needed)}, each once, got {header}")
            yield from _csv_rows(reader, header)
    except UnicodeDecodeError as error:
        raise RowFileError(f"{path}: expected UTF-8, got: {error}; save it as UTF-8") from error
    except csv.Error as error:
        raise RowFileError(f"{path}: expected CSV, got: {error}; write it again") from error


def _csv_rows(reader: Iterator[list[str]], header: list[str]) -> Rows:
    while True:
        number = reader.line_num + 1  # type: ignore[attr-defined]  # a csv reader counts its lines
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, ValueError(str(error)), ""
            continue
        if not fields:
            continue
        shown = ",".join(fields)
        if len(fields) != len(header):
            yield number, ValueError(f"expected {len(header)} fields, got {len(fields)}"), shown
            continue
        row: Mapping[str, str | None] = {name: field or None for name, field in zip(header, fields, strict=True)}
        yield number, row, shown
