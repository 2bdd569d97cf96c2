"""New items for a user's file: each goes to the split its near duplicates are in, and stays there for ever."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from evolve.problems.config import FileProblems
from evolve.problems.deal_file import deal_path, pin, read_deal
from evolve.problems.near_duplicates import Place
from evolve.problems.splits import Split, SplitSizes
from evolve.problems.taskfile import Row, clusters_of, place_rows, read_rows
from evolve.problems.types import ProblemsError, Skipped, clusters_sentence
from memory.ledger import exclusive_lock, publish_bytes
from memory.types import Record


class Added(Record):
    """What adding a file to a file did, or would do."""

    version: int = Field(description="version of the items from now on; the old one where nothing was added")
    added: SplitSizes = Field(description="new items by split")
    near_duplicates: tuple[Skipped, ...] = Field(
        default=(), description="items that followed a near duplicate into its split, and which"
    )
    left_out: tuple[Skipped, ...] = Field(default=(), description="lines that were not added, and why")
    total: SplitSizes = Field(description="items by split after it")
    clusters: str = Field(description="how many of all items say nearly the same, as a sentence")

    @property
    def num_added(self) -> int:
        """Items added."""
        return sum(self.added.of(split) for split in Split)


def add_problems(config: FileProblems, source: Path, *, dry_run: bool = False) -> Added:
    """Append the usable new items of `source` to the configured file and pin where every item belongs.

    The first call also pins the items that were there before, where they already are: what is added moves none of
    them. Items are pinned before they are in the file, so that the same call again, after a crash, only has to write
    them; a place without an item decides nothing.

    Raises:
        ProblemsError: the configured file is not JSONL, one of the two cannot be read, or other settings were used.
        memory.ledger.AlreadyLocked: somebody else is adding to the file.
    """
    if config.path.suffix != ".jsonl":
        raise ProblemsError(f"expected a .jsonl file to add to, got '{config.path.name}'; convert it once")
    lock = config.path.with_name(f".{config.path.name}.lock")
    with exclusive_lock(lock):
        old, _, _ = read_rows(config)
        new, malformed, duplicates = read_rows(config.model_copy(update={"path": source}))
        fresh, known = _unknown(new, old)
        pinned = read_deal(config)
        places = place_rows([*old, *fresh], config, held=place_rows(old, config))
        taken = [row for row in fresh if places[row.key].split is not None]
        refused = [Skipped(where=r.where, reason=places[r.key].reason) for r in fresh if places[r.key].split is None]
        unpinned = [places[row.key] for row in [*old, *taken] if row.key not in pinned.places]
        version = pinned.version
        if unpinned and not dry_run:
            version = pin(config, source.name, unpinned)
        if taken and not dry_run:
            publish_bytes(config.path, _appended(config.path.read_bytes(), taken))
        return Added(
            version=version,
            added=_sizes(places[row.key] for row in taken),
            near_duplicates=tuple(
                Skipped(where=row.where, reason=f"near '{places[row.key].cluster.removeprefix('file|')[:60]}'")
                for row in taken
                if places[row.key].cluster != row.key
            ),
            left_out=(*malformed, *duplicates, *known, *refused),
            total=_sizes(places[row.key] for row in [*old, *taken]),
            clusters=clusters_sentence(
                clusters_of([*old, *taken], places), len(old) + len(taken), pinned.near_duplicates
            ),
        )


def ledger_of(config: FileProblems) -> Path:
    """Where the splits of a file are written down once items were added."""
    return deal_path(config)


def _unknown(new: Sequence[Row], old: Sequence[Row]) -> tuple[list[Row], list[Skipped]]:
    """(rows that the file has not, rows left out)."""
    keys, ids = {row.key for row in old}, {row.id for row in old}
    fresh, known = [], []
    for row in new:
        if row.key in keys:
            known.append(Skipped(where=row.where, reason="the file has this question"))
        elif row.id in ids:
            known.append(Skipped(where=row.where, reason=f"the file has another item with id '{row.id}'"))
        else:
            fresh.append(row)
    return fresh, known


def _appended(before: bytes, rows: Sequence[Row]) -> bytes:
    gap = b"" if not before or before.endswith(b"\n") else b"\n"
    lines = "".join(json.dumps(row.raw, ensure_ascii=True, default=str) + "\n" for row in rows)
    return before + gap + lines.encode("ascii")


def _sizes(places: Iterable[Place]) -> SplitSizes:
    counts = dict.fromkeys((split.value for split in Split), 0)
    for place in places:
        if place.split is not None:
            counts[place.split.value] += 1
    return SplitSizes(**counts)
