"""The data manifest of every recipe: the very rows and pairs it learned from, with where each comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from evolve.learning.accumulate import SetRow
from evolve.learning.recipe_rows import PreferenceRow, training_row
from evolve.training.job import data_digest
from memory.ledger import publish_bytes
from memory.types import Record

FOLDER = "manifests"


class Manifest(Record):
    """What one recipe learned from, in the order of its job."""

    rows: tuple[SetRow, ...]
    pairs: tuple[PreferenceRow, ...] = ()

    @property
    def digest(self) -> str:
        """What a specialist made of it names as its `data_digest`."""
        return data_digest([training_row(row.example) for row in self.rows], self.pairs)


def rows_path(directory: Path, recipe: str) -> Path:
    """The rows of a recipe, a `SetRow` a line; `directory` is the generation's."""
    return directory / FOLDER / f"{recipe}.jsonl"


def pairs_path(directory: Path, recipe: str) -> Path:
    """Its pairs, a `PreferenceRow` a line; there is no file where it learned from none."""
    return directory / FOLDER / f"{recipe}.pairs.jsonl"


def publish_manifests(directory: Path, manifests: Mapping[str, Manifest]) -> None:
    """Write the manifest of every recipe; written anew, nothing changes."""
    for recipe, manifest in manifests.items():
        publish_bytes(rows_path(directory, recipe), _lines(manifest.rows))
        if manifest.pairs:
            publish_bytes(pairs_path(directory, recipe), _lines(manifest.pairs))


def read_manifest(directory: Path, recipe: str) -> Manifest | None:
    """What a recipe learned from; None: the run keeps no manifest of it. Raises ValueError where it was damaged."""
    path = rows_path(directory, recipe)
    if not path.is_file():
        return None
    return Manifest(
        rows=tuple(SetRow.model_validate_json(line) for line in _read(path)),
        pairs=tuple(PreferenceRow.model_validate_json(line) for line in _read(pairs_path(directory, recipe))),
    )


def _lines(records: Iterable[Record]) -> bytes:
    return "".join(record.model_dump_json() + "\n" for record in records).encode()


def _read(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").split("\n") if line.strip()] if path.is_file() else []
