"""What was decided about specialists, by whom and on what evidence: one hash-chained log in the run's directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from memory.ledger import Ledger, exclusive_lock
from memory.types import Record, content_hash

AUDIT_LOG, AUDIT_LOCK = "audit.jsonl", "audit.lock"
LOCK_WAIT_S = 10.0
"""Whoever writes here is done in a moment; a run must not end because a person approves in that very moment."""

EventKind = Literal[
    "not_trained", "trained", "quarantined", "refused_admission", "stopped_on_dev", "gate_passed", "gate_refused",
    "proposed", "approved", "vetoed", "promoted", "not_promoted", "retired", "confirmed", "demoted",
]  # fmt: skip


class AuditEvent(Record):
    """One thing that happened to a candidate or specialist."""

    kind: EventKind
    subject: str = Field(description="name of the candidate, specialist or arrangement")
    generation: int = Field(ge=0, description="generation whose candidates it is about")
    adapter: str | None = Field(default=None, description="content hash; None: there is none, or there are several")
    by: str = Field(default="", description="who or what decided: a person, 'gate', 'veto window', 'live outcomes'")
    reason: str = ""
    evidence: str = Field(default="", description="content hash of what it rests on: a gate record, a proposal, counts")
    at: float = Field(default=0.0, description="when, Unix seconds; not part of the event's id")

    @property
    def id(self) -> str:
        """Short hash of everything but the time: the same decision told twice is one event."""
        return content_hash(self.model_dump(mode="json", exclude={"at"}))[:16]


class AuditLog:
    """The events of the run in `directory`; what is appended stays and can be checked. Reading makes no file.

    Writers take a lock of its own, so that a person can approve while the run goes on.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def path(self) -> Path:
        """The file; it is made by the first event."""
        return self._directory / AUDIT_LOG

    def events(self) -> list[AuditEvent]:
        """All of them, oldest first. Raises LedgerError where the file was changed."""
        if not self.path.exists():
            return []
        return [AuditEvent.model_validate(entry.payload) for entry in Ledger(self.path, readonly=True).entries()]

    def add(self, events: Iterable[AuditEvent]) -> int:
        """Append those that are new, durably and together; returns how many were. Told again, nothing changes.

        Raises AlreadyLocked: another process has been writing for `LOCK_WAIT_S`.
        """
        wanted = list(events)
        if not wanted:
            return 0
        self._directory.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self._directory / AUDIT_LOCK, wait_s=LOCK_WAIT_S):
            ledger = Ledger(self.path)
            known = {AuditEvent.model_validate(entry.payload).id for entry in ledger.entries()}
            new: dict[str, AuditEvent] = {}
            for event in wanted:
                if event.id not in known:
                    new.setdefault(event.id, event)
            ledger.append_many([(event.kind, event.model_dump(mode="json")) for event in new.values()])
            return len(new)

    def verify(self) -> int:
        """Check every hash; returns the number of events. Raises LedgerError at the first that was changed."""
        return len(self.events())
