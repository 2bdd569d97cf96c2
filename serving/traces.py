"""Deliberations as Parquet: a few columns to look at, and the whole trace beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from memory.ledger import publish_bytes
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


def write_traces(path: Path, deliberations: Iterable[Deliberation]) -> str:
    """Publish `deliberations` at `path` in their order, whole or not at all; returns the sha256 of the file.

    `id` is the task's id, `answer` the mesh's, `first_answer` that of the independent first proposals (null: none).
    The compressed file is held in memory until it is published. The same traces give the same bytes under the same
    pyarrow. Raises OSError (disk full, no permission).
    """
    buffer = pa.BufferOutputStream()
    remaining = iter(deliberations)
    with pq.ParquetWriter(buffer, SCHEMA, compression="zstd") as writer:
        while group := list(islice(remaining, ROWS_PER_GROUP)):
            rows = [_row(deliberation) for deliberation in group]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), row_group_size=ROWS_PER_GROUP)
    return publish_bytes(path, buffer.getvalue().to_pybytes())


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
