"""Memory as its users see it: what is remembered, what comes back, and what cannot go wrong silently."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest

from memory.database import FILE_NAME, SchemaTooNew, StoreError, _check_sqlite
from memory.embed import EmbedderError, HashedNgramEmbedder
from memory.ledger import GENESIS, AlreadyLocked
from memory.store import MAX_TEXT_CHARS, Memory
from memory.types import Edge, Evidence, Experience, Kind, Relation

EMBEDDER = HashedNgramEmbedder()


def note(
    kind: Kind, text: str, verdict: str | None = None, *, task_type: str = "sum", split: str = "train"
) -> Experience:
    evidence = Evidence.model_validate({"verifier": "exact", "verdict": verdict, "digest": "d"}) if verdict else None
    return Experience(kind=kind, text=text, task_type=task_type, split=split, evidence=evidence)


def edge(source: Experience, relation: Relation, target: Experience) -> Edge:
    return Edge(source=source.id, relation=relation, target=target.id)


def solved(question: str, answer: str, **where: str) -> tuple[list[Experience], list[Edge]]:
    problem = note(Kind.PROBLEM, question, **where)
    solution = note(Kind.SOLUTION, f"Question: {question}\nAnswer: {answer}", "passed", **where)
    return [problem, solution], [edge(problem, Relation.RESOLVED_BY, solution)]


def failed(question: str, answer: str, **where: str) -> tuple[list[Experience], list[Edge]]:
    problem = note(Kind.PROBLEM, question, **where)
    attempt = note(Kind.ATTEMPT, f"{question}\nTried: {answer}", "failed", **where)
    error = note(Kind.ERROR, f"{question}\nWrong: {answer}", "failed", **where)
    return [problem, attempt, error], [
        edge(problem, Relation.ATTEMPTED, attempt),
        edge(attempt, Relation.FAILED_WITH, error),
    ]


APPLES = "How many apples are left when two of seven apples are eaten?"
PEARS = "How many pears are left when three of nine pears are eaten?"


@pytest.fixture
def memory(tmp_path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", EMBEDDER) as opened:
        yield opened


# What comes back


def test_a_solved_problem_comes_back_for_a_similar_one_with_its_reason(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    (found,) = memory.recall(PEARS)
    assert found.text == f"Question: {APPLES}\nAnswer: 5"
    assert (found.kind, found.warning) == (Kind.SOLUTION, False)
    assert "verified by exact" in found.why


def test_failures_come_back_as_warnings_after_solutions_and_once_each(memory) -> None:
    memory.remember(*failed(APPLES, "9"))
    memory.remember(*solved(APPLES, "5"))
    found = memory.recall(APPLES, limit=5)
    assert [(one.kind, one.warning) for one in found] == [(Kind.SOLUTION, False), (Kind.ERROR, True)]
    assert "failed the check exact" in found[1].why


def test_a_failed_attempt_without_an_error_warns_by_itself(memory) -> None:
    memory.remember([note(Kind.ATTEMPT, f"{APPLES} Tried: 9", "failed")])
    (found,) = memory.recall(APPLES)
    assert (found.kind, found.warning) == (Kind.ATTEMPT, True)


@pytest.mark.parametrize("verdict", [None, "unknown"])
def test_what_nobody_verified_is_never_recalled(memory, verdict) -> None:
    memory.remember([note(kind, f"{APPLES} {kind}", verdict) for kind in Kind])
    assert memory.recall(APPLES, limit=16) == []


def test_outcomes_and_decisions_are_for_search_not_for_prompts(memory) -> None:
    memory.remember([note(Kind.OUTCOME, APPLES, "passed"), note(Kind.DECISION, f"{APPLES} decided", "passed")])
    assert memory.recall(APPLES) == []
    assert len(memory.search(APPLES)) == 2


def test_the_solution_is_reached_through_the_graph_when_its_text_says_nothing(memory) -> None:
    problem, solution = note(Kind.PROBLEM, APPLES), note(Kind.SOLUTION, "5", "passed")
    memory.remember([problem, solution], [edge(problem, Relation.RESOLVED_BY, solution)])
    (found,) = memory.recall(PEARS)
    assert (found.text, found.lane) == ("5", "graph")
    assert "came of a similar problem" in found.why


def test_an_error_leads_to_what_resolved_it(memory) -> None:
    error, fix = (
        note(Kind.ERROR, "CUDA out of memory while allocating", "failed"),
        note(Kind.SOLUTION, "halve it", "passed"),
    )
    memory.remember([error, fix], [edge(error, Relation.RESOLVED_BY, fix)])
    assert [one.text for one in memory.recall("RuntimeError: CUDA out of memory")] == ["halve it", error.text]


@pytest.mark.parametrize("splits", [["train"], {"train"}, ("train", "dev")])
def test_recall_stays_in_the_splits_it_is_given_also_through_the_graph(memory, splits) -> None:
    memory.remember(*solved(APPLES, "5", split="gate"))
    problem = note(Kind.PROBLEM, PEARS)
    hidden = note(Kind.SOLUTION, "6", "passed", split="gate")
    memory.remember([problem, hidden], [edge(problem, Relation.RESOLVED_BY, hidden)])
    assert memory.recall(APPLES, splits=splits) == []
    assert len(memory.recall(APPLES, splits=["gate"])) == 1
    assert len(memory.recall(APPLES)) == 2


def test_no_splits_means_nothing_may_be_recalled_and_a_plain_string_is_refused(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    assert memory.recall(APPLES, splits=[]) == []
    with pytest.raises(TypeError, match=r"write \['train'\]"):
        memory.recall(APPLES, splits="train")


def test_recall_stays_in_the_task_type(memory) -> None:
    memory.remember(*solved(APPLES, "5", task_type="sum"))
    memory.remember(*solved(APPLES, "4", task_type="riddle"))
    assert [one.task_type for one in memory.recall(APPLES, task_type="riddle")] == ["riddle"]
    assert memory.recall(APPLES, task_type="other") == []


def test_many_entries_of_another_split_do_not_crowd_out_the_right_one(memory) -> None:
    memory.remember([note(Kind.SOLUTION, f"{APPLES} {number}", "passed", split="gate") for number in range(300)])
    memory.remember([note(Kind.SOLUTION, f"{APPLES} six", "passed")])
    assert [(one.text, one.lane) for one in memory.recall(APPLES, splits=["train"])] == [(f"{APPLES} six", "both")]


def test_never_more_than_the_limit(memory) -> None:
    memory.remember([note(Kind.SOLUTION, f"{APPLES} {number}", "passed") for number in range(9)])
    assert [len(memory.recall(APPLES, limit=limit)) for limit in (0, 1, 3)] == [0, 1, 3]
    assert len(memory.search(APPLES, 4)) == 4
    for ask in (memory.recall, memory.search):
        with pytest.raises(ValueError, match="limit"):
            ask(APPLES, limit=-1)


def test_unrelated_questions_recall_nothing(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*failed(PEARS, "5"))
    assert memory.recall("Which country has Vienna as its capital?") == []
    assert memory.recall("The tensor parallel workers ran out of memory.") == []


def test_a_superseded_solution_is_kept_but_not_recalled(memory) -> None:
    old, new = note(Kind.SOLUTION, f"{APPLES} 4", "passed"), note(Kind.SOLUTION, f"{APPLES} 5", "passed")
    memory.remember([old, new], [edge(new, Relation.SUPERSEDES, old)])
    assert [one.text for one in memory.recall(APPLES)] == [new.text]
    assert memory.get(old.id) == old


def test_recall_of_an_exact_recurrence_comes_first(memory) -> None:
    memory.remember([note(Kind.SOLUTION, f"What is {n} + {n + 1}?\nAnswer: {2 * n + 1}", "passed") for n in range(40)])
    assert memory.recall("What is 17 + 18?")[0].text == "What is 17 + 18?\nAnswer: 35"


# Odd questions


@pytest.mark.parametrize(
    "query", ["", "  \n", "\0", '"', "AND OR NOT NEAR(", "*", "a\ud800b", "数学", "x" * 100_000, "_"]
)
def test_odd_questions_are_answered(memory, query) -> None:
    memory.remember(*solved(APPLES, "5"))
    assert memory.recall(query) == []
    assert isinstance(memory.search(query), list)


def test_an_enormous_question_that_holds_the_problem_still_finds_it(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    assert len(memory.recall(APPLES + " really?" * 50_000)) == 1


def test_an_empty_memory_recalls_nothing_and_says_so(memory) -> None:
    assert memory.recall(APPLES) == memory.search(APPLES) == []
    assert memory.brief(10) == "Memory is empty."
    assert memory.stats().head == GENESIS
    assert memory.get("no such id") is None
    assert memory.edges_of("no such id") == memory.neighbours("no such id") == []


# What is remembered


def test_remembering_twice_changes_nothing(memory) -> None:
    experiences, edges = failed(APPLES, "9")
    ids = memory.remember(experiences, edges)
    before = memory.stats()
    assert memory.remember(experiences + experiences, edges) == ids + ids
    assert memory.stats() == before
    assert ids == [experience.id for experience in experiences]
    assert (before.num_experiences, before.num_edges, before.num_events, before.num_vectors) == (3, 2, 1, 2)


def test_what_is_stored_reads_back_equal_and_knows_its_neighbours(memory) -> None:
    experiences, edges = failed(f"{APPLES}\u2028\0 ü 🎲", "9")
    problem, attempt, error = experiences
    memory.remember(experiences, edges)
    assert [memory.get(one.id) for one in experiences] == experiences
    assert memory.edges_of(attempt.id) == edges
    assert memory.neighbours(attempt.id) == [problem, error]


@pytest.mark.parametrize("text", ["", " \t\n", "a\ud800b", "x" * (MAX_TEXT_CHARS + 1)])
def test_text_that_cannot_be_kept_is_refused_and_nothing_of_the_call_is_stored(memory, text) -> None:
    with pytest.raises(ValueError, match=r"experience 1 \(problem\)"):
        memory.remember([note(Kind.PROBLEM, "fine"), note(Kind.PROBLEM, text)])
    assert memory.stats().num_experiences == 0


def test_the_longest_allowed_text_is_kept_whole(memory) -> None:
    longest = note(Kind.SOLUTION, APPLES + " y" * ((MAX_TEXT_CHARS - len(APPLES)) // 2), "passed")
    memory.remember([longest])
    assert memory.get(longest.id) == longest


def test_an_edge_to_nowhere_is_refused_and_nothing_of_the_call_is_stored(memory) -> None:
    problem, solution = solved(APPLES, "5")[0]
    with pytest.raises(StoreError, match="expected a stored experience"):
        memory.remember([problem], [edge(problem, Relation.RESOLVED_BY, solution)])
    assert memory.stats().head == GENESIS
    memory.remember([problem])
    memory.remember([solution], [edge(problem, Relation.RESOLVED_BY, solution)])
    assert len(memory.recall(APPLES)) == 1


class Broken(HashedNgramEmbedder):
    """Gives NaN for any text that says so."""

    def embed(self, texts):
        vectors = super().embed(texts)
        vectors[["nan" in text for text in texts]] = np.nan
        return vectors


def test_a_vector_of_nan_is_refused_and_nothing_of_the_call_is_stored(tmp_path) -> None:
    with Memory.open(tmp_path, Broken()) as memory:
        with pytest.raises(EmbedderError, match="length nan"):
            memory.remember([note(Kind.PROBLEM, "fine"), note(Kind.PROBLEM, "nan")])
        assert memory.stats().num_experiences == 0


def test_equal_histories_have_equal_heads_and_recollections(tmp_path) -> None:
    def live(directory: Path, *, interrupted: bool) -> tuple[str, str]:
        memory = Memory.open(directory, EMBEDDER)
        for number in range(12):
            story = solved if number % 2 else failed
            memory.remember(*story(f"What is {number} + 5 of the sums?", str(number)))
            if interrupted and number % 5 == 0:
                memory.close()
                memory = Memory.open(directory, EMBEDDER)
                memory.remember(*story(f"What is {number} + 5 of the sums?", str(number)))
        found = repr(memory.recall("What is 4 + 5 of the sums?", limit=9))
        memory.close()
        with Memory.open(directory, EMBEDDER, readonly=True) as reader:
            assert repr(reader.recall("What is 4 + 5 of the sums?", limit=9)) == found
            return reader.stats().model_dump_json(), found

    first = live(tmp_path / "a", interrupted=False)
    assert first == live(tmp_path / "b", interrupted=True)
    assert "Answer" in first[1]
    assert "Wrong" in first[1]


def test_times_are_nowhere_but_in_their_own_column(tmp_path) -> None:
    for name in ("a", "b"):
        with Memory.open(tmp_path / name, EMBEDDER) as memory:
            memory.remember(*failed(APPLES, "9"))
    tables = {
        "events": "seq, kind, payload, prev, hash",
        "entries": "*",
        "edges": "*",
        "vectors": "*",
    }
    dumps = []
    for name in ("a", "b"):
        connection = apsw.Connection(str(tmp_path / name / FILE_NAME))
        dumps.append([connection.execute(f"SELECT {what} FROM {table}").fetchall() for table, what in tables.items()])
        connection.close()
    assert dumps[0] == dumps[1]


# The index is a cache


def published(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "index").rglob("*") if path.is_file())


def answers(directory: Path) -> tuple[bool, str]:
    with Memory.open(directory, EMBEDDER, readonly=True) as memory:
        return memory._mirror.from_published, repr(memory.recall(APPLES, limit=9))


def test_a_damaged_missing_or_stale_index_never_changes_an_answer(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
    shutil.copytree(tmp_path / "index", tmp_path / "old_index")
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(PEARS, "6"))
        memory.remember(*failed(PEARS, "7"))
    used, expected = answers(tmp_path)
    assert used
    assert "Wrong: 7" in expected
    for path in published(tmp_path):
        whole = path.read_bytes()
        for damaged in (whole[:-20], whole.replace(whole[20:24], b"zzzz"), b""):
            path.write_bytes(damaged)
            assert answers(tmp_path) == (False, expected)
        path.write_bytes(whole)
    shutil.rmtree(tmp_path / "index")
    assert answers(tmp_path) == (False, expected)
    shutil.copytree(tmp_path / "old_index", tmp_path / "index")
    assert answers(tmp_path) == (True, expected)  # a true beginning; the rest was taken from SQLite


def test_the_index_of_another_history_is_not_believed(tmp_path) -> None:
    for name, question in (("a", APPLES), ("b", PEARS)):
        with Memory.open(tmp_path / name, EMBEDDER) as memory:
            memory.remember(*solved(question, "5"))
    expected = answers(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "index")
    shutil.copytree(tmp_path / "b" / "index", tmp_path / "a" / "index")
    assert answers(tmp_path / "a") == (False, expected[1])


def test_an_index_with_vectors_that_the_store_lost_is_not_believed(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
    connection = apsw.Connection(str(tmp_path / FILE_NAME))
    connection.execute("DELETE FROM vectors WHERE seq = 1")
    connection.close()
    with Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
        assert reader.stats().num_vectors == 1
    with Memory.open(tmp_path, EMBEDDER) as memory:
        assert memory.stats().num_vectors == 2


def test_another_embedder_gets_its_own_vectors_and_the_first_finds_its_own_again(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
    with Memory.open(tmp_path, HashedNgramEmbedder(dim=64)) as memory:
        assert memory.stats().num_vectors == 2
        memory.remember(*solved(PEARS, "6"))
        assert len(memory.recall(APPLES)) == 2
    with Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
        assert reader.stats().num_vectors == 2
        assert {one.lane for one in reader.recall(PEARS)} == {"vector", "text"}  # the newer one has no vector here
    with Memory.open(tmp_path, EMBEDDER) as memory:
        assert memory.stats().num_vectors == 4


def test_an_embedder_that_changed_its_size_but_not_its_id_is_refused(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
    impostor = HashedNgramEmbedder(dim=64)
    impostor.id = EMBEDDER.id
    with pytest.raises(StoreError, match="expected 64 numbers"):
        Memory.open(tmp_path, impostor)
    with Memory.open(tmp_path, EMBEDDER) as memory:
        assert memory.stats().num_vectors == 2


# One writer, many readers, crashes, files that are something else


def test_a_second_writer_is_refused_and_a_reader_sees_new_entries_at_once(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as writer:
        with pytest.raises(AlreadyLocked):
            Memory.open(tmp_path, EMBEDDER)
        with Memory.open(tmp_path, EMBEDDER, readonly=True) as reader:
            assert reader.recall(APPLES) == []
            writer.remember(*solved(APPLES, "5"))
            assert reader.recall(APPLES) == writer.recall(APPLES) != []
            with pytest.raises(StoreError, match="read-only"):
                reader.remember(*solved(PEARS, "6"))


def test_a_closed_memory_says_so(tmp_path) -> None:
    memory = Memory.open(tmp_path, EMBEDDER)
    memory.close()
    memory.close()
    with pytest.raises(StoreError, match="closed"):
        memory.recall(APPLES)
    Memory.open(tmp_path, EMBEDDER).close()


def test_threads_share_one_memory(memory) -> None:
    def work(name: int) -> None:
        for number in range(10):
            memory.remember(*solved(f"{APPLES} {name} {number}", "5"))
            assert memory.recall(APPLES)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = memory.stats()
    assert (stats.num_experiences, stats.num_vectors, memory.verify()) == (80, 80, 40)


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path) -> None:
    script = """
import sys
from pathlib import Path
from memory.embed import HashedNgramEmbedder
from memory.store import Memory
from memory.types import Experience
memory = Memory.open(Path(sys.argv[1]), HashedNgramEmbedder())
start = memory.stats().num_experiences
for number in range(start, start + 100_000):
    print(*memory.remember([Experience(kind="problem", text=f"problem number {number}")]), flush=True)
    if number % 10 == 0:
        memory.publish_index()
"""
    acknowledged: list[str] = []
    for trial in range(2):
        writer = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged += [writer.stdout.readline().strip() for _ in range(5 + 9 * trial)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split("\n")[:-1]
        writer.wait()
        with Memory.open(tmp_path, EMBEDDER) as memory:
            assert None not in [memory.get(id) for id in acknowledged]
            assert memory.stats().num_vectors == memory.stats().num_experiences == memory.verify()


def test_a_changed_event_is_found(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
        memory.remember(*solved(PEARS, "6"))
        assert memory.verify() == 2
    connection = apsw.Connection(str(tmp_path / FILE_NAME))
    connection.execute("UPDATE events SET payload = '{}' WHERE seq = 1")
    connection.close()
    with Memory.open(tmp_path, EMBEDDER) as memory, pytest.raises(StoreError, match="event 1"):
        memory.verify()


def test_a_newer_schema_is_refused_untouched(tmp_path) -> None:
    Memory.open(tmp_path, EMBEDDER).close()
    connection = apsw.Connection(str(tmp_path / FILE_NAME))
    connection.pragma("user_version", 99)
    connection.close()
    for readonly in (True, False):
        with pytest.raises(SchemaTooNew, match="got 99; use a newer evomesh"):
            Memory.open(tmp_path, EMBEDDER, readonly=readonly)


def test_files_that_are_no_memory_are_refused_with_a_reason(tmp_path) -> None:
    with pytest.raises(StoreError, match="got no file"):
        Memory.open(tmp_path, EMBEDDER, readonly=True)
    (tmp_path / FILE_NAME).write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreError, match="not an SQLite file"):
        Memory.open(tmp_path, EMBEDDER)
    (tmp_path / FILE_NAME).unlink()
    other = apsw.Connection(str(tmp_path / FILE_NAME))
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(StoreError, match="another SQLite file"):
        Memory.open(tmp_path, EMBEDDER)
    with pytest.raises(StoreError, match="expected a directory"):
        Memory.open(tmp_path / FILE_NAME / "below", EMBEDDER)


def test_an_sqlite_that_loses_commits_is_refused() -> None:
    _check_sqlite("3.51.3")
    _check_sqlite("3.100.0")
    with pytest.raises(StoreError, match=r"3\.51\.3 or later, got 3\.40\.1"):
        _check_sqlite("3.40.1")


def test_a_read_only_directory_can_be_read_but_not_written() -> None:
    directory = Path(tempfile.mkdtemp())  # not below tmp_path, which other users cannot enter
    try:
        with Memory.open(directory, EMBEDDER) as memory:
            memory.remember(*solved(APPLES, "5"))
        directory.chmod(0o555)
        script = """
import os, sys
from pathlib import Path
from memory.database import StoreError
from memory.embed import HashedNgramEmbedder
from memory.store import Memory
if os.geteuid() == 0:
    os.setuid(65534)
with Memory.open(Path(sys.argv[1]), HashedNgramEmbedder(), readonly=True) as memory:
    print(len(memory.recall("How many apples are left of seven apples?")))
try:
    Memory.open(Path(sys.argv[1]), HashedNgramEmbedder())
except StoreError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", script, directory], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("1\n")
        assert "expected a writable directory" in done.stdout
    finally:
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved(APPLES, "5"))
        pages = memory._connection.pragma("page_count")
        memory._connection.pragma("max_page_count", pages + 2)
        head = memory.stats().head
        with pytest.raises(StoreError, match="the disk is full"):
            memory.remember([note(Kind.PROBLEM, f"{number} " * 500) for number in range(100)])
        assert memory.stats().head == head
        assert len(memory.recall(APPLES)) == 1


# What a new session reads


def test_a_brief_tells_counts_solutions_and_failures_within_its_words(memory) -> None:
    for number in range(3):
        memory.remember(*solved(f"What is {number} + 1?", str(number + 1)))
        memory.remember(*failed(f"What is {number} + 1?", "99", task_type="riddle"))
    text = memory.brief(200)
    assert text.startswith("Memory of 6 problems.")
    assert "sum: 3 problems, 3 verified solutions, 0 failures." in text
    assert "riddle: 3 problems, 0 verified solutions, 3 failures." in text
    assert "Verified: Question: What is 2 + 1? Answer: 3" in text
    assert "Failed: What is 2 + 1? Wrong: 99" in text
    for max_words in range(60):
        short = memory.brief(max_words)
        assert len(short.split()) <= max_words
        assert text.startswith(short)
    with pytest.raises(ValueError, match="max_words"):
        memory.brief(-1)


def test_stats_count_by_kind_and_type(memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*failed(PEARS, "7", task_type="riddle"))
    stats = memory.stats()
    assert stats.by_kind == {"attempt": 1, "error": 1, "problem": 2, "solution": 1}
    assert stats.by_task_type == {"riddle": 3, "sum": 2}
    assert (stats.num_verified, stats.num_failed, stats.num_edges) == (1, 2, 3)
    assert os.path.exists(memory.directory / FILE_NAME)
