"""Whose calls failed on AUDIT, and how often: what was not answered counts as wrong, and a reader must know. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import Field

from evolve.outage import engine_failures
from memory.types import Record
from mesh.types import Deliberation


class FailedCalls(Record):
    """A member some of whose calls failed."""

    member: str
    num_failed: int = Field(description="of its deliberations, those in which a call of it failed")
    num_asked: int = Field(description="its deliberations, first proposals alone and councils")
    reason: str = Field(description="the most frequent one")

    @property
    def share(self) -> float:
        """Of its deliberations."""
        return self.num_failed / self.num_asked

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"AUDIT: calls to {self.member} failed in {self.num_failed} of {self.num_asked} deliberations "
            f"({self.reason}); what it did not answer counts as wrong, so its figures and the mesh's are too low"
        )


def failed_calls_of(held: Iterable[Deliberation]) -> tuple[FailedCalls, ...]:
    """Of every member of whom any call failed, in order of appearance."""
    asked: Counter[str] = Counter()
    failed: dict[str, list[str]] = {}
    for one in held:
        asked.update(member.name for member in one.members)
        for name, why in {member.name: f"{f.kind}: {f.message}" for member, f in engine_failures(one)}.items():
            failed.setdefault(name, []).append(why)
    return tuple(
        FailedCalls(
            member=name,
            num_failed=len(failed[name]),
            num_asked=asked[name],
            reason=Counter(failed[name]).most_common(1)[0][0],
        )
        for name in asked
        if name in failed
    )
