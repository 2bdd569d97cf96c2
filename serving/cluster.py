"""Where engines stand: a private Ray on this machine or a given cluster, one actor an engine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import ray

from mesh.engine import Engine
from serving.actor import EngineActor, RayEngine, Seat
from serving.adapters import AdapterStore
from serving.config import EngineSpec, RayConfig, ServingConfig, VllmSpec
from serving.fleet import Fleet
from serving.hosting import HostedEngine, build_engine
from serving.models import ModelStore

# A resource of its own: engines that took CPUs would leave none for training jobs, which then wait for ever.
ENGINE_RESOURCE = "evomesh_engine"
MAX_ENGINES_PER_NODE = 1000
_LOOPBACK = "127.0.0.1"
_RAY_ENVIRONMENT = {
    # Without this, a crashed actor leaves vLLM's child processes behind.
    "RAY_process_group_cleanup_enabled": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray runs workers at niceness 15 by default: next to anything else on the machine an engine would starve.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
}

Started = Callable[[str], None]


class LocalRay:
    """A connection to Ray; `close` ends a cluster that was started here and leaves a joined one alone."""

    def __init__(self, *, is_own: bool, roots: tuple[psutil.Process, ...] = ()) -> None:
        """`roots`: the processes that starting the cluster brought up below this one."""
        self._is_own = is_own
        self._roots = roots

    def close(self) -> None:
        """Disconnects; of an own cluster nothing is left running, not even what a crash had orphaned in it."""
        if not self._is_own:
            return
        self._is_own = False
        below = [process for root in self._roots if root.is_running() for process in root.children(recursive=True)]
        ray.shutdown()
        _end_all([*self._roots, *below])


def start_local_ray(config: RayConfig) -> LocalRay:
    """Joins `config.address`, or starts a private cluster that only this machine can reach; reuses a running one.

    Call it from the main thread: the cluster's processes die with the thread that started them.
    """
    if ray.is_initialized():
        return LocalRay(is_own=False)
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if config.address is not None:
        ray.init(address=config.address, log_to_driver=False)
        return LocalRay(is_own=True)
    before = set(psutil.Process().children())
    ray.init(
        num_cpus=config.num_cpus,
        resources={ENGINE_RESOURCE: MAX_ENGINES_PER_NODE},
        object_store_memory=config.object_store_mib * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address=_LOOPBACK,
        _temp_dir=None if config.temp_dir is None else str(config.temp_dir.resolve()),
    )
    return LocalRay(is_own=True, roots=tuple(set(psutil.Process().children()) - before))


async def start_fleet(config: ServingConfig, adapters: AdapterStore, started: Started = lambda name: None) -> Fleet:
    """Starts every engine of `config` at the same time; `started` is called with each name as it becomes ready.

    Raises:
        ModelError: weights are missing or corrupt; nothing was started.
        EngineError: an engine did not start in time; whatever did start is stopped again.
    """
    store = ModelStore(config.model_store)
    model_dirs = {
        spec.name: store.path(spec.model).resolve() if isinstance(spec, VllmSpec) else None for spec in config.engines
    }
    if config.in_process:
        engines: Mapping[str, Engine] = await _start_here(config, adapters, started)
        return Fleet(engines)
    cluster = start_local_ray(config.ray)
    fleet = RayFleet(
        {spec.name: _place(spec, model_dirs[spec.name], config, adapters) for spec in config.engines}, cluster
    )
    try:
        await asyncio.gather(*(_await_start(engine, started) for engine in fleet.engines.values()))
    except BaseException:
        await stop_fleet(fleet)
        raise
    return fleet


class RayFleet(Fleet):
    """A fleet of actors and the Ray connection they live on."""

    def __init__(self, engines: Mapping[str, Engine], cluster: LocalRay) -> None:
        super().__init__(engines)
        self.cluster = cluster


async def stop_fleet(fleet: Fleet) -> None:
    """Stops every engine, and the Ray that was started for them; other children of this process are left alone."""
    await asyncio.gather(*(_stop(engine) for engine in fleet.engines.values()), return_exceptions=True)
    if isinstance(fleet, RayFleet):
        fleet.cluster.close()


async def _start_here(config: ServingConfig, adapters: AdapterStore, started: Started) -> dict[str, Engine]:
    engines: dict[str, Engine] = {}
    for spec in config.engines:
        engine: HostedEngine = build_engine(spec, None, adapters)
        await engine.start()
        engines[spec.name] = engine
        started(spec.name)
    return engines


def _place(spec: EngineSpec, model_dir: Path | None, config: ServingConfig, adapters: AdapterStore) -> RayEngine:
    loaded_file = adapters.root.resolve() / ".loaded" / f"{spec.name}.json"
    # What an earlier fleet had loaded is not this one's business.
    loaded_file.unlink(missing_ok=True)
    seat = Seat(
        spec=spec,
        model_dir=model_dir,
        adapter_root=adapters.root.resolve(),
        loaded_file=loaded_file,
        probe_interval_s=config.canary_interval_s,
        probe_timeout_s=config.call_timeout_s,
    )
    num_gpus = spec.num_gpus if isinstance(spec, VllmSpec) else 0
    actor = ray.remote(EngineActor).options(
        num_cpus=0, num_gpus=num_gpus, resources={ENGINE_RESOURCE: 1}, max_restarts=config.max_restarts
    )
    return RayEngine(
        spec.name, actor.remote(seat), timeout_s=config.call_timeout_s, start_timeout_s=config.start_timeout_s
    )


async def _await_start(engine: Engine, started: Started) -> None:
    if isinstance(engine, RayEngine):
        await engine.start()
        started(engine.name)


async def _stop(engine: Engine) -> None:
    shutdown = getattr(engine, "shutdown", None)
    if shutdown is not None:
        await shutdown()


def _end_all(processes: list[psutil.Process]) -> None:
    """Kills what is left of `processes` after a moment; psutil knows a process from another that got its number."""
    _, left = psutil.wait_procs(processes, timeout=5.0)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5.0)
