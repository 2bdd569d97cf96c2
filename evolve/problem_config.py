"""Where problems come from, as configuration: reasoning-gym families or a user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evolve.splits import SplitShares, SplitSizes
from memory.types import Record
from mesh.types import AnswerKind

Scalar = bool | int | float | str


class ExactVerifier(Record):
    """The answer is right when it equals the reference, apart from spaces, outer punctuation and letter case."""

    kind: Literal["exact"] = "exact"
    case_sensitive: bool = Field(default=False, description="tell 'Paris' from 'paris'")


class NumericVerifier(Record):
    """The answer is right when it is a number within the tolerance of the reference."""

    kind: Literal["numeric"] = "numeric"
    tolerance: float = Field(default=0.0, ge=0.0, description="largest absolute difference that still counts as right")
    relative_tolerance: float = Field(default=0.0, ge=0.0, le=1.0, description="same, as a share of the reference")


class GymFamily(Record):
    """One reasoning-gym task family with its settings."""

    name: str = Field(min_length=1, description="family name in reasoning-gym, e.g. 'chain_sum'")
    label: str = Field(default="", description="task type; empty: the name. Needed when a family occurs twice")
    settings: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        default_factory=dict, description="fields of the family's own configuration, e.g. min_terms: 2"
    )
    instruction: str = Field(default="", description="how to answer, shown with every task; empty: nothing is added")
    answer_kind: AnswerKind = Field(default="number", description="how answers are read: number, text, math or free")
    num_demonstrations: int = Field(default=0, ge=0, le=32, description="worked examples shown before every task")
    max_tokens: int = Field(default=32, ge=1, description="longest answer, in tokens")
    weight: float = Field(default=1.0, gt=0.0, description="share of a mix, beside the other families' weights")
    levels: tuple[dict[str, Scalar | tuple[Scalar, ...]], ...] = Field(
        default=(), max_length=32, description="settings from easy to hard, each laid over `settings`; empty: one level"
    )

    @property
    def type(self) -> str:
        """Task type of its problems."""
        return self.label or self.name

    def at_level(self, level: int) -> GymFamily:
        """The family with the settings of one level, from 0; a level beyond the last is the last."""
        if not self.levels:
            return self
        laid_over = self.settings | self.levels[min(level, len(self.levels) - 1)]
        return self.model_copy(update={"settings": laid_over, "levels": ()})


class CurriculumConfig(Record):
    """When a generation's TRAIN problems become harder or easier. DEV, GATE and AUDIT are drawn from all levels."""

    start: int = Field(default=0, ge=0, description="level of generation 0")
    raise_at: float = Field(default=0.75, gt=0.0, le=1.0, description="solve rate from which the next level is taken")
    lower_at: float = Field(default=0.15, ge=0.0, lt=1.0, description="solve rate up to which the level before is")
    min_answers: int = Field(default=40, ge=1, description="with fewer answers than these the level stays")
    review_share: float = Field(
        default=0.2, ge=0.0, le=0.9, description="share of the TRAIN problems taken from the levels below"
    )

    @model_validator(mode="after")
    def _lower_is_below_raise(self) -> CurriculumConfig:
        if self.lower_at >= self.raise_at:
            raise ValueError(f"lower_at {self.lower_at:g} must be below raise_at {self.raise_at:g}; change one")
        return self


class GymProblems(Record):
    """Procedural problems: as many fresh ones as a run needs."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    families: tuple[GymFamily, ...] = Field(min_length=1, description="task families to draw from")
    items_per_family: SplitSizes = Field(
        default=SplitSizes(train=100, dev=50, gate=100, audit=100), description="items of every family for each split"
    )
    mix: SplitSizes | None = Field(
        default=None,
        description="items of all families together, dealt by their weights; empty: items_per_family of every one",
    )
    curriculum: CurriculumConfig | None = Field(
        default=None, description="how TRAIN moves over the families' levels; empty: it is drawn from all of them"
    )
    shares: SplitShares = Field(default=SplitShares(), description="share of the distinct items of each split")
    split_seed: int = Field(default=0, ge=0, description="deals items to splits; keep it over runs")
    demonstration_share: float = Field(
        default=0.02, gt=0.0, lt=1.0, description="share of the distinct items kept for demonstrations, in no split"
    )
    min_distinct_items: int = Field(
        default=5000, ge=0, le=1_000_000, description="warn when a family shows fewer distinct items; 0: do not count"
    )

    @model_validator(mode="after")
    def _types_are_unique(self) -> GymProblems:
        types = [family.type for family in self.families]
        for name in types:
            if types.count(name) > 1:
                raise ValueError(f"task type '{name}' occurs more than once; give one of its families another label")
        return self


class FileProblems(Record):
    """A user's own tasks with reference answers: JSONL or Parquet with question, answer and, if wanted, id and type."""

    kind: Literal["file"] = "file"
    path: Path = Field(description="a .jsonl or .parquet file")
    answer_kind: AnswerKind = Field(default="text", description="how answers are read: number, text, math or free")
    verifier: Annotated[ExactVerifier | NumericVerifier, Field(discriminator="kind")] = Field(
        default=ExactVerifier(), description="how an answer is checked against the reference"
    )
    instruction: str = Field(default="", description="how to answer, shown with every task; empty: nothing is added")
    default_type: str = Field(default="general", min_length=1, description="task type of rows that name none")
    num_demonstrations: int = Field(default=0, ge=0, le=32, description="worked examples shown before every task")
    max_tokens: int = Field(default=64, ge=1, description="longest answer, in tokens")
    shares: SplitShares = Field(default=SplitShares(), description="share of the items that each split gets")
    sizes: SplitSizes | None = Field(default=None, description="at most so many items a split; empty: all")
    split_seed: int = Field(default=0, ge=0, description="deals items to splits; keep it over runs")
    demonstration_share: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="share of the items kept for demonstrations, where any are asked for"
    )


ProblemsConfig = Annotated[GymProblems | FileProblems, Field(discriminator="kind")]
