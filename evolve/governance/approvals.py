"""Proposals that wait for a person, and what people said of them: durable, in the run's directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from evolve.governance.audit_log import LOCK_WAIT_S, AuditEvent, AuditLog
from evolve.governance.config import AutomaticPromotion, PromotionPolicy
from evolve.governance.governance import Decision, Proposed, Ruling, audit_events, rule
from memory.ledger import Ledger, exclusive_lock
from memory.types import Record, content_hash

APPROVALS, APPROVALS_LOCK = "approvals.jsonl", "approvals.lock"
SETTLED = ("promoted", "not_promoted")
"""Kinds of events after which nobody is asked any more."""


class ApprovalError(ValueError):
    """A proposal cannot be decided like this: unknown, ambiguous, or not what was looked at."""


class Filed(Record):
    """A proposal and since when it waits."""

    proposed: Proposed
    at: float = Field(description="Unix seconds")


class ApprovalDesk:
    """Where a run files what passed the gate, and people decide. The run and a person may write at the same time.

    Not covered: who `by` is; whoever may write into the run's directory may decide in any name.
    """

    def __init__(self, run: Path) -> None:
        """Touches nothing: the file is made by the first proposal."""
        self._run = run

    def file(self, proposed: Proposed, at: float) -> Filed:
        """File a proposal; one that was filed before keeps its time, so that a run that goes on waits no longer."""
        with self._writing() as ledger:
            for filed in _filed(ledger):
                if filed.proposed == proposed:
                    return filed
            made = Filed(proposed=proposed, at=at)
            ledger.append("proposed", made.model_dump(mode="json"))
        event = AuditEvent(
            kind="proposed",
            subject=proposed.arrangement,
            generation=proposed.generation,
            by="gate",
            reason=proposed.reason,
            evidence=proposed.content,
            at=at,
        )
        AuditLog(self._run).add([event])
        return made

    def settle(self, proposed: Proposed, policy: PromotionPolicy, now: float) -> Ruling:
        """What follows from what was said so far; a final ruling is logged before anybody can say another word."""
        filed = self.file(proposed, now)
        with self._writing() as ledger:
            ruling = rule(proposed, _decided(ledger), policy, proposed_at=filed.at, now=now)
            AuditLog(self._run).add(audit_events(proposed, ruling, now))
        return ruling

    def all(self) -> list[Filed]:
        """Every proposal, oldest first."""
        return _filed(self._reading())

    def decisions(self) -> list[Decision]:
        """Everything people said, oldest first."""
        return _decided(self._reading())

    def find(self, start: str | None) -> Filed:
        """The proposal whose id begins so; None: the last one.

        Raises ApprovalError if it is none, or several.
        """
        known = self.all()
        found = known[-1:] if start is None else [one for one in known if one.proposed.content.startswith(start)]
        if len(found) != 1 or start == "":
            ids = ", ".join(one.proposed.id for one in known) or "none: no promotion here has asked for anybody's word"
            raise ApprovalError(f"{self._run}: expected one of its proposals ({ids}), got {start or 'no id'!r}")
        return found[0]

    def decide(
        self,
        start: str | None,
        verdict: Literal["approved", "vetoed"],
        *,
        by: str,
        at: float,
        note: str = "",
        content: str | None = None,
    ) -> Filed:
        """Write down what a person says of a proposal; said again, nothing changes.

        Args:
            content: what the person looked at, or how its hash begins; another proposal is then refused.

        Raises:
            ApprovalError: no such proposal, not what was looked at, nobody is named, or it is settled already.
        """
        if not by.strip():
            raise ApprovalError("expected who decides, got nothing; give --by NAME")
        filed = self.find(start)
        proposed = filed.proposed
        if content is not None and not proposed.content.startswith(content):
            raise ApprovalError(
                f"expected the proposal {content}, got {proposed.id}; look at it again before you decide"
            )
        made = Decision(proposal=proposed.content, verdict=verdict, by=by, at=at, note=note)
        with self._writing() as ledger:
            mine = [one for one in _decided(ledger) if (one.by, one.proposal) == (by, proposed.content)]
            if not mine or mine[-1].verdict != verdict:
                self._refuse_late(proposed)
                ledger.append("decision", made.model_dump(mode="json"))
                mine.append(made)
        event = AuditEvent(
            kind=verdict,
            subject=proposed.arrangement,
            generation=proposed.generation,
            by=by,
            reason=mine[-1].note,
            # Numbered, so that a person who changes their mind twice is on record with each word, and a repeat is not.
            evidence=content_hash([proposed.content, len(mine)]),
            at=mine[-1].at,
        )
        AuditLog(self._run).add([event])
        return filed

    def _refuse_late(self, proposed: Proposed) -> None:
        settled = [e for e in AuditLog(self._run).events() if e.kind in SETTLED and e.evidence == proposed.content]
        if settled:
            took = "is seated" if settled[0].kind == "promoted" else "was not seated"
            raise ApprovalError(
                f"{self._run}: expected a proposal that waits, but {proposed.arrangement} {took} already "
                f"({settled[0].reason}); a word now changes nothing. `evomesh rollback` changes what a channel "
                "serves"
            )

    @contextmanager
    def _writing(self) -> Iterator[Ledger]:
        self._run.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self._run / APPROVALS_LOCK, wait_s=LOCK_WAIT_S):
            yield Ledger(self._run / APPROVALS)

    def _reading(self) -> Ledger | None:
        path = self._run / APPROVALS
        return Ledger(path, readonly=True) if path.exists() else None


def settle(run: Path, proposed: Proposed, policy: PromotionPolicy, *, now: float, objection: str = "") -> Ruling:
    """Where a promotion stands: files it if somebody may have a say, hears what was said, and logs a final ruling.

    With an `objection` to the gate itself it is refused, and nobody is asked: people judge what passed, not the test.
    Safe to call again: a run that was cut off while it waited finds its proposal, with the time it was filed.
    """
    if objection:
        ruling = Ruling(state="refused", reason=objection, by=("gate",))
    elif isinstance(policy, AutomaticPromotion):
        ruling = rule(proposed, (), policy, proposed_at=now, now=now)
    else:
        return ApprovalDesk(run).settle(proposed, policy, now)
    AuditLog(run).add(audit_events(proposed, ruling, now))
    return ruling


def _filed(ledger: Ledger | None) -> list[Filed]:
    if ledger is None:
        return []
    return [Filed.model_validate(e.payload) for e in ledger.entries() if e.kind == "proposed"]


def _decided(ledger: Ledger | None) -> list[Decision]:
    if ledger is None:
        return []
    return [Decision.model_validate(e.payload) for e in ledger.entries() if e.kind == "decision"]
