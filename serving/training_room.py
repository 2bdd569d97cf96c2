"""Room for training on the engines' own GPUs: engines that sleep meanwhile, one training at a time, none forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

from memory.ledger import AlreadyLocked, exclusive_lock
from mesh.engine import EngineError
from mesh.types import Member, Message, Part
from serving.adapters import AdapterStore
from serving.config import FleetConfig, ServingConfig, SleepingEngines
from serving.fleet import Fleet

_LOOK_AGAIN_S = 0.5
_LOCK = "training"

PROBE = (Message(role="user", parts=(Part(text="Name the days of the week in their order."),)),)
PROBE_ANSWER = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday."
MAX_SHIFT = 0.05
"""Bits per byte of the probe by which an adapter may differ afterwards: rounding in another batch stays far below."""


@asynccontextmanager
async def training_room(
    config: ServingConfig,
    fleet: Fleet,
    members: Sequence[Member],
    adapters: AdapterStore,
    *,
    told: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[tuple[str, ...]]:
    """Names of the engines that sleep while the block runs; none where training has GPUs of its own.

    Waits for another training on the same fleet to end; `told` says so. However the block ends, the engines are woken;
    if this process is killed, the owner of the fleet wakes them. Of `members`, those on sleeping engines find a fixed
    text as likely afterwards as before; an adapter for which that does not hold is loaded anew.

    Raises:
        EngineError: an engine cannot sleep, does not wake, or is not itself afterwards.
    """
    place = config.fleet.training
    if not isinstance(place, SleepingEngines):
        yield ()
        return
    probed = [member for member in members if member.engine in place.engines]
    async with AsyncExitStack() as stack:
        await _lock(config.fleet, stack, told)
        before = await surprise(fleet, probed)
        for name in place.engines:
            # Before it sleeps: one that did not come to an end with it may be half asleep.
            stack.push_async_callback(fleet.wake, name)
            await fleet.sleep(name)
        yield place.engines
    await check_awake(fleet, before, adapters)


async def surprise(fleet: Fleet, members: Sequence[Member]) -> dict[Member, float]:
    """Bits per byte of a fixed text by member; those of engines that cannot score are left out."""
    found = {}
    for member in members:
        if (await fleet.profile(member)).can_score:
            found[member] = (await fleet.score(member, PROBE, PROBE_ANSWER)).bits_per_byte
    return found


async def check_awake(fleet: Fleet, before: Mapping[Member, float], adapters: AdapterStore) -> tuple[Member, ...]:
    """Compares members with what they were; returns those whose adapter had to be loaded anew.

    Raises EngineError if one is not itself even then, or has no adapter that could be.
    """
    again = _shifted(before, await surprise(fleet, list(before)))
    for member in again:
        if member.adapter is not None:
            await fleet.retire_adapter(member.engine, member.adapter)
            await fleet.load_adapter(member.engine, adapters.get(member.adapter))
    left = _shifted({member: before[member] for member in again}, await surprise(fleet, again))
    if left:
        raise EngineError(
            f"engine {left[0].engine!r}: expected the same of {left[0].name!r} after its sleep as before, it finds a "
            "fixed text otherwise likely; restart the fleet, and train on separate GPUs if it happens again"
        )
    return tuple(again)


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


def _shifted(before: Mapping[Member, float], after: Mapping[Member, float]) -> list[Member]:
    # Not "above": what is no number is not the same either.
    return [member for member, bits in before.items() if not abs(after[member] - bits) <= MAX_SHIFT]


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
    return config.directory / _LOCK
