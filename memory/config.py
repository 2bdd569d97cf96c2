"""What a configuration may say about memory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from memory.trust import TrustRules
from memory.types import Level, Namespace, Record


class MemoryConfig(Record):
    """Whether outcomes are remembered and recalled, whose they are, and what may be believed."""

    enabled: bool = Field(default=True, description="False: nothing is recalled and nothing is remembered")
    directory: Path | None = Field(
        default=None, description="where memory is kept, shared by all runs that name it; unset: in the run's directory"
    )
    team: str = Field(default="default", description="whose outcomes these are; nothing crosses teams")
    project: str = Field(default="default", description="the part of the team's work they belong to")
    reads: tuple[str, ...] = Field(
        default=(),
        description="other namespaces to recall from, as team/project/run, where * stands for any project or run; "
        "a run always reads its own",
    )
    embedder: Literal["minilm", "hashed"] = Field(
        default="minilm",
        description="'minilm': packaged sentence embeddings, 20 ms a text; 'hashed': word overlap only, no weights",
    )
    recall_limit: int = Field(
        default=2, ge=0, le=16, description="most experiences shown before a task; fewer are better, 0 shows none"
    )
    recall_for: tuple[Literal["train", "audit"], ...] = Field(
        default=("train",),
        description="splits whose councils recall; what they recall always comes from TRAIN alone, and for audit from "
        "a copy frozen before",
    )
    reflect: bool = Field(
        default=False, description="True: a member of each council writes a lesson, kept only if the trace bears it out"
    )
    min_similarity: float = Field(
        default=0.3, ge=-1.0, le=1.0, description="cosine below which a vector match does not count as similar"
    )
    similar: Literal["always", "measured", "never"] = Field(
        default="measured",
        description="whether solutions of similar problems are shown beside those of the very same one; 'measured': "
        "until held-out recalls show that they harm",
    )
    shown_from: Level = Field(
        default=Level.VERIFIED, description="least standing at which a solution is shown; less than verified is unsafe"
    )
    holdout_share: float = Field(
        default=0.1, ge=0.0, le=0.9, description="share of recalls withheld for good, so that their worth is measured"
    )
    half_life_days: float = Field(
        default=30.0, gt=0.0, description="after so many days without confirmation an experience counts half"
    )
    max_per_source: int = Field(
        default=2, ge=1, description="most solutions, and most warnings, at once that rest on one source's word"
    )
    trust: TrustRules = Field(default=TrustRules(), description="when an experience is believed")
    brief_tokens: int = Field(default=300, ge=1, description="length of the summary that a new session reads")

    def namespace(self, run: str) -> Namespace:
        """Where a run of this name writes."""
        return Namespace(team=self.team, project=self.project, run=run)

    def scope(self, run: str) -> tuple[str, ...]:
        """The namespaces that a run of this name recalls from: its own first."""
        return (str(self.namespace(run)), *self.reads)
