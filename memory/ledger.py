"""Durable files: atomic publish, a hash-chained append-only ledger, and the lock that keeps writers single.

What is not promised: `Ledger` does not lock (hold `exclusive_lock` for that); it only notices a second writer.
A crash inside `append_many` may keep the first few entries of the batch; nothing it acknowledged is ever lost.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from memory.types import Record

GENESIS = "0" * 64
LOCK_NAME = ".lock"
POLL_S = 0.02
"""Between two looks at a lock that is waited for."""

_HASH_FIELD = b'{"hash":"'
_BODY_AT = len(_HASH_FIELD) + 64 + len(b'",')

_Model = TypeVar("_Model", bound=BaseModel)


class LedgerError(RuntimeError):
    """The ledger file is damaged, was written by somebody else meanwhile, or an append failed."""


class AlreadyLocked(RuntimeError):
    """Another holder has the lock. `pid` is None when the holder had not written it yet."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(f"{path} is locked by {holder}; wait until it ends, or stop it, and try again")


class Entry(Record):
    """One line of a ledger. `hash` covers everything else, `prev` is the hash of the line before."""

    seq: int
    prev: str
    kind: str
    payload: dict[str, Any]
    hash: str


def publish_bytes(path: Path, data: bytes) -> str:
    """Write `data` to `path` so that a reader sees the old file or the whole new one, also after a power cut.

    Missing parent directories are made. Returns the sha256 (hex) of `data`. Raises OSError (disk full, no
    permission) and then leaves neither a temporary file nor a changed `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # writing to a descriptor, the system does not say where there is no room
        raise
    sync_directory(path.parent)
    return hashlib.sha256(data).hexdigest()


def publish_json(path: Path, value: BaseModel | object) -> str:
    """`publish_bytes` of `value` as indented JSON. NaN and what JSON cannot hold raise ValueError or TypeError."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return publish_bytes(path, _encode(text))


def read_json(path: Path) -> Any:
    """Parsed JSON file. Raises FileNotFoundError, or ValueError that names the file."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        raise ValueError(f"{path}: expected JSON, got something else ({error}); restore or remove the file") from error


def read_record(path: Path, model: type[_Model]) -> _Model:
    """A published record of type `model`. Raises FileNotFoundError, or ValueError that names the file."""
    value = read_json(path)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{path}: expected a {model.__name__}, got {error}") from error


def sync_directory(directory: Path) -> None:
    """Make renames, new names and removals in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `path` alone while the block runs; a directory is locked through the file `.lock` in it.

    The lock dies with its holder, however that ends, so there is nothing to clean up after a kill. It also
    excludes a second holder in the same process.

    Args:
        path: of the lock.
        wait_s: how long to wait for another holder; for locks that are held for moments.

    Raises:
        AlreadyLocked: somebody holds it, for longer than `wait_s`.
    """
    if path.is_dir():
        path = path / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + wait_s
        while not _locked(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).strip()
                raise AlreadyLocked(path, int(holder) if holder.isdigit() else None)
            time.sleep(POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            # The file stays: removing it would let a third process lock a file nobody else sees.
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Ledger:
    """Append-only JSONL in which every line carries the hash of the one before.

    Opening for writing makes the file if it is missing and cuts off a torn last line (what a crash left of an
    append nobody was told had succeeded); the bytes are kept in `<name>.torn` and counted in `num_torn_bytes`.
    `readonly=True` changes nothing and skips a torn last line, so a live ledger can be watched.

    Raises:
        LedgerError: the chain is broken; names the line.
        FileNotFoundError: `readonly` and there is no file.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        self.readonly = readonly
        self.num_torn_bytes = 0
        self._fault: str | None = None
        self._descriptor = -1
        if not readonly:
            self._open_for_writing()
        entries, size, data = self._read()
        self._num_entries = len(entries)
        self._head = entries[-1].hash if entries else GENESIS
        self._size = size
        if not readonly and size < len(data):
            self._cut_torn_tail(data[size:])

    def __len__(self) -> int:
        """Number of entries known to this object."""
        return self._num_entries

    @property
    def head(self) -> str:
        """Hash of the last entry; 64 zeros while empty. Two ledgers with one head hold the same entries."""
        return self._head

    def entries(self) -> list[Entry]:
        """All entries, read from the file and verified anew. Raises LedgerError at the first broken line."""
        return self._read()[0]

    def append(self, kind: str, payload: dict[str, Any]) -> Entry:
        """Add one entry; it is on the disk when this returns. Raises as `append_many` does."""
        return self.append_many([(kind, payload)])[0]

    def append_many(self, items: Iterable[tuple[str, dict[str, Any]]]) -> list[Entry]:
        """Add (kind, payload) pairs with one write and one fsync; all are on the disk when this returns.

        Raises:
            TypeError, ValueError: a payload is not plain JSON (NaN included); nothing was written.
            LedgerError: read-only, or the file changed under us, or the write failed. A failed write is taken
                back; when that fails too the ledger refuses appends until it is opened again.
        """
        entries, lines = self._chain(items)
        if not entries:
            return []
        self._check_writable()
        data = b"".join(lines)
        try:
            _write_all(self._descriptor, data)
            os.fsync(self._descriptor)
        except OSError as error:
            self._take_back(error)
            raise LedgerError(f"{self.path}: could not append {len(entries)} entries: {error}") from error
        self._size += len(data)
        self._num_entries += len(entries)
        self._head = entries[-1].hash
        return entries

    def _chain(self, items: Iterable[tuple[str, dict[str, Any]]]) -> tuple[list[Entry], list[bytes]]:
        entries: list[Entry] = []
        lines: list[bytes] = []
        head = self._head
        for seq, (kind, payload) in enumerate(items, start=self._num_entries):
            line = _line(seq, head, kind, payload)
            entry = _parse(line[:-1], self.path, seq, head)
            head = entry.hash
            entries.append(entry)
            lines.append(line)
        return entries, lines

    def _open_for_writing(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        weakref.finalize(self, os.close, self._descriptor)
        if is_new:
            sync_directory(self.path.parent)

    def _read(self) -> tuple[list[Entry], int, bytes]:
        """Entries, the number of bytes they take, and all bytes of the file."""
        data = self.path.read_bytes()
        lines = data.split(b"\n")[:-1]  # what follows the last newline is torn, or nothing
        entries: list[Entry] = []
        head, size = GENESIS, 0
        for seq, line in enumerate(lines):
            # Pages of one write may reach the disk in any order, so a torn last line can have its newline.
            if seq == len(lines) - 1 and not _is_json(line):
                break
            entry = _parse(line, self.path, seq, head)
            entries.append(entry)
            head = entry.hash
            size += len(line) + 1
        return entries, size, data

    def _cut_torn_tail(self, torn: bytes) -> None:
        keep = os.open(f"{self.path}.torn", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            _write_all(keep, torn + b"\n")
            os.fsync(keep)
        finally:
            os.close(keep)
        os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)
        sync_directory(self.path.parent)
        self.num_torn_bytes = len(torn)

    def _check_writable(self) -> None:
        if self.readonly:
            raise LedgerError(f"{self.path}: opened read-only; open it without readonly to append")
        if self._fault is not None:
            raise LedgerError(f"{self.path}: an earlier append failed ({self._fault}); open the ledger again")
        try:
            there, ours = os.stat(self.path), os.fstat(self._descriptor)
        except FileNotFoundError:
            raise LedgerError(f"{self.path}: the file was removed while it was open; restore it") from None
        if (there.st_dev, there.st_ino, there.st_size) != (ours.st_dev, ours.st_ino, self._size):
            raise LedgerError(
                f"{self.path}: expected {self._size} bytes, got {there.st_size} or another file: a second writer? "
                "Keep one writer (exclusive_lock) and open the ledger again"
            )

    def _take_back(self, error: OSError) -> None:
        try:
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        except OSError:
            self._fault = str(error)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces. Raises TypeError or ValueError for what is not plain JSON, NaN included."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def chain_digest(seq: int, prev: str, kind: str, payload: dict[str, Any]) -> str:
    """sha256 (hex) that seals one entry of a chain together with all before it. Raises as `canonical_json` does."""
    return hashlib.sha256(_body(seq, prev, kind, payload)).hexdigest()


def _body(seq: int, prev: str, kind: str, payload: dict[str, Any]) -> bytes:
    try:
        return _encode(canonical_json({"kind": kind, "payload": payload, "prev": prev, "seq": seq}))
    except (TypeError, ValueError) as error:
        raise type(error)(f"ledger entry {seq} ({kind}): expected plain JSON values, got {error}") from error


def _line(seq: int, prev: str, kind: str, payload: dict[str, Any]) -> bytes:
    encoded = _body(seq, prev, kind, payload)
    digest = hashlib.sha256(encoded).hexdigest().encode()
    return _HASH_FIELD + digest + b'",' + encoded[1:] + b"\n"


def _parse(line: bytes, path: Path, seq: int, head: str) -> Entry:
    """The entry in `line`; the hash is checked on the bytes as they lie on the disk."""
    where = f"{path}, line {seq + 1}"
    advice = f"restore the file from a copy; nothing after its first {seq} lines can be relied on"
    digest = hashlib.sha256(b"{" + line[_BODY_AT:]).hexdigest()
    if line[:_BODY_AT] != _HASH_FIELD + digest.encode() + b'",':
        raise LedgerError(f"{where}: the content does not match its hash (expected {digest}); {advice}")
    entry = Entry.model_validate(json.loads(line))
    if entry.seq != seq or entry.prev != head:
        raise LedgerError(
            f"{where}: the chain is broken: expected entry {seq} after {head[:12]}, "
            f"got entry {entry.seq} after {entry.prev[:12]}; {advice}"
        )
    return entry


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _encode(text: str) -> bytes:
    # A lone surrogate has no UTF-8; "backslashreplace" writes it as \udXXX, which inside JSON is its own escape.
    return text.encode("utf-8", "backslashreplace")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
