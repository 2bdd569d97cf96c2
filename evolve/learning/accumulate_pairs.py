"""Chosen and rejected answers over generations: kept, used or dropped by the rules that rows go by. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field

from evolve.learning.config import AccumulationConfig
from evolve.learning.preferences import ORIGINS, ChosenRejected
from memory.types import Record, content_hash

PairDropReason = Literal["contaminated", "duplicate", "cap_per_problem", "anchor_share", "max_rows"]


class PairRow(Record):
    """One pair with where it comes from."""

    pair: ChosenRejected
    generation: int = Field(ge=0, description="number of the generation whose traces it is from")
    key: str = Field(description="canonical key of its TRAIN problem")

    @cached_property
    def id(self) -> str:
        """Short content hash; the same pair of a later generation has another."""
        return content_hash(self)[:16]

    @property
    def is_anchor(self) -> bool:
        """A base model wrote the chosen text: nothing trained had a hand in it."""
        return self.pair.adapter is None


class PairDrop(Record):
    """A kept pair that this set does not use."""

    row: str = Field(description="`PairRow.id`")
    generation: int
    reason: PairDropReason


class AccumulatedPairs(Record):
    """The pairs of a generation: all there are, and those that recipes choose from."""

    all: tuple[PairRow, ...] = Field(default=(), description="of every generation, oldest first; only ever grows")
    used: tuple[PairRow, ...] = ()
    drops: tuple[PairDrop, ...] = ()

    @property
    def pairs(self) -> tuple[ChosenRejected, ...]:
        """What recipes choose theirs from."""
        return tuple(row.pair for row in self.used)


def pair_rows(pairs: Iterable[ChosenRejected], generation: int, keys: Mapping[str, str]) -> tuple[PairRow, ...]:
    """Pairs of one generation; `keys`: task id to canonical key. A pair of no known task is left out."""
    return tuple(
        PairRow(pair=pair, generation=generation, key=keys[pair.task_id]) for pair in pairs if pair.task_id in keys
    )


def accumulate_pairs(
    earlier: Sequence[PairRow],
    fresh: Sequence[PairRow],
    config: AccumulationConfig,
    *,
    held_out: Collection[str],
    seed: int,
) -> AccumulatedPairs:
    """`earlier` and `fresh` together, and of these what is used; each pair is used or dropped for one reason.

    `accumulation`'s caps hold for pairs as for rows: so many of a problem for each family they teach, so many in all, a
    share of chosen texts by base models. Where room is short anchors stay, as many as the share needs; then the newest
    generation, which holds today's mistakes; then the better origin, then the seeded order. The same pairs give the
    same set in any order.
    """
    together = {row.id: row for row in (*earlier, *fresh)}
    everything = tuple(sorted(together.values(), key=lambda row: (row.generation, row.id)))
    drops: dict[str, PairDropReason] = {}
    texts: set[tuple[str, ...]] = set()
    counts: Counter[tuple[str, str]] = Counter()
    used: list[PairRow] = []
    for row in sorted(everything, key=lambda row: _rank(row, seed)):
        text, place = (row.key, row.pair.family, row.pair.chosen, row.pair.rejected), (row.key, row.pair.family)
        if row.key in held_out:
            drops[row.id] = "contaminated"
        elif text in texts:
            drops[row.id] = "duplicate"
        elif counts[place] >= config.max_per_problem:
            drops[row.id] = "cap_per_problem"
        else:
            texts.add(text)
            counts[place] += 1
            used.append(row)
    for row in _beyond_limit(used, config):
        drops[row.id] = "max_rows"
    for row in _beyond_anchors([row for row in used if row.id not in drops], config.anchor_share):
        drops[row.id] = "anchor_share"
    return AccumulatedPairs(
        all=everything,
        used=tuple(row for row in everything if row.id not in drops),
        drops=tuple(
            PairDrop(row=row.id, generation=row.generation, reason=drops[row.id])
            for row in everything
            if row.id in drops
        ),
    )


def _rank(row: PairRow, seed: int) -> tuple[bool, int, int, str]:
    return not row.is_anchor, -row.generation, ORIGINS.index(row.pair.origin), content_hash([seed, row.id])


def _beyond_limit(rows: Sequence[PairRow], config: AccumulationConfig) -> list[PairRow]:
    """What `max_rows` has no room for, of anchors and of the others by the anchor share."""
    if config.max_rows is None or len(rows) <= config.max_rows:
        return []
    anchors, others = [row for row in rows if row.is_anchor], [row for row in rows if not row.is_anchor]
    wanted = math.ceil(config.max_rows * config.anchor_share - 1e-9)
    num_anchors = min(len(anchors), max(wanted, config.max_rows - len(others)))
    return [*anchors[num_anchors:], *others[config.max_rows - num_anchors :]]


def _beyond_anchors(rows: Sequence[PairRow], share: float) -> list[PairRow]:
    """Trained members' pairs for which there are too few anchors."""
    anchors = sum(row.is_anchor for row in rows)
    others = [row for row in rows if not row.is_anchor]
    return others[int(anchors * (1.0 - share) / share + 1e-9) :] if share > 0.0 else []
