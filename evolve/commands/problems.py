"""What `evomesh problems` does: more tasks for a user's file."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from evolve.commands.general import OUT, print_json
from evolve.config import load_config
from evolve.problems.adding import Added, add_problems
from evolve.problems.config import FileProblems
from evolve.problems.splits import Split
from evolve.problems.types import MAX_SKIPPED_SHOWN, ProblemsError


def add_command(file: Path, config: Path, *, dry_run: bool, as_json: bool) -> None:
    """Add the tasks of `file` to the file that a configuration names, and say where they went.

    Raises:
        ConfigError, ProblemsError, AlreadyLocked: as `add_problems`.
    """
    problems = load_config(config).problems
    if not isinstance(problems, FileProblems):
        raise ProblemsError(
            f"{config}: its problems are made up anew for every run; only problems.kind 'file' is added to"
        )
    added = add_problems(problems, file, dry_run=dry_run)
    if as_json:
        print_json(added.model_dump(mode="json") | {"file": str(problems.path), "dry_run": dry_run})
    else:
        _show(added, problems.path, dry_run=dry_run)


def _show(added: Added, path: Path, *, dry_run: bool) -> None:
    verb = "would be added" if dry_run else "were added"
    OUT.print(f"{added.num_added} tasks {verb} to {path} (version {added.version}).", highlight=False)
    table = Table("split", "new", "in all")
    for split in Split:
        table.add_row(split.value, str(added.added.of(split)), str(added.total.of(split)))
    OUT.print(table)
    OUT.print(added.clusters, highlight=False)
    for title, items in (("near duplicate", added.near_duplicates), ("not added", added.left_out)):
        for item in items[:MAX_SKIPPED_SHOWN]:
            OUT.print(f"{title}, {item.where}: {item.reason}", highlight=False, markup=False)
        if len(items) > MAX_SKIPPED_SHOWN:
            OUT.print(f"{title}: {len(items) - MAX_SKIPPED_SHOWN} more")
