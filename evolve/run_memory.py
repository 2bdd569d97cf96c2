"""The memory that a run works with: where it lies, with which settings, and how it is opened."""

from __future__ import annotations

from pathlib import Path

import yaml

from evolve.config import MeshConfig, RunConfig
from evolve.run_files import CONFIG
from memory.config import MemoryConfig
from memory.embed import embedder_named
from memory.store import Memory


def open_memory(directory: Path, config: MemoryConfig, *, readonly: bool = False) -> Memory:
    """The memory that the run in `directory` works with: its own, or the one its configuration shares."""
    where = config.directory or directory / "memory"
    return Memory.open(where, embedder_named(config.embedder), readonly=readonly, config=config)


def memory_settings(directory: Path, config: MeshConfig) -> tuple[Path, MemoryConfig, tuple[str, ...]]:
    """Where the memory in `directory` lies, its settings, and the namespaces to read: of a run, or of memory alone.

    A memory's own directory is read with the settings and in the namespaces of `config`.
    """
    path = directory / CONFIG
    if not path.is_file():
        return directory, config.memory, config.memory.scope(config.name)
    of_run = RunConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    return of_run.memory.directory or directory / "memory", of_run.memory, of_run.memory.scope(of_run.name)
