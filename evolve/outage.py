"""A call that failed is asked once more; an engine that is gone ends the stage, or its silence would count as wrong."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mesh.engine import Engine, EngineError
from mesh.table import OUT_OF_BUDGET
from mesh.types import Deliberation, Failure, Member, Message, Part, Sampling
from serving.ticket import Ticket, with_ticket

_T = TypeVar("_T")
Failed = tuple[str, str]
"""Name of an engine, and what it said or did not say, for people."""

PROBE_S = 60.0
"""Seconds an engine has at least to answer a trivial question: one that is only slow is not gone."""
_PROBE = Message(role="user", parts=(Part(text="What is 1 + 1?"),))


class EngineGone(EngineError):
    """An engine answers nothing any more. What it failed to answer last was not accepted."""


def engine_failures(held: Deliberation) -> list[tuple[Member, Failure]]:
    """Every call that an engine failed, parts included, and of whom; what a budget left undone is none of them."""
    found = []
    for _, part in held.walk():
        seats = {member.name: member for member in part.members}
        found += [(seats[one.member], one) for one in part.failures if one.kind != OUT_OF_BUDGET]
    return found


def failed_in(held: Deliberation) -> list[Failed]:
    """The same by engine, as `Pulse.asked_twice` wants it."""
    return [(member.engine, f"{one.kind}: {one.message}") for member, one in engine_failures(held)]


class Pulse:
    """Tells a question that an engine cannot answer, which is data, from an engine that is gone, which is not."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._beat_at: defaultdict[str, float] = defaultdict(lambda: -math.inf)

    async def asked_twice(
        self,
        ask: Callable[[], Awaitable[_T]],
        failed: Callable[[_T], Sequence[Failed]],
        engine: Engine,
        *,
        stage: str,
        timeout_s: float,
        lost: Callable[[_T], None] = lambda _: None,
    ) -> _T:
        """What `ask` gives; once more where calls `failed` in it, and that may have failed calls too.

        `lost` is told what the first time gave where it does not count. `timeout_s`: of one call.

        Raises:
            EngineGone: calls failed again, and their engine does not answer a trivial question either.
        """
        first = await ask()
        if not failed(first):
            return first
        lost(first)
        again = await ask()
        for name, why in dict(reversed(failed(again))).items():
            await self._check(name, engine, max(timeout_s, PROBE_S), f"{stage} ended at a call that failed ({why})")
        return again

    async def _check(self, name: str, engine: Engine, timeout_s: float, where: str) -> None:
        """Only an answer to what was asked after the call had failed says that the engine outlived it."""
        failed_at = time.monotonic()
        async with self._locks[name]:
            if self._beat_at[name] >= failed_at:
                return
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(timeout_s):
                    await _probe(name, engine)
            except (EngineError, TimeoutError) as error:
                said = str(error) or f"no answer within {timeout_s:g} s"
                raise EngineGone(
                    f"engine {name!r} answers nothing any more, not even a trivial question ({said}). {where}; nothing "
                    "that it failed to answer was accepted, and all else is kept: see to the engine, then give the "
                    "same command again"
                ) from error
            self._beat_at[name] = asked_at


async def _probe(name: str, engine: Engine) -> None:
    """On the base model: an adapter that breaks costs its own candidate alone."""
    first = with_ticket(engine, Ticket(priority="evolve"))
    await first.complete(Member(name=name, engine=name, family=""), [_PROBE], Sampling(temperature=0.0, max_tokens=1))
