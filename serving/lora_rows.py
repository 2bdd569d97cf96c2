"""LoRA for a batch on the CPU: rows are grouped by adapter once a step, then all adapters are multiplied together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

MAX_WASTE = 2
"""A table of groups may have so many places a row; where one adapter has most rows, each group goes alone."""


@dataclass(frozen=True)
class Table:
    """The rows of a batch, laid out one adapter beneath the other, all with as many places as the largest has rows."""

    low: int
    high: int
    """Slots `low` to `high` (exclusive) have a line each; a slot between them may have no row."""
    rows: torch.Tensor
    """Row that stands in each place, (lines * width,); a spare place has row 0."""
    spare: torch.Tensor
    """Places without a row of their own; at least one where a row of the batch has no adapter."""
    place_of: torch.Tensor
    """Place of every row of the batch; of a row without an adapter a spare one, whose result is zero."""


@dataclass(frozen=True)
class Groups:
    """Which rows of a batch belong to which adapter slot."""

    num_rows: int
    by_slot: tuple[tuple[int, torch.Tensor], ...]
    """(slot, its rows) of every slot in the batch; rows without an adapter are in none."""
    table: Table | None
    """None: the groups are too uneven for one, or there is only one."""

    @property
    def whole(self) -> int | None:
        """The slot that has every row of the batch; None: there is none."""
        only = self.by_slot[0] if len(self.by_slot) == 1 else None
        return only[0] if only is not None and len(only[1]) == self.num_rows else None


def group_rows(slot_of_row: torch.Tensor) -> Groups:
    """Groups of a batch; `slot_of_row` (n,) holds slots, negative: no adapter."""
    slots = slot_of_row.unique().tolist()
    by_slot = tuple((slot, (slot_of_row == slot).nonzero(as_tuple=True)[0]) for slot in slots if slot >= 0)
    return Groups(len(slot_of_row), by_slot, _table(len(slot_of_row), by_slot))


def _table(num_rows: int, by_slot: tuple[tuple[int, torch.Tensor], ...]) -> Table | None:
    if len(by_slot) < 2:
        return None
    low, high = by_slot[0][0], by_slot[-1][0] + 1
    taken = sum(len(rows) for _, rows in by_slot)
    width = max(len(rows) for _, rows in by_slot)
    if taken < num_rows and taken == (high - low) * width:
        width += 1
    if (high - low) * width > MAX_WASTE * num_rows + (high - low):
        return None
    rows = torch.zeros(high - low, width, dtype=torch.long)
    is_spare = torch.ones(high - low, width, dtype=torch.bool)
    for slot, own in by_slot:
        rows[slot - low, : len(own)] = own
        is_spare[slot - low, : len(own)] = False
    spare = is_spare.view(-1).nonzero(as_tuple=True)[0]
    place_of = torch.full((num_rows,), int(spare[0]) if len(spare) else 0)
    used = (~is_spare).view(-1).nonzero(as_tuple=True)[0]
    place_of[rows.view(-1)[used]] = used
    return Table(low, high, rows.view(-1), spare, place_of)


def add_lora(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    scale: float,
    sizes: Sequence[int],
    groups: Groups,
) -> None:
    """`y[i, columns of part p] += scale * B_p[slot(i)] @ A_p[slot(i)] @ x[i]` for every part and row with an adapter.

    Shapes: y (n, any), x (n, in), `lora_a` per part (slots, 1, r, in), `lora_b` (slots, 1, size, r); the parts stand
    side by side in y. Products are in float32 whatever the model's format: one rounding less, and on a CPU without
    bfloat16 instructions a bfloat16 product takes forty times as long.
    """
    if groups.table is not None:
        _all_at_once(y, x, lora_a, lora_b, scale, sizes, groups.table)
        return
    for slot, rows in groups.by_slot:
        own = x if groups.whole is not None else x.index_select(0, rows)
        _one_slot(y, own.float(), lora_a, lora_b, scale, sizes, slot, None if groups.whole is not None else rows)


def _all_at_once(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    scale: float,
    sizes: Sequence[int],
    table: Table,
) -> None:
    laid_out = x.index_select(0, table.rows).float().view(table.high - table.low, -1, x.shape[-1])
    left = 0
    for a, b, size in zip(lora_a, lora_b, sizes, strict=True):
        inner = torch.bmm(laid_out, a[table.low : table.high, 0].float().transpose(1, 2)).mul_(scale)
        # What stands in a spare place is another row's, whatever its adapter made of it.
        inner.view(-1, inner.shape[-1]).index_fill_(0, table.spare, 0.0)
        update = torch.bmm(inner, b[table.low : table.high, 0].float().transpose(1, 2))
        part = y[:, left : left + size]
        part += update.view(-1, update.shape[-1]).index_select(0, table.place_of)[:, : part.shape[1]].to(y.dtype)
        left += size


def _one_slot(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    scale: float,
    sizes: Sequence[int],
    slot: int,
    rows: torch.Tensor | None,
) -> None:
    left = 0
    for a, b, size in zip(lora_a, lora_b, sizes, strict=True):
        update = ((x @ a[slot, 0].float().t()).mul_(scale) @ b[slot, 0].float().t()).to(y.dtype)
        part = y[:, left : left + size]
        if rows is None:
            part += update[:, : part.shape[1]]
        else:
            part.index_add_(0, rows, update[:, : part.shape[1]])
        left += size
