"""The door: everything a request needs, wired together once, and the deliberations under way."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from memory.types import content_hash
from mesh.config import ProtocolConfig
from mesh.deliberate import check_seats, deliberate
from mesh.engine import Engine
from mesh.job import Job
from mesh.types import Deliberation, Exchange, Usage
from serving.endpoint.answer import content_of
from serving.endpoint.chat import Ask, with_sampling
from serving.endpoint.config import EndpointConfig
from serving.endpoint.deliberations import DeliberationStore, Kept
from serving.endpoint.errors import Refused, bad_field, busy, unavailable
from serving.endpoint.gate import Gate, Place
from serving.endpoint.keys import Caller, KeyRing
from serving.endpoint.members import MemberProxy
from serving.endpoint.observing import DoorMetrics, NoMetrics, NoSpans, RequestSpan, Spans
from serving.endpoint.quota import QuotaBook
from serving.endpoint.requestlog import RequestLog
from serving.endpoint.stream import Called
from serving.endpoint.work import Work
from serving.roster import Roster, SeatSource
from serving.ticket import Ticket, with_ticket

Answering = Work[Called, Kept]
_ORDERS = 2**32


@dataclass
class Door:
    """What answers. Made by `evolve.serve_commands`, or by a test; `close` it at the end."""

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
    members: MemberProxy | None = None
    """None: members cannot be asked alone."""
    prices: Mapping[str, float] = field(default_factory=dict)
    metrics: DoorMetrics = field(default_factory=NoMetrics)
    spans: Spans = field(default_factory=NoSpans)
    fault: Callable[[], str | None] = lambda: None
    """Why the door is not ready, beyond what it knows itself; None: it is."""

    def __post_init__(self) -> None:
        self.opened_at = int(time.time())
        self.gate = Gate(self.config, changed=self.metrics.waiting)
        self.is_draining = False
        self._running: dict[tuple[str, str], tuple[str, Answering]] = {}
        self._jobs: dict[str, Job] = {}
        self._orders = count()

    def id_for(self, caller: Caller, idempotency_key: str | None) -> str:
        """A new id for a deliberation, or the one that this key of this caller always has."""
        if idempotency_key is None:
            return secrets.token_hex(16)
        return content_hash(["idempotency", caller.team, caller.key_id, idempotency_key])[:32]

    def running(self, caller: Caller, id: str, digest: str) -> Answering | None:
        """The deliberation of this id under way. Raises Refused (422) if it was asked something else."""
        found = self._running.get((caller.team, id))
        if found is None or found[1].is_abandoned:
            return None
        check_same(found[0], digest)
        return found[1]

    async def check_protocol(self, ask: Ask) -> None:
        """Raises Refused (400) where the seats of now cannot hold the protocol that is asked."""
        async with self.seats.held() as roster:
            self._check_seats(roster, self.protocols[ask.request.model])

    def begin(self, caller: Caller, ask: Ask, id: str, digest: str, span: RequestSpan) -> Answering:
        """Start deliberating. Raises Refused where nothing more is taken in."""
        place = self.gate.place(caller)
        protocol = self.protocols[ask.request.model]
        key = (caller.team, id)

        async def answer(tell: Callable[[Called], None]) -> Kept:
            try:
                async with place:
                    return await self._answer(caller, ask, protocol, id, digest, place, tell, span)
            finally:
                if self._running.get(key, (None, None))[1] is work:
                    del self._running[key]

        work: Answering = Work(answer)
        work.when_done(place.give_up)  # also where it was cancelled before its first step
        self._running[key] = (digest, work)
        return work

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
        for job in self._jobs.values():
            await job.close()

    async def _answer(
        self,
        caller: Caller,
        ask: Ask,
        protocol: ProtocolConfig,
        id: str,
        digest: str,
        place: Place,
        tell: Callable[[Called], None],
        span: RequestSpan,
    ) -> Kept:
        taken: list[Usage] = []

        def watch(path: str, exchange: Exchange) -> None:
            taken.append(exchange.usage)
            tell(Called(path, exchange))
            span.called(path, exchange)

        try:
            async with self.seats.held() as roster:
                self.metrics.roster(roster)
                kept = await self._deliberate(caller, ask, protocol, roster, id, digest, watch)
        finally:
            self.quota.spend(caller, Usage.total(taken))
        self.metrics.deliberated(kept.deliberation)
        try:
            await self.store.keep(kept)
        except OSError as error:
            # The client has its answer all the same: it was paid for.
            print(f"evomesh: deliberation {id} could not be kept: {error}", file=sys.stderr, flush=True)
        return kept

    async def _deliberate(
        self,
        caller: Caller,
        ask: Ask,
        protocol: ProtocolConfig,
        roster: Roster,
        id: str,
        digest: str,
        watch: Callable[[str, Exchange], None],
    ) -> Kept:
        asked = limited(with_sampling(protocol, ask.sampling), self.config.request_timeout_s)
        seed = seed_of(ask)
        job = self._check_seats(roster, asked)
        ticket = Ticket(
            priority="interactive",
            order=next(self._orders) % _ORDERS,
            affinity=content_hash([caller.team, ask.conversation])[:16],
        )
        started, created = time.perf_counter(), int(time.time())
        held = await deliberate(
            ask.task, roster.seats, with_ticket(self.engine, ticket), asked, seed=seed, job=job, watch=watch
        )
        # One id everywhere: in the answer, in the store, in memory. The content's own can be computed again.
        held = held.model_copy(update={"id": id})
        check_answered(held)
        return Kept(
            id=id,
            key_id=caller.key_id,
            team=caller.team,
            project=caller.project,
            model=ask.request.model,
            digest=digest,
            roster=roster.id,
            channel=roster.channel,
            protocol=asked,
            seed=seed,
            created=created,
            seconds=time.perf_counter() - started,
            content=content_of(held),
            deliberation=held,
        )

    def _check_seats(self, roster: Roster, protocol: ProtocolConfig) -> Job:
        job = self._job(roster)
        try:
            check_seats(roster.seats, protocol, job)
        except ValueError as error:
            raise bad_field("model", f"the seats there are cannot hold it: {error}") from None
        return job

    def _job(self, roster: Roster) -> Job:
        if roster.id not in self._jobs:
            self._jobs[roster.id] = Job(prices=self.prices, reliability=roster.reliability)
        return self._jobs[roster.id]


def seed_of(ask: Ask) -> int:
    """The caller's seed, or any; in the range every serving API takes."""
    return secrets.randbelow(2**31) if ask.request.seed is None else ask.request.seed


def limited(config: ProtocolConfig, seconds: float) -> ProtocolConfig:
    """A protocol that decides within `seconds`, with what it has by then."""
    own = config.budget.seconds
    budget = config.budget.model_copy(update={"seconds": seconds if own is None else min(own, seconds)})
    return config.model_copy(update={"budget": budget})


def check_same(expected: str, digest: str) -> None:
    """Raises Refused (422) where one idempotency key is used for two requests."""
    if expected != digest:
        raise Refused(
            422,
            "Idempotency-Key: expected the request it was first sent with, got another one; use a new key",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )


def check_answered(held: Deliberation) -> None:
    """Raises Refused where no member said anything at all, so that nothing was decided."""
    parts = [part for _, part in held.walk()]
    failures = [failure for part in parts for failure in part.failures]
    if any(part.proposals for part in parts) or not failures:
        return
    kinds = {failure.kind for failure in failures}
    if kinds == {"EngineBusy"}:
        raise busy("every member is busy; try again later", 5.0, code="engines_busy")
    said = "; ".join(f"{failure.member}: {failure.message[:200]}" for failure in failures[:4])
    raise unavailable(f"no member answered ({said})", code="no_member_answered")


def request_digest(data: Mapping[str, Any]) -> str:
    """Hash of a request's JSON: two with the same ask for the same thing."""
    return content_hash(data)[:32]
