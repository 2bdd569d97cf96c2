"""The table a deliberation is held at: everything said so far, who may speak, and one boundary for failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from memory.types import Recall, content_hash
from mesh.budget import Purse
from mesh.calls import Caller, FailedBefore, Watch, as_asked
from mesh.engine import Engine, EngineError
from mesh.equivalence import Equality, Sameness, canonical
from mesh.extract import extract, extract_messages
from mesh.job import Job
from mesh.limits import Limits
from mesh.oversight import Waiting
from mesh.propose import propose
from mesh.replay import Replay
from mesh.sameness import merge_groups
from mesh.seeds import derive_seed
from mesh.settle import settle
from mesh.tally import plurality
from mesh.types import (
    Critique,
    Deliberation,
    Failure,
    Member,
    Message,
    PersonAnswer,
    Phase,
    Proposal,
    Question,
    Reading,
    Task,
    Tier,
    Verdict,
    Vote,
    positions,
)
from mesh.weigh import weighted

T = TypeVar("T")

_PHASES: tuple[Phase, ...] = get_args(Phase)
OUT_OF_BUDGET = "BudgetExhausted"
TEMPLATE_TOKENS = 64
"""Room left for what a chat template puts around a turn."""


@dataclass(frozen=True)
class Sitting:
    """What a deliberation and all its parts share."""

    engine: Engine
    seed: int
    recall: Recall
    job: Job
    purse: Purse
    replay: Replay
    watch: Watch | None = None

    def within(self, purse: Purse) -> Sitting:
        """The same for a part with a purse of its own."""
        return replace(self, purse=purse)


Hold = Callable[["Table", str, Any, Task, Sequence[Member]], Awaitable[Deliberation]]
"""Holds a part of a pattern: (parent, step, any protocol, task, members)."""


class Table:
    """What one deliberation has come to. A protocol calls phases in order and decides when to stop."""

    def __init__(
        self, task: Task, members: tuple[Member, ...], config: Limits, sitting: Sitting, path: str, hold: Hold
    ) -> None:
        self.task, self.members, self.config, self.sitting, self.path = task, members, config, sitting, path
        self.job, self.recalled = sitting.job, sitting.recall.shown
        self.seed = derive_seed(sitting.seed, "step", path) if path else sitting.seed
        self.caller = Caller(
            sitting.engine, task, self.seed, config.call_timeout_s, sitting.purse, sitting.job.clock,
            sitting.replay, path, watch=sitting.watch,
        )  # fmt: skip
        self._hold = hold
        self.ended = sitting.replay.ended(path)
        """What had come of it before, if this is a replay: then nothing is asked, or left undone, but what was then."""
        self.equality: Equality = task.answer_kind
        self.proposals: list[Proposal] = []
        self.readings: list[Reading] = []
        self.critiques: list[Critique] = []
        self.votes: list[Vote] = []
        self.failures: list[Failure] = []
        self.profiles = {profile.engine: profile for profile in self.ended.profiles} if self.ended else {}
        self.questions: list[Question] = []
        self.replies: list[PersonAnswer] = []
        self.children: list[Deliberation] = []
        self.settled: set[str] = set()
        self._decided: tuple[tuple[list[Proposal], Equality], Verdict] | None = None
        self.same_pairs: dict[tuple[str, str], bool] = {}

    @property
    def present(self) -> list[Member]:
        """Members that still take part, in seat order: a dead engine is not waited for twice."""
        gone = {failure.member for failure in self.failures if failure.kind != OUT_OF_BUDGET}
        return [member for member in self.members if member.name not in gone]

    def seats(self, tier: Tier) -> list[Member]:
        """Present members that take work of this tier; all present ones if none of them does."""
        present = self.present
        return [member for member in present if not member.tiers or tier in member.tiers] or present

    @property
    def last_round(self) -> int:
        """Number of the last round in which anybody spoke."""
        return max((proposal.round for proposal in self.proposals), default=0)

    def standing(self) -> list[Proposal]:
        """The proposals to decide among: those of the last round, or the first ones if nobody answered in it.

        Nobody's earlier answer stands in for a revision that failed or could not be read.
        """
        last = [p for p in self.proposals if p.round == self.last_round]
        return last if any(p.answer is not None for p in last) else self.first_proposals()

    def first_proposals(self) -> list[Proposal]:
        """The independent first proposals."""
        return [p for p in self.proposals if p.round == 0]

    def held(self) -> dict[str, Proposal]:
        """What each member stands for among the standing proposals."""
        return positions(self.standing(), self.equality)

    def members_differ(self) -> bool:
        """Whether two members hold different answers; abstentions differ from nothing."""
        held = self.held().values()
        return len({canonical(p.answer, self.equality) for p in held if p.answer is not None}) > 1

    def decide(self, proposals: Sequence[Proposal]) -> Verdict:
        """The verdict over these proposals, weighed as the configuration says."""
        # The same ballots are counted for the first verdict, along the way and at the end.
        asked = (list(proposals), self.equality)
        if self._decided is None or self._decided[0] != asked:
            self._decided = (asked, self._count(proposals))
        return self._decided[1]

    def _count(self, proposals: Sequence[Proposal]) -> Verdict:
        if self.config.tally == "plurality":
            return plurality(proposals, self.equality)
        return weighted(proposals, self.equality, self.job.reliability, self.members, self.task.type)

    async def propose(self, num_samples: int, seats: Sequence[Member] | None = None) -> list[Proposal]:
        """Independent first proposals; fewer samples each where the budget says so, then fewer members.

        `seats` None: everybody who does deep work. A member that is asked again adds further samples.
        """
        chosen = list(self.seats("deep") if seats is None else seats)
        heard, drawn = self._affordable(chosen, num_samples)
        sampling = self.config.sampling.model_copy(update={"num_samples": drawn})
        said = await self.hear(
            "propose", 0, heard, sampling.max_tokens * drawn,
            lambda m: propose(self.caller, m, sampling, self.recalled),
        )  # fmt: skip
        drawn_now = [self._numbered(proposal) for own in said.values() for proposal in own]
        return await self.add(drawn_now)

    async def add(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Put proposals on the table: unreadable ones get their second pass, and equal answers are found out."""
        added = await self._extract(list(proposals))
        self.proposals += added
        merged = await settle(self, [p.answer for p in self.proposals if p.answer is not None])
        if merged:
            before = self.equality.merged if isinstance(self.equality, Sameness) else ()
            self.equality = Sameness(kind=self.task.answer_kind, merged=merge_groups(before, merged))
        return added

    async def hear(
        self,
        phase: Phase,
        number: int,
        seats: Sequence[Member],
        max_tokens: int,
        ask: Callable[[Member], Awaitable[T]],
        *,
        calls_each: int = 1,
    ) -> dict[str, T]:
        """Ask these seats at once; what they said by name, in seat order. A phase is paid for all of them or not held.

        `max_tokens` is the most that one seat may write, over its `calls_each` calls. This is the one boundary where a
        failure becomes a record.
        """
        tokens, calls = (max_tokens, calls_each) if self.ended is None else (0, 0)
        shortage = self._shortage(phase, number, seats, max_tokens * len(seats), calls_each * len(seats))
        if shortage:
            self.leave_undone(seats, phase, number, shortage)
            return {}

        async def listen(member: Member) -> T | Failure:
            try:
                if member.engine not in self.profiles and self.ended is None:
                    async with asyncio.timeout(self.config.call_timeout_s):
                        self.profiles[member.engine] = await self.job.profile(self.sitting.engine, member)
                return await ask(member)
            except (EngineError, TimeoutError) as error:
                message = str(error) or f"no answer within {self.config.call_timeout_s:g} s"
                kind = error.kind if isinstance(error, FailedBefore) else type(error).__name__
                return Failure(member=member.name, phase=phase, round=number, kind=kind, message=message)
            finally:
                # At once, not when all are done: what one did not use, another deliberation may.
                self.sitting.purse.release(tokens, calls)

        self.sitting.purse.reserve(tokens * len(seats), calls * len(seats))
        heard = await asyncio.gather(*(listen(member) for member in seats))
        self.failures += [result for result in heard if isinstance(result, Failure)]
        pairs = zip(seats, heard, strict=True)
        return {member.name: result for member, result in pairs if not isinstance(result, Failure)}

    def leave_undone(self, seats: Sequence[Member], phase: Phase, number: int, why: str) -> None:
        """Note what the budget did not cover."""
        self.failures += [
            Failure(member=member.name, phase=phase, round=number, kind=OUT_OF_BUDGET, message=why) for member in seats
        ]

    async def hold(
        self, step: str, config: Limits, task: Task, members: Sequence[Member] | None = None
    ) -> Deliberation:
        """Hold a part of a pattern under the same budget. Raises Waiting when it waits for a person."""
        child = await self._hold(self, step, config, task, self.members if members is None else members)
        self.children.append(child)
        if child.is_waiting:
            raise Waiting
        return child

    async def fits(self, member: Member, messages: Sequence[Message], max_tokens: int) -> bool:
        """Whether a prompt and an answer of `max_tokens` fit into the member's window. To be called while it is heard.

        A token is at least one byte, so the tokenizer is asked only about what has more bytes than the window tokens.
        """
        if member.engine not in self.profiles:
            return True  # in a replay: the call itself knows why it was not made
        room = self.profiles[member.engine].max_model_len - max_tokens - TEMPLATE_TOKENS
        asked = as_asked(member, self.task, messages)
        if sum(len(message.text.encode()) for message in asked) <= room:
            return True
        return await self.count_tokens(member, asked) <= room

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """Length of a prompt in the member's tokens. Raises EngineError and TimeoutError."""
        async with asyncio.timeout(self.config.call_timeout_s):
            return await self.sitting.engine.count_tokens(member, messages)

    async def _extract(self, proposals: list[Proposal]) -> list[Proposal]:
        limit = self.config.extract_max_tokens
        readers = self.seats("extraction")
        unread = [i for i, p in enumerate(proposals) if p.answer is None and p.text.strip() and not p.withdrew]
        if limit is None or not unread or not readers:
            return proposals
        by_name = {member.name: member for member in readers}
        for index in unread:
            proposal = proposals[index]
            reader = by_name.get(proposal.member, readers[0])

            async def ask(member: Member, proposal: Proposal = proposal) -> Proposal:
                if not await self.fits(member, extract_messages(self.task, proposal.text, 0), limit):
                    return proposal
                return await extract(self.caller, member, proposal, limit)

            said = await self.hear("extract", proposal.round, [reader], limit, ask)
            proposals[index] = said.get(reader.name, proposal)
        return proposals

    def _affordable(self, chosen: Sequence[Member], num_samples: int) -> tuple[list[Member], int]:
        """Who can be paid to propose, and how many samples each; what cannot is left undone."""
        if self.ended is not None:
            asked = {exchange.member for exchange in self.ended.exchanges if exchange.phase == "propose"}
            names = [member.name for member in chosen]
            undone = [f for f in self.ended.failures if (f.phase, f.kind) == ("propose", OUT_OF_BUDGET)]
            self.failures += [failure for failure in undone if failure.member in names]
            silent = {failure.member for failure in undone} - asked
            return [member for member in chosen if member.name not in silent], num_samples
        cost, left = self.config.sampling.max_tokens, self.sitting.purse.tokens_left
        drawn = num_samples if left is None or not chosen else min(num_samples, max(1, left // (cost * len(chosen))))
        num_heard = len(chosen) if left is None else min(len(chosen), left // (cost * drawn))
        for seat, member in enumerate(chosen):
            done = drawn if seat < num_heard else 0
            if done < num_samples:
                self.leave_undone([member], "propose", 0, f"{done} of {num_samples} samples drawn, {left} tokens left")
        return list(chosen[:num_heard]), drawn

    def _shortage(self, phase: Phase, number: int, seats: Sequence[Member], tokens: int, calls: int) -> str:
        """Why a phase of these seats cannot be paid; empty: it can. In a replay every call knows that for itself."""
        if not seats:
            return ""
        if self.ended is None:
            return self.sitting.purse.shortage(tokens, calls)
        if calls or any(reading.round == number for reading in self.ended.readings):
            return ""
        failure = self.sitting.replay.failure(self.path, seats[0].name, phase, number)
        return "" if failure is None else failure.message

    def _numbered(self, proposal: Proposal) -> Proposal:
        earlier = sum(p.member == proposal.member and p.round == 0 for p in self.proposals)
        return proposal.model_copy(update={"sample": proposal.sample + earlier}) if earlier else proposal

    def trace(self, verdict: Verdict) -> Deliberation:
        """Everything as one record; exchanges by round, phase and seat, whoever was faster."""
        seat = {member.name: index for index, member in enumerate(self.members)}
        recall = self.sitting.recall
        first = self.decide(self.first_proposals())
        return Deliberation(
            id=id_of(self.task, self.members, self.config, self.seed, recall),
            task=self.task,
            protocol=self.config.kind,
            seed=self.seed,
            members=self.members,
            recalled=self.recalled,
            withheld=recall.withheld,
            proposals=tuple(self.proposals),
            readings=tuple(self.readings),
            critiques=tuple(self.critiques),
            votes=tuple(self.votes),
            failures=tuple(self.failures),
            profiles=tuple(self.profiles[engine] for engine in sorted(self.profiles)),
            merged=self.equality.merged if isinstance(self.equality, Sameness) else (),
            questions=tuple(self.questions),
            replies=tuple(self.replies),
            step=self.path.rpartition("/")[2],
            children=tuple(self.children),
            first_verdict=self.children[0].first_verdict if self.children and not self.first_proposals() else first,
            verdict=verdict,
            exchanges=tuple(
                sorted(self.caller.exchanges, key=lambda e: (e.round, _PHASES.index(e.phase), seat[e.member]))
            ),
        )


def id_of(task: Task, members: Sequence[Member], config: Limits, seed: int, recall: Recall) -> str:
    """Id of a deliberation: a hash of all it follows from but for what is measured of its members and what they say."""
    # Without a hold-out the id is what it was before there were any: a question that waits for a person holds it.
    inputs = [task, config, *members, *recall.shown, *([recall] if recall.withheld else ())]
    return content_hash([seed, *(record.model_dump(mode="json") for record in inputs)])[:32]
