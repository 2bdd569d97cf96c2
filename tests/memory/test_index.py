"""Exact and inverted search, and what a mapped file may be used for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.index import VectorIndex, nlist_for

DIM = 8


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def flat(count: int = 20) -> VectorIndex:
    index = VectorIndex.flat(DIM)
    index.add(np.arange(100, 100 + count), unit_rows(count))
    return index


def inverted(count: int = 400, nlist: int = 8) -> VectorIndex:
    index = VectorIndex.trained(unit_rows(count), nlist, num_threads=1)
    index.add(np.arange(100, 100 + count), unit_rows(count))
    return index


def nearest(query: np.ndarray, count: int, limit: int, among: set[int] | None = None) -> list[int]:
    scores = {100 + place: float(row @ query) for place, row in enumerate(unit_rows(count))}
    return sorted((row for row in scores if among is None or row in among), key=lambda row: -scores[row])[:limit]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), limit=st.integers(0, 25), among=st.none() | st.sets(st.integers(95, 125)))
def test_flat_search_is_exact_among_the_rows_it_may_use(seed, limit, among) -> None:
    query = unit_rows(1, seed + 1000)[0]
    chosen = None if among is None else np.array(sorted(among), dtype=np.int64)
    found = flat().search(query, limit, among=chosen)
    assert found.rows.tolist() == nearest(query, 20, limit, among)
    assert found.scores == pytest.approx([float(unit_rows(20)[row - 100] @ query) for row in found.rows], abs=1e-6)


def test_inverted_search_through_all_lists_finds_the_nearest_among_its_candidates() -> None:
    for seed in range(20):
        query = unit_rows(1, seed + 1000)[0]
        assert set(nearest(query, 400, 5)) <= set(inverted().search(query, 20).rows.tolist())


def test_inverted_search_keeps_to_the_rows_it_may_use() -> None:
    among = {100, 103, 250, 499}
    found = inverted().search(unit_rows(1, 7)[0], 10, among=np.array(sorted(among)))
    assert set(found.rows.tolist()) == among


def test_fewer_lists_give_fewer_candidates_and_never_a_row_that_is_not_there() -> None:
    found = inverted(nlist=8).search(unit_rows(1, 3)[0], 400, nprobe=1)
    assert 0 < len(found.rows) < 400
    assert set(found.rows.tolist()) <= set(range(100, 500))


def test_empty_index_finds_nothing() -> None:
    assert len(VectorIndex.flat(DIM).search(unit_rows(1)[0], 3).rows) == 0


def test_removed_rows_are_not_found() -> None:
    index = flat()
    assert index.remove(np.array([100, 101, 999])) == 2
    assert len(index) == 18
    assert not {100, 101} & set(index.search(unit_rows(1)[0], 20).rows.tolist())


@pytest.mark.parametrize("make", [flat, inverted])
def test_file_answers_like_the_original(tmp_path, make) -> None:
    make().write(tmp_path / "index")
    query = unit_rows(1, 5)[0]
    for mapped in (True, False):
        opened = VectorIndex.open(tmp_path / "index", mapped=mapped)
        assert opened is not None
        assert (opened.kind, opened.nlist, opened.dim, len(opened)) == (make().kind, make().nlist, DIM, len(make()))
        assert opened.search(query, 5, nprobe=2).rows.tolist() == make().search(query, 5, nprobe=2).rows.tolist()


@pytest.mark.parametrize("make", [flat, inverted])
def test_index_in_ram_can_be_added_to_and_a_mapped_one_refuses(tmp_path, make) -> None:
    make().write(tmp_path / "index")
    opened, mapped = (VectorIndex.open(tmp_path / "index", mapped=mapped) for mapped in (False, True))
    assert opened is not None
    assert mapped is not None
    opened.add(np.array([5000]), unit_rows(1, 9))
    assert opened.search(unit_rows(1, 9)[0], 1).rows.tolist() == [5000]
    with pytest.raises(ValueError, match="mapped"):
        mapped.add(np.array([5000]), unit_rows(1, 9))
    with pytest.raises(ValueError, match="mapped"):
        mapped.remove(np.array([100]))


def test_what_is_no_index_is_not_opened(tmp_path) -> None:
    (tmp_path / "index").write_bytes(b"not an index at all")
    assert VectorIndex.open(tmp_path / "index", mapped=True) is None
    assert VectorIndex.open(tmp_path / "missing", mapped=False) is None


def test_index_that_cannot_be_written_is_an_error_of_the_system(tmp_path) -> None:
    with pytest.raises(OSError, match="free some space"):
        flat().write(tmp_path / "missing" / "index")


@given(st.integers(0, 5_000_000))
def test_number_of_lists_is_a_power_of_two_that_the_vectors_can_fill(num_vectors) -> None:
    nlist = nlist_for(num_vectors)
    assert 1 <= nlist <= 4096
    assert nlist & (nlist - 1) == 0
    assert nlist == 1 or nlist * 39 <= num_vectors
