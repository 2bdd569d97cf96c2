"""Answers that the verifier could not check count as wrong; whoever reads a figure must know how many there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import Field

from evolve.judging.scorer import RAISED
from memory.ledger import publish_json, read_record
from memory.types import Record
from mesh.types import Outcome

FOLDER = "unchecked"
TOLERATED = 0.01
"""Share of a stage's answers that may go unchecked before the report raises an alarm."""
GATE_LIMIT = 0.05
"""Share of a gate's answers over which a verifier may break before nobody is promoted by its word."""


class UncheckedGroup(Record):
    """The unchecked answers of one task type in one stage."""

    task_type: str
    num_unchecked: int = Field(ge=1)
    num_answers: int = Field(ge=1, description="distinct answers judged, these included")
    num_broken: int = Field(ge=0, description="of these, where the verifier died or hung, rather than raised an error")
    verifier: str
    reason: str = Field(description="the most frequent one")


class Unchecked(Record):
    """What a stage's judging could not check."""

    stage: str
    groups: tuple[UncheckedGroup, ...] = ()
    num_answers: int = Field(default=0, description="distinct answers of the stage")

    @property
    def share(self) -> float:
        """Unchecked answers of all of the stage. A panel that keeps silent is no fault: all its families wrote that."""
        return self._share(sum(group.num_unchecked for group in self._faulty))

    @property
    def broken_share(self) -> float:
        """Likewise, answers over which a verifier broke."""
        return self._share(sum(group.num_broken for group in self._faulty))

    @property
    def _faulty(self) -> tuple[UncheckedGroup, ...]:
        return tuple(group for group in self.groups if group.verifier != "panel")

    def _share(self, count: int) -> float:
        return count / self.num_answers if self.num_answers else 0.0

    @property
    def sentence(self) -> str:
        """For people; empty: everything was checked."""
        if not self.groups:
            return ""
        parts = [f"{g.num_unchecked} of {g.num_answers} of {g.task_type} ({g.reason})" for g in self.groups]
        return f"{self.stage}: answers count as wrong because they could not be checked: {'; '.join(parts)}"


def unchecked_of(stage: str, outcomes: Iterable[Outcome], reason_of: Callable[[Outcome], str]) -> Unchecked:
    """The outcomes whose verdict is unknown, by task type. Pure."""
    outcomes = list(outcomes)
    totals = Counter(outcome.task_type for outcome in outcomes)
    unknown: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.evidence.verdict == "unknown":
            unknown.setdefault(outcome.task_type, []).append(outcome)
    groups = []
    for task_type, group in sorted(unknown.items()):
        reasons = [reason_of(outcome) for outcome in group]
        groups.append(
            UncheckedGroup(
                task_type=task_type,
                num_unchecked=len(group),
                num_answers=totals[task_type],
                num_broken=sum(not reason.startswith(RAISED) for reason in reasons),
                verifier=group[0].evidence.verifier,
                reason=Counter(reasons).most_common(1)[0][0],
            )
        )
    return Unchecked(stage=stage, groups=tuple(groups), num_answers=len(outcomes))


def keep_unchecked(directory: Path, found: Unchecked) -> None:
    """Keep it in a run's directory, where there is anything; judging a stage again replaces it, by nothing too."""
    path = directory / FOLDER / f"{found.stage.replace(' ', '-')}.json"
    if found.groups:
        path.parent.mkdir(exist_ok=True)
        publish_json(path, found)
    else:
        path.unlink(missing_ok=True)


def all_unchecked(directory: Path) -> tuple[Unchecked, ...]:
    """Of every stage of a run that could not check something, by name."""
    return tuple(read_record(path, Unchecked) for path in sorted((directory / FOLDER).glob("*.json")))
