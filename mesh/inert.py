"""What the talking did: per phase, how often it said something, changed something, and for better or worse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import Field

from memory.types import Record
from mesh.equivalence import same_answer
from mesh.types import Deliberation, Outcome, positions

INERT_BELOW = 0.05
"""A phase that achieves something less often than this does nothing for these members."""


class TalkSummary(Record):
    """Counts over many deliberations; adds up with `+`. Shares are None where nothing of the kind took place."""

    num_deliberations: int = 0
    num_talked: int = Field(default=0, description="deliberations in which somebody was shown a peer")
    num_critiques: int = 0
    num_valid_critiques: int = Field(default=0, description="neither empty nor copied from the prompt")
    num_revisions: int = 0
    num_changed: int = Field(default=0, description="revisions that hold another readable answer than before")
    num_withdrawn: int = Field(default=0, description="revisions taken back because no wrong step was named")
    num_revised_to_nothing: int = Field(default=0, description="revisions that lost a readable answer")
    num_votes: int = 0
    num_judged: int = Field(default=0, description="deliberations whose first and final verdict were both judged")
    num_right_to_wrong: int = Field(default=0, description="first verdict right, final verdict wrong")
    num_wrong_to_right: int = 0

    def __add__(self, other: TalkSummary) -> TalkSummary:
        mine, theirs = self.model_dump(), other.model_dump()
        return TalkSummary(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def valid_critique_share(self) -> float | None:
        """Valid critiques over critiques."""
        return self.num_valid_critiques / self.num_critiques if self.num_critiques else None

    @property
    def changed_share(self) -> float | None:
        """Revisions with a new readable answer over revisions."""
        return self.num_changed / self.num_revisions if self.num_revisions else None

    @property
    def inert_phases(self) -> tuple[str, ...]:
        """Phases that took place and achieved something in fewer than 5% of their turns."""
        shares = {"critique": self.valid_critique_share, "revise": self.changed_share}
        return tuple(phase for phase, share in shares.items() if share is not None and share < INERT_BELOW)


def summarise_talk(
    deliberations: Iterable[Deliberation], outcomes: Mapping[tuple[str, str | None], Outcome] | None = None
) -> TalkSummary:
    """What the talking in `deliberations` did, one after the other, so that a stream will do.

    `outcomes` are judged answers by (task id, answer as spelled in the verdict); None: nothing was judged. A verdict
    without an answer counts as wrong.
    """
    total = TalkSummary()
    for deliberation in deliberations:
        total = total + _talk_of(deliberation) + _flips_of(deliberation, outcomes or {})
    return total


def describe_talk(talk: TalkSummary) -> tuple[str, ...]:
    """What the talking did, a line a phase, for people; nothing where nobody was shown a peer."""
    if not talk.num_talked:
        return ()
    lines = [f"talked in {talk.num_talked} of {talk.num_deliberations} deliberations"]
    if talk.valid_critique_share is not None:
        lines.append(f"critique: {talk.valid_critique_share:.0%} of {talk.num_critiques} say something of their own")
    if talk.changed_share is not None:
        lines.append(
            f"revise: {talk.changed_share:.0%} of {talk.num_revisions} change the answer; {talk.num_withdrawn} changes "
            "were taken back, naming no wrong step"
        )
    if talk.num_judged:
        lines.append(
            f"{talk.num_wrong_to_right} verdicts turned right by talking, {talk.num_right_to_wrong} turned wrong"
        )
    lines += [f"{phase} is inert for these members (below {INERT_BELOW:.0%})" for phase in talk.inert_phases]
    return tuple(lines)


def _talk_of(deliberation: Deliberation) -> TalkSummary:
    kind = deliberation.equality
    revisions = [p for p in deliberation.proposals if p.round > 0]
    latest = {name: own.answer for name, own in positions(deliberation.round_of(0), kind).items()}
    num_changed = num_lost = 0
    for revision in revisions:
        before = latest.get(revision.member)
        num_changed += revision.answer is not None and not same_answer(before, revision.answer, kind)
        num_lost += revision.answer is None and before is not None
        latest[revision.member] = revision.answer
    return TalkSummary(
        num_deliberations=1,
        num_talked=int(any(reading.shown for reading in deliberation.readings)),
        num_critiques=len(deliberation.critiques),
        num_valid_critiques=sum(critique.valid for critique in deliberation.critiques),
        num_revisions=len(revisions),
        num_changed=num_changed,
        num_withdrawn=sum(revision.withdrew is not None for revision in revisions),
        num_revised_to_nothing=num_lost,
        num_votes=len(deliberation.votes),
    )


def _flips_of(deliberation: Deliberation, outcomes: Mapping[tuple[str, str | None], Outcome]) -> TalkSummary:
    before = _correct(deliberation.task.id, deliberation.first_verdict.answer, outcomes)
    after = _correct(deliberation.task.id, deliberation.verdict.answer, outcomes)
    if before is None or after is None or not outcomes:
        return TalkSummary()
    return TalkSummary(
        num_judged=1, num_right_to_wrong=int(before and not after), num_wrong_to_right=int(after and not before)
    )


def _correct(task_id: str, answer: str | None, outcomes: Mapping[tuple[str, str | None], Outcome]) -> bool | None:
    if answer is None:
        return False
    outcome = outcomes.get((task_id, answer))
    return None if outcome is None else outcome.correct
