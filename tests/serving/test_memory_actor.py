"""A memory in a real Ray actor: many clients, deaths in the middle, refusals, and an end that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import ray

from memory.config import MemoryConfig
from memory.database import StoreError
from memory.embed import HashedNgramEmbedder
from memory.store import Memory
from memory.types import Cue, Edge, Evidence, Experience, Kind, Namespace, Observation, Relation, Use
from serving.cluster import start_local_ray
from serving.config import RayConfig
from serving.memory_actor import RemoteMemory, start_memory
from serving.memory_host import MemorySeat

pytestmark = pytest.mark.engine

WHERE = ("default/default/default",)
CONFIG = MemoryConfig(embedder="hashed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    running = start_local_ray(RayConfig(num_cpus=1, object_store_mib=80))
    yield
    ours = list(set(psutil.Process().children(recursive=True)) - before)
    running.close()
    _, left = psutil.wait_procs(ours, timeout=10)
    assert left == []


Start = Callable[..., RemoteMemory]


@pytest.fixture
def start(cluster: None, tmp_path: Path) -> Iterator[Start]:
    """Starts a memory in this test's directory, by default without its name; all are killed afterwards."""
    started: list[RemoteMemory] = []

    def begin(**options: object) -> RemoteMemory:
        started.append(start_memory(MemorySeat(directory=tmp_path, config=CONFIG), **options))
        return started[-1]

    yield begin
    for memory in started:
        ray.kill(memory.actor, no_restart=True)


def seen(text: str, kind: Kind = Kind.PROBLEM, source: str = "ada", **fields: object) -> Observation:
    return Observation(experience=Experience(kind=kind, text=text, **fields), source=source, episode=f"of {text}")


def texts_in(directory: Path) -> set[str]:
    """Every text of a memory that nobody else has open."""
    with Memory.open(directory, HashedNgramEmbedder()) as memory:
        memory.check()
        with memory.reading() as connection:
            return {text for (text,) in connection.execute("SELECT text FROM entries")}


def test_every_verb_gives_what_the_memory_itself_gives(start: Start, tmp_path: Path) -> None:
    remote = start()
    problem, solution = seen("What is 20 + 22?", task_type="sum"), seen("42", Kind.SOLUTION, task_type="sum")
    edge = Edge(source=problem.experience.id, relation=Relation.RESOLVED_BY, target=solution.experience.id)
    ids = remote.remember([problem, solution], [edge])
    assert ids == [problem.experience.id, solution.experience.id]
    evidence = Evidence(verifier="exact", verdict="passed", digest="d")
    remote.verify(ids[1], evidence, source="judge", episode="e")
    standing = remote.verify(ids[1], evidence, source="judge", episode="another")
    remote.used(Use(episode="u", success=True, verifier="exact", shown=(ids[1],), same=(ids[1],)))
    remote.flush()
    cue = Cue(text="What is 20 + 22?", namespaces=WHERE, task_type="sum")
    given = remote.recall(cue), remote.search("20 + 22", WHERE), remote.brief(50, WHERE), remote.stats()
    assert remote.get(ids[0]) == problem.experience
    assert (remote.edges_of(ids[0]), remote.neighbours(ids[0])) == ([edge], [solution.experience])
    assert remote.standing(ids[1]) is not None
    remote.shutdown()
    with Memory.open(tmp_path, HashedNgramEmbedder(), readonly=True, config=CONFIG) as memory:
        assert memory.standing(ids[1]).num_passed == standing.num_passed
        assert given[0].shown[0].text == memory.recall(cue).shown[0].text == "42"
        assert given[0].shown[0].same
        assert [one.text for one in given[1]] == [one.text for one in memory.search("20 + 22", WHERE)]
        assert given[2] == memory.brief(50, WHERE)
        assert given[3].head == memory.head
        assert memory.stats().index.num_delta == 0


def test_upkeep_verbs_reach_the_one_writer(start: Start) -> None:
    remote = start()
    first, again, other = remote.remember([seen("kept one"), seen("kept one again"), seen("kept by bob", source="bob")])
    remote.merge(again, first, "the same")
    assert remote.standing(again).merged_into == first
    remote.unmerge(again)
    remote.retire(first, "old")
    assert remote.standing(first).level == "retired"
    remote.restore(first)
    assert remote.rollback(source="bob") == 1
    assert remote.erase(other).experience_id == other
    assert remote.get(other) is None
    assert [one.text for one in remote.search("kept", WHERE)].count("kept by bob") == 0


@ray.remote(num_cpus=0)
def report(memory: RemoteMemory, client: int, count: int) -> list[str]:
    """A client in a process of its own."""
    return [memory.remember([seen(f"kept {client} {number}")])[0] for number in range(count)]


def test_clients_in_other_processes_and_threads_write_at_once(start: Start, tmp_path: Path) -> None:
    remote = start(name="shared")
    elsewhere = report.remote(RemoteMemory.named("shared"), 9, 20)
    with ThreadPoolExecutor(8) as threads:
        mine = [
            threads.submit(remote.remember, [seen(f"kept {client} {number}")])
            for client in range(4)
            for number in range(10)
        ]
        ids = {one.result()[0] for one in mine} | set(ray.get(elsewhere))
    assert len(ids) == 60
    remote.shutdown()
    assert len(texts_in(tmp_path)) == 60


def test_a_bad_submission_among_good_ones_is_refused_alone_with_the_memorys_words(start: Start) -> None:
    remote = start()

    def attempt(text: str) -> str:
        try:
            return remote.remember([seen(text)])[0]
        except StoreError as error:
            return str(error)

    texts = ["kept 1", "  ", "kept 2", "half a \ud800 character", "kept 3", "x" * 1_000_001]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(attempt, texts))
    assert "expected some text" in answers[1]
    assert "expected valid Unicode" in answers[3]
    assert "expected at most 1000000 characters" in answers[5]
    assert remote.stats().num_experiences == 3
    with pytest.raises(StoreError, match="expected the id of a stored experience"):
        remote.verify("nobody", Evidence(verifier="exact", verdict="passed", digest="d"))
    with pytest.raises(StoreError, match="expected team/project/run"):
        remote.recall(Cue(text="kept", namespaces=("nowhere",)))
    assert remote.search("half a \ud800", WHERE)
    assert remote.search("kept", (str(Namespace(team="another")),)) == []


def test_what_was_acknowledged_is_there_after_a_kill_and_callers_go_on(start: Start, tmp_path: Path) -> None:
    remote = start()
    acknowledged: list[str] = []
    stop = threading.Event()

    def write(client: int) -> None:
        for number in range(10_000):
            if stop.is_set():
                return
            remote.remember([seen(f"kept {client} {number}")])
            acknowledged.append(f"kept {client} {number}")

    def wait_for_more(count: int) -> None:
        aim, end = len(acknowledged) + count, time.monotonic() + 60.0
        while len(acknowledged) < aim:
            assert time.monotonic() < end, f"{len(acknowledged)} of {aim} were acknowledged"
            time.sleep(0.01)

    pids = []
    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(write, client) for client in range(4)]
        try:
            for _ in range(2):
                wait_for_more(20)
                pids.append(remote.start())
                os.kill(pids[-1], signal.SIGKILL)
            pids.append(remote.start())
            wait_for_more(20)
        finally:
            stop.set()
        for client in clients:
            client.result()
    assert len(set(pids)) == 3
    remote.flush()
    index = remote.stats().index
    remote.shutdown()
    present = texts_in(tmp_path)
    assert set(acknowledged) <= present
    assert index.num_delta + index.num_generation == len(present)


def test_a_memory_that_is_gone_for_good_is_a_clear_error_and_its_directory_is_free(
    start: Start, tmp_path: Path
) -> None:
    remote = start(max_restarts=0)
    remote.remember([seen("kept")])
    os.kill(remote.start(), signal.SIGKILL)
    with pytest.raises(StoreError, match=r"memory is gone: .* what it acknowledged is on disk"):
        remote.remember([seen("too late")])
    with pytest.raises(StoreError, match="may have happened or not"):
        remote.erase("0")
    assert texts_in(tmp_path) == {"kept"}


def test_two_writers_of_one_directory_an_unknown_name_and_a_slow_answer_are_clear_errors(start: Start) -> None:
    remote = start()
    with pytest.raises(StoreError, match="is locked by process"):
        start()
    with pytest.raises(StoreError, match="expected a memory named 'nobody'"):
        RemoteMemory.named("nobody")
    with pytest.raises(StoreError, match=r"expected stats within .* s, got nothing"):
        RemoteMemory(remote.actor, timeout_s=1e-9).stats()


def test_an_orderly_end_publishes_the_index_and_leaves_no_process(start: Start, tmp_path: Path) -> None:
    remote = start()
    process = psutil.Process(remote.start())
    remote.remember([seen(f"kept {number}") for number in range(3)])
    remote.shutdown()
    assert psutil.wait_procs([process], timeout=10)[1] == []
    with Memory.open(tmp_path, HashedNgramEmbedder(), readonly=True) as memory:
        state = memory.stats().index
        assert (state.num_generation, state.num_delta) == (3, 0)
