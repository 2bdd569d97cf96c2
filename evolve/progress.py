"""How a run tells the outside what it is doing: a protocol, and an observer that keeps silent."""

from __future__ import annotations

from typing import Protocol

from memory.types import Record


class StageTime(Record):
    """What one stage took. Wall seconds; tokens over all calls of the stage."""

    stage: str
    seconds: float
    output_tokens: int = 0
    prompt_tokens: int = 0
    engine_seconds: float = 0.0
    """Busy time of engines, calls under way together sharing each second; 0 where no engine was asked."""


class Observer(Protocol):
    """Hears what runs, how far it is, and what is worth a line."""

    def stage(self, name: str, total: int) -> None:
        """A stage of `total` units begins; it ends when the next begins or `finished` is called."""
        ...

    def advance(self, units: int = 1) -> None:
        """`units` of the current stage are done."""
        ...

    def say(self, text: str) -> None:
        """A sentence for the person watching."""
        ...

    def finished(self) -> None:
        """The last stage is over."""
        ...


class Silent:
    """Observes nothing; for tests and `--json`."""

    def stage(self, name: str, total: int) -> None:
        """Ignored."""

    def advance(self, units: int = 1) -> None:
        """Ignored."""

    def say(self, text: str) -> None:
        """Ignored."""

    def finished(self) -> None:
        """Ignored."""
