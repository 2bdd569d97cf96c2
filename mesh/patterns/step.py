"""A named part of a pattern: which protocol it runs, what it is told, and what it passes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from memory.types import Record
from mesh.limits import Limits
from mesh.types import Deliberation, Task

if TYPE_CHECKING:
    from mesh.config import ProtocolConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class Step(Record):
    """One part of a pattern."""

    name: Name = Field(description="unique in its pattern; the place in the trace and in what a person is asked")
    protocol: ProtocolConfig = Field(description="any protocol or pattern")
    instruction: str = Field(
        default="",
        description="told instead of the task's instruction and demonstrations; empty: those",
    )
    passes: Literal["answer", "argument"] = Field(
        default="answer", description="what later parts see: the answer alone, or the text that argues for it best"
    )

    def task(self, task: Task, context: tuple[str, ...]) -> Task:
        """`task` as this part sees it."""
        told = {"instruction": self.instruction, "demonstrations": ()} if self.instruction else {}
        return task.model_copy(update={"context": (*task.context, *context), **told})

    def result(self, part: Deliberation) -> str:
        """What later parts are shown of a finished part."""
        answer = part.verdict.answer or "(no answer)"
        return f"{self.name}: {argument(part) if self.passes == 'argument' else answer}"


def argument(part: Deliberation) -> str:
    """The text that argues best for a part's answer; the bare answer where there is none."""
    clusters = part.verdict.diagnosis.clusters if part.verdict.diagnosis else ()
    return (clusters[0].argument if clusters else "") or part.verdict.answer or "(no answer)"


class Pattern(Limits):
    """What every pattern has; `sampling` is for what the pattern itself asks of members, its parts have their own."""
