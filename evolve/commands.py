"""What the commands do: load the configuration, wire the parts together, print what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from evolve.cli import ExitCode
from evolve.config import ConfigError, RunConfig, dump_config, load_config
from evolve.journal import JournalError
from evolve.problem_types import ProblemsError
from memory.ledger import AlreadyLocked, LedgerError
from mesh.engine import EngineError
from mesh.types import AnswerKind, Deliberation, Member
from serving.fleet import Fleet

OUT = Console()
if not OUT.is_terminal:
    OUT = Console(width=110)  # a log has no width of its own, and tables cut at 80 cannot be read


def foreseeable() -> Mapping[type[BaseException], ExitCode]:
    """Errors that are reported as one message; everything else is a defect and keeps its traceback."""
    from memory.database import StoreError
    from mesh.reviews import ReviewError
    from serving.batch import BatchError
    from serving.batch_tasks import TaskFileError
    from serving.models import ModelError
    from serving.traces import TraceError

    return {
        ConfigError: ExitCode.BAD_CONFIG,
        ProblemsError: ExitCode.BAD_CONFIG,
        TaskFileError: ExitCode.BAD_CONFIG,
        ReviewError: ExitCode.BAD_CONFIG,
        AlreadyLocked: ExitCode.LOCKED,
        ModelError: ExitCode.MISSING,
        FileNotFoundError: ExitCode.MISSING,
        JournalError: ExitCode.FAILED,
        LedgerError: ExitCode.FAILED,
        TraceError: ExitCode.FAILED,
        EngineError: ExitCode.FAILED,
        BatchError: ExitCode.FAILED,
        StoreError: ExitCode.FAILED,
        OSError: ExitCode.FAILED,
    }


def evolve_command(path: Path, run_dir: Path | None, *, as_json: bool) -> None:
    """`evomesh evolve`."""
    from evolve.console import ConsoleObserver
    from evolve.plan import plan_run
    from evolve.preflight import check, draw
    from evolve.progress import Silent
    from evolve.run import read_report, run
    from evolve.summary import print_plan, print_summary

    config = load_config(path)
    if run_dir is not None:
        config = config.model_copy(update={"run_dir": run_dir})
    if as_json:
        if read_report(config.run_dir) is None:
            check(config)
        print_json(asyncio.run(run(config, Silent())))
        return
    if read_report(config.run_dir) is not None:
        print_summary(OUT, asyncio.run(run(config, Silent())), config.run_dir)
        return
    check(config)
    plan = plan_run(config, draw(config))
    print_plan(OUT, config, plan)
    with ConsoleObserver(OUT, {stage.stage: stage.seconds for stage in plan.stages}) as observer:
        data = asyncio.run(run(config, observer))
    print_summary(OUT, data, config.run_dir)


def deliberate_command(
    path: Path, run_dir: Path | None, question: str, kind: tuple[str, str], seed: int, *, as_json: bool
) -> None:
    """`evomesh deliberate`."""
    from memory.types import content_hash
    from mesh.deliberate import deliberate
    from mesh.transcript import transcript
    from mesh.types import Task

    config = load_config(path)
    answer_kind: AnswerKind = "number" if kind[1] == "number" else "text"
    task = Task(id=content_hash(question)[:16], question=question, type=kind[0], answer_kind=answer_kind)

    async def work() -> Deliberation:
        async with _serving(config, run_dir, quiet=as_json) as (fleet, members):
            return await deliberate(task, members, fleet, config.deliberation, seed=seed)

    held = asyncio.run(work())
    if as_json:
        print_json(held)
    else:
        for line in transcript(held):
            OUT.print(line, markup=False, highlight=False)


def batch_command(path: Path, run_dir: Path | None, tasks: Path, out: Path, *, as_json: bool) -> None:
    """`evomesh batch`."""
    from serving.batch import BatchProgress, BatchSummary, run_batch

    config = load_config(path)

    def show(progress: BatchProgress) -> None:
        if not as_json and OUT.is_terminal:
            OUT.print(f"{progress.num_done}/{progress.num_tasks} tasks", end="\r", highlight=False)

    async def work() -> BatchSummary:
        async with _serving(config, run_dir, quiet=as_json) as (fleet, members):
            return await run_batch(
                tasks, out, members, fleet, config.deliberation,
                seed=config.seed, concurrency=config.concurrency, progress=show,
            )  # fmt: skip

    summary = asyncio.run(work())
    if as_json:
        print_json(summary)
        return
    OUT.print(
        f"{summary.num_answered} of {summary.num_tasks} tasks answered, {summary.num_malformed} malformed lines, "
        f"{summary.num_resumed} finished by an earlier start, {summary.usage.output_tokens:,} output tokens. "
        f"Answers: {out / 'answers.jsonl'}",
        highlight=False,
        markup=False,
    )


def report_command(directory: Path, *, as_json: bool) -> None:
    """`evomesh report`."""
    from evolve.run import read_report
    from evolve.summary import print_summary

    data = read_report(directory)
    if data is None:
        raise ConfigError(
            f"{directory}: expected a finished run (report.json), found none; give the run_dir of a run that has "
            "ended, or let it end with `evomesh evolve`"
        )
    if as_json:
        print_json(data)
    else:
        print_summary(OUT, data, directory)


def models_command(store: Path, *, as_json: bool) -> None:
    """`evomesh models`."""
    from serving.models import ModelError, ModelStore

    found, rows = ModelStore(store), []
    for manifest in found.list():
        try:
            found.path(manifest.source)
            state = "intact"
        except ModelError as error:
            state = str(error)
        size = sum(file.size for file in manifest.files.values())
        rows.append({"name": manifest.name, "kind": manifest.source.kind, "bytes": size, "state": state})
    if as_json:
        print_json({"store": str(store), "models": rows})
        return
    table = Table("model", "source", "MiB", "state")
    for row in rows:
        table.add_row(str(row["name"]), str(row["kind"]), f"{int(str(row['bytes'])) >> 20}", str(row["state"]))
    OUT.print(table if rows else f"{store} holds no prepared model; run `make setup`")


def estimate_command(path: Path, *, as_json: bool) -> None:
    """`evomesh estimate`."""
    from evolve.plan import plan_run
    from evolve.preflight import draw
    from evolve.summary import print_plan

    config = load_config(path)
    plan = plan_run(config, draw(config))
    if as_json:
        print_json(plan)
    else:
        print_plan(OUT, config, plan)


def doctor_command(*, as_json: bool) -> None:
    """`evomesh doctor`."""
    from evolve.doctor import diagnose

    report = diagnose()
    if as_json:
        print_json(report)
        return
    table = Table("check", "level", "found", "what to do")
    for finding in report.findings:
        table.add_row(finding.name, finding.level, finding.found, finding.advice)
    OUT.print(table)
    if not report.ok:
        raise SystemExit(ExitCode.MISSING)


def validate_command(path: Path, *, as_json: bool) -> None:
    """`evomesh config validate`."""
    from evolve.problems import check_problems

    config = load_config(path)
    check_problems(config.problems)
    if as_json:
        print_json({"file": str(path), "valid": True})
    else:
        OUT.print(f"{path} is valid", highlight=False, markup=False)


def show_command(path: Path, *, as_json: bool) -> None:
    """`evomesh config show`."""
    config = load_config(path)
    if as_json:
        print_json(config)
    else:
        OUT.print(dump_config(config), highlight=False, markup=False, end="")


def print_json(value: BaseModel | object) -> None:
    """One JSON object on stdout and nothing else."""
    import json

    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    print(json.dumps(value, ensure_ascii=False, indent=2))


@asynccontextmanager
async def _serving(
    config: RunConfig, run_dir: Path | None, *, quiet: bool
) -> AsyncIterator[tuple[Fleet, tuple[Member, ...]]]:
    """The engines of a configuration, with the base seats, or those of a run's last generation."""
    from evolve.asks import base_seats
    from evolve.lineage import Lineage
    from serving.adapters import AdapterStore
    from serving.cluster import start_fleet, stop_fleet

    members = base_seats(config)
    adapters = AdapterStore((run_dir or config.run_dir) / "adapters")
    if run_dir is not None:
        latest = Lineage(run_dir / "generations.jsonl", readonly=True).latest()
        if latest is None:
            raise ConfigError(f"{run_dir}: expected a run with generations, found none; leave --run out")
        members = latest.seats
    if not quiet:
        OUT.print("starting engines: minutes with real models", style="dim")
    fleet = await start_fleet(config.serving, adapters)
    try:
        for member in members:
            if member.adapter is not None:
                await fleet.load_adapter(member.engine, adapters.get(member.adapter))
        yield fleet, members
    finally:
        await stop_fleet(fleet)
