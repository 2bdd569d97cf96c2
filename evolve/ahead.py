"""Deliberations held before the step that accepts them: kept by what was asked, taken by whoever asks the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from evolve.outage import engine_failures
from memory.ledger import Ledger
from memory.types import Record, content_hash
from mesh.types import Deliberation


class HeldAhead:
    """What was held ahead in one run; it survives a kill, and no result depends on it or on its order.

    An ask's hash covers task, members, protocol and seed, so what is found for it is what the step would have held.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ledger: Ledger | None = None
        self._held = {
            entry.payload["ask"]: Deliberation.model_validate(entry.payload["deliberation"])
            for entry in (Ledger(path, readonly=True).entries() if path.is_file() else ())
        }

    def __len__(self) -> int:
        return len(self._held)

    async def hold(self, ask: Record, work: Callable[[], Awaitable[Deliberation]]) -> None:
        """Hold what `ask` asks, by `work`, unless that was done; kept durably, unless an engine failed a call.

        Raises what `work` raises.
        """
        key = content_hash(ask)
        if key not in self._held:
            deliberation = await work()
            if engine_failures(deliberation):
                return
            payload = {"ask": key, "deliberation": deliberation.model_dump(mode="json")}
            if self._ledger is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._ledger = Ledger(self._path)
            self._ledger.append("deliberation", payload)
            self._held[key] = deliberation

    def or_else(
        self, ask: Record, work: Callable[[], Awaitable[Deliberation]]
    ) -> Callable[[], Awaitable[Deliberation]]:
        """`work`, or in its place what was held ahead."""

        async def taken() -> Deliberation:
            found = self._held.get(content_hash(ask))
            return await work() if found is None else found

        return taken

    def forget(self) -> None:
        """All that was held ahead is accepted by now, or is wanted by nobody."""
        self._held.clear()
        self._ledger = None
        self._path.unlink(missing_ok=True)
