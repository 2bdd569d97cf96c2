"""Who did what right: every proposal of a trace becomes one credit, by member and phase. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from memory.types import Record
from mesh.types import Deliberation, Proposal

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
