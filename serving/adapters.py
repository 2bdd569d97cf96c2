"""LoRA adapters: admitted once, kept under the hash of their content, never changed and never deleted while in use."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import Field

from memory.ledger import publish_json, read_record, sync_directory
from memory.types import Record, content_hash
from serving.admission import CONFIG_FILE, README_FILE, WEIGHTS_FILE, AdapterFacts, BaseModelShape, examine
from serving.config import LORA_RANKS
from serving.weights import sha256_of

__all__ = [
    "Adapter",
    "AdapterCorrupt",
    "AdapterHost",
    "AdapterMissing",
    "AdapterRefused",
    "AdapterStore",
    "BaseModelShape",
]

RECORD_FILE = "adapter.json"
MAX_FILE_BYTES = {WEIGHTS_FILE: 4 * 2**30, CONFIG_FILE: 2**20, README_FILE: 2**20}
SHARED_FILES = {WEIGHTS_FILE: 4 * 2**30, CONFIG_FILE: 2**20, RECORD_FILE: 2**20}
"""What travels from store to store, with the most bytes of each; the hash says nothing about a README."""

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_CHUNK_BYTES = 1 << 20
_STAGED = (".admit-", ".receive-", ".publish-", ".damaged-")
_FORGOTTEN_S = 86_400.0


class AdapterRefused(ValueError):
    """An adapter did not pass admission; `reasons` lists everything that was wrong with it."""

    def __init__(self, directory: Path, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons
        listed = "".join(f"\n- {reason}" for reason in reasons)
        super().__init__(f"{directory}: adapter refused, {len(reasons)} reason(s):{listed}")


class AdapterMissing(LookupError):
    """No adapter of this hash is in the store."""


class AdapterCorrupt(RuntimeError):
    """A file of a stored adapter is not the one that was admitted."""


def check_hash(adapter_hash: str) -> str:
    """`adapter_hash`, if it is one. Raises AdapterMissing: a path or any other name never reaches the disk."""
    if not _HASH.match(adapter_hash):
        raise AdapterMissing(f"expected the hash of an adapter, 64 hexadecimal digits, got {adapter_hash[:80]!r}")
    return adapter_hash


class Adapter(Record):
    """An admitted LoRA adapter. Its hash is its name everywhere; it never changes."""

    hash: str = Field(description="content hash over base, configuration and weights")
    base: str = Field(description="fingerprint of the base model it was made for")
    rank: int = Field(ge=1)
    alpha: float = Field(default=0.0, description="LoRA alpha; the update is scaled by alpha / rank")
    target_modules: tuple[str, ...] = Field(default=(), description="adapted layer names, e.g. 'q_proj'")
    num_parameters: int = Field(default=0, ge=0)
    weights_sha256: str = ""
    path: Path | None = Field(default=None, description="directory in the store; None: a record without weights")
    shared: str | None = Field(
        default=None, description="shared store that other nodes fetch it from; None: it is only where `path` says"
    )


@runtime_checkable
class AdapterHost(Protocol):
    """What the serving side asks of an engine beside the mesh's own protocol."""

    async def load_adapter(self, adapter: Adapter) -> float:
        """Makes members with this adapter usable; returns seconds. A second call for a loaded one does nothing.

        Raises:
            EngineError: another base, too large a rank, unreadable files, or an engine that takes no adapters.
        """
        ...

    async def retire_adapter(self, adapter_hash: str) -> None:
        """Makes members with this adapter unusable. Raises EngineError if it is not loaded."""
        ...


class AdapterStore:
    """Directory of admitted adapters, one sub-directory a hash, shared by everybody who trains or serves."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def admit(self, directory: Path, base: BaseModelShape, *, max_rank: int) -> Adapter:
        """Checks the adapter in `directory`, copies it into the store and returns its record; idempotent.

        What is checked is the copy, so nothing can change between check and use. The configuration is written anew
        with the few keys that mean something, so that equal weights have equal hashes wherever they were trained.

        Raises:
            AdapterRefused: with every reason found.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        sweep(self.root)
        self._refuse_odd_files(directory)
        with tempfile.TemporaryDirectory(prefix=".admit-", dir=self.root) as name:
            staged = Path(name) / "adapter"
            staged.mkdir()
            self._stage(directory, staged)
            facts, reasons = examine(staged, base, max_rank=max_rank)
            if facts is None or reasons:
                raise AdapterRefused(directory, reasons)
            return self._publish(staged, base, facts)

    def get(self, adapter_hash: str) -> Adapter:
        """Record of an admitted adapter. Raises AdapterMissing or AdapterCorrupt."""
        file = self.root / check_hash(adapter_hash) / RECORD_FILE
        try:
            record = read_record(file, Adapter)
        except FileNotFoundError:
            raise AdapterMissing(
                f"{file}: expected an admitted adapter, found none; train it again or copy its directory there"
            ) from None
        except ValueError as error:
            raise AdapterCorrupt(str(error)) from error
        if record.hash != adapter_hash:
            raise AdapterCorrupt(f"{file}: expected the record of {adapter_hash}, got {record.hash[:80]!r}; remove it")
        return record.model_copy(update={"path": file.parent.resolve()})

    def path(self, adapter_hash: str) -> Path:
        """Directory of an admitted adapter, its content verified. Raises AdapterMissing or AdapterCorrupt."""
        adapter, directory = self.get(adapter_hash), (self.root / adapter_hash).resolve()
        try:
            found = _identity(adapter.base, _digests(directory))
        except FileNotFoundError as error:
            raise AdapterCorrupt(
                f"{directory}: expected {WEIGHTS_FILE} and {CONFIG_FILE}, but {error.filename} is gone; "
                "remove the directory and admit the adapter again"
            ) from error
        if found != adapter_hash:
            raise AdapterCorrupt(
                f"{directory}: expected content hash {adapter_hash}, found {found}; remove it and admit it again"
            )
        return directory

    def restore(self, adapter_hash: str, directory: Path, base: BaseModelShape, *, max_rank: int) -> Adapter | None:
        """Admits `directory` in the place of an adapter that is damaged or gone; None: it holds another adapter.

        The content must have the hash, so whatever was measured of the adapter holds for what is there afterwards.

        Raises:
            AdapterRefused: as `admit`.
        """
        target = self.root / check_hash(adapter_hash)
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".admit-", dir=self.root) as name:
            aside = AdapterStore(Path(name) / "store")
            if aside.admit(directory, base, max_rank=max_rank).hash != adapter_hash:
                return None
            if target.exists():
                target.rename(Path(name) / "damaged")
            (aside.root / adapter_hash).rename(target)
            sync_directory(self.root)
        return self.get(adapter_hash)

    def list(self) -> tuple[Adapter, ...]:
        """Records of all admitted adapters, by hash."""
        found = sorted(file.parent.name for file in self.root.glob(f"*/{RECORD_FILE}") if _HASH.match(file.parent.name))
        return tuple(self.get(name) for name in found)

    def receive(self, adapter_hash: str, fetch: Callable[[Path], None]) -> Adapter:
        """Takes over an adapter that another store admitted; one that is here already is not fetched again.

        `fetch` puts its `SHARED_FILES` into the directory it is given. They are examined once more, all but what only
        the base model tells, and must have the content that the hash stands for before anybody sees them.

        Raises:
            AdapterMissing, AdapterCorrupt: what was fetched is not that adapter. What `fetch` raises.
        """
        check_hash(adapter_hash)
        if (self.root / adapter_hash).exists():
            return self.get(adapter_hash)
        self.root.mkdir(parents=True, exist_ok=True)
        sweep(self.root)
        with tempfile.TemporaryDirectory(prefix=".receive-", dir=self.root) as name:
            staged = Path(name) / "adapter"
            staged.mkdir()
            fetch(staged)
            _check_received(adapter_hash, staged)
            self._move_in(staged, adapter_hash)
        return self.get(adapter_hash)

    def _publish(self, staged: Path, base: BaseModelShape, facts: AdapterFacts) -> Adapter:
        publish_json(staged / CONFIG_FILE, facts.config.canonical(base.name))
        adapter = _record(base.fingerprint, facts, _digests(staged))
        publish_json(staged / RECORD_FILE, adapter)
        self._move_in(staged, adapter.hash)
        return self.get(adapter.hash)

    def _move_in(self, staged: Path, adapter_hash: str) -> None:
        target = self.root / adapter_hash
        if target.exists():
            return
        try:
            staged.rename(target)
        except OSError:
            # Somebody else brought the same content meanwhile; theirs is as good.
            if not target.exists():
                raise
        sync_directory(self.root)

    def _stage(self, directory: Path, staged: Path) -> None:
        for file, most in MAX_FILE_BYTES.items():
            if (directory / file).exists():
                try:
                    copy_durably(directory / file, staged / file, max_bytes=most)
                except ValueError as error:
                    raise AdapterRefused(directory, (str(error),)) from error

    def _refuse_odd_files(self, directory: Path) -> None:
        """Only the three known names, plain files, within their size limits."""
        if not directory.is_dir() or directory.is_symlink():
            raise AdapterRefused(directory, ("expected a directory, found none (or a link)",))
        reasons = []
        for entry in sorted(directory.iterdir()):
            if entry.name not in MAX_FILE_BYTES:
                allowed = ", ".join(MAX_FILE_BYTES)
                reasons.append(f"{entry.name}: expected only {allowed}; remove it")
            elif entry.is_symlink() or not entry.is_file():
                reasons.append(f"{entry.name}: expected a plain file, found a link or something else")
            elif entry.stat().st_size > MAX_FILE_BYTES[entry.name]:
                reasons.append(f"{entry.name}: expected at most {MAX_FILE_BYTES[entry.name]} bytes")
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            if not (directory / name).exists():
                reasons.append(f"{name}: expected this file, found none")
        if reasons:
            raise AdapterRefused(directory, tuple(reasons))


def sweep(root: Path) -> None:
    """Removes what a kill left half-done in a store a day ago or earlier; nobody ever saw it as an adapter."""
    for entry in root.iterdir():
        if not entry.name.startswith(_STAGED):
            continue
        with contextlib.suppress(FileNotFoundError):  # it has just become an adapter
            if time.time() - entry.lstat().st_mtime > _FORGOTTEN_S:
                shutil.rmtree(entry, ignore_errors=True)


def _digests(directory: Path) -> dict[str, str]:
    return {name: sha256_of(directory / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}


def _identity(base: str, digests: dict[str, str]) -> str:
    return content_hash({"base": base, "files": digests})


def _check_received(adapter_hash: str, directory: Path) -> None:
    """Raises AdapterCorrupt unless `directory` holds the adapter of that hash, and nothing else."""
    what = f"adapter {adapter_hash[:12]} as it was fetched"
    for entry in directory.iterdir():
        if entry.name not in SHARED_FILES or entry.is_symlink() or not entry.is_file():
            raise AdapterCorrupt(f"{what}: expected plain files {', '.join(SHARED_FILES)}, got {entry.name[:80]!r}")
        if entry.stat().st_size > SHARED_FILES[entry.name]:
            raise AdapterCorrupt(f"{what}: {entry.name}: expected at most {SHARED_FILES[entry.name]} bytes")
    try:
        record = read_record(directory / RECORD_FILE, Adapter)
        digests = _digests(directory)
    except (ValueError, FileNotFoundError) as error:
        raise AdapterCorrupt(f"{what}: {error}") from error
    found = _identity(record.base, digests)
    if (record.hash, found) != (adapter_hash, adapter_hash):
        raise AdapterCorrupt(f"{what}: its content has the hash {found}; publish it again from the store it came from")
    facts, reasons = examine(directory, None, max_rank=max(LORA_RANKS))
    if facts is None or reasons:
        raise AdapterCorrupt(f"{what}: {AdapterRefused(directory, reasons)}")
    sealed = _record(record.base, facts, digests)
    if record.model_copy(update={"path": None, "shared": None}) != sealed:
        raise AdapterCorrupt(f"{what}: {RECORD_FILE}: expected {sealed.model_dump_json()[:200]}; publish it again")


def _record(base: str, facts: AdapterFacts, digests: dict[str, str]) -> Adapter:
    return Adapter(
        hash=_identity(base, digests),
        base=base,
        rank=facts.config.r,
        alpha=facts.config.lora_alpha,
        target_modules=tuple(sorted(facts.config.target_modules)),
        num_parameters=facts.num_parameters,
        weights_sha256=digests[WEIGHTS_FILE],
    )


def copy_durably(source: Path, target: Path, *, max_bytes: int) -> None:
    """Copies one plain file and syncs it.

    A link or a pipe that was put there after a check is not followed. Raises OSError; ValueError past `max_bytes`.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(source, flags), "rb") as reader, target.open("wb") as writer:
        if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
            raise ValueError(f"{source}: expected a plain file, found something else")
        num_bytes = 0
        while chunk := reader.read(_CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise ValueError(f"{source}: expected at most {max_bytes} bytes, got more")
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
