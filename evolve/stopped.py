"""Why a run that has not ended came to a stop, for whoever looks at its directory later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field

from evolve.run_files import STOPPED
from memory.ledger import publish_json, read_record
from memory.types import Record


class Stopped(Record):
    """The end of one start of a run."""

    at: float = Field(description="Unix seconds")
    error: str = Field(description="name of the error's class")
    reason: str


@contextmanager
def leaving_reason(directory: Path) -> Iterator[None]:
    """What stops the block is left in `directory`, and goes on its way; nothing is there while the block runs.

    A kill leaves nothing, and a disk without room keeps only what was raised.
    """
    (directory / STOPPED).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        with suppress(OSError):
            found = Stopped(at=time.time(), error=type(error).__name__, reason=str(error))
            publish_json(directory / STOPPED, found)
        raise


def why_stopped(directory: Path) -> str:
    """What stopped the run in `directory` last; empty: it goes on, has ended, or was killed. Raises ValueError."""
    try:
        found = read_record(directory / STOPPED, Stopped)
    except FileNotFoundError:
        return ""
    return f"{found.error}: {found.reason}"
