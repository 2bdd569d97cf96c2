"""Where engines stand: every replica an actor of its own on the cluster, found by name, started and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from mesh.engine import Engine, EngineError
from serving.actor import EngineActor, RayEngine, Seat
from serving.adapters import AdapterStore
from serving.config import EngineSpec, ServingConfig, VllmSpec
from serving.fleet import Fleet
from serving.fleet_record import NAMESPACE, actor_name
from serving.hosting import HostedEngine, build_engine
from serving.models import ModelStore
from serving.ray_session import LocalRay, start_local_ray

__all__ = ["LocalRay", "RayFleet", "Started", "find_fleet", "start_fleet", "start_local_ray", "stop_fleet"]

LABEL_SHARE = 0.001
"""What a replica takes of the resource that stands for its node: it is a label and not used up."""

Started = Callable[[str], None]


class RayFleet(Fleet):
    """A fleet of actors and the Ray connection they are reached by."""

    def __init__(
        self, engines: Mapping[str, Sequence[Engine]], cluster: LocalRay, *, is_attached: bool = False
    ) -> None:
        """`is_attached`: the engines are another process's, and stay when this fleet is stopped."""
        super().__init__(engines)
        self.cluster = cluster
        self.is_attached = is_attached


async def start_fleet(
    config: ServingConfig, adapters: AdapterStore, started: Started = lambda name: None, *, is_shared: bool = False
) -> Fleet:
    """Starts every engine of `config` at the same time; `started` is called with each name as it becomes ready.

    `is_shared`: other processes find the replicas by name.

    Raises:
        ModelError: weights are missing or corrupt; nothing was started.
        EngineError: an engine did not start in time, or a shared fleet runs on that cluster; whatever did start is
            stopped again.
    """
    model_dirs = _model_dirs(config)
    if config.in_process:
        return Fleet(await _start_here(config, adapters, started))
    cluster = start_local_ray(config.ray)
    engines: dict[str, list[RayEngine]] = {spec.name: [] for spec in config.engines}
    try:
        for spec in config.engines:
            for replica in range(spec.replicas):
                seat = _seat(spec, replica, model_dirs[spec.name], config, adapters)
                engines[spec.name].append(_start_actor(seat, replica, config, is_shared=is_shared))
        await asyncio.gather(*(_await_start(name, replicas, started) for name, replicas in engines.items()))
    except BaseException:
        await _end([replica for replicas in engines.values() for replica in replicas], cluster)
        raise
    return RayFleet(engines, cluster)


def find_fleet(config: ServingConfig, cluster: LocalRay, replicas: Mapping[str, int]) -> RayFleet:
    """The shared fleet that runs on `cluster`; stopping it only disconnects. `replicas`: their number by engine name.

    Raises EngineError if a replica is not there.
    """
    engines = {
        name: [_find_actor(name, replica, config) for replica in range(count)] for name, count in replicas.items()
    }
    return RayFleet(engines, cluster, is_attached=True)


async def stop_fleet(fleet: Fleet) -> None:
    """Stops what was started for this fleet: every engine and its Ray, or, attached to a shared one, nothing of it."""
    if not isinstance(fleet, RayFleet):
        engines = [engine for replicas in fleet.replicas.values() for engine in replicas]
        await asyncio.gather(*(_stop(engine) for engine in engines), return_exceptions=True)
    elif fleet.is_attached:
        fleet.cluster.close()
    else:
        await _end([engine for replicas in fleet.replicas.values() for engine in replicas], fleet.cluster)


def _model_dirs(config: ServingConfig) -> dict[str, Path | None]:
    store = ModelStore(config.model_store)
    return {
        spec.name: store.path(spec.model).resolve() if isinstance(spec, VllmSpec) else None for spec in config.engines
    }


async def _start_here(config: ServingConfig, adapters: AdapterStore, started: Started) -> dict[str, list[Engine]]:
    engines: dict[str, list[Engine]] = {}
    for spec in config.engines:
        hosted: list[HostedEngine] = [build_engine(spec, None, adapters) for _ in range(spec.replicas)]
        for engine in hosted:
            await engine.start()
        engines[spec.name] = list(hosted)
        started(spec.name)
    return engines


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
    )


def _start_actor(seat: Seat, replica: int, config: ServingConfig, *, is_shared: bool) -> RayEngine:
    spec, options = seat.spec, dict[str, Any]()
    if is_shared:
        options |= {"name": actor_name(spec.name, replica), "namespace": NAMESPACE}
    actor = ray.remote(EngineActor).options(
        # No CPUs: engines that took them would leave none for training jobs, which then wait for ever.
        num_cpus=0,
        num_gpus=spec.num_gpus if isinstance(spec, VllmSpec) else 0,
        resources={} if spec.node is None else {spec.node: LABEL_SHARE},
        max_restarts=config.max_restarts,
        **options,
    )
    try:
        return _client(spec.name, actor.remote(seat), config)
    except ValueError as error:
        raise EngineError(
            f"expected no other shared fleet on this cluster, found an actor named {actor_name(spec.name, replica)!r}; "
            "attach to that fleet, or end it with `evomesh fleet down`"
        ) from error


def _find_actor(name: str, replica: int, config: ServingConfig) -> RayEngine:
    try:
        return _client(name, ray.get_actor(actor_name(name, replica), namespace=NAMESPACE), config)
    except ValueError as error:
        raise EngineError(
            f"expected replica {replica} of engine {name!r} in the running fleet, found none: it has died for good or "
            "has just ended; look with `evomesh fleet show`, start anew with `evomesh fleet down` and `fleet up`"
        ) from error


def _client(name: str, actor: Any, config: ServingConfig) -> RayEngine:
    return RayEngine(name, actor, timeout_s=config.call_timeout_s, start_timeout_s=config.start_timeout_s)


async def _await_start(name: str, replicas: Sequence[RayEngine], started: Started) -> None:
    await asyncio.gather(*(replica.start() for replica in replicas))
    started(name)


async def _end(engines: Sequence[Engine], cluster: LocalRay) -> None:
    await asyncio.gather(*(_stop(engine) for engine in engines), return_exceptions=True)
    cluster.close()


async def _stop(engine: Engine) -> None:
    shutdown = getattr(engine, "shutdown", None)
    if shutdown is not None:
        await shutdown()
