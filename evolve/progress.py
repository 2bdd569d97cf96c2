"""How a run tells the outside what it is doing: a protocol, an observer that keeps silent, and the times it leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from memory.ledger import Ledger
from memory.types import Record

TIMES = "times.jsonl"
"""Where a run keeps how long its stages took, apart from its journal."""
PART = "part"
"""Kind of the entries there that hold a part of a stage's time before it has ended."""
_GENERATION = re.compile(r"\bgeneration (\d+)\b")


class StageTime(Record):
    """What one stage took. Wall seconds; tokens over all calls of the stage."""

    stage: str
    seconds: float
    output_tokens: int = 0
    prompt_tokens: int = 0
    engine_seconds: float = 0.0
    """Busy time of engines, calls under way together sharing each second; 0 where no engine was asked."""


def generation_of(stage: str) -> int | None:
    """Number of the generation that a stage is part of; None: it is common to all."""
    match = _GENERATION.search(stage)
    return int(match[1]) if match else None


def is_training(stage: str) -> bool:
    """Whether a stage trains adapters, placebos included."""
    return stage.endswith(" training")


def merged_times(times: Iterable[StageTime]) -> dict[str, StageTime]:
    """Stages by name, in order, each with all its parts: what a kill cut off and lost calls count as well."""
    merged: dict[str, StageTime] = {}
    for item in times:
        before = merged.get(item.stage, StageTime(stage=item.stage, seconds=0.0))
        merged[item.stage] = StageTime(
            stage=item.stage,
            seconds=before.seconds + item.seconds,
            output_tokens=before.output_tokens + item.output_tokens,
            prompt_tokens=before.prompt_tokens + item.prompt_tokens,
            engine_seconds=before.engine_seconds + item.engine_seconds,
        )
    return merged


def read_times(directory: Path) -> list[StageTime]:
    """All stages that a run has ended so far, in order; none where it keeps no times yet."""
    if not (directory / TIMES).is_file():
        return []
    return [StageTime.model_validate(entry.payload) for entry in Ledger(directory / TIMES, readonly=True).entries()]


def read_ended(directory: Path) -> list[StageTime]:
    """The stages that a run has ended so far, each once with all of its time, those of earlier starts included."""
    if not (directory / TIMES).is_file():
        return []
    ended = {
        entry.payload["stage"] for entry in Ledger(directory / TIMES, readonly=True).entries() if entry.kind != PART
    }
    return [one for one in merged_times(read_times(directory)).values() if one.stage in ended]


class Observer(Protocol):
    """Hears what runs, how far it is, and what is worth a line."""

    def stage(self, name: str, total: int, unit: str = "") -> None:
        """A stage of `total` units begins; it ends when the next begins or `finished` is called.

        `unit`: what is counted, one of them ("ask"); empty: nothing is, it is one piece of work.
        """
        ...

    def advance(self, units: int = 1) -> None:
        """`units` of the current stage are done; less than 0: so many were lost and are done again."""
        ...

    def say(self, text: str) -> None:
        """A sentence for the person watching."""
        ...

    def finished(self) -> None:
        """The last stage is over."""
        ...


class Silent:
    """Observes nothing; for tests and `--json`."""

    def stage(self, name: str, total: int, unit: str = "") -> None:
        """Ignored."""

    def advance(self, units: int = 1) -> None:
        """Ignored."""

    def say(self, text: str) -> None:
        """Ignored."""

    def finished(self) -> None:
        """Ignored."""
