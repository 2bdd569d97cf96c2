"""Training sets over generations: everything verified is kept, part of it is used, and every drop has its reason. Pure.

Replacing a set by each generation's own output makes models collapse; adding to it does not (Gerstgrasser et al. 2024,
arXiv 2404.01413). An anchor share of the used rows was written before anything was trained.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field

from evolve.learning.config import AccumulationConfig
from evolve.learning.curate import Example
from evolve.learning.label_source import TRUST, LabelSource
from evolve.learning.paths import path_of
from memory.types import Record, content_hash

SetDropReason = Literal[
    "contaminated", "unlabelled", "duplicate", "same_path", "cap_per_problem", "cap_per_source", "anchor_share",
    "max_rows",
]  # fmt: skip


class SetRow(Record):
    """One example with where it comes from and who says that it is right."""

    example: Example
    generation: int = Field(ge=0, description="number of the generation whose traces it is from")
    label: LabelSource = "verifier"
    key: str = Field(description="canonical key of its TRAIN problem")

    @cached_property
    def id(self) -> str:
        """Short content hash; the same example of a later generation has another."""
        return content_hash(self)[:16]

    @property
    def is_anchor(self) -> bool:
        """Written by a base model: nothing trained had a hand in it."""
        return self.example.adapter is None


class SetDrop(Record):
    """A kept row that this set does not use."""

    row: str = Field(description="`SetRow.id`")
    generation: int
    reason: SetDropReason


class Accumulated(Record):
    """The set of a generation: all rows there are, and those that are used."""

    all: tuple[SetRow, ...] = Field(description="every row of every generation, oldest first; only ever grows")
    used: tuple[SetRow, ...]
    drops: tuple[SetDrop, ...]

    @property
    def examples(self) -> tuple[Example, ...]:
        """What recipes choose their rows from."""
        return tuple(row.example for row in self.used)

    @property
    def anchor_share(self) -> float:
        """Share of the used rows that base models wrote; 0 without rows."""
        return sum(row.is_anchor for row in self.used) / len(self.used) if self.used else 0.0

    @property
    def digest(self) -> str:
        """Hash of the used rows, in order."""
        return content_hash([row.model_dump(mode="json") for row in self.used])


def set_rows(
    examples: Iterable[Example],
    generation: int,
    keys: Mapping[str, str],
    labels: Mapping[tuple[str, str], LabelSource] | None = None,
) -> tuple[SetRow, ...]:
    """Rows of one generation's curated examples.

    Args:
        keys: task id to canonical key of the TRAIN problems; an example of no known task is left out.
        labels: (task id, completion) to who labelled it; None: the verifier did, as in every judged run.
    """
    return tuple(
        SetRow(
            example=example,
            generation=generation,
            label="verifier" if labels is None else labels.get((example.task_id, example.completion), "verifier"),
            key=keys[example.task_id],
        )
        for example in examples
        if example.task_id in keys
    )


def accumulate(
    earlier: Sequence[SetRow],
    fresh: Sequence[SetRow],
    config: AccumulationConfig,
    *,
    held_out: Collection[str],
    seed: int,
) -> Accumulated:
    """`earlier` and `fresh` together, and of these what is used; each row is used or dropped for one reason.

    Where room is short, the better label stays, then anchors, then the seeded order. Rows of `held_out` problems (keys
    of DEV, GATE and AUDIT) are kept for the record and never used. The same rows give the same set in any order.
    """
    together = {row.id: row for row in (*earlier, *fresh)}
    everything = tuple(sorted(together.values(), key=lambda row: (row.generation, row.id)))
    drops: dict[str, SetDropReason] = {}
    usable: list[SetRow] = []
    for row in everything:
        if row.key in held_out:
            drops[row.id] = "contaminated"
        elif row.label not in config.labels:
            drops[row.id] = "unlabelled"
        else:
            usable.append(row)
    used = _per_problem(sorted(usable, key=lambda row: _rank(row, seed)), config, drops)
    used = _sources(used, config, drops)
    used = _limit(used, config, drops)
    used = _anchored(used, config, drops)  # last, so that the anchor share always holds
    kept = {row.id for row in used}
    return Accumulated(
        all=everything,
        used=tuple(row for row in everything if row.id in kept),
        drops=tuple(
            SetDrop(row=row.id, generation=row.generation, reason=drops[row.id])
            for row in everything
            if row.id in drops
        ),
    )


def _rank(row: SetRow, seed: int) -> tuple[int, bool, str]:
    return TRUST.index(row.label), not row.is_anchor, content_hash([seed, row.id])


def _per_problem(rows: Iterable[SetRow], config: AccumulationConfig, drops: dict[str, SetDropReason]) -> list[SetRow]:
    """Rows that say something new of their problem, as many as it may have.

    Family by family: what one wrote as well as another is the own answer of both.
    """
    texts: set[tuple[str, ...]] = set()
    paths: set[tuple[str, ...]] = set()
    counts: Counter[tuple[str, ...]] = Counter()
    left = []
    for row in rows:
        place = (row.key, row.example.role, row.example.family)
        text = (*place, " ".join(row.example.completion.split()))
        # An objection has no steps to an answer: its wording is all there is.
        is_step_free = row.example.role == "critic"
        path = text if is_step_free else (*place, row.example.member, path_of(row.example.completion))
        if text in texts:
            drops[row.id] = "duplicate"
        elif path in paths:
            drops[row.id] = "same_path"
        elif counts[place] >= config.max_per_problem:
            drops[row.id] = "cap_per_problem"
        else:
            texts.add(text)
            paths.add(path)
            counts[place] += 1
            left.append(row)
    return left


def _limit(rows: Sequence[SetRow], config: AccumulationConfig, drops: dict[str, SetDropReason]) -> list[SetRow]:
    """At most `max_rows`, anchors and the rest by the anchor share, generations in turn, the newest first."""
    if config.max_rows is None or len(rows) <= config.max_rows:
        return list(rows)
    anchors = _in_turn([row for row in rows if row.is_anchor])
    others = _in_turn([row for row in rows if not row.is_anchor])
    wanted = math.ceil(config.max_rows * config.anchor_share - 1e-9)
    num_anchors = min(len(anchors), max(wanted, config.max_rows - len(others)))
    kept = [*anchors[:num_anchors], *others[: config.max_rows - num_anchors]]
    return _drop_others(rows, kept, "max_rows", drops)


def _in_turn(rows: Iterable[SetRow]) -> list[SetRow]:
    """One row of each generation in turn, the newest generation first, so that none drowns the others."""
    queues: dict[int, list[SetRow]] = defaultdict(list)
    for row in rows:
        queues[row.generation].append(row)
    ordered = [queues[number] for number in sorted(queues, reverse=True)]
    longest = max(map(len, ordered), default=0)
    return [queue[turn] for turn in range(longest) for queue in ordered if turn < len(queue)]


def _anchored(rows: Sequence[SetRow], config: AccumulationConfig, drops: dict[str, SetDropReason]) -> list[SetRow]:
    """As many trained members' rows as the anchors there are allow."""
    anchors = [row for row in rows if row.is_anchor]
    others = _in_turn([row for row in rows if not row.is_anchor])
    if config.anchor_share == 0.0:
        return list(rows)
    allowed = int(len(anchors) * (1.0 - config.anchor_share) / config.anchor_share + 1e-9)
    return _drop_others(rows, [*anchors, *others[:allowed]], "anchor_share", drops)


def _sources(rows: Sequence[SetRow], config: AccumulationConfig, drops: dict[str, SetDropReason]) -> list[SetRow]:
    """No author above its share of what is left in the end. With fewer authors than 1/share it is an even split."""
    if config.max_source_share >= 1.0 or not rows:
        return list(rows)
    counts = Counter(row.example.member for row in rows)
    most = max(counts.values())
    # The largest equal limit whose largest author keeps the share; at least an even split, or nothing would be left.
    floor = min(counts.values())
    while most > floor and most > config.max_source_share * sum(min(count, most) for count in counts.values()):
        most -= 1
    taken: Counter[str] = Counter()
    kept = []
    for row in [*(r for r in rows if r.is_anchor), *_in_turn(r for r in rows if not r.is_anchor)]:
        taken[row.example.member] += 1
        if taken[row.example.member] <= most:
            kept.append(row)
    return _drop_others(rows, kept, "cap_per_source", drops)


def _drop_others(
    rows: Sequence[SetRow], kept: Sequence[SetRow], reason: SetDropReason, drops: dict[str, SetDropReason]
) -> list[SetRow]:
    stays = {row.id for row in kept}
    drops |= {row.id: reason for row in rows if row.id not in stays}
    return [row for row in rows if row.id in stays]
