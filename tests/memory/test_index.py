"""The vector index and its copy on disk, which is believed only when it can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.index import Coverage, VectorIndex, index_directory

DIM = 8


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(count: int = 20) -> VectorIndex:
    index = VectorIndex(DIM)
    index.add(np.arange(100, 100 + count), unit_rows(count))
    return index


def coverage(count: int = 20) -> Coverage:
    return Coverage(embedder="e", dim=DIM, num_vectors=count, last_vector=count, num_events=1, head="h")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), limit=st.integers(0, 25), among=st.sets(st.integers(95, 125)))
def test_search_is_exact_among_the_rows_it_may_use(seed, limit, among) -> None:
    query, rows = unit_rows(1, seed + 1000)[0], unit_rows(20)
    found = filled().search(query, limit, np.array(sorted(among), dtype=np.int64))
    scores = {100 + place: float(row @ query) for place, row in enumerate(rows) if 100 + place in among}
    best = sorted(scores, key=lambda row: -scores[row])[:limit]
    assert [row for row, _ in found] == best
    assert [score for _, score in found] == pytest.approx([scores[row] for row in best], abs=1e-6)


def test_equal_rows_come_in_the_order_of_their_ids() -> None:
    index = VectorIndex(DIM)
    same = np.repeat(unit_rows(1), 3, axis=0)
    index.add(np.array([7, 3, 5]), same)
    assert [row for row, _ in index.search(same[0], 3, np.array([3, 5, 7]))] == [3, 5, 7]


def test_empty_index_finds_nothing() -> None:
    assert VectorIndex(DIM).search(unit_rows(1)[0], 3, np.array([1, 2])) == []


def test_published_copy_answers_like_the_original(tmp_path) -> None:
    filled().publish(tmp_path, coverage())
    loaded = VectorIndex.load(tmp_path, "e", DIM)
    assert loaded is not None
    index, covered = loaded
    assert covered == coverage()
    query, everything = unit_rows(1, 5)[0], np.arange(100, 120)
    assert index.search(query, 5, everything) == filled().search(query, 5, everything)
    index.add(np.array([500]), unit_rows(1, 9))
    assert len(index) == 21


def test_publishing_again_leaves_one_file(tmp_path) -> None:
    filled().publish(tmp_path, coverage())
    filled(21).publish(tmp_path, coverage(21))
    assert len(list(tmp_path.glob("*.faiss"))) == 1
    loaded = VectorIndex.load(tmp_path, "e", DIM)
    assert loaded is not None
    assert len(loaded[0]) == 21


def test_missing_copy_or_one_of_another_embedder_is_not_loaded(tmp_path) -> None:
    assert VectorIndex.load(tmp_path, "e", DIM) is None
    filled().publish(tmp_path, coverage())
    assert VectorIndex.load(tmp_path, "other", DIM) is None
    assert VectorIndex.load(tmp_path, "e", DIM + 1) is None


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path) -> None:
    filled().publish(tmp_path, coverage())
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        num_bytes = len(whole.rstrip())  # the manifest's last newline is no data
        for offset in range(0, num_bytes, max(1, num_bytes // 60)):
            damaged = bytearray(whole)
            damaged[offset] ^= 0x10
            for content in (bytes(damaged), whole[:offset]):
                path.write_bytes(content)
                assert VectorIndex.load(tmp_path, "e", DIM) is None, (path.name, offset)
        path.write_bytes(whole)


def test_directories_of_two_embedders_differ_even_when_their_names_look_alike(tmp_path) -> None:
    assert index_directory(tmp_path, "a/b") != index_directory(tmp_path, "a-b")
    assert index_directory(tmp_path, "../../etc").parent == tmp_path
