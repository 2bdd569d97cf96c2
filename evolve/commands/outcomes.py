"""The command `outcomes import`: late labels to a batch's outcomes, to memory, to weights, and to who keeps a seat."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from evolve.audit.measured import RELIABILITY, read_reliability
from evolve.commands.batch import Origin, read_origin
from evolve.commands.channels import places
from evolve.commands.general import OUT, print_json
from evolve.commands.late_outcomes import (
    Imported,
    Judged,
    judge_labels,
    lean,
    measure_batch,
    publish_measured,
    remember,
)
from evolve.config import ConfigError, load_mesh
from evolve.governance.demoting import Weighed, runs_of, weigh, weighed_lines
from evolve.judging.labels import BadRow, LabelError, read_labels
from evolve.run_memory import memory_settings
from memory.embed import embedder_named
from memory.store import Memory
from memory.types import Namespace
from mesh.reliability import Reliability
from serving.batch_journal import TRACES
from serving.channels import Channel, list_channels
from serving.outcomes import OutcomeLedger
from serving.traces import read_traces

MAX_SHOWN = 20


@dataclass(frozen=True)
class ImportOptions:
    """What `outcomes import` is told beside the labels."""

    batch: Path | None = None
    key: str = "id"
    memory: Path | None = None
    use_memory: bool = True
    config: Path | None = None
    reliability: Path | None = None
    add_to: Path | None = None
    by: str = "label"
    replace: bool = False
    run: Path | None = None


def import_command(labels: Path, options: ImportOptions, *, as_json: bool) -> None:
    """`evomesh outcomes import`."""
    batch = _batch(labels, options.batch)
    out = options.reliability or batch / RELIABILITY
    earlier = _earlier(options.add_to, out)
    try:
        file = read_labels(labels, options.key)
    except LabelError as error:
        raise ConfigError(str(error)) from error
    judged, imported = asyncio.run(judge_labels(batch, file, by=options.by, replace=options.replace))
    if not judged:
        shown = "; ".join(f"row {row.row}: {row.problem}" for row in (*imported.bad, *imported.unknown)[:3])
        raise ConfigError(f"{labels}: expected labels of tasks in {batch} under {options.key!r}, got none ({shown})")
    measured = measure_batch(batch)
    num_judged = sum(row.num_judged for row in measured.answers)
    if num_judged:
        publish_measured(out, measured, earlier)
    told = _remember(batch, options, judged)
    imported = imported.model_copy(update={"num_judged": num_judged, "num_remembered": told[1] if told else 0})
    weighed = weigh_batch(batch, options)
    if as_json:
        more = {"reliability": str(out) if num_judged else None, "live": [w.model_dump(mode="json") for w in weighed]}
        print_json({**imported.model_dump(mode="json"), **more})
        return
    lines = import_lines(imported, batch, out, told[0] if told else None)
    for line in (*lines, *(line for one in weighed for line in weighed_lines(one))):
        OUT.print(line, highlight=False, markup=False)


def weigh_batch(batch: Path, options: ImportOptions) -> list[Weighed]:
    """What the batch's labels say of seated specialists, for every run whose seats answered it; none: base models did.

    Raises:
        ConfigError: --run names no run.
        AlreadyLocked: another import weighs at this moment; the same command does it later.
    """
    origin = read_origin(batch)
    channels = _channels(origin, options)
    named = options.run or (origin.run if origin is not None else None)
    runs = runs_of(named, channels)
    if not runs:
        return []
    late = OutcomeLedger(batch).all()
    tasks = {one.outcome.task_id for one in late}
    traces = [lean(held) for held in read_traces(batch / TRACES) if held.task.id in tasks]
    return [weigh(run, traces, late, channels, now=time.time()) for run in runs]


def _channels(origin: Origin | None, options: ImportOptions) -> list[Channel]:
    """The batch's own channel, or with --run all that may serve that run."""
    path = options.config or (origin.config if origin is not None else None)
    root, _ = places(None if path is None or not path.is_file() else load_mesh(path))
    if origin is not None and origin.channel is not None and options.run is None:
        return [Channel(root, origin.channel)]
    return [Channel(root, name) for name in list_channels(root)] if options.run or (origin and origin.run) else []


def import_lines(imported: Imported, batch: Path, out: Path, memory: Path | None) -> list[str]:
    """What a person is told of an import."""
    lines = [
        f"{imported.num_tasks} tasks of {batch} are labelled: {imported.num_right} right, {imported.num_wrong} wrong. "
        f"{imported.num_new} judged answers are new."
    ]
    if memory is None:
        lines.append("No memory was told: the batch was started without one; --memory names one.")
    else:
        lines.append(f"{imported.num_remembered} outcomes are in the memory in {memory}.")
    if imported.num_judged:
        lines.append(f"{imported.num_judged} judged answers are measured: --reliability {out} weighs members by them.")
    else:
        lines.append("No member's own answer was judged, so nothing is measured.")
    for name, rows in (
        ("say nothing or contradict", imported.bad),
        ("are about no task of the batch", imported.unknown),
    ):
        lines += _row_lines(name, rows)
    return lines


def _row_lines(name: str, rows: tuple[BadRow, ...]) -> list[str]:
    if not rows:
        return []
    more = [f"  and {len(rows) - MAX_SHOWN} more; --json lists all"] if len(rows) > MAX_SHOWN else []
    return [f"{len(rows)} rows {name}:", *(f"  row {row.row}: {row.problem}" for row in rows[:MAX_SHOWN]), *more]


def _batch(labels: Path, named: Path | None) -> Path:
    """The batch's directory. Raises ConfigError if there are no traces in it."""
    batch = named or labels.parent
    if (batch / TRACES).is_file():
        return batch
    told = "--batch" if named else "the labels lie in no batch, so --batch"
    raise ConfigError(f"{batch}: expected a batch with {TRACES}, found none; {told} has to name its directory")


def _earlier(path: Path | None, out: Path) -> Reliability | None:
    if path is None:
        return None
    if path.resolve() == out.resolve():
        raise ConfigError(
            f"--add-to {path}: expected another file than the one written; every import would count twice"
        )
    return read_reliability(path)


def _remember(batch: Path, options: ImportOptions, judged: list[Judged]) -> tuple[Path, int] | None:
    """Tell the memory that the batch recalled from, or the one that is named; where it lies, and how much it was told.

    None: there is none. Raises AlreadyLocked while a run writes to it; the same command does the rest later.
    """
    origin = read_origin(batch)
    where = options.memory or (origin.memory if origin is not None else None)
    if where is None or not options.use_memory:
        return None
    path = options.config or (origin.config if origin is not None else None)
    if path is None:
        raise ConfigError(f"{batch}: it is not known what it was started with; --config says whose memory {where} is")
    directory, settings, scope = memory_settings(where, load_mesh(path))
    with Memory.open(directory, embedder_named(settings.embedder), config=settings) as memory:
        return directory, remember(memory, Namespace.parse(scope[0]), judged)
