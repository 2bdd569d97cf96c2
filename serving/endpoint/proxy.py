"""Answers as one member of the fleet: through its engine's own server where there is one, else by the engine itself."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from mesh.engine import EngineError
from mesh.types import Member
from serving.endpoint.alone import answer_alone
from serving.endpoint.body import parse_object
from serving.endpoint.errors import Refused
from serving.endpoint.members import ProxyAnswer
from serving.endpoint.relay import Relay
from serving.fleet import Fleet
from serving.member_http import HttpHost
from serving.replica import ReplicaLoad
from serving.ticket import Ticket

TICKET = Ticket(priority="interactive")
"""Somebody waits for what a member is asked alone."""


class FleetMembers:
    """Implements `MemberProxy` over a fleet; `close` it at the end."""

    def __init__(self, fleet: Fleet, *, timeout_s: float) -> None:
        """`timeout_s`: seconds until an engine's server has begun to answer."""
        self._fleet = fleet
        self._timeout_s = timeout_s
        self._relays: dict[str, Relay | None] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def chat(self, member: Member, body: bytes, *, stream: bool) -> ProxyAnswer:
        """As `MemberProxy.chat`. Raises EngineBusy where every replica is."""
        try:
            data = parse_object(body)
            relay = await self._relay(member)
            if relay is not None:
                return await relay.post(member, data, stream=stream, rank=TICKET.rank)
            return await answer_alone(self._fleet.for_ticket(TICKET), member, data)
        except Refused as refused:
            return ProxyAnswer(refused.status, body=refused.body, retry_after_s=refused.retry_after_s)

    async def close(self) -> None:
        """Closes the connections to the engines."""
        for relay in self._relays.values():
            if relay is not None:
                await relay.close()

    async def _relay(self, member: Member) -> Relay | None:
        """The servers of the member's engine; None: it has none, or its model has no chat template to serve with."""
        name = member.engine
        async with self._locks[name]:
            if name not in self._relays:
                self._relays[name] = await self._opened(name, member)
            return self._relays[name]

    async def _opened(self, name: str, member: Member) -> Relay | None:
        hosts = [engine for engine in self._replicas(name) if isinstance(engine, HttpHost)]
        if not hosts:
            return None
        relay = Relay(name, hosts, lambda: self._loads(name), timeout_s=self._timeout_s)
        try:
            has_server = await relay.has_server() and (await self._fleet.profile(member)).has_chat_template
        except EngineError:
            await relay.close()
            raise
        if has_server:
            return relay
        await relay.close()
        return None

    def _replicas(self, name: str) -> Sequence[object]:
        replicas = self._fleet.replicas.get(name)
        if replicas is None:
            raise EngineError(f"no engine is named {name!r}; running: {', '.join(self._fleet.replicas)}")
        return replicas

    def _loads(self, name: str) -> Sequence[ReplicaLoad]:
        return self._fleet.load()[name]
