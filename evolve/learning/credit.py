"""Who did what right: proposals, critiques and votes of a trace become credits, by member and phase. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from memory.types import Record
from mesh.equivalence import same_answer
from mesh.types import Deliberation, Exchange, Message, Proposal, positions

CreditKind = Literal[
    "own_correct", "own_wrong", "wrong_to_right", "stayed_right", "right_to_wrong", "stayed_wrong", "abstained"
]
IsCorrect = Callable[[str, str | None], bool]
"""(task id, answer) to right or wrong; None, an abstention, is wrong."""


class Credit(Record):
    """One proposal with what the judge made of it."""

    task_id: str
    member: str
    family: str
    adapter: str | None = Field(description="adapter that wrote it; None: the base model")
    kind: CreditKind = Field(description="'own_*': a first proposal; 'abstained': no answer could be read, any round")
    round: int
    sample: int
    text: str
    answer: str | None

    @property
    def correct(self) -> bool:
        """True where the answer was right."""
        return self.kind in ("own_correct", "wrong_to_right", "stayed_right")


CritiqueKind = Literal["fixed", "kept_right", "broke", "left_wrong", "unheard", "invalid"]


class CritiqueCredit(Record):
    """One critique with what became of those whose answer it spoke against.

    Its descendants are the revisions, in the same round, of the other members who held the answer it targets.
    """

    task_id: str
    member: str
    family: str
    adapter: str | None
    kind: CritiqueKind = Field(
        description="'fixed': spoke against a wrong answer, and a descendant ends right; 'left_wrong': none does; "
        "'kept_right': spoke against a right answer, and every descendant kept it; 'broke': one lost it; "
        "'unheard': nobody revised an answer it spoke against; 'invalid': empty or a copy"
    )
    round: int
    target: str = Field(description="the answer it spoke against")
    text: str
    num_descendants: int = Field(default=0, description="revisions it could have moved")
    num_right: int = Field(default=0, description="of these, the ones that end right")


class VoteCredit(Record):
    """One vote with what the judge made of the option it was cast for."""

    task_id: str
    member: str
    family: str
    adapter: str | None
    answer: str
    correct: bool
    right_weight: float = Field(description="probability the member gave to right options, 0..1")
    could_be_right: bool = Field(description="one of the options was right; False: no vote could have been")


class RoleCredit(Record):
    """What one member said to others' answers, with the prompt it saw: what critics and synthesisers learn from."""

    task_id: str
    member: str
    family: str
    adapter: str | None
    role: Literal["critique", "synthesis"]
    kind: Literal["right", "wrong", "abstained", "unheard", "invalid"] = Field(
        description="of a critique, 'right': it spoke against a wrong answer, and one who held that ended right; "
        "'unheard' and 'invalid' as in `CritiqueCredit`"
    )
    messages: tuple[Message, ...] = Field(description="the prompt, exactly as the engine got it")
    text: str
    answer: str | None = Field(default=None, description="of a synthesis; None: a critique, or none could be read")


class PhaseCredit(Record):
    """How often one member did well in one phase, of all traces."""

    member: str
    phase: Literal["propose", "revise", "critique", "vote"]
    num: int = Field(description="proposals, revisions, critiques or votes; critiques nobody could heed are left out")
    num_good: int = Field(
        description="right proposals and revisions; critiques that fixed or left a right answer standing; right votes"
    )
    num_changed: int = Field(default=0, description="revisions wrong to right; critiques that fixed; else 0")
    num_harmed: int = Field(default=0, description="revisions right to wrong; critiques that broke; else 0")


def credit(deliberations: Iterable[Deliberation], correct: IsCorrect) -> list[Credit]:
    """One credit a proposal, in the order of the traces.

    A revision is compared with the member's latest earlier proposal, in round 0 with its first sample: that is the
    one it was shown as its own. A member without an earlier proposal counts as having been wrong.
    """
    return [found for deliberation in deliberations for found in _credits_of(deliberation, correct)]


def count_credits(credits: Iterable[Credit]) -> dict[str, dict[CreditKind, int]]:
    """Member to kind to count; kinds that did not occur are missing."""
    counts: dict[str, Counter[CreditKind]] = {}
    for item in credits:
        counts.setdefault(item.member, Counter())[item.kind] += 1
    return {member: dict(kinds) for member, kinds in counts.items()}


def credit_critiques(deliberations: Iterable[Deliberation], correct: IsCorrect) -> list[CritiqueCredit]:
    """One credit a critique, in the order of the traces: did those it spoke against end right?

    A member's own revision is no descendant of its critique. Several critiques of one answer share the descendants,
    since nothing in a trace tells which of them was heeded.
    """
    return [found for deliberation in deliberations for found in _critiques_of(deliberation, correct)]


def credit_votes(deliberations: Iterable[Deliberation], correct: IsCorrect) -> list[VoteCredit]:
    """One credit a vote, in the order of the traces."""
    return [found for deliberation in deliberations for found in _votes_of(deliberation, correct)]


def credit_roles(deliberations: Iterable[Deliberation], correct: IsCorrect) -> list[RoleCredit]:
    """One credit a critique, and one an answer that was written after reading others', in the order of the traces.

    Left out is what a trace holds no prompt of. An objection to a right answer is wrong whatever became of it.
    """
    return [found for deliberation in deliberations for found in _roles_of(deliberation, correct)]


def count_phases(
    credits: Iterable[Credit], critiques: Iterable[CritiqueCredit] = (), votes: Iterable[VoteCredit] = ()
) -> tuple[PhaseCredit, ...]:
    """Every member's record by phase, sorted by member, phases in the order of a deliberation.

    An abstention is a proposal or revision that was not good. Votes without a right option are not counted.
    """
    tally: dict[tuple[str, str], Counter[str]] = {}

    def count(member: str, phase: str, good: bool, changed: bool, harmed: bool) -> None:
        row = tally.setdefault((member, phase), Counter())
        row.update({"num": 1, "num_good": good, "num_changed": changed, "num_harmed": harmed})

    for one in credits:
        phase = "revise" if one.round > 0 else "propose"
        count(one.member, phase, one.correct, one.kind == "wrong_to_right", one.kind == "right_to_wrong")
    for said in critiques:
        if said.kind not in ("unheard", "invalid"):
            count(
                said.member,
                "critique",
                said.kind in ("fixed", "kept_right"),
                said.kind == "fixed",
                said.kind == "broke",
            )
    for vote in votes:
        if vote.could_be_right:
            count(vote.member, "vote", vote.correct, False, False)
    members = sorted({member for member, _ in tally})
    return tuple(
        PhaseCredit(member=member, phase=phase, **tally[member, phase])
        for member in members
        for phase in ("propose", "revise", "critique", "vote")
        if (member, phase) in tally
    )


def _credits_of(deliberation: Deliberation, correct: IsCorrect) -> list[Credit]:
    task_id = deliberation.task.id
    was_right: dict[str, bool] = {}
    credits = []
    for proposal in sorted(deliberation.proposals, key=lambda proposal: proposal.round):
        right = proposal.answer is not None and correct(task_id, proposal.answer)
        credits.append(
            Credit(
                task_id=task_id,
                member=proposal.member,
                family=proposal.family,
                adapter=proposal.adapter,
                kind=_kind(proposal, right, was_right.get(proposal.member, False)),
                round=proposal.round,
                sample=proposal.sample,
                text=proposal.text,
                answer=proposal.answer,
            )
        )
        if proposal.round > 0 or proposal.sample == 0:
            was_right[proposal.member] = right
    return credits


def _kind(proposal: Proposal, right: bool, was_right: bool) -> CreditKind:
    if proposal.answer is None:
        return "abstained"
    if proposal.round == 0:
        return "own_correct" if right else "own_wrong"
    if right:
        return "stayed_right" if was_right else "wrong_to_right"
    return "right_to_wrong" if was_right else "stayed_wrong"


def _critiques_of(deliberation: Deliberation, correct: IsCorrect) -> list[CritiqueCredit]:
    task_id, kind = deliberation.task.id, deliberation.equality
    seats = {member.name: member for member in deliberation.members}
    credits = []
    for said in deliberation.critiques:
        held = _held_before(deliberation, said.round)
        holders = {
            name for name, own in held.items() if name != said.member and same_answer(own, said.target_answer, kind)
        }
        descendants = [p for p in deliberation.round_of(said.round) if p.member in holders] if said.valid else []
        ends = [p.answer is not None and correct(task_id, p.answer) for p in descendants]
        seat = seats.get(said.member)
        credits.append(
            CritiqueCredit(
                task_id=task_id,
                member=said.member,
                family="" if seat is None else seat.family,
                adapter=None if seat is None else seat.at("critique").adapter,
                kind=_critique_kind(said.valid, correct(task_id, said.target_answer), ends),
                round=said.round,
                target=said.target_answer,
                text=said.text,
                num_descendants=len(ends),
                num_right=sum(ends),
            )
        )
    return credits


def _held_before(deliberation: Deliberation, number: int) -> dict[str, str | None]:
    """What each member held when round `number` began."""
    held: dict[str, str | None] = {}
    for earlier in range(number):
        said = positions(deliberation.round_of(earlier), deliberation.equality)
        held |= {member: proposal.answer for member, proposal in said.items()}
    return held


def _critique_kind(valid: bool, target_is_right: bool, ends: list[bool]) -> CritiqueKind:
    if not valid:
        return "invalid"
    if not ends:
        return "unheard"
    if target_is_right:
        return "kept_right" if all(ends) else "broke"
    return "fixed" if any(ends) else "left_wrong"


def _votes_of(deliberation: Deliberation, correct: IsCorrect) -> list[VoteCredit]:
    task_id = deliberation.task.id
    seats = {member.name: member for member in deliberation.members}
    credits = []
    for vote in deliberation.votes:
        options = dict(vote.weights) or {vote.answer: 1.0}
        right = {answer for answer in options if correct(task_id, answer)}
        seat = seats.get(vote.member)
        credits.append(
            VoteCredit(
                task_id=task_id,
                member=vote.member,
                family=vote.family,
                adapter=None if seat is None else seat.adapter,
                answer=vote.answer,
                correct=correct(task_id, vote.answer),
                right_weight=min(1.0, sum(options[answer] for answer in right)),
                could_be_right=bool(right),
            )
        )
    return credits


def _roles_of(deliberation: Deliberation, correct: IsCorrect) -> list[RoleCredit]:
    credits = []
    for said in _critiques_of(deliberation, correct):
        asked = _prompt_of(deliberation, said.member, ("critique",), said.round, said.text)
        if asked is not None:
            credits.append(_critique_role(said, asked))
    for proposal in deliberation.proposals:
        asked = _prompt_of(deliberation, proposal.member, ("synthesise", "revise"), proposal.round, proposal.text)
        if proposal.round > 0 and asked is not None:
            credits.append(_synthesis_role(deliberation.task.id, proposal, asked, correct))
    return credits


def _prompt_of(
    deliberation: Deliberation, member: str, phases: tuple[str, ...], number: int, text: str
) -> Exchange | None:
    own = (one for one in deliberation.exchanges if (one.member, one.round) == (member, number) and one.phase in phases)
    return next((one for one in own if any(said.text.strip() == text.strip() for said in one.completions)), None)


def _critique_role(said: CritiqueCredit, asked: Exchange) -> RoleCredit:
    right: dict[CritiqueKind, Literal["right", "unheard", "invalid"]] = {
        "fixed": "right",
        "unheard": "unheard",
        "invalid": "invalid",
    }
    return RoleCredit(
        task_id=said.task_id,
        member=said.member,
        family=said.family,
        adapter=said.adapter,
        role="critique",
        kind=right.get(said.kind, "wrong"),
        messages=asked.messages,
        text=said.text,
    )


def _synthesis_role(task_id: str, proposal: Proposal, asked: Exchange, correct: IsCorrect) -> RoleCredit:
    right = proposal.answer is not None and correct(task_id, proposal.answer)
    return RoleCredit(
        task_id=task_id,
        member=proposal.member,
        family=proposal.family,
        adapter=proposal.adapter,
        role="synthesis",
        kind="abstained" if proposal.answer is None else "right" if right else "wrong",
        messages=asked.messages,
        text=proposal.text,
        answer=proposal.answer,
    )
