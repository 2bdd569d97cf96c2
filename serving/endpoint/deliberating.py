"""One request to the mesh: recall, deliberate, bring the answer into form, and keep what came of it."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from memory.types import Recall, content_hash
from mesh.budget import Purse
from mesh.calls import Caller as Calls
from mesh.calls import as_asked
from mesh.config import ProtocolConfig
from mesh.deliberate import check_seats, deliberate
from mesh.engine import Engine, EngineError
from mesh.job import Job
from mesh.propose import proposal_messages
from mesh.replay import Replay
from mesh.types import Deliberation, Exchange, Failure, Task, Usage
from serving.endpoint.answer import content_of
from serving.endpoint.chat import Ask, with_sampling
from serving.endpoint.config import EndpointConfig
from serving.endpoint.deliberations import DeliberationStore, Kept
from serving.endpoint.errors import Refused, bad_field, busy, unavailable
from serving.endpoint.keys import Caller
from serving.endpoint.observing import DoorMetrics, RequestSpan
from serving.endpoint.outcomes import Learner
from serving.endpoint.quota import QuotaBook
from serving.endpoint.stream import Called
from serving.roster import Roster, SeatSource
from serving.shaping import readers_of, shape_answer
from serving.ticket import Ticket, with_ticket

GRACE_S = 10.0
"""A deliberation ends itself when its time is over; after so many seconds more it is ended."""
MIN_SHAPE_TOKENS = 256
"""An answer in a form is longer than the answer."""
_ORDERS = 2**32


class DoorMemory(Learner, Protocol):
    """The memory of every team."""

    async def recall(self, caller: Caller, task: Task) -> Recall:
        """What the caller's team remembers that may help. Raises StoreError."""
        ...


@dataclass(frozen=True)
class Asked:
    """A request to the mesh with its name and its owner."""

    caller: Caller
    ask: Ask
    id: str
    digest: str
    span: RequestSpan


@dataclass
class Mesh:
    """Everything that deliberations of one door share."""

    config: EndpointConfig
    engine: Engine
    seats: SeatSource
    protocols: Mapping[str, ProtocolConfig]
    prices: Mapping[str, float]
    quota: QuotaBook
    store: DeliberationStore
    metrics: DoorMetrics
    memory: DoorMemory | None
    _jobs: dict[str, Job] = field(default_factory=dict)
    _seen: tuple[Roster, str] | None = None
    """The roster of late and its id, which is a hash of all that is measured."""
    _orders: count[int] = field(default_factory=count)

    async def check(self, ask: Ask) -> None:
        """Raises Refused (400) where the seats of now cannot hold the protocol that is asked."""
        async with self.seats.held() as roster:
            self._job_for(roster, self.protocols[ask.request.model])

    async def answer(self, asked: Asked, tell: Callable[[Called], None]) -> Kept:
        """Deliberate, and tell of every call. Raises Refused."""
        taken: list[Usage] = []

        def watch(path: str, exchange: Exchange) -> None:
            taken.append(exchange.usage)
            tell(Called(path, exchange))
            asked.span.called(path, exchange)

        try:
            async with asyncio.timeout(self.config.request_timeout_s + GRACE_S), self.seats.held() as roster:
                kept = await self._hold(asked, roster, watch)
        except TimeoutError:
            raise Refused(
                504,
                f"expected an answer within {self.config.request_timeout_s:g} s; ask for less, or a cheaper protocol",
                code="timeout",
                kind="server_error",
            ) from None
        finally:
            # Also of what was cancelled: its tokens were written.
            self.quota.spend(asked.caller, Usage.total(taken))
        self.metrics.deliberated(kept.deliberation)
        await self._keep(kept)
        if kept.problem:
            raise _not_in_form(kept)
        return kept

    async def close(self) -> None:
        """End what the deliberations had started."""
        for job in self._jobs.values():
            await job.close()

    async def _hold(self, asked: Asked, roster: Roster, watch: Callable[[str, Exchange], None]) -> Kept:
        ask, started, created = asked.ask, time.perf_counter(), int(time.time())
        protocol = limited(
            with_sampling(self.protocols[ask.request.model], ask.sampling), self.config.request_timeout_s
        )
        job = self._job_for(roster, protocol)
        engine = with_ticket(self.engine, self._ticket(asked))
        seed = secrets.randbelow(2**31) if ask.request.seed is None else ask.request.seed
        recalled = Recall() if self.memory is None else await self.memory.recall(asked.caller, ask.task)
        held = await deliberate(
            ask.task, roster.seats, engine, protocol, seed=seed, recalled=recalled, job=job, watch=watch
        )
        await self._check_answered(held, engine, protocol, recalled)
        # One id everywhere: in the answer, in the store, in memory. The content's own can be computed again.
        held = held.model_copy(update={"id": asked.id})
        held, content, problem = await self._shaped(ask, held, engine, protocol, job, watch)
        return Kept(
            id=asked.id,
            key_id=asked.caller.key_id,
            team=asked.caller.team,
            project=asked.caller.project,
            model=ask.request.model,
            digest=asked.digest,
            roster=self._id_of(roster),
            channel=roster.channel,
            protocol=protocol,
            seed=seed,
            created=created,
            seconds=time.perf_counter() - started,
            content=content,
            problem=problem,
            may_train=self.config.train_on,
            deliberation=held,
        )

    async def _shaped(
        self,
        ask: Ask,
        held: Deliberation,
        engine: Engine,
        protocol: ProtocolConfig,
        job: Job,
        watch: Callable[[str, Exchange], None],
    ) -> tuple[Deliberation, str, str]:
        """What is said, in the form that was asked for, and why there is nothing in that form; '' if there is."""
        if ask.form is None or held.verdict.answer is None:
            return held, content_of(held), ""
        calls = Calls(
            engine, held.task, held.seed, protocol.call_timeout_s, Purse(protocol.budget, self.prices), job.clock,
            Replay(None), watch=watch,
        )  # fmt: skip
        max_tokens = max(MIN_SHAPE_TOKENS, protocol.sampling.max_tokens)
        shaped = await shape_answer(calls, ask.form, held, readers_of(held), max_tokens)
        held = held.model_copy(update={"exchanges": (*held.exchanges, *calls.exchanges)})
        if shaped.problem:
            return held, "", shaped.problem
        return held, json.dumps(shaped.value, ensure_ascii=False), ""

    async def _check_answered(
        self, held: Deliberation, engine: Engine, protocol: ProtocolConfig, recalled: Recall
    ) -> None:
        """Raises Refused where no member said anything at all: 400 if it was asked too much, else 429 or 503."""
        failures = silence(held)
        if not failures:
            return
        if {failure.kind for failure in failures} == {"EngineBusy"}:
            raise busy("every member is busy; try again later", 5.0, code="engines_busy")
        window = await _largest_window(held, engine, recalled, protocol.sampling.max_tokens)
        if window is not None:
            raise Refused(
                400,
                f"messages: expected a conversation that fits into {window} tokens with an answer of "
                f"{protocol.sampling.max_tokens} (max_tokens), got a longer one; shorten either",
                code="context_length_exceeded",
                param="messages",
            )
        said = "; ".join(f"{failure.member}: {failure.message[:200]}" for failure in failures[:4])
        raise unavailable(f"no member answered ({said})", code="no_member_answered")

    async def _keep(self, kept: Kept) -> None:
        try:
            await self.store.keep(kept)
        except OSError as error:
            # The client has its answer all the same: it was paid for.
            print(f"evomesh: deliberation {kept.id} could not be kept: {error}", file=sys.stderr, flush=True)

    def _ticket(self, asked: Asked) -> Ticket:
        affinity = content_hash([asked.caller.team, asked.ask.conversation])[:16]
        return Ticket(priority="interactive", order=next(self._orders) % _ORDERS, affinity=affinity)

    def _job_for(self, roster: Roster, protocol: ProtocolConfig) -> Job:
        """The job of a roster's deliberations. Raises Refused (400) where its seats cannot hold `protocol`."""
        id = self._id_of(roster)
        if id not in self._jobs:
            self._jobs[id] = Job(prices=self.prices, reliability=roster.reliability)
        job = self._jobs[id]
        try:
            check_seats(roster.seats, protocol, job)
        except ValueError as error:
            raise bad_field("model", f"the seats there are cannot hold it: {error}") from None
        return job

    def _id_of(self, roster: Roster) -> str:
        if self._seen is None or self._seen[0] is not roster:
            self._seen = roster, roster.id
            self.metrics.roster(roster)
        return self._seen[1]


def limited(config: ProtocolConfig, seconds: float) -> ProtocolConfig:
    """A protocol that decides within `seconds`, with what it has by then."""
    own = config.budget.seconds
    budget = config.budget.model_copy(update={"seconds": seconds if own is None else min(own, seconds)})
    return config.model_copy(update={"budget": budget})


def silence(held: Deliberation) -> list[Failure]:
    """Why nobody proposed anything; empty: somebody did."""
    parts = [part for _, part in held.walk()]
    if any(part.proposals for part in parts):
        return []
    return [failure for part in parts for failure in part.failures]


def _not_in_form(kept: Kept) -> Refused:
    return Refused(
        422,
        f"response_format: the mesh decided, and no member brought its answer into the form ({kept.problem}); "
        f"ask again without it, or see deliberation {kept.id}",
        code="answer_not_in_form",
        param="response_format",
    )


async def _largest_window(held: Deliberation, engine: Engine, recalled: Recall, max_tokens: int) -> int | None:
    """Tokens in the largest window of all members, where the question fits into none; None: that is not why."""
    messages = proposal_messages(held.task, recalled.shown, seed=held.seed)
    windows = []
    for member in held.members:
        try:
            async with asyncio.timeout(GRACE_S):
                profile = await engine.profile(member)
                num_tokens = await engine.count_tokens(member, as_asked(member, held.task, messages))
        except (EngineError, TimeoutError):
            continue
        if num_tokens + max_tokens <= profile.max_model_len:
            return None
        windows.append(profile.max_model_len)
    return max(windows, default=None)
