from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.training.pack import TokenRow, pack_rows, rows_per_pass

ROWS = st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=8).flatmap(
        lambda ids: st.builds(TokenRow, st.just(tuple(ids)), st.integers(1, len(ids) - 1), st.sampled_from([0.5, 1.0]))
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(ROWS)
def test_every_row_can_be_read_back_along_what_its_last_label_position_sees(rows):
    packed = pack_rows(rows)
    start = 0
    for row in rows:
        num = len(row.token_ids) - row.completion_start
        labels, positions = packed.label_ids[start : start + num], packed.label_positions[start : start + num]
        path = np.flatnonzero(packed.visible[positions[-1]])
        assert tuple(packed.token_ids[path]) == row.token_ids[:-1]
        assert list(packed.depths[path]) == list(range(len(path)))
        assert tuple(labels) == row.token_ids[row.completion_start :]
        assert list(packed.depths[positions]) == list(range(row.completion_start - 1, len(row.token_ids) - 1))
        assert set(packed.label_weights[start : start + num]) == {row.weight}
        start += num
    assert start == len(packed.label_ids)


@settings(deadline=None)
@given(ROWS)
def test_no_beginning_is_computed_twice_and_nobody_sees_what_comes_later(rows):
    packed = pack_rows(rows)
    beginnings = {row.token_ids[:end] for row in rows for end in range(1, len(row.token_ids) + 1)}
    assert len(packed.token_ids) == len(beginnings)
    assert not np.triu(packed.visible, 1).any()
    assert packed.visible.diagonal().all()


def test_a_prompt_that_ends_several_rows_is_learned_for_each():
    packed = pack_rows([TokenRow((1, 2, 3), 2), TokenRow((1, 2, 4), 2, 0.5)])
    assert packed.token_ids.tolist() == [1, 2, 3, 4]
    assert packed.label_positions.tolist() == [1, 1]
    assert packed.label_ids.tolist() == [3, 4]
    assert packed.label_weights.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("start", [0, 3])
def test_a_row_without_prompt_or_completion_is_refused(start):
    with pytest.raises(ValueError, match=r"expected a completion starting within 1\.\.2"):
        pack_rows([TokenRow((1, 2, 3), start)])


def test_nothing_cannot_be_packed():
    with pytest.raises(ValueError, match="at least one row"):
        pack_rows([])


def different(length: int, count: int) -> list[TokenRow]:
    return [TokenRow(tuple(range(length * place, length * (place + 1))), 1) for place in range(count)]


def test_passes_are_as_large_as_the_token_limit_allows():
    assert rows_per_pass(different(100, 20), 16, 4096) == 16
    assert rows_per_pass(different(100, 20), 16, 1599) == 8
    assert rows_per_pass(different(5000, 2), 16, 4096) == 1
    assert rows_per_pass(different(10, 7), 7, 40) == 1
    assert rows_per_pass(different(100, 20), 16, 1600, together=2) == 8


def test_rows_that_begin_alike_fit_in_greater_numbers():
    rows = [TokenRow((*range(400), 1000 + place), 400) for place in range(32)]
    assert rows_per_pass(rows, 16, 4096) == 16
    assert rows_per_pass(rows, 16, 410) == 8


@settings(deadline=None)
@given(ROWS, st.integers(1, 30), st.integers(1, 2))
def test_no_pass_is_larger_than_the_limit_whichever_rows_it_takes(rows, limit, together):
    size = rows_per_pass(rows, 4, limit, together=together)
    if size > 1:
        for chosen in combinations_with_replacement(rows, size * together):
            assert len(pack_rows(chosen).token_ids) <= limit
