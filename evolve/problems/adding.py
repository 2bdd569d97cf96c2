"""New items for a user's file: each goes to the split its near duplicates are in, and stays there for ever."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
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

    Each of the two is JSONL or Parquet; the configured file stays what it is.

    The first call also pins the items that were there before, where they already are: what is added moves none of
    them. Items are pinned before they are in the file, so that the same call again, after a crash, only has to write
    them; a place without an item decides nothing.

    Raises:
        ProblemsError: one of the two cannot be read, other settings were used, or a column of a Parquet file has a type
            that the new items do not fit.
        memory.ledger.AlreadyLocked: somebody else is adding to the file.
    """
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
        content = _appended(config.path, taken) if taken else b""
        if unpinned and not dry_run:
            version = pin(config, source.name, unpinned)
        if taken and not dry_run:
            publish_bytes(config.path, content)
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


def _appended(path: Path, rows: Sequence[Row]) -> bytes:
    """A file with these rows behind its own."""
    if path.suffix == ".parquet":
        return _appended_to_parquet(path, rows)
    before = path.read_bytes()
    gap = b"" if not before or before.endswith(b"\n") else b"\n"
    lines = "".join(json.dumps(row.raw, ensure_ascii=True, default=str) + "\n" for row in rows)
    return before + gap + lines.encode("ascii")


def _appended_to_parquet(path: Path, rows: Sequence[Row]) -> bytes:
    """Its columns keep their types; what it has no column for gets one, empty before."""
    held = pyarrow.parquet.read_table(path)
    types = {field.name: field.type for field in held.schema}
    fresh = {}
    for name in dict.fromkeys([*types, *(name for row in rows for name in row.raw)]):
        values = [row.raw.get(name) for row in rows]
        if types.get(name) in (pyarrow.string(), pyarrow.large_string()):  # an answer may be written 61 or "61"
            values = [v if v is None or isinstance(v, str) else json.dumps(v, default=str) for v in values]
        try:
            fresh[name] = pyarrow.array(values, type=types.get(name))
        except (pyarrow.ArrowException, OverflowError) as error:
            kind = types.get(name, "of one kind")
            raise ProblemsError(
                f"'{name}': expected values that fit the column in '{path.name}' ({kind}), but: {error}; mend the new "
                "tasks, or convert the file to JSONL once, where every line stands for itself"
            ) from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.concat_tables([held, pyarrow.table(fresh)], promote_options="default"), sink)
    return bytes(sink.getvalue().to_pybytes())


def _sizes(places: Iterable[Place]) -> SplitSizes:
    counts = dict.fromkeys((split.value for split in Split), 0)
    for place in places:
        if place.split is not None:
            counts[place.split.value] += 1
    return SplitSizes(**counts)
