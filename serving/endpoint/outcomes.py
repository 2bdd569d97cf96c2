"""What came of an answer, as its caller reports it later: durable, and told to the team's memory where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, model_validator

from memory.ledger import Ledger
from memory.types import Evidence, Record, content_hash
from mesh.equivalence import same_answer
from mesh.text import Text
from mesh.types import Deliberation, Outcome
from serving.endpoint.deliberations import Kept
from serving.endpoint.keys import Caller
from serving.endpoint.schema import Sent
from serving.outcomes import OUTCOMES, LateOutcome


class OutcomeReport(Sent):
    """The body of `POST /v1/outcomes`: whether the answer was right, or what the right answer is."""

    deliberation: str = Field(pattern=r"^(chatcmpl-)?[0-9a-f]{32}$", description="id, as the answer has it")
    correct: bool | None = Field(default=None, description="whether the answer was right")
    answer: Text | None = Field(default=None, min_length=1, max_length=16_000, description="the right answer")
    verifier: str = Field(
        default="caller", pattern=r"^[\w][\w .:+-]{0,63}$", description="what found it out, e.g. 'unit tests'"
    )

    @model_validator(mode="after")
    def _says_something(self) -> OutcomeReport:
        if self.correct is None and self.answer is None:
            raise ValueError("expected `correct`, or `answer`, got neither")
        return self

    @property
    def id(self) -> str:
        """The deliberation's id alone."""
        return self.deliberation.removeprefix("chatcmpl-")


class OutcomeReceipt(Record):
    """What became of a report."""

    object: Literal["outcome"] = "outcome"
    deliberation: str
    correct: bool = Field(description="whether the mesh's answer was right, by this report")
    is_new: bool = Field(description="false: the same was reported before, and nothing changed")
    remembered: bool = Field(description="whether the team's memory has it now; only where the operator allows that")


class Learner(Protocol):
    """A memory that outcomes are told to."""

    async def learn(self, caller: Caller, held: Deliberation, outcomes: list[Outcome]) -> None:
        """Take in what came of a deliberation; the first outcome is that of the verdict. Raises StoreError."""
        ...


class OutcomeBook:
    """The ledger of a door's outcomes, in the same form as a batch's; what is said again replaces what was said."""

    def __init__(self, state: Path) -> None:
        """Raises LedgerError where the file was damaged."""
        self._ledger = Ledger(state / OUTCOMES)
        self._known = {_key(one): one.outcome for one in self._read()}
        self._writing = asyncio.Lock()

    async def add(self, outcomes: list[LateOutcome]) -> bool:
        """Whether there was anything new; it is on the disk then. Raises LedgerError where it cannot be."""
        async with self._writing:
            new = [one for one in outcomes if self._known.get(_key(one)) != one.outcome]
            if new:
                items = [("outcome", one.model_dump(mode="json")) for one in new]
                await asyncio.to_thread(self._ledger.append_many, items)
                self._known |= {_key(one): one.outcome for one in new}
        return bool(new)

    def _read(self) -> Iterator[LateOutcome]:
        return (LateOutcome.model_validate(entry.payload) for entry in self._ledger.entries())


def judged(report: OutcomeReport, kept: Kept, caller: Caller) -> list[Outcome]:
    """The outcome of the verdict, then of every other answer in the trace that the report decides about.

    Where both `correct` and `answer` are given, `correct` is about the verdict and `answer` about the others.
    """
    held = kept.deliberation
    verdict = held.verdict.answer
    if report.correct is not None:
        right = report.correct
    else:
        right = verdict is not None and same_answer(verdict, report.answer, held.equality)
    found = [_outcome(report, held, verdict, right, caller)]
    if report.answer is None:
        return found
    others = {
        proposal.answer
        for _, part in held.walk()
        for proposal in part.proposals
        if proposal.answer is not None and not same_answer(proposal.answer, verdict, held.equality)
    }
    return found + [
        _outcome(report, held, other, same_answer(other, report.answer, held.equality), caller)
        for other in sorted(others)
    ]


def as_late(outcomes: list[Outcome], id: str) -> list[LateOutcome]:
    """Outcomes as the ledger has them."""
    return [LateOutcome(deliberation=id, outcome=outcome) for outcome in outcomes]


def _outcome(report: OutcomeReport, held: Deliberation, answer: str | None, correct: bool, caller: Caller) -> Outcome:
    evidence = Evidence(
        # Memory trusts verifiers by name, "test:*" for one, and a team may well be named "test".
        verifier=f"team:{caller.team}: {report.verifier}",
        verdict="passed" if correct else "failed",
        digest=content_hash([held.id, answer, correct, report.answer]),
    )
    return Outcome(task_id=held.task.id, task_type=held.task.type, answer=answer, correct=correct, evidence=evidence)


def _key(one: LateOutcome) -> tuple[str, str, str | None]:
    return one.deliberation, one.outcome.task_id, one.outcome.answer
