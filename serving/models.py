"""The model store: weights prepared once, verified by hash every time they are used."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from memory.ledger import exclusive_lock, publish_json, read_record, sync_directory
from memory.types import Record
from serving.config import DirectoryModel, HubModel, ModelSource, PackagedModel
from serving.weights import PACKAGED, ModelError, Progress, build_from_hub, build_packaged, sha256_of

MANIFEST = "manifest.json"
PREPARE_HINT = "run `make setup`, or `python -m serving.models prepare`"
_FREE_BYTES = 2 * 2**30


class ModelMissing(ModelError):
    """The model was never prepared, or a file of it is gone."""


class ModelCorrupt(ModelError):
    """A file of the model is not the one that was prepared."""


class StoredFile(Record):
    """One file of a prepared model."""

    sha256: str
    size: int = Field(ge=0, description="bytes")


class Manifest(Record):
    """What a prepared model directory holds and where it came from."""

    name: str
    source: ModelSource
    files: dict[str, StoredFile] = Field(description="every file but the manifest, by name")
    versions: dict[str, str] = Field(description="libraries that converted it")
    raw_sha256: str | None = Field(default=None, description="sha256 of the GGUF file it was converted from")


class ModelStore:
    """Directory of prepared models, one sub-directory each. Readers need no network and no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self, source: ModelSource, progress: Progress = lambda line: None) -> Path:
        """Makes `source` usable: fetch, verify and convert once; returns its directory. Does nothing if it is whole.

        A directory source is only checked. Nothing half-made is ever visible: the work is done beside and renamed.

        Raises:
            ModelError: no network, a wrong hash, no room on the disk, or no safetensors in it.
            AlreadyLocked: another process is preparing models in this store.
        """
        if isinstance(source, DirectoryModel):
            return self.path(source)
        self.root.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.root):
            if self._is_whole(source, progress):
                return self.path(source)
            self._need_room()
            with tempfile.TemporaryDirectory(prefix=".prepare-", dir=self.root) as name:
                built = self._build(source, Path(name), progress)
                self._publish(built, self._directory(source))
        return self.path(source)

    def path(self, source: ModelSource) -> Path:
        """Directory of a prepared model, every file of it verified; never opens the network.

        Raises:
            ModelMissing: not prepared, or a file is gone.
            ModelCorrupt: a file has another sha256 than in the manifest.
        """
        if isinstance(source, DirectoryModel):
            require_model_files(source.path)
            return source.path
        directory = self._directory(source)
        manifest = self.manifest(source)
        for name, expected in manifest.files.items():
            file = directory / name
            if not file.is_file():
                raise ModelMissing(f"{file}: expected a file of {expected.size} bytes, found none; {PREPARE_HINT}")
            found = sha256_of(file)
            if found != expected.sha256:
                raise ModelCorrupt(f"{file}: expected sha256 {expected.sha256}, found {found}; {PREPARE_HINT}")
        return directory

    def manifest(self, source: ModelSource) -> Manifest:
        """Manifest of a prepared model. Raises ModelMissing or ModelCorrupt; files are not checked."""
        file = self._directory(source) / MANIFEST
        try:
            return read_record(file, Manifest)
        except FileNotFoundError:
            raise ModelMissing(f"{file}: expected a prepared model, found none; {PREPARE_HINT}") from None
        except ValueError as error:
            raise ModelCorrupt(f"{error}; {PREPARE_HINT}") from error

    def list(self) -> tuple[Manifest, ...]:
        """Manifests of all prepared models, by name; unreadable ones are left out."""
        return tuple(self._manifests())

    def _manifests(self) -> Iterator[Manifest]:
        for file in sorted(self.root.glob(f"*/{MANIFEST}")):
            try:
                yield read_record(file, Manifest)
            except ValueError:
                continue

    def _directory(self, source: ModelSource) -> Path:
        if isinstance(source, PackagedModel):
            return self.root / source.name
        if isinstance(source, HubModel):
            return self.root / re.sub(r"[^\w.-]+", "--", f"hub--{source.repo}--{source.revision}")
        return source.path

    def _is_whole(self, source: ModelSource, progress: Progress) -> bool:
        try:
            self.path(source)
        except ModelMissing:
            return False
        except ModelCorrupt as error:
            progress(f"preparing again: {error}")
            return False
        progress(f"{self._directory(source).name}: ready, every hash verified")
        return True

    def _need_room(self) -> None:
        free = shutil.disk_usage(self.root).free
        if free < _FREE_BYTES:
            raise ModelError(
                f"{self.root}: expected {_FREE_BYTES / 2**30:.0f} GiB free to prepare a model, "
                f"found {free / 2**30:.1f}; make room or set serving.model_store to another disk"
            )

    def _build(self, source: PackagedModel | HubModel, workspace: Path, progress: Progress) -> Path:
        started = time.monotonic()
        if isinstance(source, PackagedModel):
            built = build_packaged(PACKAGED[source.name], workspace, progress)
            raw = PACKAGED[source.name].gguf_sha256
        else:
            built, raw = build_from_hub(source.repo, source.revision, workspace, progress), None
        require_model_files(built)
        files = {
            str(file.relative_to(built)): StoredFile(sha256=sha256_of(file), size=file.stat().st_size)
            for file in sorted(built.rglob("*"))
            if file.is_file()
        }
        name = self._directory(source).name
        manifest = Manifest(name=name, source=source, files=files, versions=_versions(), raw_sha256=raw)
        publish_json(built / MANIFEST, manifest)
        progress(f"{name}: prepared in {time.monotonic() - started:.0f} s")
        return built

    def _publish(self, built: Path, target: Path) -> None:
        """Moves a finished directory into place; an old one steps aside first, so that a crash leaves one of them."""
        for file in built.rglob("*"):
            if file.is_file():
                file.chmod(0o644)
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        sync_directory(built)
        aside = self.root / f".old-{target.name}-{secrets.token_hex(4)}"
        if target.exists():
            target.rename(aside)
        built.rename(target)
        sync_directory(self.root)
        shutil.rmtree(aside, ignore_errors=True)


def require_model_files(directory: Path) -> None:
    """Raises ModelMissing unless `directory` has config.json, a tokenizer and at least one safetensors file."""
    wanted = {"config.json": "config.json", "a tokenizer": "tokenizer*", "safetensors weights": "*.safetensors"}
    for what, pattern in wanted.items():
        if not any(directory.glob(pattern)):
            raise ModelMissing(
                f"{directory}: expected {what} ({pattern}) in it, found none; "
                "give a Hugging Face model directory with safetensors (pickled weights are not read)"
            )


def parse_source(text: str) -> ModelSource:
    """A source from the command line: a packaged name, 'hf:OWNER/NAME[@REVISION]', or a directory."""
    if text in PACKAGED:
        return PackagedModel.model_validate({"name": text})
    if text.startswith("hf:"):
        repo, _, revision = text.removeprefix("hf:").partition("@")
        return HubModel(repo=repo, revision=revision or "main")
    return DirectoryModel(path=Path(text))


def _versions() -> dict[str, str]:
    found = {}
    for name in ("transformers", "torch", "gguf", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m serving.models prepare|verify [MODEL...]`: what `make setup` calls. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.models", description=main.__doc__)
    parser.add_argument("action", choices=["prepare", "verify"], help="prepare needs the network once, verify never")
    parser.add_argument("models", nargs="*", default=sorted(PACKAGED), help="packaged name, hf:OWNER/NAME, directory")
    parser.add_argument("--store", type=Path, default=Path("models"), help="model store (default: models)")
    options = parser.parse_args(arguments)
    store = ModelStore(options.store)
    for text in options.models:
        source = parse_source(text)
        try:
            if options.action == "prepare":
                store.prepare(source, lambda line: print(line, flush=True))
            else:
                print(f"{store.path(source)}: every hash verified")
        except ModelError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
