"""Room for training on the engines' own GPUs: engines that sleep meanwhile, one training at a time, none forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

from memory.ledger import AlreadyLocked, exclusive_lock
from serving.config import FleetConfig, ServingConfig, SleepingEngines
from serving.fleet import Fleet

_LOOK_AGAIN_S = 0.5
LOCK = "training"


@asynccontextmanager
async def training_room(
    config: ServingConfig, fleet: Fleet, *, told: Callable[[str], None] = lambda line: None
) -> AsyncIterator[tuple[str, ...]]:
    """Names of the engines that sleep while the block runs; none where training has GPUs of its own.

    Waits for another training on the same fleet to end. However the block ends, the engines are woken; if this process
    is killed, the owner of the fleet wakes them. `told`: what is waited for.

    Raises:
        EngineError: an engine cannot sleep, or does not wake.
    """
    place = config.fleet.training
    if not isinstance(place, SleepingEngines):
        yield ()
        return
    async with AsyncExitStack() as stack:
        await _lock(config.fleet, stack, told)
        for name in place.engines:
            # Before it sleeps: one that did not come to an end with it may be half asleep.
            stack.push_async_callback(fleet.wake, name)
            await fleet.sleep(name)
        yield place.engines


async def wake_forgotten(config: ServingConfig, fleet: Fleet) -> tuple[str, ...]:
    """Wakes engines that sleep although nobody trains, because who put them to sleep was killed; returns their names.

    Raises EngineError if one does not wake.
    """
    place = config.fleet.training
    if not isinstance(place, SleepingEngines):
        return ()
    with ExitStack() as stack:
        try:
            # Held while they wake, so that nobody begins to train on memory that is being taken.
            stack.enter_context(exclusive_lock(_lock_file(config.fleet)))
        except AlreadyLocked:
            return ()
        load = await fleet.ask_load()
        asleep = tuple(name for name in place.engines if any(one.asleep for one in load.get(name, ())))
        for name in asleep:
            await fleet.wake(name)
        return asleep


async def _lock(config: FleetConfig, stack: AsyncExitStack, told: Callable[[str], None]) -> None:
    has_said = False
    while True:
        try:
            stack.enter_context(exclusive_lock(_lock_file(config)))
            return
        except AlreadyLocked as error:
            if not has_said:
                told(f"another training uses the sleeping engines' GPUs ({error}); waiting for it")
                has_said = True
            await asyncio.sleep(_LOOK_AGAIN_S)


def _lock_file(config: FleetConfig) -> Path:
    return config.directory / LOCK
