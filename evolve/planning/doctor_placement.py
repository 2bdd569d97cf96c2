"""Where the engines of a configuration would stand, and why one would not fit; asks the cluster, starts nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil

from evolve.planning.doctor import Finding, list_gpus, memory_limit_bytes
from serving.config import DirectoryModel, ModelSource, ServingConfig, VllmSpec
from serving.fleet_record import FleetError, FleetRecord, differences, read_fleet, record_path
from serving.models import ModelStore
from serving.placement import Placed, Placement, Room, plan
from serving.weights import ModelError

THIS_MACHINE = "this machine"


def check_placement(config: ServingConfig) -> tuple[Finding, ...]:
    """One finding for every engine, after one for the fleet that is up or the cluster that cannot be reached."""
    if config.in_process:
        return (Finding(name="placement", level="ok", found="all engines in the process of each command"),)
    try:
        record = read_fleet(config.fleet)
        if record is not None and record.is_alive:
            return (check_fleet(config, record),)
        rooms = rooms_for(config)
    except FleetError as error:
        return (Finding(name="placement", level="fail", found="not known", advice=str(error)),)
    placement = plan(config.engines, rooms, weights_of(config))
    return tuple(check_engine(spec.name, placement, rooms) for spec in config.engines)


def check_fleet(config: ServingConfig, record: FleetRecord) -> Finding:
    """Whether this configuration can use the fleet that is up."""
    found = f"a fleet is up on {record.host}, process {record.pid}, {record.state}"
    reasons = differences(config.engines, record.engines)
    if reasons:
        advice = f"{record_path(config.fleet)}: it has other engines: {'; '.join(reasons)}"
        return Finding(name="placement", level="fail", found=found, advice=advice)
    return Finding(name="placement", level="ok", found=f"{found}; it has these engines")


def check_engine(engine: str, placement: Placement, rooms: tuple[Room, ...]) -> Finding:
    """Where the replicas of one engine go, or what keeps them from it."""
    ours = [placed for placed in placement.replicas if placed.engine == engine]
    name = f"placement {engine}"
    homeless = [placed for placed in ours if placed.node is None]
    found = "; ".join(_said(placed, rooms) for placed in ours if placed.node is not None)
    if homeless:
        found = f"{len(homeless)} of {len(ours)} replicas fit nowhere" + (f"; {found}" if found else "")
        return Finding(name=name, level="fail", found=found, advice=homeless[0].reason)
    return Finding(name=name, level="ok", found=found)


def rooms_for(config: ServingConfig) -> tuple[Room, ...]:
    """The nodes of the cluster that the configuration or $RAY_ADDRESS names; without one, this machine.

    Raises FleetError if the cluster cannot be reached.
    """
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    if address is None or address == "local":
        return (this_machine(list_gpus()),)
    # Takes seconds to import, and a doctor is asked most often where there is no cluster.
    from serving.cluster import rooms
    from serving.ray_session import join_ray

    cluster = join_ray(address)
    try:
        return rooms()
    finally:
        cluster.close()


def this_machine(gpus: list[str]) -> Room:
    """This machine as a private cluster would see it; `gpus` as `list_gpus` gives them."""
    return Room(
        id=THIS_MACHINE,
        num_gpus=len(gpus),
        free_gpus=len(gpus),
        gpu_bytes=min((size for size in map(_gpu_bytes, gpus) if size is not None), default=None),
        free_bytes=min(memory_limit_bytes(), psutil.virtual_memory().available),
    )


def weights_of(config: ServingConfig) -> dict[str, int]:
    """Bytes of the weights by engine name, of those that are on this machine; nothing is verified."""
    store = ModelStore(config.model_store)
    found = {spec.name: _weight_bytes(store, spec.model) for spec in config.engines if isinstance(spec, VllmSpec)}
    return {name: size for name, size in found.items() if size is not None}


def _weight_bytes(store: ModelStore, source: ModelSource) -> int | None:
    if isinstance(source, DirectoryModel):
        files = [file for file in Path(source.path).glob("*.safetensors") if file.is_file()]
        return sum(file.stat().st_size for file in files) if files else None
    try:
        files_of = store.manifest(source).files
    except ModelError:
        return None
    return sum(file.size for name, file in files_of.items() if name.endswith(".safetensors"))


def _gpu_bytes(line: str) -> int | None:
    found = re.search(r"(\d+) MiB", line)
    return None if found is None else int(found.group(1)) * 2**20


def _said(placed: Placed, rooms: tuple[Room, ...]) -> str:
    room = next(room for room in rooms if room.id == placed.node)
    where = room.id if room.id == THIS_MACHINE else f"{room.address} ({room.id[:8]})"
    return f"replica {placed.replica} on {where}: {placed.needs}"
