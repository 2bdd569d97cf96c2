"""What the commands do: load the configuration, wire the parts together, print what came of it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from evolve.cli import ExitCode
from evolve.config import ConfigError, MeshConfig, RunConfig, dump_config, load_config, load_mesh
from evolve.problems.types import named
from evolve.run_files import GENERATIONS
from memory.ledger import publish_json, read_json
from mesh.config import ProtocolConfig
from mesh.equivalence import AnswerKind
from mesh.job import Job
from mesh.reliability import Reliability
from mesh.text import well_formed
from mesh.types import Deliberation, Member
from serving.config import prices
from serving.fleet import Fleet

if TYPE_CHECKING:
    from evolve.planning.doctor import DoctorReport
    from serving.config import ServingConfig
    from serving.recalling import Recaller

OUT = Console()
if not OUT.is_terminal:
    OUT = Console(width=110)  # a log has no width of its own, and tables cut at 80 cannot be read


def evolve_command(path: Path, run_dir: Path | None, measured: Path | None, *, as_json: bool) -> None:
    """`evomesh evolve`."""
    config = load_config(path)
    if run_dir is not None:
        config = config.model_copy(update={"run_dir": run_dir})
    with named(str(path)):
        _evolve(config, measured, as_json=as_json)


def _evolve(config: RunConfig, measured: Path | None, *, as_json: bool) -> None:
    from evolve.commands.console import ConsoleObserver
    from evolve.commands.plan_table import print_plan
    from evolve.commands.summary import print_summary
    from evolve.planning.estimate import before_it_begins, estimate_lines, outlook_of, read_estimate
    from evolve.preflight import check
    from evolve.progress import Silent
    from evolve.report.finished import read_report
    from evolve.run import check_free, run

    check_free(config.run_dir)
    expected = read_estimate(config.run_dir)
    if read_report(config.run_dir) is not None:
        data = asyncio.run(run(config, Silent()))
    else:
        check(config)
        expected = expected or before_it_begins(config, measured)
        if as_json:
            for line in estimate_lines(config, expected):
                typer.echo(line, err=True)  # stdout is for the one object at the end
            data = asyncio.run(run(config, Silent(), expected=expected))
        else:
            print_plan(OUT, config, expected)
            with ConsoleObserver(OUT, outlook_of(expected, config.run_dir)) as observer:
                data = asyncio.run(run(config, observer, expected=expected))
    if as_json:
        told = None if expected is None else {**expected.model_dump(mode="json"), "totals": expected.totals}
        print_json({**data.model_dump(mode="json"), "estimate": told})
    else:
        print_summary(OUT, data, config.run_dir)


@dataclass(frozen=True)
class How:
    """What `deliberate` and `batch` are told alike."""

    config: Path
    run: Path | None
    protocol: str | None
    reliability: Path | None
    memory: Path | None = None

    def measured(self) -> Reliability | None:
        """What is measured of the members; None: nothing, all weights are equal."""
        if self.reliability is None and self.run is None:
            return None
        from evolve.audit.measured import RELIABILITY, read_reliability

        if self.reliability is not None:
            return read_reliability(self.reliability)
        found = None if self.run is None else self.run / RELIABILITY
        return read_reliability(found) if found is not None and found.exists() else None

    @contextmanager
    def recaller(self, config: MeshConfig, frozen: Path | None = None) -> Iterator[Recaller | None]:
        """What recalls from `memory`; None without one. `frozen`: where a copy is kept that later starts find again."""
        if self.memory is None:
            yield None
            return
        from evolve.run_memory import memory_settings
        from memory.embed import embedder_named
        from memory.store import Memory
        from memory.upkeep import freeze
        from serving.recalling import Recaller as OfMemory

        where, settings, namespaces = memory_settings(self.memory, config)
        embedder = embedder_named(settings.embedder)
        if frozen is not None:
            if not frozen.is_dir():
                with Memory.open(where, embedder, readonly=True, config=settings) as live:
                    freeze(live, frozen)
            where = frozen
        with Memory.open(where, embedder, readonly=True, config=settings) as memory:
            yield OfMemory(memory, namespaces, settings.recall_limit)


def deliberate_command(how: How, question: str, kind: tuple[str, str], seed: int, *, as_json: bool) -> None:
    """`evomesh deliberate`."""
    from evolve.commands.protocols import chosen_protocol, told_protocol
    from memory.types import Recall, content_hash
    from mesh.deliberate import deliberate
    from mesh.reviews import ReviewDesk
    from mesh.transcript import transcript
    from mesh.types import Task

    config = load_mesh(how.config)
    protocol, kinds = chosen_protocol(config, how.protocol), get_args(AnswerKind)
    if kind[1] not in kinds:
        raise ConfigError(f"--answer: expected one of {', '.join(kinds)}, got {kind[1]!r}")
    if not question.strip():
        raise ConfigError("expected a question, got nothing to answer; put it in quotes after the command")
    question = well_formed(question)
    answer_kind: AnswerKind = next(one for one in kinds if one == kind[1])
    task = Task(id=content_hash(question)[:16], question=question, type=kind[0], answer_kind=answer_kind)
    reviews = config.run_dir / "reviews"
    job = Job(prices=prices(config.serving), reliability=how.measured(), desk=ReviewDesk(reviews))
    paused = reviews / f"paused-{content_hash([task.id, content_hash(protocol), seed])[:16]}.json"

    async def work() -> Deliberation:
        async with serving(config, how.run, quiet=as_json, of=how.config) as (fleet, members):
            check_protocol(members, protocol, job)
            earlier = Deliberation.model_validate(read_json(paused)) if paused.exists() else None
            try:
                with how.recaller(config) as recaller:
                    recalled = Recall() if recaller is None else await recaller.recall(task)
                return await deliberate(
                    task, members, fleet, protocol, seed=seed, recalled=recalled, job=job, earlier=earlier
                )
            finally:
                await job.close()

    if not as_json:
        OUT.print(told_protocol(config, how.protocol, how.config), style="dim", markup=False, highlight=False)
    held = asyncio.run(work())
    if held.is_waiting:
        publish_json(paused, held)
    else:
        paused.unlink(missing_ok=True)
    if as_json:
        print_json(held)
        return
    for line in transcript(held):
        OUT.print(line, markup=False, highlight=False)
    if held.is_waiting:
        OUT.print(f"It waits for a person: evomesh review list {reviews}; then the same command goes on.", markup=False)


def reliability_command(directory: Path, out: Path | None, *, as_json: bool) -> None:
    """`evomesh reliability`."""
    from evolve.audit.measured import RELIABILITY, measure_run, publish_reliability

    measured, path = measure_run(directory), out or directory / RELIABILITY
    publish_reliability(path, measured)
    if as_json:
        print_json(measured)
        return
    table = Table("member", "task type", "judged", "right", "estimate", "95% interval")
    for row in measured.answers:
        found = measured.accuracy(row.member, row.task_type)
        table.add_row(
            row.member, row.task_type, str(row.num_judged), str(row.num_correct), f"{found.mean:.2f}",
            f"{found.low:.2f} to {found.high:.2f}",
        )  # fmt: skip
    OUT.print(table)
    names = sorted({row.member for row in measured.answers})
    for first, second in combinations(names, 2):
        share = measured.same_wrong_share(first, second)
        OUT.print(
            f"{first} and {second}: correlation of errors {measured.correlation(first, second):.2f}, same wrong answer "
            f"{'not measured' if share is None else f'{share:.2f} of the times both are wrong'}",
            highlight=False,
            markup=False,
        )
    for count in measured.talks:
        pays = {True: "pays", False: "does not pay", None: "too few to tell"}[measured.talk_pays(count.task_type)]
        OUT.print(
            f"talking about {count.task_type}: {count.num_wrong_to_right} verdicts turned right, "
            f"{count.num_right_to_wrong} wrong, of {count.num_judged}: {pays}",
            highlight=False,
            markup=False,
        )
    OUT.print(f"{len(names)} members are worth {measured.num_effective(names):.1f} independent votes", highlight=False)
    OUT.print(
        f"Written to {path}; used by `deliberate` and `batch` with --run {directory}", markup=False, highlight=False
    )


def report_command(directory: Path, *, as_json: bool) -> None:
    """`evomesh report`."""
    from evolve.commands.summary import print_summary
    from evolve.report.finished import read_report
    from evolve.stopped import why_stopped

    data = read_report(directory)
    if data is None:
        stopped = why_stopped(directory)
        raise ConfigError(
            f"{directory}: expected a finished run (report.json), found none"
            + (f", for it came to a stop ({stopped})" if stopped else "")
            + "; give the run_dir of a run that has ended, or let it end with `evomesh evolve`. What its generations "
            f"decided so far: `evomesh lineage {directory}`"
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


def estimate_command(path: Path, measured: Path | None, *, as_json: bool) -> None:
    """`evomesh estimate`."""
    from evolve.commands.plan_table import print_plan
    from evolve.planning.estimate import estimate
    from evolve.planning.rates import basis_for
    from evolve.preflight import draw

    config = load_config(path)
    with named(str(path)):
        found = estimate(config, draw(config), basis_for(config, measured))
    if as_json:
        print_json({**found.model_dump(mode="json"), "totals": found.totals})
    else:
        print_plan(OUT, config, found)


def doctor_command(path: Path | None = None, *, as_json: bool) -> None:
    """`evomesh doctor`."""
    from evolve.planning.doctor import DoctorReport, diagnose
    from evolve.planning.doctor_placement import check_placement

    if path is None:
        report = diagnose()
    else:
        serving = load_mesh(path).serving
        models = {spec.name: spec.model for spec in serving.engines if spec.kind == "vllm"}
        here = diagnose(serving.model_store, models=models).findings
        report = DoctorReport(findings=(*here, *check_placement(serving)))
    if as_json:
        print_json(report)
    else:
        _show_findings(report)
    if not report.ok:
        raise SystemExit(ExitCode.MISSING)


def _show_findings(report: DoctorReport) -> None:
    table = Table("check", "level", "found", "what to do")
    for finding in report.findings:
        table.add_row(finding.name, finding.level, finding.found, finding.advice)
    OUT.print(table)


def validate_command(path: Path, *, as_json: bool) -> None:
    """`evomesh config validate`."""
    from evolve.problems.draw import check_problems

    config = load_mesh(path)
    if isinstance(config, RunConfig):
        with named(str(path)):
            check_problems(config.problems)
    if as_json:
        print_json({"file": str(path), "valid": True})
    else:
        OUT.print(f"{path} is valid", highlight=False, markup=False)


def show_command(path: Path, *, as_json: bool) -> None:
    """`evomesh config show`."""
    config = load_mesh(path)
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


def check_protocol(members: Sequence[Member], protocol: ProtocolConfig, job: Job) -> None:
    """Raises ConfigError where these members cannot hold this protocol; before anything is spent."""
    from mesh.deliberate import check_seats

    try:
        check_seats(members, protocol, job)
    except ValueError as error:
        raise ConfigError(f"protocol: {error}") from error


@asynccontextmanager
async def serving(
    config: MeshConfig, run_dir: Path | None, *, quiet: bool, of: Path | None = None
) -> AsyncIterator[tuple[Fleet, tuple[Member, ...]]]:
    """The engines of a configuration, with the base seats, or those of a run's last generation.

    of: the configuration's file; where it is given and nothing is up, it is told how engines stay up for the next time.
    """
    from evolve.lineage import Lineage
    from evolve.seats import base_seats
    from serving.adapters import AdapterStore
    from serving.fleet_host import close_fleet, open_fleet

    members = base_seats(config)
    adapters = AdapterStore((run_dir or config.run_dir) / "adapters")
    if run_dir is not None:
        latest = Lineage(run_dir / GENERATIONS, readonly=True).latest()
        if latest is None:
            raise ConfigError(f"{run_dir}: expected a run with generations, found none; leave --run out")
        members = latest.seats
    if not quiet:
        OUT.print(_what_comes(config.serving, of), style="dim", markup=False, highlight=False)
    fleet = await open_fleet(config.serving, adapters)
    try:
        for member in members:
            for adapter in member.adapters:
                await fleet.load_adapter(member.engine, adapters.get(adapter))
        yield fleet, members
    finally:
        await close_fleet(fleet)


def _what_comes(config: ServingConfig, of: Path | None) -> str:
    from serving.fleet_record import read_fleet

    record = None if config.in_process else read_fleet(config.fleet)
    if record is not None and record.is_alive:
        return f"joining the fleet of process {record.pid}"
    number = sum(spec.replicas for spec in config.engines)
    starting = f"starting {number} engine{'' if number == 1 else 's'}: minutes with real models"
    if of is None or config.in_process:
        return starting
    return f"{starting}; `evomesh fleet up {shlex.quote(str(of))}` keeps them up for the next question"
