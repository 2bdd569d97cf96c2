"""What `evomesh bundle` prints: where the archive is, what is inside, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from evolve.commands.bundle import Manifest, default_name, make_bundle
from evolve.commands.general import OUT, print_json


def bundle_command(config: Path, out: Path | None, directories: Sequence[Path], *, as_json: bool) -> None:
    """`evomesh bundle`. Raises FileNotFoundError for a named directory that is not there, OSError for `out`."""
    for directory in directories:
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory}: expected a directory of runs, batches or a door, found none")
    target = default_name() if out is None else out
    manifest = make_bundle(config, target, directories)
    if as_json:
        print_json({"archive": str(target), "bytes": target.stat().st_size, **manifest.model_dump(mode="json")})
        return
    _show(target, manifest)


def _show(target: Path, manifest: Manifest) -> None:
    table = Table("inside", "bytes", "without")
    for one in manifest.members:
        table.add_row(Text(one.name), f"{one.bytes:,}", Text(one.note))
    OUT.print(table)
    for omitted in manifest.left_out:
        _say(f"Left out: {omitted.what}: {omitted.why}")
    for omitted in manifest.damaged:
        _say(f"! Damaged: {omitted.what}: {omitted.why}")
    _say("Never in a bundle:")
    for what in manifest.never:
        _say(f"  {what}")
    _say(f"Wrote {target}, {target.stat().st_size:,} bytes. Look into it before you send it: tar -xzOf {target} | less")


def _say(line: str) -> None:
    OUT.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
