"""Whatever is changed behind memory's back is found by `check`, for writers and readers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from memory.database import FILE_NAME, StoreError
from memory.store import Memory
from memory.types import Artefact, Kind
from tests.memory.doubles import APPLES, EMBEDDER, PEARS, failed, files_with, note, raw, solved, thing, use

SOLUTION = solved(APPLES, "5")[0][1].experience.id


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("audit")
    with Memory.open(directory, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
        memory.remember(*failed(PEARS, "9", source="bob"))
        memory.remember([note(Kind.SOLUTION, "five"), note(Kind.SOLUTION, "gone")])
        memory.merge(thing(Kind.SOLUTION, "five").id, SOLUTION, "the same")
        memory.used(use(SOLUTION, success=True, episode="e3"))
        memory.record_artefact(Artefact(id="set", kind="dataset", made_from=("e3",)))
        memory.erase(thing(Kind.SOLUTION, "gone").id)
    return directory


def spoilt(whole: Path, target: Path, sql: str) -> Path:
    shutil.copytree(whole, target)
    connection = raw(target / FILE_NAME)
    connection.execute(sql)
    assert connection.total_changes() or "CREATE" in sql
    connection.close()
    return target


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE entries SET text = text || ' ' WHERE seq = 2", "entry 2: expected content with hash"),
        ("UPDATE entries SET split = 'gate' WHERE seq = 2", "entry 2: expected content with hash"),
        ("UPDATE entries SET fingerprint = 'x' WHERE seq = 1", "entry 1: expected the fingerprint"),
        ("UPDATE namespaces SET team = 'acme'", "expected content with hash"),
        ("UPDATE events SET payload = replace(payload, 'ann', 'eve')", "event 1: expected hash"),
        ("UPDATE events SET created_at = created_at + 1 WHERE seq = 1", "event 2: expected a time"),
        ("UPDATE events SET created_at = created_at - 99 WHERE seq = 1", "table standings"),
        ("UPDATE vectors SET vector = zeroblob(1024) WHERE seq = 1", "the vector of entry 1: expected bytes"),
        ("DELETE FROM standings WHERE entry = 2", "table standings: missing"),
        ("UPDATE standings SET works = 1 WHERE entry = 1", "table standings: stored"),
        ("UPDATE standings SET trust = trust + 1e-9 WHERE entry = 2", "table standings"),
        ("DELETE FROM observations WHERE entry = 2", "table observations: missing"),
        ("UPDATE checks SET verdict = 'failed' WHERE entry = 2", "table checks"),
        ("UPDATE uses SET success = 0", "table uses"),
        ("DELETE FROM marks", "table marks: missing"),
        ("DELETE FROM edges WHERE seq = 1", "table edges: missing"),
        ("INSERT INTO artefacts VALUES ('a', 'dataset', 1)", "table artefacts: stored"),
        ("DELETE FROM artefact_parts", "table artefact_parts: missing"),
        ("DELETE FROM erasures", "table erasures: missing"),
        ("UPDATE gains SET trials = 9", "table gains"),
        ("UPDATE terms SET num_entries = 9 WHERE term = 'apples'", "table terms"),
        ("INSERT INTO words (words, rowid, text) VALUES ('delete', 1, '" + APPLES + "')", "the full-text index"),
        ("CREATE INDEX more ON entries (kind)", "expected the tables of this version"),
        ("CREATE TRIGGER late AFTER INSERT ON entries BEGIN DELETE FROM vectors; END", "expected the tables"),
    ],
)
@pytest.mark.parametrize("readonly", [True, False])
def test_a_change_behind_its_back_is_found_and_named(whole, tmp_path, sql, message, readonly) -> None:
    directory = spoilt(whole, tmp_path / "spoilt", sql)
    memory = Memory.open(directory, EMBEDDER, readonly=readonly)
    with pytest.raises(StoreError, match=message):
        memory.check()
    assert memory.stats().num_experiences > 0  # and goes on answering
    memory.readonly = True  # nothing is to be published
    memory.close()


@pytest.mark.parametrize("readonly", [True, False])
def test_checking_what_is_whole_passes_and_changes_nothing(whole, tmp_path, readonly) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    with Memory.open(tmp_path / "copy", EMBEDDER, readonly=readonly) as memory:
        before = (memory.stats(), (tmp_path / "copy" / FILE_NAME).read_bytes())
        assert memory.check() == memory.check() == 7
        assert (memory.stats(), (tmp_path / "copy" / FILE_NAME).read_bytes()) == before
        if readonly:
            with pytest.raises(StoreError, match="read-only"):
                memory.retire(SOLUTION, "")
            with memory.reading() as connection:
                assert connection.pragma("query_only") == 1


def test_a_damaged_vector_is_embedded_anew_by_no_one_unasked_but_found(whole, tmp_path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    path = tmp_path / "copy" / FILE_NAME
    vector = EMBEDDER.embed([APPLES])[0].tobytes()
    data = bytearray(path.read_bytes())
    at = data.index(vector)
    place = next(at + byte for byte in range(0, 1024, 4) if any(vector[byte : byte + 4]))
    data[place] ^= 1  # the least bit of one number: its length is still 1
    path.write_bytes(data)
    shutil.rmtree(tmp_path / "copy" / "index")
    assert files_with(tmp_path / "copy", vector) == []
    with (
        Memory.open(tmp_path / "copy", EMBEDDER, readonly=True) as memory,
        pytest.raises(StoreError, match="the vector of entry 1"),
    ):
        memory.check()
