"""The door: everything a request needs, wired together once, and the work that is under way behind it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from memory.types import content_hash
from mesh.config import ProtocolConfig
from mesh.engine import Engine
from serving.endpoint.config import EndpointConfig
from serving.endpoint.deliberating import DoorMemory, Mesh
from serving.endpoint.deliberations import DeliberationStore
from serving.endpoint.errors import Refused
from serving.endpoint.gate import Gate
from serving.endpoint.keys import Caller, KeyRing
from serving.endpoint.members import MemberProxy
from serving.endpoint.observing import DoorMetrics, NoMetrics, NoSpans, Spans
from serving.endpoint.outcomes import OutcomeBook
from serving.endpoint.quota import QuotaBook
from serving.endpoint.requestlog import RequestLog
from serving.endpoint.work import Work
from serving.roster import SeatSource

Event = TypeVar("Event")
Result = TypeVar("Result")

NUM_ENDED = 64
"""Answers of members that are kept for a retry under the same idempotency key; those of the mesh are on the disk."""


@dataclass
class Door:
    """What answers. Made by `evolve.commands.serve`, or by a test; `close` it at the end."""

    config: EndpointConfig
    engine: Engine
    """The fleet, or any engine that serves every seat."""
    seats: SeatSource
    protocols: Mapping[str, ProtocolConfig]
    """By model name: 'mesh' and 'mesh:NAME'."""
    keys: KeyRing
    quota: QuotaBook
    store: DeliberationStore
    log: RequestLog
    outcomes: OutcomeBook
    members: MemberProxy | None = None
    """None: members cannot be asked alone."""
    memory: DoorMemory | None = None
    """None: nothing is recalled, and nothing remembered."""
    prices: Mapping[str, float] = field(default_factory=dict)
    metrics: DoorMetrics = field(default_factory=NoMetrics)
    spans: Spans = field(default_factory=NoSpans)
    fault: Callable[[], str | None] = lambda: None
    """Why the door is not ready, beyond what it knows itself; None: it is."""

    def __post_init__(self) -> None:
        self.opened_at = int(time.time())
        self.gate = Gate(self.config, changed=self.metrics.waiting)
        self.is_draining = False
        self.mesh = Mesh(
            self.config, self.engine, self.seats, self.protocols, self.prices, self.quota, self.store, self.metrics,
            self.memory,
        )  # fmt: skip
        self._running: dict[tuple[str, str], tuple[str, Work[Any, Any]]] = {}
        self._ended: OrderedDict[tuple[str, str], tuple[str, Work[Any, Any]]] = OrderedDict()

    def begin(
        self,
        caller: Caller,
        id: str,
        digest: str,
        make: Callable[[Callable[[Event], None]], Awaitable[Result]],
        *,
        is_alone: bool,
        is_kept: Callable[[Result], bool] = lambda _: False,
    ) -> Work[Event, Result]:
        """Start work as soon as there is a place for it. Raises Refused where nothing more is taken in.

        is_alone: nobody else can join it. is_kept: whether whoever asks again for what has ended finds it here.
        """
        place, key = self.gate.place(caller), (caller.team, id)

        async def placed(tell: Callable[[Event], None]) -> Result:
            async with place:
                return await make(tell)

        def ended() -> None:
            place.give_up()  # also where it was cancelled before its first step
            if self._running.get(key, ("", None))[1] is work:
                del self._running[key]
            done = work.ended_well
            if done is not None and is_kept(done):
                self._ended[key] = (digest, work)
                while len(self._ended) > NUM_ENDED:
                    self._ended.popitem(last=False)

        work: Work[Event, Result] = Work(placed, forgets=is_alone)
        self._running[key] = (digest, work)
        work.when_done(ended)
        return work

    def begun(self, caller: Caller, id: str, digest: str) -> Work[Any, Any] | None:
        """Work of this id that a retry can join, under way or ended; None: there is none.

        Raises Refused (422) where something else was asked under the same idempotency key.
        """
        for held in (self._running, self._ended):
            found = held.get((caller.team, id))
            if found is not None and not found[1].is_abandoned:
                check_same(found[0], digest)
                return found[1]
        return None

    async def drain(self, timeout_s: float) -> int:
        """Take in nothing more and wait for what is under way; what has not ended by then is cancelled. Its number."""
        self.is_draining = True
        self.gate.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.gate.empty()
        left = [work for _, work in self._running.values()]
        for work in left:
            work.cancel()
        return len(left)

    async def close(self) -> None:
        """Write down what is not yet on the disk."""
        await self.log.close()
        self.quota.close()
        self.spans.close()
        await self.mesh.close()


def id_for(caller: Caller, idempotency_key: str | None) -> str:
    """A new id, or the one that this key of this caller always has."""
    if idempotency_key is None:
        return secrets.token_hex(16)
    return content_hash(["idempotency", caller.team, caller.key_id, idempotency_key])[:32]


def check_same(expected: str, digest: str) -> None:
    """Raises Refused (422) where one idempotency key is used for two requests."""
    if expected != digest:
        raise Refused(
            422,
            "Idempotency-Key: expected the request it was first sent with, got another one; use a new key",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )


def request_digest(data: Mapping[str, Any]) -> str:
    """Hash of a request's JSON: two with the same ask for the same thing."""
    return content_hash(data)[:32]
