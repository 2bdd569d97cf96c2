"""Who on a shared fleet still needs which adapter, so that nobody unloads what another process answers with."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from memory.ledger import exclusive_lock, publish_json, read_record
from memory.types import Record

AdapterKey = tuple[str, str]
"""(engine, adapter hash)."""

GUARD = ".lock"
STATE_SUFFIX = ".state"

_State = TypeVar("_State", bound=Record)


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

    def tell(self, state: Record) -> None:
        """What whoever looks at this process from outside gets to know; whole or not at all."""
        publish_json(self._path.with_suffix(STATE_SUFFIX), state)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Nobody else takes or gives back meanwhile. Raises AlreadyLocked at once if somebody does."""
        with exclusive_lock(self._directory / GUARD):
            yield

    def close(self) -> None:
        """Nothing is needed any more. A second call does nothing."""
        if self._descriptor >= 0:
            _remove(self._path)
            os.close(self._descriptor)
            self._descriptor = -1


def states(directory: Path, kind: type[_State]) -> tuple[_State, ...]:
    """What living processes tell of themselves, in the order of their files' names; () without a directory."""
    found = []
    for path in sorted(directory.glob(f"*{STATE_SUFFIX}")):
        lease = path.with_suffix(".json")
        try:
            descriptor = os.open(lease, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not _is_orphan(descriptor):
                found.append(read_record(path, kind))
        except FileNotFoundError:
            continue  # it has just ended
        finally:
            os.close(descriptor)
    return tuple(found)


def _remove(path: Path) -> None:
    path.with_suffix(STATE_SUFFIX).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _needs_of(path: Path) -> set[AdapterKey]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return set()
    try:
        if _is_orphan(descriptor):
            _remove(path)
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
