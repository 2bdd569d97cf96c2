"""Engines in this process, without a cluster: for tests, simulations, and members on servers elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from serving.adapters import AdapterStore
from serving.config import ServingConfig, VllmSpec
from serving.fleet import Fleet
from serving.hosting import HostedEngine, build_engine
from serving.models import ModelStore

Started = Callable[[str], None]
"""Told the name of an engine when all its replicas are ready."""


class LocalFleet(Fleet):
    """A fleet of engines that live in this process and end with it."""

    async def stop(self) -> None:
        """Ends every engine, whatever becomes of the others; a second call does nothing."""
        engines = [engine for replicas in self.replicas.values() for engine in replicas]
        ends = [engine.shutdown() for engine in engines if hasattr(engine, "shutdown")]
        await asyncio.gather(*ends, return_exceptions=True)


async def start_here(config: ServingConfig, adapters: AdapterStore, started: Started = lambda name: None) -> LocalFleet:
    """Starts every engine of `config` in this process, one after the other.

    Raises ModelError if weights are missing or corrupt; then nothing was started.
    """
    model_dirs(config)
    engines: dict[str, list[HostedEngine]] = {}
    for spec in config.engines:
        engines[spec.name] = [build_engine(spec, None, adapters) for _ in range(spec.replicas)]
        for engine in engines[spec.name]:
            await engine.start()
        started(spec.name)
    return LocalFleet(engines)


def model_dirs(config: ServingConfig) -> dict[str, Path | None]:
    """Where the verified weights of each engine lie; None: it needs none here. Raises ModelError."""
    store = ModelStore(config.model_store)
    return {
        spec.name: store.path(spec.model).resolve() if isinstance(spec, VllmSpec) else None for spec in config.engines
    }
