"""The shared store of adapters: published whole by hash, fetched and verified by every node that serves them."""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

from memory.ledger import sync_directory
from serving.adapters import (
    RECORD_FILE,
    SHARED_FILES,
    Adapter,
    AdapterCorrupt,
    AdapterMissing,
    AdapterStore,
    check_hash,
    copy_durably,
    sweep,
)
from serving.config import ServingConfig

CACHE = "adapters"
"""Directory beside a fleet's record: this node's copies."""

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl"})
"""Where there are no directories to make, and asking for one would make the bucket instead: a typing error would."""


class ShareError(RuntimeError):
    """The shared store cannot be reached, or refuses; nothing half-written is visible in it."""


class AdapterShare(Protocol):
    """A place that several nodes reach."""

    def holds(self, adapter_hash: str) -> bool:
        """Whether this adapter was published there, whole. Raises ShareError."""
        ...

    def publish(self, adapter_hash: str, directory: Path, *, replace: bool = False) -> None:
        """Copies the `SHARED_FILES` of an adapter there; visible at once or not at all. Raises ShareError.

        replace: over a damaged one; without it, one that is there already stays.
        """
        ...

    def fetch(self, adapter_hash: str, into: Path) -> None:
        """Copies them from there into an empty directory, unverified. Raises AdapterMissing, ShareError."""
        ...


def open_share(where: str) -> AdapterShare:
    """The store at a path, or at a URL that fsspec knows (s3://, gs://, abfs://, hdfs://, memory://...).

    Raises ShareError for a URL nobody here can read. Nothing is connected to yet.
    """
    if "://" not in where:
        return FolderShare(Path(where))
    return FolderShare(Path(where.removeprefix("file://"))) if where.startswith("file://") else UrlShare(where)


class FolderShare:
    """A directory that every node mounts; an adapter appears by rename."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def holds(self, adapter_hash: str) -> bool:
        """As `AdapterShare.holds`."""
        return (self.root / check_hash(adapter_hash) / RECORD_FILE).is_file()

    def publish(self, adapter_hash: str, directory: Path, *, replace: bool = False) -> None:
        """As `AdapterShare.publish`."""
        target = self.root / check_hash(adapter_hash)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            sweep(self.root)
            with tempfile.TemporaryDirectory(prefix=".publish-", dir=self.root) as name:
                staged = Path(name) / "adapter"
                staged.mkdir()
                for file, most in SHARED_FILES.items():
                    copy_durably(directory / file, staged / file, max_bytes=most)
                if replace and target.exists():
                    target.rename(self.root / f".damaged-{secrets.token_hex(6)}")
                if not target.exists():
                    staged.rename(target)
            sync_directory(self.root)
        except (OSError, ValueError) as error:
            if not self.holds(adapter_hash):  # else somebody else published the same meanwhile
                raise ShareError(f"{target}: cannot be published: {error}") from error

    def fetch(self, adapter_hash: str, into: Path) -> None:
        """As `AdapterShare.fetch`."""
        if not self.holds(adapter_hash):
            raise _missing(self, adapter_hash)
        try:
            for file, most in SHARED_FILES.items():
                copy_durably(self.root / adapter_hash / file, into / file, max_bytes=most)
        except (OSError, ValueError) as error:
            raise ShareError(f"{self.root / adapter_hash}: cannot be fetched: {error}") from error


class UrlShare:
    """Objects under a URL. The record comes last, in one piece: without it nothing else is looked at."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def holds(self, adapter_hash: str) -> bool:
        """As `AdapterShare.holds`."""
        files, root = self._open()
        try:
            return _is_there(files, f"{root}/{check_hash(adapter_hash)}/{RECORD_FILE}")
        except _connection_errors() as error:
            raise ShareError(f"{self.url}: cannot be read: {error}") from error

    def publish(self, adapter_hash: str, directory: Path, *, replace: bool = False) -> None:
        """As `AdapterShare.publish`."""
        files, root = self._open()
        at = f"{root}/{check_hash(adapter_hash)}"
        try:
            if not _OBJECT_STORES & set(_protocols(files)):
                files.makedirs(at, exist_ok=True)
            for name in SHARED_FILES:
                if name != RECORD_FILE:
                    self._put(files, directory / name, f"{at}/{name}")
            files.pipe_file(f"{at}/{RECORD_FILE}", (directory / RECORD_FILE).read_bytes())
        except _connection_errors() as error:
            raise ShareError(f"{self.url}/{adapter_hash}: cannot be published: {error}") from error

    def fetch(self, adapter_hash: str, into: Path) -> None:
        """As `AdapterShare.fetch`."""
        files, root = self._open()
        at = f"{root}/{check_hash(adapter_hash)}"
        try:
            if not _is_there(files, f"{at}/{RECORD_FILE}"):
                raise _missing(self, adapter_hash)
            for name, most in SHARED_FILES.items():
                self._get(files, f"{at}/{name}", into / name, most)
        except FileNotFoundError as error:
            raise AdapterCorrupt(f"{self.url}/{adapter_hash}: a file is gone ({error}); publish it again") from error
        except _connection_errors() as error:
            raise ShareError(f"{self.url}/{adapter_hash}: cannot be fetched: {error}") from error

    def _open(self) -> tuple[Any, str]:
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise ShareError(f"{self.url}: expected a path or a URL fsspec can open: {error}") from error
        return files, str(root).rstrip("/")

    def _put(self, files: Any, source: Path, target: str) -> None:
        files.put_file(str(source), target)
        found, expected = files.info(target)["size"], source.stat().st_size
        if found != expected:
            raise OSError(f"{target}: expected {expected} bytes to arrive, found {found}")

    def _get(self, files: Any, source: str, target: Path, max_bytes: int) -> None:
        size = files.info(source)["size"]
        if size is not None and size > max_bytes:
            raise AdapterCorrupt(f"{source}: expected at most {max_bytes} bytes, got {size}")
        files.get_file(source, str(target))


class SharedAdapters(AdapterStore):
    """A node's own store that fetches what it lacks from the shared one."""

    def __init__(self, root: Path, where: str) -> None:
        """`root`: directory on this node, kept between starts. `where`: path or URL of the shared store."""
        super().__init__(root)
        self.where = where
        self.share = open_share(where)

    def get(self, adapter_hash: str) -> Adapter:
        """As `AdapterStore.get`, fetched and verified first if it is not here yet. Raises ShareError too."""
        check_hash(adapter_hash)
        if not (self.root / adapter_hash).exists():
            self.receive(adapter_hash, lambda into: self.share.fetch(adapter_hash, into))
        return super().get(adapter_hash).model_copy(update={"shared": self.where})

    def path(self, adapter_hash: str) -> Path:
        """As `AdapterStore.path`, fetched first if it is not here yet. Raises ShareError too."""
        self.get(adapter_hash)
        return super().path(adapter_hash)

    def publish(self, adapter_hash: str, source: AdapterStore) -> Adapter:
        """Shares an adapter of another store and returns its record; a damaged copy of it is replaced.

        It is read back unless it is here already: what cannot be read back was not published.

        Raises:
            AdapterMissing, AdapterCorrupt: `source` does not hold it whole.
            ShareError: the shared store cannot be reached.
        """
        directory = source.path(adapter_hash)
        if not self.share.holds(adapter_hash):
            self.share.publish(adapter_hash, directory)
        try:
            return self.get(adapter_hash)
        except AdapterCorrupt:
            self.share.publish(adapter_hash, directory, replace=True)
            return self.get(adapter_hash)


def shared_adapters(config: ServingConfig) -> SharedAdapters:
    """What this node serves promoted adapters from: the shared store, with copies beside the fleet's record."""
    return SharedAdapters(config.fleet.directory / CACHE, config.adapter_store)


def bring(store: AdapterStore, adapter: Adapter) -> Adapter:
    """`adapter` as `store` holds it, taken over from where its record says if it is not there yet.

    For a process that is told of an adapter by another one, maybe on another node.

    Raises:
        AdapterMissing, AdapterCorrupt, ShareError: it cannot be had.
    """
    if (store.root / check_hash(adapter.hash)).exists():
        return store.get(adapter.hash)
    near = adapter.path is not None and (adapter.path / RECORD_FILE).is_file()
    if near and adapter.path is not None:
        share: AdapterShare = FolderShare(adapter.path.parent)
    elif adapter.shared is not None:
        share = open_share(adapter.shared)
    else:
        raise AdapterMissing(
            f"{store.root}: expected adapter {adapter.hash}, found none, and it is in no shared store; promote it to a "
            "channel, or start the fleet on the directory it is in"
        )
    return store.receive(adapter.hash, lambda into: share.fetch(adapter.hash, into))


def _is_there(files: Any, path: str) -> bool:
    """Not by `isfile`, for which a store that cannot be reached is one without the file."""
    # Listings may be remembered from before another node published it.
    files.invalidate_cache()
    try:
        files.info(path)
    except FileNotFoundError:
        return False
    return True


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _missing(share: AdapterShare, adapter_hash: str) -> AdapterMissing:
    return AdapterMissing(f"{share}: expected adapter {adapter_hash}, found none; promote it again")


def _connection_errors() -> tuple[type[BaseException], ...]:
    """What file systems raise for a store they cannot reach; botocore has a family of errors outside OSError."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, botocore.BotoCoreError, botocore.ClientError)
