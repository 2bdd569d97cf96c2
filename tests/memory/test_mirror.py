"""Vectors as one process sees them: exact answers whatever lies where, other processes, erasures, other embedders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import generations, indexer, mirror, vectors
from memory.database import StoreError, transaction
from memory.embed import EmbedderError, Vectors
from memory.indexer import Policy
from memory.ledger import exclusive_lock
from memory.mirror import VectorMirror, embed_new, fill, switch_over
from memory.types import Kind
from tests.memory.small_store import SmallStore, WordEmbedder

FLAT = Policy(num_threads=1)
LADDER = Policy(ivf_from=200, num_queries=50, num_threads=1)
NEW = WordEmbedder("new", 24)


class Watched(SmallStore):
    """A store with a clock that only moves when told to, and mirrors on it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.now = 0.0

    def writer(self, embedder: WordEmbedder | None = None, policy: Policy = FLAT) -> VectorMirror:
        return self._mirror(embedder or WordEmbedder(), policy, readonly=False)

    def watcher(self, embedder: WordEmbedder | None = None) -> VectorMirror:
        return self._mirror(embedder or WordEmbedder(), FLAT, readonly=True)

    def index(self, embedder: str = "words") -> Path:
        return generations.index_directory(self.directory, embedder)

    def pass_time(self) -> None:
        self.now += 2.0

    def _mirror(self, embedder: WordEmbedder, policy: Policy, *, readonly: bool) -> VectorMirror:
        connection = self.reader() if readonly else self.connection
        made = VectorMirror(
            connection, embedder, self.directory, readonly=readonly, policy=policy, clock=lambda: self.now
        )
        if not readonly:
            made.fill()
        made.refresh()
        return made


@pytest.fixture
def store(tmp_path) -> Watched:
    return Watched(tmp_path / "store")


def words(count: int, first: int = 0) -> list[str]:
    return [f"word{number % 7} text {number}" for number in range(first, first + count)]


def expected(store: SmallStore, query: Vectors, limit: int, among: Sequence[int] | None = None) -> list[int]:
    """By brute force over what SQLite holds."""
    embedder = vectors.find_embedder(store.connection, "words")
    assert embedder is not None
    rows = range(1, vectors.last_entry(store.connection) + 1) if among is None else among
    found = vectors.by_entries(store.connection, embedder, rows)
    scores = found.vectors.astype(np.float64) @ query.astype(np.float64)
    order = sorted(zip(found.rows.tolist(), scores.tolist(), strict=True), key=lambda hit: (-round(hit[1], 9), hit[0]))
    return [row for row, _ in order[:limit]]


def rows_of(hits: list[tuple[int, float]]) -> list[int]:
    return [row for row, _ in hits]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6)),
        st.tuples(st.just("repeat"), st.integers(1, 30)),
        st.tuples(st.just("erase"), st.integers(0, 50)),
        st.tuples(st.sampled_from(["publish", "reopen", "wait", "damage"]), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_writer_and_reader_answer_as_sqlite_does_whatever_happened(tmp_path_factory, steps) -> None:
    store = Watched(tmp_path_factory.mktemp("store"))
    store.add(words(3))
    writer, reader = store.writer(), store.watcher()
    for number, (step, argument) in enumerate(steps):
        if step == "add":
            store.add(words(argument, first=100 * number))
            writer.fill()
        elif step == "repeat":
            store.add(["word1 text 1"] * argument)
            writer.fill()
        elif step == "erase":
            store.erase(1 + argument % max(1, vectors.last_entry(store.connection)))
            writer.forget()
        elif step == "publish":
            writer.publish(force=True)
        elif step == "reopen":
            writer, reader = store.writer(), store.watcher()
        elif step == "damage":
            for name in generations.names(store.index())[:1]:
                os.truncate(store.index() / name / "manifest.json", 40)
        else:
            store.pass_time()
        for one in (writer, reader):
            one.refresh()
            query = WordEmbedder().one("word1 text 1")
            assert rows_of(one.search(query, 5)) == expected(store, query, 5)
            assert rows_of(one.search(query, 5, np.array([1, 3, 5, 9]))) == expected(store, query, 5, [1, 3, 5, 9])
            assert len(one) == len(expected(store, query, 10_000))


def test_inverted_generation_answers_with_exact_cosines_and_finds_nearly_everything(store) -> None:
    store.add(words(400))
    writer = store.writer(policy=LADDER)
    writer.publish()
    store.add(words(20, first=400))
    writer.fill()
    writer.refresh()
    state = writer.describe()
    assert (state.rung.kind, state.num_generation, state.num_delta) == ("ivf_sq8", 400, 20)
    num_found = 0
    for number in range(0, 420, 10):
        query = WordEmbedder().one(f"word{number % 7} text {number}")
        hits = writer.search(query, 10)
        assert hits[0] == (number + 1, pytest.approx(1.0, abs=1e-6))
        num_found += len(set(rows_of(hits)) & set(expected(store, query, 10)))
    assert num_found / 420 >= 0.95
    few = list(range(1, 300, 7))
    assert rows_of(writer.search(query, 10, np.array(few))) == expected(store, query, 10, few)


def test_equal_texts_come_in_the_order_of_their_rows_across_generation_and_delta(store) -> None:
    store.add(["same text"] * 40)
    writer = store.writer()
    writer.publish()
    store.add(["same text"] * 40)
    writer.fill()
    writer.refresh()
    assert rows_of(writer.search(WordEmbedder().one("same text"), 5)) == [1, 2, 3, 4, 5]
    assert rows_of(writer.search(WordEmbedder().one("same text"), 60)) == list(range(1, 61))


def test_empty_store_finds_nothing_and_publishes_nothing(store) -> None:
    writer = store.writer()
    assert writer.search(WordEmbedder().one("any"), 3) == []
    assert not writer.publish()
    assert not writer.from_published


def test_generation_is_published_when_enough_is_new(store) -> None:
    store.add(words(200))
    writer = store.writer()
    published = []
    for count in (0, 1, 1, 1, 1, 1):
        store.add(words(count, first=1000))
        writer.fill()
        published.append(writer.publish())
    assert published == [True, False, False, False, False, True]
    assert writer.describe().num_delta == 0


def test_damaged_newest_generation_is_replaced_although_little_is_new(store) -> None:
    store.add(words(200))
    writer = store.writer()
    writer.publish()
    (store.index() / writer.describe().generation / "index.faiss").write_bytes(b"")
    assert not store.writer().from_published
    assert store.writer().publish()
    assert store.writer().from_published


def test_publishing_is_left_to_the_process_that_already_builds(store) -> None:
    store.add(words(5))
    writer = store.writer()
    store.index().mkdir(parents=True)
    with exclusive_lock(store.index()):
        assert not writer.publish()
    assert writer.publish()


def test_reader_cannot_publish(store) -> None:
    store.add(words(5))
    store.writer()
    with pytest.raises(StoreError, match="read-only"):
        store.watcher().publish()


def test_reader_goes_over_to_a_newer_generation_and_drops_what_it_covers(store) -> None:
    store.add(words(5))
    writer, reader = store.writer(), store.watcher()
    writer.publish()
    reader.refresh()
    assert not reader.from_published  # it looks once a second
    store.pass_time()
    reader.refresh()
    state = reader.describe()
    assert (state.num_generation, state.num_delta, len(reader)) == (5, 0, 5)


def test_large_generation_is_opened_beside_while_searches_go_on(store, monkeypatch) -> None:
    monkeypatch.setattr(mirror, "_ASIDE_FROM", 1)
    store.add(words(50))
    writer, reader = store.writer(), store.watcher()
    writer.publish()
    store.pass_time()
    query = WordEmbedder().one("word1 text 1")
    for _ in range(10_000):
        reader.refresh()
        assert rows_of(reader.search(query, 5)) == expected(store, query, 5)
        if reader.from_published:
            break
    assert (reader.describe().num_generation, len(reader)) == (50, 50)


def test_large_generation_that_is_mapped_serves_on_without_the_erased(store, monkeypatch) -> None:
    monkeypatch.setattr(mirror, "_ASIDE_FROM", 1)
    store.add(words(50))
    writer = store.writer()
    writer.publish()
    store.erase(2)
    writer.forget()
    query = WordEmbedder().one("word1 text 1")
    assert generations.names(store.index()) == []
    assert (writer.describe().num_generation, len(writer)) == (49, 49)
    assert rows_of(writer.search(query, 49)) == expected(store, query, 49)
    assert writer.publish()
    assert (writer.describe().num_generation, len(store.writer())) == (49, 49)


def test_reader_stays_with_what_it_has_when_the_newer_generation_is_damaged(store) -> None:
    store.add(words(50))
    writer = store.writer()
    writer.publish()
    reader = store.watcher()
    first = reader.describe().generation
    store.add(words(50, first=50))
    writer.fill()
    writer.publish()
    (store.index() / writer.describe().generation / "index.faiss").write_bytes(b"damaged")
    store.pass_time()
    reader.refresh()
    assert (reader.describe().generation, len(reader)) == (first, 100)


def test_erase_removes_generations_of_every_embedder_and_nobody_finds_the_entry_again(store) -> None:
    store.add(words(20))
    writer, reader = store.writer(), store.watcher()
    writer.publish()
    other = store.index("other")
    shutil.copytree(store.index(), other)
    query = WordEmbedder().one("word1 text 1")
    assert rows_of(reader.search(query, 1)) == rows_of(writer.search(query, 1)) == [2]
    store.erase(2)
    assert rows_of(reader.search(query, 1)) != [2]  # before anybody was told
    writer.forget()
    assert generations.names(store.index()) == generations.names(other) == []
    reader.refresh()
    for one in (writer, reader, store.watcher()):
        assert 2 not in rows_of(one.search(query, 20))
        assert len(one) == 19


def test_texts_are_embedded_outside_and_an_entry_erased_meanwhile_gets_no_vector(store) -> None:
    writer = store.writer()
    store.add(words(3))
    store.add(["an attempt"], kind="attempt")
    pending = writer.pending()
    assert pending == [(1, words(3)[0]), (2, words(3)[1]), (3, words(3)[2])]
    found = writer.embed([text for _, text in pending])
    store.erase(2)
    writer.store([row for row, _ in pending], found)
    writer.store([row for row, _ in pending], found)
    writer.refresh()
    assert (len(writer), writer.pending()) == (2, [])
    store.add(words(1, first=50))
    assert [row for row, _ in writer.pending()] == [5]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda blob: blob[:-4], "expected 16 numbers"),
        (lambda blob: b"\x00\x00\xc0\x7f" + blob[4:], "length 1"),  # NaN
        (lambda blob: bytes(len(blob)), "length 1"),
    ],
)
def test_damaged_vector_is_refused_and_can_be_made_anew(store, spoil: Callable[[bytes], bytes], message) -> None:
    store.add(words(5))
    store.writer()
    blob = store.connection.execute("SELECT vector FROM vectors WHERE entry = 3").get
    with transaction(store.connection):
        store.connection.execute("UPDATE vectors SET vector = ? WHERE entry = 3", (spoil(blob),))
    with pytest.raises(StoreError, match=message):
        store.watcher()
    embedder = vectors.find_embedder(store.connection, "words")
    assert embedder is not None
    assert vectors.discard_damaged(store.connection, embedder) == 1
    assert len(store.writer()) == 5


def test_embedder_that_changed_its_length_is_refused(store) -> None:
    store.writer()
    for make in (store.writer, store.watcher):
        with pytest.raises(StoreError, match="expected vectors of 16 numbers, got 24"):
            make(WordEmbedder("words", 24))


def test_reader_with_an_embedder_that_is_not_active_is_told_which_one_is(store) -> None:
    store.add(words(3))
    store.writer()
    with pytest.raises(StoreError, match="active is words"):
        store.watcher(NEW)
    vectors.ensure_embedder(store.connection, NEW.id, NEW.dim)
    with pytest.raises(StoreError, match="which is words"):
        store.watcher(NEW)


def test_another_embedder_takes_over_once_it_embedded_everything(store) -> None:
    store.add(words(150))
    store.writer()
    old = store.watcher()
    query = WordEmbedder().one("word1 text 1")
    assert switch_over(store.connection, NEW, store.directory, FLAT)
    new = store.watcher(NEW)
    assert (new.from_published, new.describe().is_active, len(new)) == (True, True, 150)
    assert rows_of(new.search(NEW.one("word1 text 1"), 1)) == [2]
    with pytest.raises(StoreError, match="which is new"):
        old.refresh()
    assert rows_of(old.search(query, 1)) == [2]  # only its own vectors, to the end


class Faulty(WordEmbedder):
    """Breaks down after `num_good` texts."""

    num_good = 100

    def embed(self, texts: Sequence[str]) -> Vectors:
        found = super().embed(texts)
        return found if self.num_embedded <= self.num_good else found * np.float32(np.nan)


def test_embedder_that_breaks_down_leaves_the_old_one_active_and_goes_on_later(store) -> None:
    store.add(words(150))
    store.writer()
    with pytest.raises(EmbedderError):
        switch_over(store.connection, Faulty(NEW.id, NEW.dim), store.directory, FLAT)
    assert len(store.watcher()) == 150
    num_embedded = NEW.num_embedded
    writer = store.writer(NEW)
    assert NEW.num_embedded - num_embedded == 150 - 64
    assert (writer.describe().is_active, len(writer)) == (True, 150)


def test_embedder_does_not_take_over_while_an_entry_lacks_its_vector(store) -> None:
    store.add(words(3))
    store.writer()
    new = vectors.ensure_embedder(store.connection, NEW.id, NEW.dim)
    fill(store.connection, NEW)
    store.add(words(1, first=3))
    assert not vectors.activate(store.connection, new.id)
    assert vectors.active_embedder(store.connection).name == "words"
    fill(store.connection, NEW)
    assert vectors.activate(store.connection, new.id)


def test_index_of_a_new_embedder_may_be_built_by_another_process_before_it_takes_over(store) -> None:
    store.add(words(10))
    store.writer()
    vectors.ensure_embedder(store.connection, NEW.id, NEW.dim)
    fill(store.connection, NEW)
    assert indexer.main([str(store.directory), "--embedder", NEW.id, "--threads", "1"]) == 0
    assert len(generations.names(store.index(NEW.id))) == 1
    assert store.watcher().describe().is_active
    assert switch_over(store.connection, NEW, store.directory, FLAT)


def test_equal_texts_are_embedded_once_and_attempts_not_at_all(store) -> None:
    embedder = WordEmbedder()
    writer = store.writer(embedder)
    found = embed_new(writer, ["a", "b", "a"], [Kind.PROBLEM, Kind.ATTEMPT, Kind.ERROR])
    assert sorted(found) == [0, 2]
    assert (found[0] == found[2]).all()
    assert embedder.num_embedded == 1
