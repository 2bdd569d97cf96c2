"""Where engines stand: every replica an actor of its own on the cluster, found by name, started and ended together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from mesh.engine import Engine, EngineError
from serving.actor import EngineActor, RayEngine, Seat
from serving.adapters import AdapterStore
from serving.config import EngineSpec, ServingConfig
from serving.fleet import Fleet
from serving.fleet_record import NAMESPACE, FleetError, actor_name
from serving.in_process import LocalFleet, Started, model_dirs, start_here
from serving.placement import LABEL_SHARE, GpuPlace, Placement, Room, gpus_of, plan
from serving.ray_session import LocalRay, start_local_ray

__all__ = [
    "LocalRay",
    "RayFleet",
    "find_fleet",
    "gpu_places",
    "rooms",
    "shared_actors",
    "start_fleet",
    "start_local_ray",
    "stop_fleet",
]


_LOOK_AGAIN_S = 0.1
_NO_LABELS = ("CPU", "GPU", "memory", "object_store_memory")
_NO_LABEL_PREFIXES = ("node:", "accelerator_type:")

_Key = tuple[str, int]
_Strategy = PlacementGroupSchedulingStrategy | NodeAffinitySchedulingStrategy | str


class RayFleet(Fleet):
    """A fleet of actors and the Ray connection they are reached by."""

    def __init__(
        self,
        engines: Mapping[str, Sequence[Engine]],
        cluster: LocalRay,
        *,
        groups: Sequence[PlacementGroup] = (),
        is_attached: bool = False,
    ) -> None:
        """`groups`: the room made for them; `is_attached`: they are another process's, and outlive this object."""
        super().__init__(engines)
        self.cluster = cluster
        self.groups = tuple(groups)
        self.is_attached = is_attached


async def start_fleet(
    config: ServingConfig, adapters: AdapterStore, started: Started = lambda name: None, *, is_shared: bool = False
) -> Fleet:
    """Starts every engine of `config` at the same time; `started` is called with each name as it becomes ready.

    `is_shared`: other processes find the replicas by name.

    Raises:
        ModelError: weights are missing or corrupt; nothing was started.
        FleetError: the cluster has no room, or a shared fleet already runs there.
        EngineError: an engine did not start in time; like with every error, whatever did start is stopped again.
    """
    if config.in_process:
        return await start_here(config, adapters, started)
    weights = model_dirs(config)
    cluster = start_local_ray(config.ray)
    engines: dict[str, list[RayEngine]] = {spec.name: [] for spec in config.engines}
    groups: dict[_Key, PlacementGroup] = {}
    try:
        placement = _planned(config.engines, can_grow=not cluster.is_private)
        await _make_room(config, placement, groups)
        for spec in config.engines:
            for replica in range(spec.replicas):
                seat = _seat(spec, replica, weights[spec.name], config, adapters)
                where = _strategy(groups.get((spec.name, replica)), placement.node_of(spec.name, replica))
                engines[spec.name].append(_start_actor(seat, replica, where, config, is_shared=is_shared))
        await _all(_await_start(name, replicas, started) for name, replicas in engines.items())
    except BaseException:
        await _end([replica for replicas in engines.values() for replica in replicas], groups.values(), cluster)
        raise
    return RayFleet(engines, cluster, groups=tuple(groups.values()))


def find_fleet(config: ServingConfig, cluster: LocalRay, replicas: Mapping[str, int]) -> RayFleet:
    """The shared fleet that runs on `cluster`; stopping it only disconnects. `replicas`: their number by engine name.

    Raises FleetError if a replica is not there.
    """
    engines = {
        name: [_find_actor(name, replica, config) for replica in range(count)] for name, count in replicas.items()
    }
    return RayFleet(engines, cluster, is_attached=True)


async def stop_fleet(fleet: Fleet) -> None:
    """Stops what was started for this fleet: every engine and its Ray, or, attached to a shared one, nothing of it."""
    if isinstance(fleet, LocalFleet):
        await fleet.stop()
    elif isinstance(fleet, RayFleet) and fleet.is_attached:
        fleet.cluster.close()
    elif isinstance(fleet, RayFleet):
        engines = [engine for replicas in fleet.replicas.values() for engine in replicas]
        await _end(engines, fleet.groups, fleet.cluster)


def rooms() -> tuple[Room, ...]:
    """The living nodes of the cluster that this process is connected to."""
    # Ray has no public way to ask what is free on each node.
    free = available_resources_per_node()
    return tuple(_room(node, free.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"])


async def gpu_places(fleet: Fleet, engines: Sequence[str]) -> tuple[GpuPlace, ...]:
    """Where the replicas of these engines stand, one after the other; none of engines in this process.

    Raises EngineError if a replica cannot be asked.
    """
    replicas = [replica for name in engines for replica in fleet.replicas[name] if isinstance(replica, RayEngine)]
    return tuple(await asyncio.gather(*(_place_of(replica) for replica in replicas)))


def shared_actors() -> tuple[str, ...]:
    """Names of the replicas of shared fleets on the cluster that this process is connected to."""
    named = ray.util.list_named_actors(all_namespaces=True)
    prefix = actor_name("", 0).partition("/")[0] + "/"
    return tuple(
        sorted(one["name"] for one in named if one["namespace"] == NAMESPACE and one["name"].startswith(prefix))
    )


async def _place_of(replica: RayEngine) -> GpuPlace:
    try:
        return GpuPlace.model_validate(await asyncio.wrap_future(replica.actor.__ray_call__.remote(_where).future()))
    except RayError as error:
        raise EngineError(f"engine {replica.name!r} does not say where it stands: {error}") from error


def _where(_actor: object) -> GpuPlace:
    """Runs in the actor."""
    return GpuPlace(
        node=ray.get_runtime_context().get_node_id(), gpus=tuple(str(number) for number in ray.get_gpu_ids())
    )


def _seat(
    spec: EngineSpec, replica: int, model_dir: Path | None, config: ServingConfig, adapters: AdapterStore
) -> Seat:
    loaded_file = adapters.root.resolve() / ".loaded" / f"{spec.name}-{replica}.json"
    # What an earlier fleet had loaded is not this one's business.
    loaded_file.unlink(missing_ok=True)
    return Seat(
        spec=spec,
        model_dir=model_dir,
        adapter_root=adapters.root.resolve(),
        loaded_file=loaded_file,
        probe_interval_s=config.canary_interval_s,
        probe_timeout_s=config.call_timeout_s,
        max_pending=config.fleet.max_pending,
        min_free_memory_mib=config.fleet.min_free_memory_mib,
    )


def _planned(specs: Sequence[EngineSpec], *, can_grow: bool) -> Placement:
    """The placement on what is free now. Raises FleetError where it fits nowhere and no node can come."""
    # Memory is left out: what an engine needs of it is an estimate, and no reason not to try.
    placement = plan(specs, [room.model_copy(update={"free_bytes": None}) for room in rooms()])
    if not placement.fits and not can_grow:
        raise FleetError("the engines do not fit on this machine:" + _listed(placement))
    return placement


async def _make_room(config: ServingConfig, placement: Placement, groups: dict[_Key, PlacementGroup]) -> None:
    """Puts a placement group into `groups` for every replica that needs more than a process.

    Raises FleetError if the cluster does not make room for all of them in time.
    """
    for spec in config.engines:
        bundle = _bundle(spec)
        for replica in range(spec.replicas) if bundle else ():
            groups[spec.name, replica] = placement_group(
                [bundle], strategy="STRICT_PACK", _soft_target_node_id=placement.node_of(spec.name, replica)
            )
    end = time.monotonic() + config.fleet.placement_timeout_s
    while missing := [key for key, group in groups.items() if not _is_there(group)]:
        if time.monotonic() > end:
            now = plan([spec for spec in config.engines if any(spec.name == name for name, _ in missing)], rooms())
            raise FleetError(
                f"expected room for {len(groups)} replicas within {config.fleet.placement_timeout_s:g} s, "
                f"{len(missing)} have none; what they hold of the cluster is given back:" + _listed(now)
            )
        await asyncio.sleep(_LOOK_AGAIN_S)


def _bundle(spec: EngineSpec) -> dict[str, float]:
    """What a replica takes of its node. All GPUs of one are in one bundle: vLLM spreads over them by itself."""
    gpus = {"GPU": gpus_of(spec)} if gpus_of(spec) else {}
    return gpus | ({spec.node: LABEL_SHARE} if spec.node is not None else {})


def _is_there(group: PlacementGroup) -> bool:
    return bool(placement_group_table(group)["state"] == "CREATED")


def _listed(placement: Placement) -> str:
    return "".join(f"\n- {reason}" for reason in placement.reasons)


def _room(node: dict[str, Any], free: Mapping[str, float]) -> Room:
    has = node["Resources"]
    return Room(
        id=node["NodeID"],
        address=node["NodeManagerAddress"],
        num_gpus=has.get("GPU", 0.0),
        free_gpus=free.get("GPU", 0.0),
        labels=tuple(
            sorted(name for name in has if name not in _NO_LABELS and not name.startswith(_NO_LABEL_PREFIXES))
        ),
        free_bytes=int(free.get("memory", 0)),
    )


def _strategy(group: PlacementGroup | None, node: str | None) -> _Strategy:
    if group is not None:
        return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    # Soft: when the node is lost, the replica starts again on another one.
    return "SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=True)


def _start_actor(seat: Seat, replica: int, where: _Strategy, config: ServingConfig, *, is_shared: bool) -> RayEngine:
    spec, options = seat.spec, dict[str, Any]()
    if is_shared:
        options |= {"name": actor_name(spec.name, replica), "namespace": NAMESPACE}
    actor = ray.remote(EngineActor).options(
        # No CPUs: engines that took them would leave none for training jobs, which then wait for ever.
        num_cpus=0,
        num_gpus=gpus_of(spec),
        resources={} if spec.node is None else {spec.node: LABEL_SHARE},
        scheduling_strategy=where,
        max_restarts=_max_restarts(config, is_shared=is_shared),
        **options,
    )
    try:
        return _client(spec.name, actor.remote(seat), config)
    except ValueError as error:
        raise FleetError(
            f"expected no other shared fleet on this cluster, found an actor named {actor_name(spec.name, replica)!r}; "
            "attach to that fleet, or end it with `evomesh fleet down`"
        ) from error


def _max_restarts(config: ServingConfig, *, is_shared: bool) -> int:
    """A shared fleet stands for weeks: its engines always start again, unless the configuration says how often."""
    return -1 if is_shared and "max_restarts" not in config.model_fields_set else config.max_restarts


def _find_actor(name: str, replica: int, config: ServingConfig) -> RayEngine:
    try:
        return _client(name, ray.get_actor(actor_name(name, replica), namespace=NAMESPACE), config)
    except ValueError as error:
        raise FleetError(
            f"expected replica {replica} of engine {name!r} in the running fleet, found none: it has died for good or "
            "has just ended; look with `evomesh fleet show`, start anew with `evomesh fleet down` and `fleet up`"
        ) from error


def _client(name: str, actor: Any, config: ServingConfig) -> RayEngine:
    return RayEngine(name, actor, timeout_s=config.call_timeout_s, start_timeout_s=config.start_timeout_s)


async def _await_start(name: str, replicas: Sequence[RayEngine], started: Started) -> None:
    await _all(replica.start() for replica in replicas)
    started(name)


async def _all(works: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Waits for all of them; after an error, and when cancelled, until none of them is under way any more."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _end(engines: Sequence[Engine], groups: Iterable[PlacementGroup], cluster: LocalRay) -> None:
    await asyncio.gather(*(_stop(engine) for engine in engines), return_exceptions=True)
    for group in groups:
        remove_placement_group(group)
    cluster.close()


async def _stop(engine: Engine) -> None:
    shutdown = getattr(engine, "shutdown", None)
    if shutdown is not None:
        await shutdown()
