"""Which protocol a task gets when time runs out: a ladder from the configured one down, and the rung to take. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory.types import Record
from mesh.config import (
    HierarchicalConfig,
    ParallelConfig,
    ProtocolConfig,
    ReviewConfig,
    SelfConsistencyConfig,
    SelfMixtureConfig,
    SequentialConfig,
    SingleConfig,
    SwitchConfig,
    VoteConfig,
)
from mesh.limits import Limits
from mesh.patterns.step import Step

SPARE = 0.9
"""Share of the time left that is planned with: a task may take longer than those before it."""
CHEAPER_BY = 0.5
"""What a rung nobody was measured on is taken to cost, as a share of the rung above it."""


class Choice(Record):
    """The rung a task is held on."""

    rung: int
    reason: str = ""


def ladder_of(protocol: ProtocolConfig) -> tuple[ProtocolConfig, ...]:
    """The protocol and cheaper ones in its place, each cheaper than the one before; at least the protocol itself.

    What talks becomes one vote, a vote becomes one member alone; a pattern keeps its steps and they come down.
    Sampling, limits and oversight stay as they are, so an answer on any rung is asked for in the same words.
    """
    rungs = [protocol]
    while (below := cheaper(rungs[-1])) is not None:
        rungs.append(below)
    return tuple(rungs)


def cheaper(protocol: ProtocolConfig) -> ProtocolConfig | None:
    """The next rung down; None: there is nothing cheaper."""
    match protocol:
        case SingleConfig():
            return None
        case SelfConsistencyConfig() | SelfMixtureConfig():
            return SingleConfig(member=protocol.member, **_limits(protocol))
        case VoteConfig(samples_per_member=1) | SwitchConfig():
            return SingleConfig(**_limits(protocol))
        case SequentialConfig():
            steps = _cheaper_steps(protocol.steps)
            return None if steps is None else protocol.model_copy(update={"steps": steps})
        case ParallelConfig():
            steps = _cheaper_steps(protocol.branches)
            return None if steps is None else protocol.model_copy(update={"branches": steps})
        case ReviewConfig():
            produce = cheaper(protocol.produce)
            return None if produce is None else protocol.model_copy(update={"produce": produce})
        case HierarchicalConfig():
            worker = cheaper(protocol.worker)
            return None if worker is None else protocol.model_copy(update={"worker": worker})
    return VoteConfig(**_limits(protocol))


def choose_rung(
    seconds: Sequence[float | None], *, num_left: int, num_slots: int, seconds_left: float | None
) -> Choice:
    """The dearest rung on which this task may be held, if all after it could still be held on the cheapest one.

    So protocols come down as time runs out and not before, but for one task, on which the cheapest is measured once it
    is clear that there will not be time for all as configured. `seconds` are what a task took on each rung, in one of
    `num_slots` places that work side by side; None: nobody was measured there. `num_left` counts this task too.
    `seconds_left` None: there is no deadline.
    """
    if seconds_left is None:
        return Choice(rung=0)
    expected, rounds = expect(seconds), -(-num_left // num_slots)
    if expected[0] * rounds <= SPARE * seconds_left:
        return Choice(rung=0)
    if seconds[-1] is None and len(seconds) > 1:
        # What the tasks after this one will at least take is worth knowing before it is needed.
        return Choice(rung=len(seconds) - 1, reason="to find out how long the cheapest protocol takes")
    rest = (rounds - 1) * min(expected)
    affordable = [rung for rung, own in enumerate(expected) if own + rest <= SPARE * seconds_left]
    rung = affordable[0] if affordable else min(range(len(expected)), key=lambda one: expected[one])
    if rung == 0:
        return Choice(rung=0)
    return Choice(
        rung=rung,
        reason=f"{seconds_left:.0f} s before the deadline {num_left} tasks were left, and the configured protocol "
        f"takes {expected[0]:.1f} s a task",
    )


def expect(seconds: Sequence[float | None]) -> list[float]:
    """Seconds a task takes on each rung, with a guess where nothing was measured: from the nearest rung that was.

    Nothing measured at all: 0, so that the first tasks are held as configured and measure it.
    """
    known = {rung: own for rung, own in enumerate(seconds) if own is not None}
    if not known:
        return [0.0] * len(seconds)
    nearest = [min(known, key=lambda other: (abs(other - rung), other)) for rung in range(len(seconds))]
    return [known[near] * CHEAPER_BY ** (rung - near) for rung, near in enumerate(nearest)]


def label(ladder: Sequence[ProtocolConfig], rung: int) -> str:
    """Name of a rung: its kind, with its place where another rung has the same kind."""
    kinds = [protocol.kind for protocol in ladder]
    return kinds[rung] if kinds.count(kinds[rung]) == 1 else f"{rung + 1}. {kinds[rung]}"


def _cheaper_steps(steps: Sequence[Step]) -> tuple[Step, ...] | None:
    below = [cheaper(step.protocol) for step in steps]
    if all(protocol is None for protocol in below):
        return None
    return tuple(
        step if protocol is None else step.model_copy(update={"protocol": protocol})
        for step, protocol in zip(steps, below, strict=True)
    )


def _limits(protocol: Limits) -> dict[str, Any]:
    """What every protocol has, as it is here; a cheaper protocol does not score how surprised the others are."""
    return {name: getattr(protocol, name) for name in Limits.model_fields if name not in ("kind", "surprise")}
