"""What an operator may set about learning from traces: what is kept, how sets grow, and which texts disqualify."""

from __future__ import annotations

from pydantic import Field

from evolve.learning.label_source import LabelSource
from memory.types import Record


class CurationRules(Record):
    """What may be asked of a set beyond the caps of `CurationConfig`; the defaults ask for nothing more."""

    distinct_paths: bool = Field(
        default=False, description="keep one example of each way to an answer, not one of each wording"
    )
    max_per_source: int | None = Field(
        default=None, ge=1, description="examples of one source (first proposals, revisions) of a member; null: any"
    )


class CurationConfig(Record):
    """Which verified traces a specialist learns from."""

    max_per_problem: int = Field(default=2, ge=1, description="distinct answers of one member kept for one problem")
    max_per_type: int = Field(default=120, ge=1, description="examples of one member kept for one task type")
    max_completion_chars: int = Field(default=400, ge=1, description="a longer completion is dropped")
    rules: CurationRules = Field(default=CurationRules(), description="what is asked beyond these caps")


class AccumulationConfig(Record):
    """How a generation's training set is made of all generations' verified examples."""

    anchor_share: float = Field(
        default=0.25, ge=0.0, lt=1.0,
        description="at least this share of the used rows is by base models, before anything was trained; a set with "
        "too few of them is cut down until it holds",
    )  # fmt: skip
    max_rows: int | None = Field(default=None, ge=1, description="rows used at most; null: all that are left")
    max_per_problem: int = Field(default=4, ge=1, description="rows of one problem and family, of all generations")
    max_source_share: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="largest share of the rows that one author may have, before max_rows and anchor_share",
    )
    labels: tuple[LabelSource, ...] = Field(
        default=("verifier",), description="whose word counts: verifier, cross_family, consensus"
    )


class QualityConfig(Record):
    """From where on a candidate's texts disqualify it. Shares may exceed the incumbent's own by `margin`, if larger."""

    min_texts: int = Field(default=16, ge=1, description="with fewer texts nothing is judged")
    max_empty: float = Field(default=0.2, ge=0, le=1, description="share of texts without a word")
    max_looping: float = Field(default=0.1, ge=0, le=1, description="share of texts that end in a loop")
    max_unfinished: float = Field(default=0.5, ge=0, le=1, description="share of texts cut off at the token limit")
    max_unseen: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="share of words that neither a row nor their own prompt has; numbers are not words",
    )
    max_same: float = Field(
        default=0.4, ge=0, le=1, description="share by which the commonest text may exceed that of the rows"
    )
    min_distinct: float = Field(
        default=0.4, ge=0, le=1, description="different word pairs, against as many words of the rows"
    )
    max_length_ratio: float = Field(
        default=3.0, gt=1, description="typical length against the rows of the same task type, either way"
    )
    margin: float = Field(default=0.1, ge=0, le=1, description="what counts as no worse than the incumbent")
