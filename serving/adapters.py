"""LoRA adapters: admitted once, kept under the hash of their content, never changed and never deleted while in use."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import Field

from memory.ledger import publish_json, read_record, sync_directory
from memory.types import Record, content_hash
from serving.admission import CONFIG_FILE, README_FILE, WEIGHTS_FILE, AdapterFacts, BaseModelShape, examine
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
        self._refuse_odd_files(directory)
        with tempfile.TemporaryDirectory(prefix=".admit-", dir=self.root) as name:
            staged = Path(name) / "adapter"
            staged.mkdir()
            for file in (WEIGHTS_FILE, CONFIG_FILE, README_FILE):
                if (directory / file).exists():
                    _copy_durably(directory / file, staged / file)
            facts, reasons = examine(staged, base, max_rank=max_rank)
            if facts is None or reasons:
                raise AdapterRefused(directory, reasons)
            return self._publish(staged, base, facts)

    def get(self, adapter_hash: str) -> Adapter:
        """Record of an admitted adapter. Raises AdapterMissing or AdapterCorrupt."""
        file = self.root / adapter_hash / RECORD_FILE
        try:
            record = read_record(file, Adapter)
        except FileNotFoundError:
            raise AdapterMissing(
                f"{file}: expected an admitted adapter, found none; train it again or copy its directory there"
            ) from None
        except ValueError as error:
            raise AdapterCorrupt(str(error)) from error
        return record.model_copy(update={"path": file.parent.resolve()})

    def path(self, adapter_hash: str) -> Path:
        """Directory of an admitted adapter, its content verified. Raises AdapterMissing or AdapterCorrupt."""
        adapter, directory = self.get(adapter_hash), (self.root / adapter_hash).resolve()
        found = _identity(adapter.base, directory)
        if found != adapter_hash:
            raise AdapterCorrupt(
                f"{directory}: expected content hash {adapter_hash}, found {found}; remove it and admit it again"
            )
        return directory

    def list(self) -> tuple[Adapter, ...]:
        """Records of all admitted adapters, by hash."""
        found = sorted(file.parent.name for file in self.root.glob(f"*/{RECORD_FILE}") if file.parent.name[0] != ".")
        return tuple(self.get(name) for name in found)

    def _publish(self, staged: Path, base: BaseModelShape, facts: AdapterFacts) -> Adapter:
        publish_json(staged / CONFIG_FILE, facts.config.canonical(base.name))
        adapter = Adapter(
            hash=_identity(base.fingerprint, staged),
            base=base.fingerprint,
            rank=facts.config.r,
            alpha=facts.config.lora_alpha,
            target_modules=tuple(sorted(facts.config.target_modules)),
            num_parameters=facts.num_parameters,
            weights_sha256=sha256_of(staged / WEIGHTS_FILE),
        )
        publish_json(staged / RECORD_FILE, adapter)
        target = self.root / adapter.hash
        if not target.exists():
            try:
                staged.rename(target)
            except OSError:
                # Somebody else admitted the same content meanwhile; theirs is as good.
                if not target.exists():
                    raise
            sync_directory(self.root)
        return self.get(adapter.hash)

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


def _identity(base: str, directory: Path) -> str:
    files = {name: sha256_of(directory / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}
    return content_hash({"base": base, "files": files})


def _copy_durably(source: Path, target: Path) -> None:
    """Copies one file without following a link that was put there after the check, and syncs it."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())
