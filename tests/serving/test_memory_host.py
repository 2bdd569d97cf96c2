"""The one writer for many callers, without Ray: groups, refusals, vectors that follow, an orderly end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from memory.config import MemoryConfig
from memory.database import StoreError
from memory.embed import EmbedderError, HashedNgramEmbedder, Vectors
from memory.store import Memory, Submission
from memory.types import Cue, Edge, Evidence, Experience, Kind, Observation, Relation
from serving.memory_host import EmbedderDied, GroupCommit, MemoryHost, MemorySeat, build_embedder

WHERE = ("default/default/default",)


def seen(text: str, kind: Kind = Kind.PROBLEM, **fields: Any) -> Observation:
    return Observation(experience=Experience(kind=kind, text=text), source="ada", **fields)


def run(directory: Path, act: Callable[[MemoryHost], Awaitable[Any]], embedder: Any = None, **settings: Any) -> Any:
    """What `act` returns, with a host that follows while it runs and is closed afterwards."""

    async def hosted() -> Any:
        seat = MemorySeat(directory=directory, **settings)
        host = await MemoryHost.open(seat, embedder or HashedNgramEmbedder())
        upkeep = asyncio.create_task(host.follow())
        try:
            return await act(host)
        finally:
            upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await upkeep
            await host.close()

    return asyncio.run(hosted())


class Commits:
    """A commit that waits to be let go, and notes what it was given."""

    def __init__(self) -> None:
        self.groups: list[list[Submission]] = []
        self.began, self.free = threading.Event(), threading.Event()

    def __call__(self, submissions: Sequence[Submission]) -> list[Any]:
        self.groups.append(list(submissions))
        self.began.set()
        self.free.wait(5)
        if any(seen.experience.text == "disk" for one in submissions for seen in one.observations):
            raise StoreError("the disk is full")
        texts = [one.observations[0].experience.text for one in submissions]
        return [ValueError("no") if text == "bad" else [text] for text in texts]


def submit_all(commits: Commits, texts: Sequence[str], max_group: int = 512) -> list[Any]:
    async def run() -> list[Any]:
        with ThreadPoolExecutor(1) as thread:
            group = GroupCommit(commits, thread, max_group)
            first = asyncio.create_task(group.submit(Submission([seen("first")])))
            await asyncio.to_thread(commits.began.wait, 5)
            rest = [asyncio.create_task(group.submit(Submission([seen(text)]))) for text in texts]
            await asyncio.sleep(0)
            commits.free.set()
            return await asyncio.gather(first, *rest, return_exceptions=True)

    return asyncio.run(run())


def test_what_waits_while_a_commit_runs_becomes_one_commit() -> None:
    commits = Commits()
    texts = [f"t{number}" for number in range(40)]
    assert submit_all(commits, texts) == [["first"], *([text] for text in texts)]
    assert [len(group) for group in commits.groups] == [1, 40]


def test_a_group_has_a_largest_size() -> None:
    commits = Commits()
    submit_all(commits, [f"t{number}" for number in range(7)], max_group=3)
    assert [len(group) for group in commits.groups] == [1, 3, 3, 1]


def test_a_bad_submission_is_refused_alone_and_a_failed_commit_refuses_its_group_and_no_later_one() -> None:
    first, good, bad = submit_all(Commits(), ["good", "bad"])
    assert (first, good, str(bad)) == (["first"], ["good"], "no")
    first, one, other, later = submit_all(Commits(), ["one", "disk", "later"], max_group=2)
    assert (first, later) == (["first"], ["later"])
    assert str(one) == str(other) == "the disk is full"


def test_many_callers_share_one_memory_and_each_gets_its_own_ids(tmp_path) -> None:
    async def act(host: MemoryHost) -> Any:
        submissions = [Submission([seen(f"What is {number} plus 1?")]) for number in range(30)]
        bad = Submission([seen("fine"), seen("   ")])
        dangling = Submission([seen("also fine")], [Edge(source="0", relation=Relation.LED_TO, target="1")])
        outcomes = await asyncio.gather(
            *(host.remember(one) for one in (*submissions, bad, dangling)), return_exceptions=True
        )
        return [one.observations[0].experience.id for one in submissions], outcomes, await host.read("stats")

    ids, outcomes, stats = run(tmp_path, act)
    assert [outcome[0] for outcome in outcomes[:30]] == ids
    assert "observation 1 (problem): expected some text" in str(outcomes[30])
    assert "expected stored experiences at both ends" in str(outcomes[31])
    assert stats.num_experiences == 30


def test_a_write_sees_what_was_remembered_and_a_read_sees_the_write(tmp_path) -> None:
    async def act(host: MemoryHost) -> Any:
        (id,) = await host.remember(Submission([seen("5", Kind.SOLUTION)]))
        evidence = Evidence(verifier="exact", verdict="failed", digest="d")
        written = await host.write("verify", id, evidence, source="judge", episode="e")
        with pytest.raises(StoreError, match="expected the id of a stored experience"):
            await host.write("retire", "nobody", "old")
        return written, await host.read("standing", id)

    written, read = run(tmp_path, act)
    assert written == read
    assert read.num_failed == 1


class Slow(HashedNgramEmbedder):
    """Embeds when it is allowed to; queries at once."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = threading.Event()
        self.failure: EmbedderError | None = None

    def embed(self, texts: Sequence[str]) -> Vectors:
        if self.failure is not None:
            raise self.failure
        if any("stored" in text for text in texts):
            self.allowed.wait(5)
        return super().embed(texts)


def test_neither_an_acknowledgement_nor_a_recall_waits_for_vectors_and_flush_does(tmp_path) -> None:
    embedder = Slow()

    async def act(host: MemoryHost) -> Any:
        await host.remember(Submission([seen("stored first"), seen("stored second")]))
        found = await host.read("search", "first", WHERE)
        behind = (await host.read("stats")).index.num_delta
        await host.read("recall", Cue(text="anything else", namespaces=WHERE))
        embedder.allowed.set()
        await host.flush()
        return [one.text for one in found], behind, (await host.read("stats")).index.num_delta

    assert run(tmp_path, act, embedder) == (["stored first"], 0, 2)


def test_vectors_follow_by_themselves_and_the_index_is_written_when_enough_came_together(tmp_path) -> None:
    async def act(host: MemoryHost) -> Any:
        for number in range(4):
            await host.remember(Submission([seen(f"What is {number} minus 1?")]))
            await host.flush()
        for _ in range(500):
            state = (await host.read("stats")).index
            if state.num_generation:
                return state
            await asyncio.sleep(0.02)
        return None

    state = run(tmp_path, act, publish_after=4)
    assert (state.num_generation, state.num_delta) == (4, 0)


def test_near_duplicates_are_merged_at_its_times_and_when_asked(tmp_path) -> None:
    async def act(host: MemoryHost) -> Any:
        text = "The engine ran out of memory while it loaded the second adapter of the day"
        await host.remember(Submission([seen(text, Kind.PATTERN)]))
        (again,) = await host.remember(Submission([seen(text + ".", Kind.PATTERN)]))
        if asked:
            assert (await host.tidy()).num_merged == 1
        for _ in range(500):
            if (await host.read("standing", again)).merged_into:
                return True
            await asyncio.sleep(0.01)
        return False

    asked = True
    assert run(tmp_path / "asked", act)
    asked = False
    assert run(tmp_path / "by itself", act, tidy_every_s=0.1)


def test_a_failing_embedder_keeps_no_text_from_being_stored_and_is_reported_by_flush(tmp_path) -> None:
    embedder = Slow()
    embedder.failure = EmbedderError("no vectors today")

    async def act(host: MemoryHost) -> Any:
        ids = await host.remember(Submission([seen("stored all the same")]))
        with pytest.raises(EmbedderError, match="no vectors today"):
            await host.flush()
        embedder.failure = None
        embedder.allowed.set()
        await host.flush()
        return ids, await host.read("stats")

    ids, stats = run(tmp_path, act, embedder)
    assert len(ids) == 1
    assert stats.index.num_delta == 1


def test_a_dead_embedder_ends_the_upkeep(tmp_path) -> None:
    embedder = Slow()
    embedder.failure = EmbedderDied("its engine is gone")

    async def run() -> None:
        host = await MemoryHost.open(MemorySeat(directory=tmp_path), embedder)
        await host.remember(Submission([seen("stored all the same")]))
        with pytest.raises(EmbedderDied):
            await asyncio.wait_for(host.follow(), 5)
        embedder.failure = None
        embedder.allowed.set()
        await host.close()

    asyncio.run(run())


def test_an_orderly_end_embeds_what_is_left_and_publishes_and_lets_another_in(tmp_path) -> None:
    async def act(host: MemoryHost) -> None:
        await host.remember(Submission([seen(f"What is {number} times 2?") for number in range(5)]))

    run(tmp_path, act)
    with Memory.open(tmp_path, HashedNgramEmbedder()) as memory:
        state = memory.stats().index
        assert (state.num_generation, state.num_delta) == (5, 0)


def test_a_seat_without_an_engine_has_the_configured_embedder(tmp_path) -> None:
    seat = MemorySeat(directory=tmp_path, config=MemoryConfig(embedder="hashed"))
    assert build_embedder(seat).id == HashedNgramEmbedder().id
    assert MemorySeat.model_validate_json(seat.model_dump_json()) == seat


def test_a_memory_of_another_embedder_is_embedded_anew_before_it_opens(tmp_path) -> None:
    async def act(host: MemoryHost) -> Any:
        await host.remember(Submission([seen("What is 3 plus 1?")]))
        return (await host.read("stats")).index

    run(tmp_path, act)
    state = run(tmp_path, act, HashedNgramEmbedder(128))
    assert (state.embedder, state.is_active, state.num_generation) == ("hashed-ngram-1-128", True, 1)


def test_an_end_that_comes_together_with_news_is_not_lost(tmp_path) -> None:
    async def run() -> None:
        host = await MemoryHost.open(MemorySeat(directory=tmp_path), HashedNgramEmbedder())
        upkeep = asyncio.create_task(host.follow())
        await host.flush()
        await asyncio.sleep(0.05)
        host._news.set()
        upkeep.cancel()
        done, _ = await asyncio.wait([upkeep], timeout=2)
        assert done
        await host.close()

    asyncio.run(run())
