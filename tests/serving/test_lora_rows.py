"""Adapters multiplied together against one row at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.lora_rows import add_lora, group_rows

SLOTS, RANK, NUM_IN = 5, 3, 7
SIZES = (6, 2, 4)
BATCHES = st.lists(st.integers(-1, SLOTS - 1), max_size=24)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


A = [drawn(SLOTS, 1, RANK, NUM_IN) + part for part in range(len(SIZES))]
B = [drawn(SLOTS, 1, size, RANK) for size in SIZES]


def reference(y: torch.Tensor, x: torch.Tensor, slots: list[int], scale: float) -> torch.Tensor:
    result = y.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            parts = [scale * b[slot, 0] @ (a[slot, 0] @ x[row]) for a, b in zip(A, B, strict=True)]
            result[row] += torch.cat(parts)
    return result


@settings(deadline=None, max_examples=150)
@given(slots=BATCHES)
def test_every_row_gets_its_own_adapter_and_base_rows_none(slots: list[int]) -> None:
    x, y = drawn(len(slots), NUM_IN), drawn(len(slots), sum(SIZES))
    expected = reference(y, x, slots, 0.5)
    add_lora(y, x, A, B, 0.5, SIZES, group_rows(torch.tensor(slots, dtype=torch.long)))
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
    for row, slot in enumerate(slots):
        if slot < 0:
            torch.testing.assert_close(y[row], expected[row], atol=0.0, rtol=0.0)


@given(slots=BATCHES)
def test_groups_hold_every_row_with_an_adapter_once(slots: list[int]) -> None:
    groups = group_rows(torch.tensor(slots, dtype=torch.long))
    found = sorted(row for _, rows in groups.by_slot for row in rows.tolist())
    assert found == [row for row, slot in enumerate(slots) if slot >= 0]
    assert (groups.whole is not None) == (len(slots) > 0 and set(slots) == {slots[0]} and slots[0] >= 0)


def test_even_groups_are_done_together_and_a_long_prompt_beside_short_rows_is_not() -> None:
    assert group_rows(torch.tensor([0, 1, 2, 3] * 4)).table is not None
    assert group_rows(torch.tensor([0, 1, -1, -1] * 4)).table is not None
    assert group_rows(torch.tensor([0] * 200 + [1, 2, 3])).table is None
    assert group_rows(torch.tensor([2] * 8)).table is None


@pytest.mark.parametrize("slots", [[0, 1, 2, -1, 0], [0, 1] * 4, [0] * 20 + [1]])
def test_rows_of_an_adapter_that_overflows_spoil_no_others(slots: list[int]) -> None:
    huge = [a.clone() for a in A]
    for a in huge:
        a[1] = 1e38
    x, y = drawn(len(slots), NUM_IN).abs() * 100, torch.zeros(len(slots), sum(SIZES))
    add_lora(y, x, huge, B, 1.0, SIZES, group_rows(torch.tensor(slots)))
    for row, slot in enumerate(slots):
        assert bool(y[row].isfinite().all()) == (slot != 1)


def test_bfloat16_model_gets_the_float_result_within_rounding() -> None:
    slots = [0, 1, 2, -1, 4, 3]
    x, y = drawn(6, NUM_IN).bfloat16(), torch.zeros(6, sum(SIZES), dtype=torch.bfloat16)
    add_lora(y, x, [a.bfloat16() for a in A], [b.bfloat16() for b in B], 1.0, SIZES, group_rows(torch.tensor(slots)))
    expected = reference(torch.zeros(6, sum(SIZES)), x.float(), slots, 1.0)
    torch.testing.assert_close(y.float(), expected, atol=0.2, rtol=0.05)
