"""What `serve` does: wire the door together over a fleet, and keep it open until it is told to close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evolve.batch_commands import local_roster
from evolve.commands import OUT, How, check_protocol, print_json, serving
from evolve.config import ConfigError, MeshConfig, load_mesh
from evolve.protocols import KINDS, chosen_protocol
from memory.ledger import exclusive_lock
from mesh.config import ProtocolConfig, parts_of
from mesh.job import Job
from serving.config import prices
from serving.endpoint.app import create_app
from serving.endpoint.config import EndpointConfig
from serving.endpoint.deliberations import DeliberationStore
from serving.endpoint.door import Door
from serving.endpoint.keys import KeyRing
from serving.endpoint.metrics import Metrics
from serving.endpoint.models import reserved
from serving.endpoint.quota import QuotaBook
from serving.endpoint.requestlog import RequestLog
from serving.endpoint.schema import MESH, MESH_PREFIX
from serving.endpoint.seats import FixedSeats
from serving.endpoint.server import listen, serve
from serving.endpoint.spans import open_spans
from serving.roster import Roster

KEYS, QUOTAS, DELIBERATIONS, LOCK = "keys.json", "quotas.json", "deliberations", ".lock"


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
    how = How(path, options.run, None, None)
    with ExitStack() as held:
        endpoint.state.mkdir(parents=True, exist_ok=True)
        held.enter_context(exclusive_lock(endpoint.state / LOCK))
        listener = held.enter_context(listen(endpoint.host, endpoint.port))
        url = _url(listener.getsockname())

        async def work() -> None:
            async with _door(config, how, options, quiet=as_json) as door:
                await serve(create_app(door), door, listener, lambda: _announce(door, url, as_json=as_json))

        asyncio.run(work())


@asynccontextmanager
async def _door(config: MeshConfig, how: How, options: ServeOptions, *, quiet: bool) -> AsyncIterator[Door]:
    """A door over the fleet that is up, or over engines of its own."""
    endpoint, protocols = config.endpoint, served_protocols(config, safe=options.safe)
    async with serving(config, how.run, quiet=quiet) as (fleet, members):
        roster = local_roster(config, how, members).model_copy(update={"reliability": how.measured()})
        if options.safe:
            roster = roster.alone()
        _check(roster, protocols)
        yield Door(
            config=endpoint,
            engine=fleet,
            seats=FixedSeats(roster),
            protocols=protocols,
            keys=KeyRing(endpoint.state / KEYS),
            quota=QuotaBook(endpoint.state / QUOTAS),
            store=DeliberationStore(endpoint.state / DELIBERATIONS, endpoint.keep_traces),
            log=RequestLog(endpoint.state),
            prices=prices(config.serving),
            metrics=Metrics(fleet.load),
            spans=open_spans(endpoint.otlp_endpoint),
        )


def served_protocols(config: MeshConfig, *, safe: bool) -> dict[str, ProtocolConfig]:
    """By model name: `mesh` is the configured protocol, `mesh:NAME` any other that needs no settings of its own.

    Raises ConfigError for one that asks a person: nobody holds a connection open until tomorrow.
    """
    mesh = chosen_protocol(config, "single" if safe else None)
    found = {MESH: mesh}
    for kind in KINDS:
        try:
            found[f"{MESH_PREFIX}{kind}"] = chosen_protocol(config, kind)
        except ConfigError:
            continue  # it needs settings: a pattern without steps is none
    found |= {f"{MESH_PREFIX}{name}": protocol for name, protocol in config.endpoint.protocols.items()}
    for name, protocol in found.items():
        if any(part.oversight is not None for part in parts_of(protocol)):
            raise ConfigError(f"{name}: a served protocol asks nobody; remove `oversight`, or use `evomesh batch`")
    return found


def _check(roster: Roster, protocols: dict[str, ProtocolConfig]) -> None:
    taken = reserved(member.name for member in roster.everyone)
    if taken:
        raise ConfigError(f"{taken[0]}: expected a member of another name, the mesh itself goes by it; rename it")
    check_protocol(roster.seats, protocols[MESH], Job(prices={}))


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
    OUT.print(f"The mesh answers at {url}/v1 as {', '.join(door.protocols)}.", markup=False, highlight=False)
    if door.config.needs_key and not door.keys.list():
        OUT.print("Nobody can enter yet: make a key with `evomesh keys create`.", markup=False, highlight=False)


def _url(address: tuple[Any, ...]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"
