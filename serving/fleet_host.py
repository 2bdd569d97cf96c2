"""Engines for a command: those of the fleet that is up, or private ones when there is none."""

from __future__ import annotations

import asyncio
import time

from serving.adapters import AdapterStore
from serving.config import ServingConfig
from serving.fleet import Fleet
from serving.fleet_record import FleetError, FleetRecord, differences, read_fleet, record_path
from serving.in_process import LocalFleet, Started, start_here

_LOOK_AGAIN_S = 0.2


async def open_fleet(config: ServingConfig, adapters: AdapterStore, started: Started = lambda name: None) -> Fleet:
    """The fleet that is up, or a private one of the same engines; `close_fleet` closes either as it should.

    Raises as `attach_fleet`, `start_fleet` and `start_here` do.
    """
    if config.in_process:
        return await start_here(config, adapters, started)
    from serving.cluster import start_fleet  # Ray takes seconds to import; engines of this process do without

    fleet = await attach_fleet(config)
    if fleet is None:
        return await start_fleet(config, adapters, started)
    for name in fleet.engines:
        started(name)
    return fleet


async def close_fleet(fleet: Fleet) -> None:
    """Stops what `open_fleet` started, or only disconnects from a fleet that was up."""
    if isinstance(fleet, LocalFleet):
        await fleet.stop()
        return
    from serving.cluster import stop_fleet

    await stop_fleet(fleet)


async def attach_fleet(config: ServingConfig) -> Fleet | None:
    """The fleet that `evomesh fleet up` runs, with the engines of `config`; None: none is up.

    One that is starting is waited for, one that is stopping until it is gone. Call it from the main thread.

    Raises:
        FleetError: the fleet has other engines, cannot be reached, or does not become ready in time.
    """
    record = None if config.in_process else await _settled(config)
    if record is None:
        return None
    found = differences(config.engines, record.engines)
    if found:
        listed = "".join(f"\n- {reason}" for reason in found)
        raise FleetError(
            f"{record_path(config.fleet)}: the fleet that is up has other engines than this configuration:{listed}\n"
            "use its configuration, end it with `evomesh fleet down`, or set another serving.fleet.directory"
        )
    return reach_fleet(record, config)


def reach_fleet(record: FleetRecord, config: ServingConfig | None = None) -> Fleet:
    """The replicas of a ready fleet, with the engines and time limits of `config`; None: all of them, with defaults.

    Raises FleetError if it cannot be reached or a replica is missing. Call it from the main thread.
    """
    from serving.cluster import find_fleet
    from serving.ray_session import join_ray

    config = config or ServingConfig(engines=record.engines)
    wanted = {spec.name for spec in config.engines}
    cluster = join_ray(record.address, with_token=record.with_token)
    try:
        return find_fleet(config, cluster, {spec.name: spec.replicas for spec in record.engines if spec.name in wanted})
    except FleetError:
        cluster.close()
        raise


async def _settled(config: ServingConfig) -> FleetRecord | None:
    """The record once its fleet is ready; None once there is none. Raises FleetError if neither comes in time."""
    end = time.monotonic() + config.start_timeout_s
    while (record := read_fleet(config.fleet)) is not None and record.is_alive:
        if record.state == "ready":
            return record
        if time.monotonic() > end:
            raise FleetError(
                f"{record_path(config.fleet)}: expected the fleet of process {record.pid} on {record.host} to be "
                f"ready within {config.start_timeout_s:g} s, but it is {record.state}; look at what it printed"
            )
        await asyncio.sleep(_LOOK_AGAIN_S)
    return None
