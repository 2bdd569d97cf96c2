"""What an operator may set about who decides over specialists, and when live outcomes take a seat away again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from memory.types import Record


class AutomaticPromotion(Record):
    """What passes the gate is seated."""

    kind: Literal["automatic"] = "automatic"


class ApprovedPromotion(Record):
    """What passes the gate waits until enough people approve it; one veto refuses it."""

    kind: Literal["approval"] = "approval"
    approvers: tuple[str, ...] = Field(default=(), description="whose word counts; empty: anybody's")
    num_approvals: int = Field(default=1, ge=1, description="different people who have to approve")


class VetoedPromotion(Record):
    """What passes the gate is seated when the window has passed without a veto; an approval ends the wait."""

    kind: Literal["veto"] = "veto"
    window_hours: float = Field(default=24.0, gt=0.0, description="hours in which a veto refuses it")
    approvers: tuple[str, ...] = Field(default=(), description="whose word counts; empty: anybody's")


PromotionPolicy = Annotated[AutomaticPromotion | ApprovedPromotion | VetoedPromotion, Field(discriminator="kind")]


class DemotionConfig(Record):
    """When live outcomes take a provisional specialist's seat away, or make it permanent."""

    enabled: bool = Field(default=False, description="False: live outcomes are shown and change nothing")
    alpha: float = Field(
        default=0.01, gt=0.0, lt=0.5, description="chance of ever demoting one that is as good as said"
    )
    margin: float = Field(
        default=0.05, ge=0.0, lt=1.0, description="how much worse than at the gate live accuracy may be, in shares"
    )
    min_outcomes: int = Field(default=20, ge=1, description="judged tasks below which nothing is concluded")
    reporters: tuple[str, ...] = Field(
        default=(), description="whose labels count, as evidence names them ('label:NAME'); empty: everybody's"
    )


class GovernanceConfig(Record):
    """Who decides, and what takes a decision back."""

    promotion: PromotionPolicy = Field(default=AutomaticPromotion(), description="who has the last word after the gate")
    demotion: DemotionConfig = Field(default=DemotionConfig(), description="what live outcomes may take back")
