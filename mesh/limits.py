"""What every protocol has: how to sample, what it may cost, how ballots are weighed, when a person looks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from memory.types import Record
from mesh.budget import Budget
from mesh.oversight import OversightConfig
from mesh.types import Sampling


class Limits(Record):
    """What every protocol has: how to sample, what a deliberation may cost, and who has the last word."""

    kind: str
    sampling: Sampling = Field(default=Sampling(), description="how proposals and revisions are sampled")
    call_timeout_s: float = Field(default=120.0, gt=0.0, description="a call without an answer by then is a failure")
    budget: Budget = Field(default=Budget(), description="what one deliberation may cost, its parts included")
    tally: Literal["weighted", "plurality"] = Field(
        default="weighted",
        description="weighted: by measured reliability and correlation, equally where nothing is measured",
    )
    extract_max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="output tokens of a second, short pass that reads the answer out of a text without a readable one; "
        "null: such a text is an abstention",
    )
    surprise: bool = Field(
        default=False, description="score the chosen text under the other families: one prefill each, nothing sampled"
    )
    oversight: OversightConfig | None = Field(default=None, description="when a person has the last word; null: never")

    @field_validator("sampling")
    @classmethod
    def _refuse_what_the_protocol_sets(cls, sampling: Sampling) -> Sampling:
        if sampling.seed != 0:
            raise ValueError(f"expected no sampling.seed, got {sampling.seed}: pass the seed to deliberate() instead")
        if sampling.num_samples != 1:
            raise ValueError(
                f"expected no sampling.num_samples, got {sampling.num_samples}: set the protocol's samples_per_member"
            )
        return sampling


class Talk(Limits):
    """How members are shown each other's answers."""

    talk_max_tokens: int = Field(default=48, ge=1, description="output tokens of one critique or digest")
    max_peers_shown: int = Field(
        default=4, ge=1, le=26, description="distinct answers one reader sees, the strongest against its own first"
    )
    peer_max_chars: int = Field(
        default=400, ge=1, description="a longer text is shown in its author's digest, never cut in the middle"
    )
    digest: bool = Field(default=True, description="ask authors of long texts for a digest; False: answer and crux")
