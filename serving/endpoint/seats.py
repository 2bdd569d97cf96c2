"""Seats that never change: those of a configuration or of a run, where no channel is followed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.roster import Roster


class FixedSeats:
    """A `SeatSource` of one roster, whose adapters are loaded already and stay."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Roster]:
        """As `SeatSource.held`."""
        yield self.roster
