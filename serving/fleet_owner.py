"""The process that owns a shared fleet: starts it, publishes how to reach it, ends it and what a killed one left."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from memory.ledger import exclusive_lock, sync_directory
from serving.adapters import AdapterStore
from serving.cluster import shared_actors, start_fleet, stop_fleet
from serving.config import FleetConfig, ServingConfig
from serving.fleet import Fleet
from serving.fleet_record import FleetError, FleetRecord, State, publish_fleet, read_fleet, record_path
from serving.in_process import Started
from serving.processes import FLEET_VARIABLE, end_marked, mark_of
from serving.ray_session import LocalRay, asks_for_token, gcs_address, start_local_ray
from serving.training_room import wake_forgotten

LOOK_S = 1.0
"""Seconds between two looks at how the fleet stands."""
_STEP_S, _KILL_S, _NAMES_S = 0.1, 30.0, 30.0
_ENDING = (signal.SIGTERM, signal.SIGINT)
ADAPTERS = "adapters"
LOCK = "owner"

Told = Callable[[FleetRecord], None]
_Result = TypeVar("_Result")


async def own_fleet(
    config: ServingConfig, *, drain_s: float, started: Started = lambda name: None, told: Told = lambda record: None
) -> None:
    """Runs a fleet until SIGTERM or SIGINT, then lets requests end for `drain_s` seconds; a second signal ends them.

    `told`: of every state it publishes. When this returns or raises, no process of the fleet is left. Call it from the
    main thread, with nothing else on Ray in this process.

    Raises:
        AlreadyLocked: another fleet is up on this directory.
        FleetError: it cannot be shared, or its cluster is gone. What `start_fleet` raises.
    """
    if config.in_process:
        raise FleetError("serving.in_process: expected false, since engines of one process cannot be shared, got true")
    directory = config.fleet.directory
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory / LOCK):
        clean_up(config.fleet)
        record = _record_of_this_process(config)
        with _marked(record.id):
            publish_fleet(config.fleet, record)
            try:
                await _run(config, record, drain_s, started, told)
            finally:
                end_marked(record.id)
                _forget(config.fleet)


def clean_up(config: FleetConfig) -> int:
    """Ends the processes of a fleet whose owner was killed, and removes its record; returns how many there were.

    Raises FleetError if the record is of another machine, or of an owner that lives.
    """
    record = read_fleet(config)
    if record is None:
        return 0
    if not record.is_here:
        raise FleetError(
            f"{record_path(config)}: expected the record of a fleet of this machine, got one of {record.host}; end it "
            "there with `evomesh fleet down`, or remove the file if that machine is gone"
        )
    if record.is_alive:
        raise FleetError(
            f"{record_path(config)}: the fleet of process {record.pid} is up; end it with `evomesh fleet down`"
        )
    num_ended = end_marked(record.id)
    _forget(config)
    return num_ended


async def end_fleet(config: FleetConfig, *, timeout_s: float | None) -> FleetRecord | None:
    """Has the fleet that is up drain and end, and cleans up after one that was killed; returns what there was.

    `timeout_s` None: it is killed, with the requests under way.

    Raises FleetError if it is another machine's, or still there after `timeout_s`.
    """
    record = read_fleet(config)
    if record is None:
        return None
    if record.is_here and record.is_alive:
        os.kill(record.pid, signal.SIGKILL if timeout_s is None else signal.SIGTERM)
        end = time.monotonic() + (_KILL_S if timeout_s is None else timeout_s)
        while record.is_alive:
            if time.monotonic() > end:
                raise FleetError(
                    f"expected the fleet of process {record.pid} to end in time; wait longer with --timeout, or end it "
                    "at once with --now"
                )
            await asyncio.sleep(_STEP_S)
    now = read_fleet(config)
    if now is not None and now.id == record.id:
        clean_up(config)
    return record


async def _run(config: ServingConfig, record: FleetRecord, drain_s: float, started: Started, told: Told) -> None:
    told(record)
    cluster = start_local_ray(config.ray)
    try:
        # After Ray is there: it puts its own answer to SIGTERM in the place of every other.
        with _Signals() as signals:
            record = record.model_copy(update={"address": gcs_address(), "with_token": asks_for_token()})
            await _wait_for_names(config)
            starting = start_fleet(config, AdapterStore(record.adapter_root), started, is_shared=True)
            fleet = await signals.unless(1, starting)
            if fleet is None:
                return
            try:
                _publish(config.fleet, record, "ready", told)
                await signals.unless(1, _watch(config, fleet, cluster))
                _publish(config.fleet, record, "stopping", told)
                await signals.unless(2, _drained(fleet, drain_s))
            finally:
                await stop_fleet(fleet)
    finally:
        cluster.close()


async def _watch(config: ServingConfig, fleet: Fleet, cluster: LocalRay) -> None:
    """Returns never. Raises FleetError once the cluster is gone."""
    while True:
        await asyncio.sleep(LOOK_S)
        if not cluster.is_running:
            raise FleetError("the Ray cluster of the fleet has ended under it; look at /tmp/ray/session_latest/logs")
        await wake_forgotten(config, fleet)


async def _drained(fleet: Fleet, drain_s: float) -> None:
    """Returns when nothing is under way, or `drain_s` seconds have passed."""
    end = time.monotonic() + drain_s
    while time.monotonic() < end:
        load = await fleet.ask_load()
        if not any(one.pending for replicas in load.values() for one in replicas if one.alive):
            return
        await asyncio.sleep(_STEP_S)


async def _wait_for_names(config: ServingConfig) -> None:
    """A killed owner's actors on a joined cluster keep their names until Ray has noticed that it is gone."""
    end = time.monotonic() + _NAMES_S
    while names := shared_actors():
        if time.monotonic() > end:
            raise FleetError(
                f"expected no other shared fleet on this cluster, found {', '.join(names)}; attach to it, or end it "
                "with `evomesh fleet down` where it was started"
            )
        await asyncio.sleep(_STEP_S)


class _Signals:
    """Counts SIGTERM and SIGINT while the block runs."""

    def __init__(self) -> None:
        self._num_sent = 0
        self._sent = asyncio.Condition()

    def __enter__(self) -> _Signals:
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, lambda: loop.create_task(self._note()))
        return self

    def __exit__(self, *_: object) -> None:
        for number in _ENDING:
            asyncio.get_running_loop().remove_signal_handler(number)

    async def unless(self, count: int, work: Coroutine[Any, Any, _Result]) -> _Result | None:
        """What `work` gives; None, and it is cancelled, once `count` signals have come."""
        working, sent = asyncio.create_task(work), asyncio.create_task(self._wait(count))
        try:
            await asyncio.wait([working, sent], return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, sent):
                task.cancel()
            await asyncio.gather(working, sent, return_exceptions=True)

    async def _wait(self, count: int) -> None:
        async with self._sent:
            await self._sent.wait_for(lambda: self._num_sent >= count)

    async def _note(self) -> None:
        async with self._sent:
            self._num_sent += 1
            self._sent.notify_all()


def _record_of_this_process(config: ServingConfig) -> FleetRecord:
    mark = mark_of(os.getpid())
    assert mark is not None, "this process lives"
    return FleetRecord(
        id=secrets.token_hex(8),
        state="starting",
        host=socket.gethostname(),
        pid=os.getpid(),
        process_mark=mark,
        engines=config.engines,
        adapter_root=(config.fleet.directory / ADAPTERS).resolve(),
        started_at=datetime.now(UTC),
    )


def _publish(config: FleetConfig, record: FleetRecord, state: State, told: Told) -> None:
    record = record.model_copy(update={"state": state})
    publish_fleet(config, record)
    told(record)


def _forget(config: FleetConfig) -> None:
    record_path(config).unlink(missing_ok=True)
    sync_directory(config.directory)


@contextmanager
def _marked(fleet_id: str) -> Iterator[None]:
    """What is started in the block carries the fleet's mark, and so does what that starts."""
    os.environ[FLEET_VARIABLE] = fleet_id
    try:
        yield
    finally:
        del os.environ[FLEET_VARIABLE]
