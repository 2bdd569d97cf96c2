"""The command `batch`: what it is told, how it wires a batch together, and what a person sees of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import Field

from evolve.commands.batch_view import BatchObserver, print_estimate, print_summary
from evolve.commands.general import OUT, How, check_protocol, print_json, serving
from evolve.commands.protocols import chosen_protocol
from evolve.config import ConfigError, MeshConfig, load_mesh
from evolve.seats import base_seats
from memory.ledger import publish_json, read_record
from memory.types import Record
from mesh.job import Job
from mesh.reviews import ReviewDesk
from mesh.types import Member
from serving.batch import estimate_batch, run_batch
from serving.batch_estimate import BatchEstimate
from serving.batch_types import BatchMesh, BatchPace, BatchPlan, BatchSummary
from serving.config import TimeWindow, prices
from serving.endpoint.seats import FixedSeats
from serving.follow import follow_channel
from serving.roster import Roster, SeatSource, best_base
from serving.shaping import AnswerSchema, SchemaError
from serving.windows import wait_open

ORIGIN = "origin.json"
MIN_SAMPLE = 20


@dataclass(frozen=True)
class BatchOptions:
    """What `batch` alone is told."""

    schema: Path | None = None
    channel: str | None = None
    deadline: str | None = None
    estimate: bool = False
    sample: int | None = None
    concurrency: int | None = None


class Origin(Record):
    """What a batch was started with, so that later commands find their way from its directory alone."""

    tasks: Path = Field(description="absolute, as the next ones")
    config: Path
    memory: Path | None = Field(description="the live memory whose frozen copy it recalls from; null: none")
    run: Path | None = Field(default=None, description="run whose last generation answered; null: not told")
    channel: str | None = Field(default=None, description="channel whose seats answered; null: none")


def batch_command(how: How, tasks: Path, out: Path, options: BatchOptions, *, as_json: bool) -> None:
    """`evomesh batch`."""
    config = load_mesh(how.config)
    plan = BatchPlan(
        protocol=chosen_protocol(config, how.protocol),
        seed=config.seed,
        answer_schema=_schema_text(options.schema),
        channel=options.channel,
    )
    pace = BatchPace(
        concurrency=options.concurrency or config.concurrency,
        budget=config.batch_budget,
        deadline=None if options.deadline is None else deadline_at(options.deadline, datetime.now().astimezone()),
    )
    result = asyncio.run(_work(how, config, tasks, out, plan, pace, options, quiet=as_json))
    memory = None if how.memory is None else how.memory.resolve()
    run = None if how.run is None else how.run.resolve()
    origin = Origin(tasks=tasks.resolve(), config=how.config.resolve(), memory=memory, run=run, channel=options.channel)
    publish_json(out / ORIGIN, origin)
    if as_json:
        print_json(result)
    elif isinstance(result, BatchEstimate):
        print_estimate(OUT, result, has_prices=bool(prices(config.serving)))
    else:
        print_summary(OUT, result, out)


async def _work(
    how: How, config: MeshConfig, tasks: Path, out: Path, plan: BatchPlan, pace: BatchPace, options: BatchOptions,
    *, quiet: bool,
) -> BatchSummary | BatchEstimate:  # fmt: skip
    async with _mesh(how, config, out, plan, quiet=quiet) as mesh:
        with BatchObserver(OUT, quiet=quiet) as observer:
            if not options.estimate:
                return await run_batch(tasks, out, plan, mesh, pace, progress=observer.told)
            num_sampled = options.sample or max(MIN_SAMPLE, 2 * pace.concurrency)
            return await estimate_batch(tasks, out, plan, mesh, pace, num_sampled=num_sampled, progress=observer.told)


@asynccontextmanager
async def _mesh(how: How, config: MeshConfig, out: Path, plan: BatchPlan, *, quiet: bool) -> AsyncIterator[BatchMesh]:
    """Everything a batch needs to decide tasks; what may not fit is found out before an engine is asked."""
    if plan.channel is not None and how.run is not None:
        raise ConfigError("expected --channel or --run, got both: each says whose seats decide")
    async with AsyncExitStack() as stack:
        fleet, members = await stack.enter_async_context(serving(config, how.run, quiet=quiet))
        seats: SeatSource = FixedSeats(local_roster(config, how, members))
        if plan.channel is not None:
            seats = await stack.enter_async_context(follow_channel(config.serving, plan.channel, fleet))
        job = Job(budget=config.batch_budget, prices=prices(config.serving), desk=ReviewDesk(out))
        async with seats.held() as roster:
            check_protocol(roster.seats, plan.protocol, job)
        yield BatchMesh(
            engine=fleet,
            seats=seats,
            reliability=how.measured(),
            prices=prices(config.serving),
            recaller=stack.enter_context(how.recaller(config, out / "memory")),
            gate=window_gate(config.serving.fleet.windows, _quietly if quiet else _say_when),
        )


def window_gate(windows: Sequence[TimeWindow], told: Callable[[datetime], None]) -> Callable[[], Awaitable[None]]:
    """A gate that is open while a batch may run; where many wait at it, one is told when it opens."""
    turn = asyncio.Lock()

    async def gate() -> None:
        async with turn:
            await wait_open(windows, "batch", told=told)

    return gate


def _say_when(opening: datetime) -> None:
    OUT.print(f"waiting for {opening:%a %H:%M}, when a batch may run", highlight=False, markup=False)


def _quietly(_: datetime) -> None:
    """Nothing is said under --json."""


def local_roster(config: MeshConfig, how: How, members: Sequence[Member]) -> Roster:
    """The seats of a configuration, or of a run's last generation, as a roster."""
    seated = {member.name for member in members}
    bases = tuple(member for member in base_seats(config) if member.name not in seated)
    everyone = [member for member in (*members, *bases) if member.adapter is None]
    return Roster(
        channel="local",
        seats=tuple(members),
        bases=bases,
        safe=best_base(everyone, how.measured()),
        source=str(how.run or how.config),
    )


def deadline_at(text: str, now: datetime) -> float:
    """The moment that `text` names, in seconds since the epoch: '06:00' is the next time a clock shows it.

    A date with a time (ISO 8601) is that moment, in this machine's time zone where it names none. Raises ConfigError.
    """
    try:
        if re.fullmatch(r"[0-2]?\d:[0-5]\d", text):
            hour, minute = map(int, text.split(":"))
            moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            moment = moment if moment > now else moment + timedelta(days=1)
        else:
            moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--deadline: expected a time such as 06:00 or 2026-01-31T06:00, got {text!r}") from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=now.tzinfo)
    if moment <= now:
        raise ConfigError(f"--deadline: expected a time to come, got {text!r}; it is {now:%Y-%m-%d %H:%M} now")
    return moment.timestamp()


def read_origin(directory: Path) -> Origin | None:
    """What the batch in `directory` was started with; None: nothing is known of it."""
    path = directory / ORIGIN
    return read_record(path, Origin) if path.exists() else None


def _schema_text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        AnswerSchema(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--schema {path}: expected a file with a JSON schema: {error}") from error
    except SchemaError as error:
        raise ConfigError(f"--schema {path}: {error}") from error
    return text
