"""May what passed the gate be seated? Automatic, by approval, or after a veto window. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from evolve.governance.audit_log import AuditEvent
from evolve.governance.config import ApprovedPromotion, AutomaticPromotion, PromotionPolicy, VetoedPromotion
from memory.types import Record, content_hash


class Proposed(Record):
    """What a person is asked to agree to. Its content names it, so an approval holds for exactly this."""

    run: str = Field(description="name of the run")
    generation: int = Field(ge=0, description="generation it was bred in; it is seated in the next one")
    arrangement: str = Field(description="name of the arrangement that passed")
    adapters: tuple[str, ...] = Field(description="content hashes of the adapters to be seated, in seat order")
    gate: str = Field(description="content hash of the gate record")
    reason: str = Field(default="", description="what the gate said")

    @property
    def content(self) -> str:
        """Hash of the whole."""
        return content_hash(self)

    @property
    def id(self) -> str:
        """Short name."""
        return self.content[:12]


class Decision(Record):
    """One person's word about one proposal."""

    proposal: str = Field(description="`Proposed.content`")
    verdict: Literal["approved", "vetoed"]
    by: str
    at: float = Field(description="Unix seconds")
    note: str = ""


class Ruling(Record):
    """Where a proposal stands."""

    state: Literal["granted", "refused", "waiting"]
    reason: str
    by: tuple[str, ...] = Field(default=(), description="who decided; 'gate' where nobody has to")
    until: float | None = Field(default=None, description="waiting: when a veto window ends, Unix seconds")


def rule(
    proposed: Proposed, decisions: Sequence[Decision], policy: PromotionPolicy, *, proposed_at: float, now: float
) -> Ruling:
    """Where `proposed` stands at `now`; decisions about anything else, or by others than approvers, do not count.

    A veto holds against any number of approvals, also one that came later than an approval but before the seat was
    taken. A person's last word counts; after a veto window has passed, a veto comes too late.
    """
    if isinstance(policy, AutomaticPromotion):
        return Ruling(state="granted", reason="it passed the gate, and nobody has to agree", by=("gate",))
    ends = proposed_at + 3600.0 * policy.window_hours if isinstance(policy, VetoedPromotion) else None
    # What comes too late does not count, so it cannot take the place of a word that was in time either.
    in_time = [one for one in decisions if ends is None or one.at <= ends]
    heard = _heard(proposed, in_time, policy.approvers)
    vetoed = [one for one in heard if one.verdict == "vetoed"]
    approved = [one for one in heard if one.verdict == "approved"]
    if vetoed:
        why = f": {vetoed[0].note}" if vetoed[0].note else ""
        return Ruling(state="refused", reason=f"vetoed by {_names(vetoed)}{why}", by=_people(vetoed))
    needed = policy.num_approvals if isinstance(policy, ApprovedPromotion) else 1
    if len(approved) >= needed:
        return Ruling(state="granted", reason=f"approved by {_names(approved)}", by=_people(approved))
    if isinstance(policy, ApprovedPromotion):
        missing = needed - len(approved)
        so_far = f" ({_names(approved)} did)" if approved else ""
        return Ruling(state="waiting", reason=f"it waits for {missing} more approval{'s' * (missing > 1)}{so_far}")
    if ends is not None and now >= ends:
        return Ruling(
            state="granted", reason=f"nobody vetoed it within {policy.window_hours:g} hours", by=("veto window",)
        )
    return Ruling(state="waiting", reason=f"it can be vetoed for {policy.window_hours:g} hours", until=ends)


def audit_events(proposed: Proposed, ruling: Ruling, at: float) -> tuple[AuditEvent, ...]:
    """What the log has to hold of a ruling that is final; nothing while it waits."""
    if ruling.state == "waiting":
        return ()
    adapter = proposed.adapters[0] if len(proposed.adapters) == 1 else None
    return (
        AuditEvent(
            kind="promoted" if ruling.state == "granted" else "not_promoted",
            subject=proposed.arrangement,
            generation=proposed.generation,
            adapter=adapter,
            by=", ".join(ruling.by),
            reason=ruling.reason,
            evidence=proposed.content,
            at=at,
        ),
    )


def _heard(proposed: Proposed, decisions: Iterable[Decision], approvers: Sequence[str]) -> list[Decision]:
    """The last word of everybody who has one, in order of time."""
    last: dict[str, Decision] = {}
    for one in sorted(decisions, key=lambda one: one.at):
        if one.proposal == proposed.content and (not approvers or one.by in approvers):
            last[one.by] = one
    return sorted(last.values(), key=lambda one: (one.at, one.by))


def _people(decisions: Iterable[Decision]) -> tuple[str, ...]:
    return tuple(one.by for one in decisions)


def _names(decisions: Iterable[Decision]) -> str:
    return ", ".join(_people(decisions))
