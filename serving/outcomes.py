"""What came of a batch's answers, learned later: a hash-chained ledger beside its traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from memory.ledger import Ledger, exclusive_lock
from memory.types import Record
from mesh.types import Outcome

OUTCOMES, OUTCOMES_LOCK = "outcomes.jsonl", "outcomes.lock"


class LateOutcome(Record):
    """One judged answer of a finished task; who judged it is in its evidence."""

    deliberation: str = Field(description="id of the deliberation that gave the answer")
    outcome: Outcome
    file: str = Field(default="", description="sha256 of the file the label came from; empty: it came alone")
    row: int = Field(default=0, description="line of that file")


class OutcomeLedger:
    """The outcomes of the batch in `directory`; what is said again of an answer replaces what was said before.

    Writers wait for nobody: a second one is refused. Raises LedgerError where the file was damaged.
    """

    def __init__(self, directory: Path) -> None:
        """Touches nothing: the file is made by the first outcome."""
        self._directory = directory

    def all(self) -> list[LateOutcome]:
        """What stands: the last word on every answer, in the order in which the answers were first judged."""
        path = self._directory / OUTCOMES
        if not path.exists():
            return []
        return _standing(LateOutcome.model_validate(e.payload) for e in Ledger(path, readonly=True).entries())

    def add(self, outcomes: Sequence[LateOutcome]) -> int:
        """Append, durably and together, those that say something new; returns how many did.

        Raises AlreadyLocked: another process is writing.
        """
        if not outcomes:
            return 0
        with exclusive_lock(self._directory / OUTCOMES_LOCK):
            ledger = Ledger(self._directory / OUTCOMES)
            known = {_key(one): one.outcome for one in self.all()}
            new = [one for one in _standing(outcomes) if known.get(_key(one)) != one.outcome]
            ledger.append_many([("outcome", one.model_dump(mode="json")) for one in new])
            return len(new)


def judged_right(outcomes: Iterable[LateOutcome]) -> dict[tuple[str, str], bool]:
    """(task id, answer as spelled) to whether it is right; what could not be checked is not in it."""
    return {
        (one.outcome.task_id, one.outcome.answer): one.outcome.correct
        for one in outcomes
        if one.outcome.answer is not None and one.outcome.evidence.verdict != "unknown"
    }


def _standing(outcomes: Iterable[LateOutcome]) -> list[LateOutcome]:
    last: dict[tuple[str, str, str | None], LateOutcome] = {}
    for one in outcomes:
        last[_key(one)] = one
    return list(last.values())


def _key(one: LateOutcome) -> tuple[str, str, str | None]:
    return one.deliberation, one.outcome.task_id, one.outcome.answer
