"""What the `memory` commands do: read what a run remembers, beside a writer if there is one."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from evolve.commands import OUT, print_json
from evolve.config import ConfigError, RunConfig
from evolve.run import CONFIG, open_memory
from memory.config import MemoryConfig
from memory.store import Memory


def search_command(directory: Path, text: str, limit: int, *, as_json: bool) -> None:
    """`evomesh memory search`."""
    with _reading(directory) as memory:
        found = memory.search(text, limit)
    if as_json:
        print_json([recollection.model_dump(mode="json") for recollection in found])
        return
    if not found:
        OUT.print("nothing found")
    for one in found:
        OUT.print(f"{one.score:.3f}  {one.kind}, {one.task_type}: {one.why}", style="bold", highlight=False)
        OUT.print(one.text, markup=False, highlight=False)


def brief_command(directory: Path, words: int, *, as_json: bool) -> None:
    """`evomesh memory brief`."""
    with _reading(directory) as memory:
        text = memory.brief(words)
    if as_json:
        print_json({"brief": text})
    else:
        OUT.print(text, markup=False, highlight=False)


def stats_command(directory: Path, *, as_json: bool) -> None:
    """`evomesh memory stats`."""
    with _reading(directory) as memory:
        stats = memory.stats()
    if as_json:
        print_json(stats)
        return
    table = Table("what", "count")
    for name, value in stats.model_dump(mode="json").items():
        table.add_row(name, str(value))
    OUT.print(table)


def _reading(directory: Path) -> Memory:
    import yaml

    path = directory / CONFIG
    if not path.is_file():
        raise ConfigError(f"{directory}: expected the directory of a run (with {CONFIG}), found none there")
    config: MemoryConfig = RunConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).memory
    return open_memory(directory, config, readonly=True)
