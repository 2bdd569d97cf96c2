"""The table a deliberation is held at: everything said so far, one method for each phase, one boundary for failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from memory.types import Recollection, content_hash
from mesh.calls import Caller
from mesh.config import CouncilConfig, ProtocolConfig
from mesh.critique import critique
from mesh.engine import Engine, EngineError
from mesh.equivalence import canonical
from mesh.peers import Room, excerpt, read_peers, strongest_opponent
from mesh.propose import propose
from mesh.revise import revise
from mesh.seeds import derive_seed
from mesh.tally import plurality
from mesh.types import (
    Critique,
    Deliberation,
    Failure,
    Member,
    Phase,
    Proposal,
    Reading,
    Task,
    Verdict,
    Vote,
    positions,
)
from mesh.vote import MAX_OPTIONS, vote

T = TypeVar("T")

_PHASES: tuple[Phase, ...] = ("propose", "extract", "critique", "revise", "vote")


class Table:
    """What one deliberation has come to. A protocol calls its phases in order and decides when to stop."""

    def __init__(
        self,
        task: Task,
        members: tuple[Member, ...],
        engine: Engine,
        config: ProtocolConfig,
        seed: int,
        recalled: tuple[Recollection, ...],
    ) -> None:
        self.task, self.members, self.config, self.seed, self.recalled = task, members, config, seed, recalled
        self.kind = task.answer_kind
        self.caller = Caller(engine, task, seed, config.call_timeout_s, config.max_tokens_total)
        self.proposals: list[Proposal] = []
        self.readings: list[Reading] = []
        self.critiques: list[Critique] = []
        self.votes: list[Vote] = []
        self.failures: list[Failure] = []

    @property
    def present(self) -> list[Member]:
        """Members that still take part, in seat order: a dead engine is not waited for twice."""
        gone = {failure.member for failure in self.failures if failure.kind != "BudgetExhausted"}
        return [member for member in self.members if member.name not in gone]

    @property
    def last_round(self) -> int:
        """Number of the last round in which anybody spoke."""
        return max((proposal.round for proposal in self.proposals), default=0)

    def standing(self) -> list[Proposal]:
        """The proposals to decide among: those of the last round, or the first ones if nobody answered in it.

        Nobody's earlier answer stands in for a revision that failed or could not be read.
        """
        last = [p for p in self.proposals if p.round == self.last_round]
        return last if any(p.answer is not None for p in last) else [p for p in self.proposals if p.round == 0]

    def members_differ(self) -> bool:
        """Whether two members hold different answers; abstentions differ from nothing."""
        held = positions(self.standing(), self.kind).values()
        return len({canonical(p.answer, self.kind) for p in held if p.answer is not None}) > 1

    async def propose(self, num_samples: int) -> None:
        """Independent first proposals; fewer samples each where the budget says so, then fewer members."""
        cost, left, seats = self.config.sampling.max_tokens, self.caller.tokens_left, list(self.members)
        drawn = num_samples if left is None else min(num_samples, max(1, left // (cost * len(seats))))
        num_heard = len(seats) if left is None else min(len(seats), left // (cost * drawn))
        for seat, member in enumerate(seats):
            done = drawn if seat < num_heard else 0
            if done < num_samples:
                self._left_undone(member, "propose", 0, f"{done} of {num_samples} samples drawn")
        sampling = self.config.sampling.model_copy(update={"num_samples": drawn})
        said = await self._hear(
            "propose", 0, seats[:num_heard], cost * drawn, lambda m: propose(self.caller, m, sampling, self.recalled)
        )
        self.proposals += [proposal for own in said.values() for proposal in own]

    def read(self, number: int, config: CouncilConfig) -> dict[str, Reading]:
        """Deal every present member its own anonymous view of the others."""
        held, room = positions(self.standing(), self.kind), Room(config.max_peers_shown, config.peer_max_chars)
        seed = derive_seed(self.seed, self.task.id, "read")
        readings = {m.name: read_peers(m.name, number, held, self.kind, room, seed) for m in self.present}
        self.readings += readings.values()
        return readings

    async def criticise(
        self, number: int, readings: Mapping[str, Reading], config: CouncilConfig
    ) -> dict[str, list[str]]:
        """Who holds an answer objects to the strongest one against it. Valid objections by canonical target."""
        held = positions(self.standing(), self.kind)
        found = {m.name: strongest_opponent(readings[m.name], held.get(m.name), self.kind) for m in self.present}
        against = {name: opponent for name, opponent in found.items() if opponent is not None}
        sampling = config.sampling.model_copy(update={"max_tokens": config.talk_max_tokens})

        async def ask(member: Member) -> Critique:
            own = excerpt(held[member.name], config.peer_max_chars)
            return await critique(self.caller, member, number, against[member.name], own, sampling)

        seats = [member for member in self.present if member.name in against]
        said = await self._hear("critique", number, seats, config.talk_max_tokens, ask)
        self.critiques += said.values()
        objections: dict[str, list[str]] = {}
        for made in said.values():
            if made.valid:
                objections.setdefault(canonical(made.target_answer, self.kind), []).append(made.text)
        return objections

    async def revise(
        self,
        number: int,
        readings: Mapping[str, Reading],
        objections: Mapping[str, Sequence[str]],
        config: CouncilConfig,
    ) -> None:
        """Everybody present answers again, having read the others and what was said against its own answer."""
        held = positions(self.standing(), self.kind)

        async def ask(member: Member) -> Proposal:
            own = held.get(member.name)
            answer = None if own is None else own.answer
            heard = [] if answer is None else list(objections.get(canonical(answer, self.kind), ()))
            text = "" if own is None or answer is None else excerpt(own, config.peer_max_chars)
            reading = readings[member.name]
            return await revise(self.caller, member, reading, text, heard[: config.max_peers_shown], config.sampling)

        said = await self._hear("revise", number, self.present, config.sampling.max_tokens, ask)
        self.proposals += said.values()

    async def vote(self) -> None:
        """A closed choice among the distinct standing answers, the most held first where there are too many."""
        options = [answer for answer, _ in plurality(self.standing(), self.kind).support][:MAX_OPTIONS]
        number = self.last_round
        said = await self._hear("vote", number, self.present, 1, lambda m: vote(self.caller, m, number, options))
        self.votes += said.values()

    async def _hear(
        self, phase: Phase, number: int, seats: Sequence[Member], max_tokens: int, ask: Callable[[Member], Awaitable[T]]
    ) -> dict[str, T]:
        """Ask these seats at once; what they said by name, in seat order. A phase is paid for all of them or not held.

        This is the one boundary where a failure becomes a record.
        """
        left = self.caller.tokens_left
        if left is not None and left < max_tokens * len(seats):
            for member in seats:
                self._left_undone(member, phase, number, f"needs {max_tokens * len(seats)} tokens for all seats")
            return {}

        async def listen(member: Member) -> T | Failure:
            try:
                return await ask(member)
            except (EngineError, TimeoutError) as error:
                message = str(error) or f"no answer within {self.config.call_timeout_s:g} s"
                kind = type(error).__name__
                return Failure(member=member.name, phase=phase, round=number, kind=kind, message=message)

        heard = await asyncio.gather(*(listen(member) for member in seats))
        self.failures += [result for result in heard if isinstance(result, Failure)]
        pairs = zip(seats, heard, strict=True)
        return {member.name: result for member, result in pairs if not isinstance(result, Failure)}

    def _left_undone(self, member: Member, phase: Phase, number: int, what: str) -> None:
        message = f"{what}: {self.caller.tokens_left} of max_tokens_total={self.config.max_tokens_total} tokens left"
        self.failures.append(
            Failure(member=member.name, phase=phase, round=number, kind="BudgetExhausted", message=message)
        )

    def trace(self, verdict: Verdict) -> Deliberation:
        """Everything as one record; exchanges by round, phase and seat, whoever was faster."""
        seat = {member.name: index for index, member in enumerate(self.members)}
        inputs = [self.task, self.config, *self.members, *self.recalled]
        return Deliberation(
            id=content_hash([self.seed, *(record.model_dump(mode="json") for record in inputs)])[:32],
            task=self.task,
            protocol=self.config.kind,
            seed=self.seed,
            members=self.members,
            recalled=self.recalled,
            proposals=tuple(self.proposals),
            readings=tuple(self.readings),
            critiques=tuple(self.critiques),
            votes=tuple(self.votes),
            failures=tuple(self.failures),
            first_verdict=plurality([p for p in self.proposals if p.round == 0], self.kind),
            verdict=verdict,
            exchanges=tuple(
                sorted(self.caller.exchanges, key=lambda e: (e.round, _PHASES.index(e.phase), seat[e.member]))
            ),
        )
