"""Generations on disk: what is published, what is believed, which rung is taken, and what is thrown away."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory import generations, indexer, vectors
from memory.database import transaction
from memory.generations import Generation, coverage_now, index_directory, is_beginning, newest
from memory.indexer import Policy, publish_generation
from memory.ledger import AlreadyLocked, exclusive_lock
from memory.mirror import fill
from memory.vectors import StoredEmbedder
from tests.memory.small_store import DIM, SmallStore, WordEmbedder

EMBEDDER = WordEmbedder()
FLAT = Policy(num_threads=1)
LADDER = Policy(ivf_from=300, num_queries=100, num_threads=1)


class Filled(SmallStore):
    """A store with `count` embedded texts."""

    def __init__(self, directory: Path, count: int = 30) -> None:
        super().__init__(directory)
        self.index = index_directory(directory, EMBEDDER.id)
        self.grow(count)

    @property
    def embedder(self) -> StoredEmbedder:
        return vectors.ensure_embedder(self.connection, EMBEDDER.id, EMBEDDER.dim)

    def grow(self, count: int) -> None:
        first = vectors.last_entry(self.connection)
        self.add(f"word{number % 40} text {number}" for number in range(first, first + count))
        assert self.embedder.name == EMBEDDER.id
        fill(self.connection, EMBEDDER)

    def publish(self, policy: Policy = FLAT) -> str:
        name = publish_generation(self.connection, self.embedder, self.index, policy)
        assert name is not None
        return name

    def newest(self) -> Generation | None:
        return newest(self.connection, self.embedder, self.index)

    def rung(self) -> generations.Rung:
        found = self.newest()
        assert found is not None
        return found.rung


@pytest.fixture
def store(tmp_path) -> Filled:
    return Filled(tmp_path / "store")


def test_published_generation_holds_every_vector_under_the_row_of_its_entry(store) -> None:
    name = store.publish()
    found = store.newest()
    assert found is not None
    assert (found.name, len(found.index)) == (name, 30)
    assert found.coverage == coverage_now(store.connection, store.embedder)
    assert found.index.search(EMBEDDER.one("word7 text 7"), 1).rows.tolist() == [8]


def test_nothing_is_opened_where_nothing_was_published(store) -> None:
    assert store.newest() is None


def test_every_flipped_bit_and_every_truncation_is_noticed_and_the_previous_one_opens(store) -> None:
    previous = store.publish()
    store.grow(5)
    path = store.index / store.publish()
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        num_bytes = len(whole.rstrip())  # the manifest's last newline is no data
        for offset in range(0, num_bytes, max(1, num_bytes // 40)):
            damaged = bytearray(whole)
            damaged[offset] ^= 0x10
            for content in (bytes(damaged), whole[:offset]):
                file.write_bytes(content)
                found = store.newest()
                assert found is not None
                assert found.name == previous, (file.name, offset)
        file.write_bytes(whole)
    assert store.newest().name == path.name


def test_generation_without_one_of_its_files_is_not_opened(store) -> None:
    path = store.index / store.publish()
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        file.unlink()
        assert store.newest() is None
        file.write_bytes(content)


def test_manifest_that_belongs_to_another_index_is_not_believed(store) -> None:
    first = store.index / store.publish()
    store.grow(5)
    second = store.index / store.publish()
    shutil.copy(first / "manifest.json", second / "manifest.json")
    assert store.newest().name == first.name


def test_two_generations_are_kept_and_what_killed_builders_left_is_swept(store) -> None:
    store.publish()
    junk = store.index / ".building-1-00"
    junk.mkdir()
    (junk / "index.faiss").write_bytes(b"half an index")
    (store.index / "0123456789abcdef.faiss").write_bytes(b"an older format")
    published = []
    for _ in range(3):
        store.grow(5)
        published.append(store.publish())
    assert sorted(os.listdir(store.index)) == sorted([".lock", *published[1:]])


def test_nothing_is_built_when_the_newest_covers_everything(store) -> None:
    assert store.publish() == store.publish()
    with transaction(store.connection):
        store.event("says nothing about vectors")
    assert store.publish() == store.publish()


def test_generation_is_built_anew_when_told_so_and_the_one_before_is_kept(tmp_path) -> None:
    store = Filled(tmp_path / "store", 400)
    first = store.publish(LADDER)
    store.grow(100)
    second = publish_generation(store.connection, store.embedder, store.index, LADDER, anew=True)
    assert generations.names(store.index) == [second, first]
    assert store.rung().trained_on == 500


def test_two_builders_exclude_each_other(store) -> None:
    store.publish()
    with exclusive_lock(store.index), pytest.raises(AlreadyLocked):
        store.publish()


def test_full_disk_is_an_error_that_leaves_nothing(store) -> None:
    name = store.publish()
    store.grow(50)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match="free some space"):
            store.publish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(store.index)) == sorted([".lock", name])


def test_generation_of_another_embedder_or_length_is_not_opened(store) -> None:
    store.publish()
    coverage = store.newest().coverage
    assert is_beginning(store.connection, store.embedder, coverage)
    assert not is_beginning(store.connection, store.embedder._replace(name="other"), coverage)
    assert not is_beginning(store.connection, store.embedder._replace(dim=DIM + 1), coverage)


def test_generation_of_a_longer_history_is_not_a_beginning_of_a_restored_copy(tmp_path, store) -> None:
    early = store.copied_to(tmp_path / "early")
    store.grow(5)
    coverage = coverage_now(store.connection, store.embedder)
    assert not is_beginning(early.connection, store.embedder, coverage)
    with transaction(early.connection):
        early.event("another history of the same length")
    assert not is_beginning(early.connection, store.embedder, coverage)


def test_same_history_in_which_other_entries_got_the_same_numbers_is_told_apart(tmp_path, store) -> None:
    store.add(["late one", "late two"])
    copy = store.copied_to(tmp_path / "copy")
    fill(store.connection, EMBEDDER)
    coverage = coverage_now(store.connection, store.embedder)
    copy.add(["a newer one"])
    for row in (33, 32):  # the newer entry is embedded first
        with transaction(copy.connection):
            vectors.insert(copy.connection, row, store.embedder.id, EMBEDDER.one("any"))
    assert vectors.last_number(copy.connection, store.embedder.id) == coverage.last_vector
    assert not is_beginning(copy.connection, store.embedder, coverage)
    assert is_beginning(store.connection, store.embedder, coverage)


def test_generation_from_before_an_erase_is_neither_opened_nor_kept(store) -> None:
    store.publish()
    other = generations.index_directory(store.directory, "other")
    shutil.copytree(store.index, other)
    (store.index / ".building-1-00").mkdir()
    store.erase(8)
    assert store.newest() is None
    assert generations.drop_before(store.directory, vectors.last_erasure(store.connection)) == 2
    assert os.listdir(store.index) == [".lock"]
    assert os.listdir(other) == [".lock"]
    after = store.publish()
    assert generations.drop_before(store.directory, vectors.last_erasure(store.connection)) == 0
    assert store.newest().name == after


def test_build_that_an_erase_overtakes_leaves_nothing_that_holds_the_erased(tmp_path) -> None:
    moment, is_overtaken = 0, True
    while is_overtaken:
        moment += 1
        store = Filled(tmp_path / f"store{moment}")
        is_overtaken = publish_while_erasing(store, row=8, before_statement=moment)
        if is_overtaken:
            found = store.newest()
            assert (found is None) == (generations.names(store.index) == [])
            assert found is None or 8 not in found.index.search(EMBEDDER.one("word7 text 7"), 30).rows
    assert moment > 5


def publish_while_erasing(store: Filled, row: int, before_statement: int) -> bool:
    """Publish, with another process erasing just before one of the builder's statements; False: it has fewer."""
    other = SmallStore(store.directory)
    embedder, num_statements = store.embedder, 0

    def erase_in_between(cursor: object, sql: str, bindings: object) -> bool:
        nonlocal num_statements
        num_statements += 1
        if num_statements == before_statement:
            other.erase(row)
            generations.drop_before(store.directory, vectors.last_erasure(other.connection))
        return True

    store.connection.exec_trace = erase_in_between
    publish_generation(store.connection, embedder, store.index, FLAT)
    store.connection.exec_trace = None
    return num_statements >= before_statement


def test_few_vectors_are_searched_exactly(store) -> None:
    store.publish(LADDER)
    assert store.rung() == generations.Rung(kind="flat", num_queries=0, recall=1.0)


def test_many_vectors_get_lists_that_passed_the_gate_and_fresh_queries_pass_it_too(tmp_path) -> None:
    store = Filled(tmp_path / "store", 2000)
    store.publish(LADDER)
    found = store.newest()
    assert found is not None
    assert (found.rung.kind, found.rung.trained_on, found.rung.num_queries) == ("ivf_sq8", 2000, 100)
    assert found.rung.recall >= found.rung.recall_bound >= 0.95
    stored = vectors.by_entries(store.connection, store.embedder, range(1, 2001))
    hits = 0
    for query in indexer.gate_queries(stored.vectors[::20], seed=77):
        best = stored.rows[np.argsort(-(stored.vectors @ query))[:10]]
        candidates = found.index.search(query, indexer.NUM_CANDIDATES, nprobe=found.rung.nprobe).rows
        hits += len(set(best.tolist()) & set(candidates.tolist()))
    assert hits / (10 * 100) >= 0.95


def test_vectors_that_are_equal_do_not_look_like_misses(tmp_path) -> None:
    store = Filled(tmp_path / "store", 0)
    store.add(f"word{number % 10}" for number in range(600))
    fill(store.connection, EMBEDDER)
    store.publish(LADDER)
    assert store.rung().kind == "ivf_sq8"


def test_lists_that_do_not_pass_leave_it_flat_and_are_not_tried_again_at_once(tmp_path) -> None:
    store = Filled(tmp_path / "store", 400)
    never = LADDER.model_copy(update={"min_recall": 1.01})
    store.publish(never)
    tried = store.rung()
    assert (tried.kind, tried.trained_on, tried.num_queries) == ("flat", 400, 100)
    assert tried.recall > 0.9
    store.grow(100)
    store.publish(never)
    assert store.rung() == tried
    store.grow(800)
    store.publish(LADDER)
    assert (store.rung().kind, store.rung().trained_on) == ("ivf_sq8", 1300)


def test_generation_is_extended_until_it_outgrew_what_its_lists_were_learnt_from(tmp_path) -> None:
    store = Filled(tmp_path / "store", 400)
    trained_on = []
    for _ in range(3):
        store.publish(LADDER)
        assert len(store.newest().index) == vectors.last_number(store.connection, store.embedder.id)
        trained_on.append(store.rung().trained_on)
        store.grow(500)
    assert trained_on == [400, 400, 1400]


def test_after_an_erase_lists_are_learnt_anew(tmp_path) -> None:
    store = Filled(tmp_path / "store", 400)
    store.publish(LADDER)
    store.erase(5)
    store.publish(LADDER)
    assert store.rung().trained_on == 399
    assert len(os.listdir(store.index)) == 2


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_bound_on_recall_is_at_most_the_mean(recalls) -> None:
    values = np.array(recalls)
    assert indexer.recall_bound(values) <= values.mean()


def test_gate_queries_are_unit_vectors_near_stored_ones_and_the_same_every_time() -> None:
    stored = EMBEDDER.embed([f"word {number}" for number in range(50)])
    queries = indexer.gate_queries(stored, seed=3)
    assert np.linalg.norm(queries, axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    cosines = (queries * stored).sum(axis=1)
    assert 0.3 < cosines.min() < cosines.max() < 0.999
    assert (queries == indexer.gate_queries(stored, seed=3)).all()


def test_directories_of_two_embedders_differ_even_when_their_names_look_alike(tmp_path) -> None:
    assert index_directory(tmp_path, "a/b") != index_directory(tmp_path, "a-b")
    assert index_directory(tmp_path, "../../etc").parent == tmp_path / "index"
    assert len(index_directory(tmp_path, "long " * 100).name) < 100


def test_indexer_command_builds_beside_the_writer_and_says_what(store, capsys) -> None:
    assert indexer.main([str(store.directory), "--threads", "1"]) == 0
    assert capsys.readouterr().out == f"words: {generations.names(store.index)[0]}\n"
    assert len(store.newest().index) == 30


@pytest.mark.parametrize(
    ("directory", "embedder", "message"),
    [("missing", "", "expected a memory"), ("store", "unknown", "unknown"), ("empty", "", "open it for writing")],
)
def test_indexer_command_says_what_is_wrong(tmp_path, store, capsys, directory, embedder, message) -> None:
    SmallStore(tmp_path / "empty")
    assert indexer.main([str(tmp_path / directory), "--embedder", embedder]) == 1
    assert message in capsys.readouterr().err
