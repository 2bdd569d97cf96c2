"""What a file of so many tasks gives: items a split, and the smallest gain that its gate can show. Pure."""

from __future__ import annotations

from pydantic import Field

from evolve.gates.gate import detectable_effect
from evolve.gates.gate_wear import spending
from evolve.problems.curriculum import apportion
from evolve.problems.splits import Split, SplitShares
from memory.types import Record

EXAMPLE_SIZES = (100, 300, 1000, 3000, 10_000)
"""Files that the documentation shows, in tasks."""


class SplitLine(Record):
    """One file size."""

    num_items: int
    train: int
    dev: int
    gate: int
    audit: int
    smallest_gain: float | None = Field(
        description="gain in accuracy that a file's first gate finds with 80% power; None: no gain of any size"
    )


def split_line(num_items: int, shares: SplitShares, *, alpha: float = 0.05, discordance: float = 0.2) -> SplitLine:
    """What `num_items` distinct tasks come to; near duplicates and the hash move a few items between splits.

    The first gate on a file spends its share of `alpha` and no more. `discordance` is the share of problems on which
    two arrangements are expected to differ, see `GateConfig`.
    """
    parts = apportion(num_items, [shares.of(split) for split in Split])
    train, dev, gate, audit = parts
    gain = detectable_effect(gate, discordance, alpha * spending(1)) if gate else None
    return SplitLine(num_items=num_items, train=train, dev=dev, gate=gate, audit=audit, smallest_gain=gain)


def split_table(lines: list[SplitLine]) -> str:
    """The lines as a Markdown table."""
    head = [
        "| tasks | TRAIN | DEV | GATE | AUDIT | smallest gain one comparison of the first gate shows |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join(
        [
            *head,
            *(
                f"| {x.num_items} | {x.train} | {x.dev} | {x.gate} | {x.audit} | "
                f"{'none' if x.smallest_gain is None else f'{x.smallest_gain:+.1%}'} |"
                for x in lines
            ),
        ]
    )
