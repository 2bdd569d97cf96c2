"""How a mesh deliberates: a tagged union of protocols, every option with its reason."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from memory.types import Record
from mesh.types import Sampling


class Limits(Record):
    """What every protocol has: how to sample, and what a deliberation may cost."""

    sampling: Sampling = Field(default=Sampling(), description="how proposals and revisions are sampled")
    call_timeout_s: float = Field(default=120.0, gt=0.0, description="a call without an answer by then is a failure")
    max_tokens_total: int | None = Field(
        default=None, ge=1, description="output tokens one deliberation may take; None: no limit"
    )

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


class SingleConfig(Limits):
    """One member answers once."""

    kind: Literal["single"] = "single"
    member: str | None = Field(default=None, description="name of the member that answers; None: the first seat")


class VoteConfig(Limits):
    """Every member answers `samples_per_member` times, nobody reads anybody, the most frequent answer wins."""

    kind: Literal["vote"] = "vote"
    samples_per_member: int = Field(default=1, ge=1, le=1024, description="answers drawn from each member")


class CouncilConfig(Limits):
    """Propose, read anonymous peers, criticise, revise, vote. Talk stops where all hold one answer."""

    kind: Literal["council"] = "council"
    samples_per_member: int = Field(
        default=1, ge=1, le=1024, description="first answers from each member; its most frequent one is its position"
    )
    rounds: int = Field(default=1, ge=1, le=8, description="most times the members read each other and revise")
    critique: bool = Field(
        default=True, description="each member first objects to the strongest answer against its own"
    )
    talk_max_tokens: int = Field(default=48, ge=1, description="output tokens of one critique")
    max_peers_shown: int = Field(
        default=4, ge=1, le=26, description="distinct answers one reader sees, those against its own first"
    )
    peer_max_chars: int = Field(
        default=400, ge=1, description="a longer text is shown as its answer alone, never cut in the middle"
    )


ProtocolConfig = Annotated[SingleConfig | VoteConfig | CouncilConfig, Field(discriminator="kind")]
