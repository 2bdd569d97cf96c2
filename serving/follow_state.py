"""How far those who follow a channel are, as they tell everybody who looks at its directory."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from memory.types import Record
from serving.leases import states

LEASES = ".leases"
"""Directory beside the channels: who follows one, and which adapters each needs."""


class FollowState(Record):
    """How far a follower is, for readiness and status."""

    channel: str
    roster: str | None = Field(default=None, description="id of the roster in force here; null: none yet, not ready")
    source: str = Field(default="", description="where that roster comes from")
    wanted: str | None = Field(default=None, description="id of the roster that the channel names")
    error: str = Field(default="", description="why the wanted one is not in force; empty: it is, or is on its way")
    since: float | None = Field(default=None, description="when the roster came into force here, seconds since 1970")
    switch_s: float | None = Field(default=None, description="seconds the last switch took, fetch to in force")
    num_switches: int = Field(default=0, description="rosters that came into force here after the first one")
    is_frozen: bool = Field(default=False, description="the channel refuses promotions")

    @property
    def is_ready(self) -> bool:
        """Whether there are seats to answer with."""
        return self.roster is not None


class Followed(Record):
    """A process that follows a channel, as others see it."""

    host: str
    pid: int
    state: FollowState


def followers(channels: Path) -> tuple[Followed, ...]:
    """Every living process that follows a channel in this directory, wherever the directory is mounted."""
    return states(channels / LEASES, Followed)
