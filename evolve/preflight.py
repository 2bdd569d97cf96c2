"""What would stop a run later stops it here, before anything expensive has started."""

from __future__ import annotations

import os
import shutil

from evolve.config import ConfigError, RunConfig
from evolve.judging.panel import impossible, read_panel_labels, too_few_labels
from evolve.judging.panel_asking import judges_of, panel_of
from evolve.planning.training_memory import check_training_fits
from evolve.problems.config import FileProblems
from evolve.problems.draw import check_problems, draw_problems
from evolve.problems.sealed import SplitProblems
from evolve.problems.types import ProblemsError
from serving.config import RemoteSpec, VllmSpec
from serving.models import ModelStore

MIN_FREE_BYTES = 500 * 2**20


def check(config: RunConfig, *, trains: bool = True) -> None:
    """Weights there and intact and, where anything `trains`, fit for it; problems drawable, keys set, room on the disk.

    Raises:
        ModelError: weights are missing or corrupt. ProblemsError: a bad family, setting or file, or a panel that could
            never judge, or never gate.
        ConfigError: no room, a remote engine's key is not set, or a base is too large to be trained here.
    """
    store = ModelStore(config.serving.model_store)
    for engine in config.serving.engines:
        if isinstance(engine, VllmSpec):
            store.path(engine.model)
        if isinstance(engine, RemoteSpec) and engine.api_key_env and not os.environ.get(engine.api_key_env):
            raise ConfigError(f"engine {engine.name}: expected its key in ${engine.api_key_env}, which is not set")
    if trains:
        check_training_fits(config)
    check_problems(config.problems)
    check_panel(config)
    parent = next(p for p in (config.run_dir, *config.run_dir.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    if free < MIN_FREE_BYTES:
        raise ConfigError(
            f"{parent}: expected {MIN_FREE_BYTES >> 20} MiB of free disk, found {free >> 20} MiB; free some, "
            "or give another run_dir"
        )


def check_panel(config: RunConfig) -> None:
    """Raises ProblemsError where free text is judged by a panel that nobody is left for, or that cannot gate."""
    rule, judges, problems = panel_of(config), judges_of(config), config.problems
    if rule is None:
        return
    if reason := impossible(judges):
        raise ProblemsError(f"problems.verifier: {reason}")
    assert isinstance(problems, FileProblems), "only a file's answers are judged by a panel"
    if problems.shares.gate == 0.0 or (problems.sizes is not None and problems.sizes.gate == 0):
        return
    if rule.labels is None:
        raise ProblemsError(
            f"problems.verifier.labels: a panel may gate only after it agreed with at least {rule.min_labels} human "
            "labels, and no file of labels is named; see docs/evolution.md, Free text"
        )
    if reason := too_few_labels(read_panel_labels(rule.labels), judges, rule):
        raise ProblemsError(f"problems.verifier.labels: {reason}")


def draw(config: RunConfig) -> SplitProblems:
    """The problems the run will use; the draw is the same every time."""
    problems = draw_problems(config.problems, config.seed)
    if not problems.report.families:
        raise ProblemsError("problems: expected some to draw, got none; widen its sizes or its families")
    return problems
