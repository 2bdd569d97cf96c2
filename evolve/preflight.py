"""What would stop a run later stops it here, before anything expensive has started."""

from __future__ import annotations

import os
import shutil

from evolve.config import ConfigError, RunConfig
from evolve.problem_types import ProblemsError, ProblemSet
from evolve.problems import check_problems, draw_problems
from serving.config import RemoteSpec, VllmSpec
from serving.models import ModelStore

MIN_FREE_BYTES = 500 * 2**20


def check(config: RunConfig) -> None:
    """Weights there and intact, problems drawable, keys set, room on the disk.

    Raises:
        ModelError: weights are missing or corrupt. ProblemsError: a bad family, setting or file.
        ConfigError: no room, a remote engine's key is not set, or nothing could ever be trained.
    """
    store = ModelStore(config.serving.model_store)
    for engine in config.serving.engines:
        if isinstance(engine, VllmSpec):
            store.path(engine.model)
        if isinstance(engine, RemoteSpec) and engine.api_key_env and not os.environ.get(engine.api_key_env):
            raise ConfigError(f"engine {engine.name}: expected its key in ${engine.api_key_env}, which is not set")
    check_problems(config.problems)
    parent = next(p for p in (config.run_dir, *config.run_dir.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    if free < MIN_FREE_BYTES:
        raise ConfigError(
            f"{parent}: expected {MIN_FREE_BYTES >> 20} MiB of free disk, found {free >> 20} MiB; free some, "
            "or give another run_dir"
        )


def draw(config: RunConfig) -> ProblemSet:
    """The problems the run will use; the draw is the same every time."""
    problems = draw_problems(config.problems, config.seed)
    if not problems.report.families:
        raise ProblemsError("no problems could be drawn; see `problems` in the configuration")
    return problems
