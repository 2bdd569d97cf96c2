"""Deliberations as Parquet: a few columns to look at, and the whole trace beside them."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from memory.ledger import sync_directory
from mesh.types import Deliberation

ROWS_PER_GROUP = 256
"""Rows that are decoded at a time when reading; the bytes of the file depend on it."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("task_type", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("first_answer", pa.string()),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("output_tokens", pa.int64(), nullable=False),
        pa.field("trace", pa.string(), nullable=False),
    ]
)


class TraceError(RuntimeError):
    """A trace file is missing, torn, or was not written by `write_traces`."""


class TraceWriter:
    """Streams traces into a Parquet file that appears at `path`, whole, when `publish` is called; else not at all.

    A context manager; at most `ROWS_PER_GROUP` traces are in memory. Raises OSError (disk full, no permission).
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        self._rows: list[dict[str, object]] = []
        self._writer = pq.ParquetWriter(self._temporary, SCHEMA, compression="zstd")

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, deliberation: Deliberation) -> None:
        """Append one trace."""
        self._rows.append(_row(deliberation))
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def publish(self) -> str:
        """Close the file and let it appear; returns its sha256."""
        if self._rows:
            self._flush()
        self._writer.close()
        with self._temporary.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(self._temporary, self._path)
        sync_directory(self._path.parent)
        return digest

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA), row_group_size=ROWS_PER_GROUP)
        self._rows.clear()


def write_traces(path: Path, deliberations: Iterable[Deliberation]) -> str:
    """Publish `deliberations` at `path` in their order, whole or not at all; returns the sha256 of the file.

    `id` is the task's id, `answer` the mesh's, `first_answer` that of the independent first proposals (null: none).
    The same traces give the same bytes under the same pyarrow. Raises OSError (disk full, no permission).
    """
    with TraceWriter(path) as writer:
        for deliberation in deliberations:
            writer.add(deliberation)
        return writer.publish()


def read_traces(path: Path) -> Iterator[Deliberation]:
    """The deliberations of a file of `write_traces`, in order, a row group at a time.

    Raises TraceError, when iterated, naming the file and the row.
    """
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_GROUP, columns=["trace"]):
                for text in batch.column("trace").to_pylist():
                    row += 1
                    yield Deliberation.model_validate_json(text)
    except FileNotFoundError:
        raise TraceError(f"{path}: there is no such trace file; give the traces.parquet of a run") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise TraceError(f"{path}: expected Parquet with a 'trace' column, got: {error}; write it again") from error
    except ValidationError as error:
        raise TraceError(f"{path}, row {row}: expected a deliberation, got: {error}; write it again") from error


def _row(deliberation: Deliberation) -> dict[str, object]:
    return {
        "id": deliberation.task.id,
        "task_type": deliberation.task.type,
        "question": deliberation.task.question,
        "answer": deliberation.verdict.answer,
        "first_answer": deliberation.first_verdict.answer,
        "confidence": deliberation.verdict.confidence,
        "output_tokens": deliberation.usage.output_tokens,
        "trace": deliberation.model_dump_json(),
    }
