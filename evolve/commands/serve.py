"""What `serve` does: wire the door together over a fleet, and keep it open until it is told to close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evolve.commands.batch import local_roster
from evolve.commands.general import OUT, How, check_protocol, print_json, serving
from evolve.commands.protocols import KINDS, chosen_protocol
from evolve.config import ConfigError, MeshConfig, load_mesh
from memory.embed import embedder_named
from memory.ledger import exclusive_lock
from memory.store import Memory
from mesh.config import ProtocolConfig, parts_of
from mesh.job import Job
from mesh.types import Member
from serving.config import prices
from serving.endpoint.app import create_app
from serving.endpoint.config import EndpointConfig
from serving.endpoint.deliberations import DeliberationStore
from serving.endpoint.door import Door
from serving.endpoint.keys import KeyRing
from serving.endpoint.metrics import Metrics
from serving.endpoint.models import reserved
from serving.endpoint.outcomes import OutcomeBook
from serving.endpoint.page import page_routes
from serving.endpoint.proxy import FleetMembers
from serving.endpoint.quota import QuotaBook
from serving.endpoint.remembering import TeamMemory
from serving.endpoint.requestlog import RequestLog
from serving.endpoint.schema import MESH, MESH_PREFIX
from serving.endpoint.seats import FixedSeats
from serving.endpoint.server import Closing, bound, serve
from serving.endpoint.spans import open_spans
from serving.fleet import Fleet
from serving.follow import follow_channel
from serving.roster import Roster, SeatSource

KEYS, QUOTAS, DELIBERATIONS, MEMORY, LOCK = "keys.json", "quotas.json", "deliberations", "memory", ".lock"


@dataclass(frozen=True)
class ServeOptions:
    """What the command line says beside the configuration; None: as configured."""

    host: str | None = None
    port: int | None = None
    channel: str | None = None
    run: Path | None = None
    safe: bool = False


def serve_command(path: Path, options: ServeOptions, *, as_json: bool) -> None:
    """`evomesh serve`: until SIGTERM or ctrl-C."""
    config = load_mesh(path)
    endpoint = _endpoint(config, options)
    config = config.model_copy(update={"endpoint": endpoint})
    if options.run is not None and endpoint.channel is not None:
        raise ConfigError(f"--run and channel {endpoint.channel!r}: expected one of them; a channel names its run")
    with ExitStack() as held:
        # What lies there is what teams asked: nobody else on this machine need read it.
        endpoint.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        held.enter_context(exclusive_lock(endpoint.state / LOCK))
        listener = held.enter_context(bound(endpoint.host, endpoint.port))
        url = _url(listener.getsockname())

        async def work() -> None:
            with Closing() as closing:
                try:
                    async with _door(config, How(path, options.run, None, None), options, quiet=as_json) as door:
                        told = partial(_announce, door, url, as_json=as_json)
                        await serve(create_app(door, page_routes()), door, listener, closing, told)
                except asyncio.CancelledError:
                    if not closing.asked.is_set():
                        raise

        asyncio.run(work())


@asynccontextmanager
async def _door(config: MeshConfig, how: How, options: ServeOptions, *, quiet: bool) -> AsyncIterator[Door]:
    """A door over the fleet that is up, or over engines of its own."""
    endpoint = config.endpoint
    async with AsyncExitStack() as held:
        fleet, members = await held.enter_async_context(serving(config, how.run, quiet=quiet))
        seats, fault = await _seats(config, how, options, fleet, members, held)
        async with seats.held() as roster:
            protocols = served_protocols(config, roster.seats, safe=options.safe)
            _check_names(roster)
        yield Door(
            config=endpoint,
            engine=fleet,
            seats=seats,
            protocols=protocols,
            keys=KeyRing(endpoint.state / KEYS),
            quota=QuotaBook(endpoint.state / QUOTAS),
            store=DeliberationStore(endpoint.state / DELIBERATIONS, endpoint.keep_traces),
            log=RequestLog(endpoint.state),
            outcomes=OutcomeBook(endpoint.state),
            members=_members(config, fleet, held),
            memory=_memory(config, held),
            prices=prices(config.serving),
            metrics=Metrics(fleet.load),
            spans=open_spans(endpoint.otlp_endpoint),
            fault=fault,
        )


async def _seats(
    config: MeshConfig,
    how: How,
    options: ServeOptions,
    fleet: Fleet,
    members: Sequence[Member],
    held: AsyncExitStack,
) -> tuple[SeatSource, Callable[[], str | None]]:
    """Where seats come from, and what says why there are none."""
    channel = config.endpoint.channel
    if channel is not None:
        follower = follow_channel(config.serving, channel, fleet, alone=options.safe)
        await held.enter_async_context(follower)
        return follower, lambda: None if follower.state.is_ready else follower.state.error or "no seats yet"
    roster = local_roster(config, how, members).model_copy(update={"reliability": how.measured()})
    return FixedSeats(roster.alone() if options.safe else roster), lambda: None


def _members(config: MeshConfig, fleet: Fleet, held: AsyncExitStack) -> FleetMembers:
    members = FleetMembers(fleet, timeout_s=config.serving.call_timeout_s)
    held.push_async_callback(members.close)
    return members


def _memory(config: MeshConfig, held: AsyncExitStack) -> TeamMemory | None:
    """The memory that served traffic goes to, where that is allowed; closed with the door."""
    if not config.endpoint.remember or not config.memory.enabled:
        return None
    directory = config.memory.directory or config.endpoint.state / MEMORY
    store = Memory.open(directory, embedder_named(config.memory.embedder), config=config.memory)
    memory = TeamMemory(store, config.name, config.memory.recall_limit)
    held.callback(memory.close)
    return memory


def served_protocols(config: MeshConfig, seats: Sequence[Member], *, safe: bool) -> dict[str, ProtocolConfig]:
    """By model name: `mesh` is the configured protocol, `mesh:NAME` any other that needs no settings of its own.

    `safe`: one member answers, whatever is configured.

    Raises:
        ConfigError: `mesh`, or a protocol of the endpoint's own, does not fit the seats or asks a person: nobody holds
            a connection open until tomorrow.
    """
    if safe:
        return {MESH: chosen_protocol(config, "single")}
    own = {f"{MESH_PREFIX}{name}": protocol for name, protocol in config.endpoint.protocols.items()}
    wanted = {MESH: chosen_protocol(config, None), **own}
    for name, protocol in wanted.items():
        if any(part.oversight is not None for part in parts_of(protocol)):
            raise ConfigError(f"{name}: a served protocol asks nobody; remove `oversight`, or use `evomesh batch`")
        check_protocol(seats, protocol, Job())
    return {MESH: wanted[MESH], **_that_need_no_settings(config, seats), **own}


def _that_need_no_settings(config: MeshConfig, seats: Sequence[Member]) -> dict[str, ProtocolConfig]:
    found = {}
    for kind in KINDS:
        try:
            protocol = chosen_protocol(config, kind)
            check_protocol(seats, protocol, Job())
        except ConfigError:
            continue  # a pattern without steps is none, and some of what is configured names other members
        found[f"{MESH_PREFIX}{kind}"] = protocol
    return found


def _check_names(roster: Roster) -> None:
    taken = reserved(member.name for member in roster.everyone)
    if taken:
        raise ConfigError(f"{taken[0]}: expected a member of another name, the mesh itself goes by it; rename it")


def _endpoint(config: MeshConfig, options: ServeOptions) -> EndpointConfig:
    said: dict[str, Any] = {"host": options.host, "port": options.port, "channel": options.channel}
    changed = {name: value for name, value in said.items() if value is not None}
    try:
        return EndpointConfig.model_validate({**config.endpoint.model_dump(), **changed})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "endpoint"
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _announce(door: Door, url: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"url": url, "models": list(door.protocols), "needs_key": door.config.needs_key})
        return
    _say(f"The mesh answers at {url}/v1 as {', '.join(door.protocols)}.")
    if door.config.needs_key and not door.keys.list():
        _say("Nobody can enter yet: make a key with `evomesh keys create`.")


def _say(text: str) -> None:
    OUT.print(text, soft_wrap=True, markup=False, highlight=False)


def _url(address: tuple[Any, ...]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"
