"""What the deliberations of one job share: measured reliability, prices, the job's budget, the desk of the person."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.budget import Budget, EngineClock, Purse
from mesh.engine import Engine
from mesh.oversight import Desk
from mesh.reliability import Reliability
from mesh.symbolic import SymbolicJudge
from mesh.types import Member, Profile


class Job:
    """Give one object to all deliberations that run side by side, so that engine time is shared out rightly.

    `reliability` None: nothing is measured and all weights are equal. `desk` None: no person is asked, and a protocol
    with `oversight` is refused. `prices` are money per engine-hour by engine name.
    """

    def __init__(
        self,
        *,
        budget: Budget | None = None,
        prices: Mapping[str, float] | None = None,
        reliability: Reliability | None = None,
        desk: Desk | None = None,
    ) -> None:
        self.purse = Purse(budget or Budget(), prices or {})
        self.reliability = reliability
        self.desk = desk
        self.clock = EngineClock()
        self.symbolic = SymbolicJudge()
        self._profiles: dict[tuple[str, str | None], Profile] = {}

    async def close(self) -> None:
        """End the child process that compares formulas, if one was started."""
        await self.symbolic.close()

    async def profile(self, engine: Engine, member: Member) -> Profile:
        """What probing found out about the member's model; the engine is asked once a job. Raises EngineError."""
        key = (member.engine, member.adapter)
        if key not in self._profiles:
            self._profiles[key] = await engine.profile(member)
        return self._profiles[key]
