"""Who on a shared fleet still needs which adapter, so that nobody unloads what another process answers with."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from memory.ledger import exclusive_lock
from memory.types import Record

AdapterKey = tuple[str, str]
"""(engine, adapter hash)."""

GUARD = ".lock"


class _Needs(Record):
    adapters: tuple[AdapterKey, ...] = Field(default=(), description="(engine, adapter hash) of each")


class Lease:
    """What one process needs, in a file that it holds locked: the lease ends with its process, however that ends.

    Take and give back under `guard`, or somebody may unload between look and load.
    """

    def __init__(self, directory: Path) -> None:
        """`directory`: the same for everybody on one fleet. Raises OSError if it cannot be written."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._path = directory / f"{os.getpid()}-{secrets.token_hex(6)}.json"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def hold(self, adapters: Iterable[AdapterKey]) -> None:
        """From here on these are needed, and no others by this process."""
        data = _Needs(adapters=tuple(sorted(set(adapters)))).model_dump_json().encode()
        # Not by rename: the lock is on this very file.
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)

    def others(self) -> frozenset[AdapterKey]:
        """What other living processes need; files of ended ones are removed."""
        found: set[AdapterKey] = set()
        for path in self._directory.glob("*.json"):
            if path != self._path:
                found |= _needs_of(path)
        return frozenset(found)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Nobody else takes or gives back meanwhile. Raises AlreadyLocked at once if somebody does."""
        with exclusive_lock(self._directory / GUARD):
            yield

    def close(self) -> None:
        """Nothing is needed any more. A second call does nothing."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def _needs_of(path: Path) -> set[AdapterKey]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return set()
    try:
        if _is_orphan(descriptor):
            path.unlink(missing_ok=True)
            return set()
        return set(_Needs.model_validate_json(os.pread(descriptor, os.fstat(descriptor).st_size, 0)).adapters)
    except ValidationError:
        return set()  # just made: it says what it needs under the guard, so not while somebody gives back
    finally:
        os.close(descriptor)


def _is_orphan(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
