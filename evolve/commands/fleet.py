"""`evomesh fleet`: engines that stay up for everybody who serves, runs batches or evolves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from evolve.commands.general import OUT, print_json
from evolve.config import load_mesh
from memory.types import Record
from serving.config import EngineSpec, FleetConfig, VllmSpec
from serving.fleet_record import FleetRecord, read_fleet, record_path
from serving.replica import ReplicaLoad


class FleetView(Record):
    """What `evomesh fleet show` tells."""

    is_up: bool
    record: FleetRecord | None = None
    replicas: tuple[ReplicaLoad, ...] = ()
    trouble: str = ""


def up_command(path: Path, drain_s: float, *, as_json: bool) -> None:
    """`evomesh fleet up`."""
    from serving.fleet_owner import own_fleet

    config = load_mesh(path).serving

    def told(record: FleetRecord) -> None:
        if as_json:
            print(record.model_dump_json(), flush=True)
            return
        lines = {
            "starting": f"starting {_count(record)}: minutes with real models",
            "ready": f"ready at {record.address}; Ctrl-C or `evomesh fleet down` drains and ends it",
            "stopping": f"draining for up to {drain_s:g} s; a second signal ends it at once",
        }
        OUT.print(lines[record.state], markup=False, highlight=False)

    def started(engine: str) -> None:
        if not as_json:
            OUT.print(f"  {engine} is ready", markup=False, highlight=False)

    asyncio.run(own_fleet(config, drain_s=drain_s, started=started, told=told))
    if not as_json:
        OUT.print("ended; no process of it is left", highlight=False)


def down_command(path: Path, timeout_s: float, *, now: bool, as_json: bool) -> None:
    """`evomesh fleet down`."""
    from serving.fleet_owner import end_fleet

    config = load_mesh(path).serving.fleet
    was_up = _is_up(config)
    ended = asyncio.run(end_fleet(config, timeout_s=None if now else timeout_s))
    if as_json:
        print_json({"ended": ended is not None, "was_up": was_up, "directory": str(config.directory)})
        return
    said = {
        (True, True): "the fleet has ended; no process of it is left",
        (True, False): "the fleet had been killed; what it left is cleaned up",
    }
    none = f"no fleet is up: there is no {record_path(config)}"
    OUT.print(said.get((ended is not None, was_up), none), markup=False, highlight=False)


def show_command(path: Path, *, as_json: bool) -> None:
    """`evomesh fleet show`."""
    config = load_mesh(path).serving
    view = asyncio.run(view_fleet(config.fleet))
    if as_json:
        print_json(view)
        return
    record = view.record
    if record is None:
        OUT.print(f"no fleet is up: there is no {record_path(config.fleet)}", markup=False, highlight=False)
        return
    age = datetime.now(UTC) - record.started_at
    state = record.state if view.is_up else "killed; `evomesh fleet down` cleans up"
    OUT.print(
        f"{_count(record)} on {record.host}, process {record.pid}, {state}, up for {str(age).partition('.')[0]}, "
        f"Ray at {record.address or 'no address yet'}, settings {record.config_digest}",
        markup=False,
        highlight=False,
    )
    if view.trouble:
        OUT.print(view.trouble, markup=False, highlight=False, style="red")
    if view.replicas:
        OUT.print(_table(view.replicas))


async def view_fleet(config: FleetConfig) -> FleetView:
    """The fleet of this directory, its replicas asked how they stand."""
    from serving.fleet_host import close_fleet, reach_fleet
    from serving.fleet_record import FleetError

    record = read_fleet(config)
    if record is None or not record.is_alive:
        return FleetView(is_up=False, record=record)
    if record.state == "starting":
        return FleetView(is_up=True, record=record)
    try:
        fleet = reach_fleet(record)
    except FleetError as error:
        return FleetView(is_up=True, record=record, trouble=str(error))
    try:
        load = await fleet.ask_load()
    finally:
        await close_fleet(fleet)
    return FleetView(is_up=True, record=record, replicas=tuple(one for replicas in load.values() for one in replicas))


def _table(replicas: tuple[ReplicaLoad, ...]) -> Table:
    table = Table("engine", "replica", "state", "pending", "running", "served", "restarts", "node", "pid", "trouble")
    for one in replicas:
        table.add_row(
            one.engine, str(one.replica), "asleep" if one.asleep else one.state, str(one.pending), str(one.running),
            str(one.served), str(one.restarts), one.node, str(one.pid or ""), one.trouble,
        )  # fmt: skip
    return table


def _is_up(config: FleetConfig) -> bool:
    record = read_fleet(config)
    return record is not None and record.is_alive


def _count(record: FleetRecord) -> str:
    return ", ".join(_named(spec) for spec in record.engines)


def _named(spec: EngineSpec) -> str:
    gpus = f" on {spec.num_gpus:g} GPU each" if isinstance(spec, VllmSpec) and spec.num_gpus else ""
    return f"{spec.replicas} × {spec.name}{gpus}"
