"""One memory for many asyncio callers: commits in groups, vectors that follow, recalls that wait for neither."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from memory.config import MemoryConfig
from memory.database import StoreError
from memory.embed import Embedder, EmbedderError, embedder_named
from memory.store import Memory, Submission
from memory.types import Record
from memory.upkeep import Tidied, tidy
from serving.config import VllmSpec

WriteVerb = Literal[
    "verify", "used", "merge", "unmerge", "retire", "restore", "rollback", "erase", "record_artefact", "publish_index"
]
ReadVerb = Literal["recall", "search", "get", "standing", "edges_of", "neighbours", "brief", "stats"]

Outcome = list[str] | ValueError | StoreError

_DELTA_SHARE = 50
"""As `memory.mirror` has it: an index is worth building anew when a fiftieth of its vectors came after it."""


class EmbedderDied(EmbedderError):
    """The embedder's engine is gone for good; only a new process helps."""


class VllmEmbedding(Record):
    """An embedding model on vLLM."""

    spec: VllmSpec = Field(description="how the model runs; what is about adapters, roles and thinking is not used")
    model_dir: Path = Field(description="prepared weights, on the node of the memory")


class MemorySeat(Record):
    """Everything a process needs to become the same memory again after a restart."""

    directory: Path = Field(description="where the memory is kept: a disk of the node that serves it")
    config: MemoryConfig = Field(default=MemoryConfig(), description="what may be believed, and the embedder")
    vllm: VllmEmbedding | None = Field(default=None, description="takes the place of config.embedder; null: that one")
    max_group: int = Field(default=512, ge=1, description="submissions that share one sync of the disk, at most")
    publish_after: int = Field(
        default=5_000, ge=1, description="new vectors after which the index is written anew, if they are 2% or more"
    )
    tidy_every_s: float = Field(
        default=3_600.0, gt=0.0, description="seconds between merging near-duplicates and archiving what is stale"
    )


def build_embedder(seat: MemorySeat) -> Embedder:
    """The seat's embedder, started. Raises EmbedderError."""
    if seat.vllm is None:
        return embedder_named(seat.config.embedder)
    # vLLM is imported in the process that runs it, and in no other: that takes many seconds.
    from serving.vllm_embedder import VllmEmbedder

    return VllmEmbedder(seat.vllm.spec, seat.vllm.model_dir)


class GroupCommit:
    """Gathers what many callers submit while a commit runs, and makes one commit of it: one sync serves them all."""

    def __init__(
        self, commit: Callable[[Sequence[Submission]], list[Outcome]], thread: ThreadPoolExecutor, max_group: int
    ) -> None:
        """`commit` gives the outcome of each submission, in order; it runs in `thread`."""
        self._commit = commit
        self._thread = thread
        self._max_group = max_group
        self._waiting: deque[tuple[Submission, asyncio.Future[list[str]]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def submit(self, submission: Submission) -> list[str]:
        """The ids, once they are durable. Raises what the commit has against this submission, or against all."""
        place: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._waiting.append((submission, place))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._commit_waiting())
        return await place

    async def _commit_waiting(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(self._max_group, len(self._waiting)))]
            submissions = [submission for submission, _ in group]
            commit = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, submissions)
            await asyncio.wait([commit])
            failure = commit.exception()
            outcomes = commit.result() if failure is None else [failure] * len(group)
            for (_, place), outcome in zip(group, outcomes, strict=True):
                _settle(place, outcome)


def _settle(place: asyncio.Future[list[str]], outcome: list[str] | BaseException) -> None:
    if place.done():  # its caller went away; what it submitted is stored all the same
        return
    if isinstance(outcome, BaseException):
        place.set_exception(outcome)
    else:
        place.set_result(outcome)


class MemoryHost:
    """The one writer of a memory, and a reader beside it whose recalls wait for no commit and no embedding.

    A submission is acknowledged when it is durable. Its vectors follow while `follow` runs; until then it is found by
    fingerprint and by words alone, and `flush` waits for them.
    """

    def __init__(self, writer: Memory, reader: Memory, seat: MemorySeat) -> None:
        self._writer = writer
        self._reader = reader
        self._seat = seat
        self._write_thread = ThreadPoolExecutor(1, "memory-write")
        self._read_thread = ThreadPoolExecutor(1, "memory-read")
        self._group = GroupCommit(writer.remember_many, self._write_thread, seat.max_group)
        self._embedding = asyncio.Lock()
        self._news = asyncio.Event()
        self._news.set()  # an earlier process may have left texts without vectors
        self._num_unpublished = 0

    @classmethod
    async def open(cls, seat: MemorySeat, embedder: Embedder) -> MemoryHost:
        """Opens the seat's memory, or makes it. Raises as `Memory.open`.

        What another embedder embedded is first embedded anew, all of it; the other's vectors stay beside.
        """
        writer = await asyncio.to_thread(Memory.open, seat.directory, embedder, config=seat.config)
        try:
            if not writer.stats().index.is_active:
                await asyncio.to_thread(writer.embed_pending)
                await asyncio.to_thread(writer.publish_index)
            reader = await asyncio.to_thread(Memory.open, seat.directory, embedder, readonly=True, config=seat.config)
        except BaseException:
            writer.close()
            raise
        return cls(writer, reader, seat)

    async def remember(self, submission: Submission) -> list[str]:
        """As `Memory.remember`, in one commit with whatever else is waiting."""
        ids = await self._group.submit(submission)
        self._news.set()
        return ids

    async def write(self, verb: WriteVerb, *arguments: object, **named: object) -> Any:
        """Any other writing method of `Memory`, in turn with the commits."""
        return await _run(self._write_thread, getattr(self._writer, verb), *arguments, **named)

    async def read(self, verb: ReadVerb, *arguments: object, **named: object) -> Any:
        """A reading method of `Memory`, which sees what is committed, and vectors as far as they have followed."""
        return await _run(self._read_thread, getattr(self._reader, verb), *arguments, **named)

    async def flush(self) -> None:
        """Waits until everything acknowledged before has its vectors. Raises EmbedderError or StoreError."""
        async with self._embedding:
            self._num_unpublished += await asyncio.to_thread(self._writer.embed_pending)

    async def tidy(self) -> Tidied:
        """As `memory.upkeep.tidy`, beside the commits and the recalls."""
        async with self._embedding:
            return await asyncio.to_thread(tidy, self._writer, time.time())

    async def follow(self) -> None:
        """Embeds what is new, publishes the index when enough has come together, and tidies at its times.

        Runs until it is cancelled. Raises EmbedderDied. Any other trouble is printed: what is stored is safe, and the
        next news tries again.
        """
        tidy_at = time.monotonic() + self._seat.tidy_every_s
        while True:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the news.
            with suppress(TimeoutError):
                async with asyncio.timeout(tidy_at - time.monotonic()):
                    await self._news.wait()
            self._news.clear()
            try:
                await self.flush()
                if await self._is_index_behind():
                    await _build_index(self._seat.directory)
                if time.monotonic() >= tidy_at:
                    tidy_at = time.monotonic() + self._seat.tidy_every_s
                    await self.tidy()
            except EmbedderDied:
                raise
            except (EmbedderError, StoreError, OSError) as error:
                print(f"memory: upkeep is behind: {error}", flush=True)

    async def _is_index_behind(self) -> bool:
        if self._num_unpublished < self._seat.publish_after:
            return False
        self._num_unpublished = 0
        state = (await self.read("stats")).index
        return bool(state.num_delta * _DELTA_SHARE >= state.num_delta + state.num_generation)

    async def close(self) -> None:
        """Lets the commits finish, embeds what is left, publishes the index, and lets go of the memory."""
        try:
            await _run(self._read_thread, self._reader.close)
            await _run(self._write_thread, self._writer.close)
        finally:
            self._read_thread.shutdown(wait=False)
            self._write_thread.shutdown(wait=False)


async def _build_index(directory: Path) -> None:
    """Builds and publishes the index in a process of its own: a large one takes minutes, and a writer has no minutes.

    Raises StoreError with what that process said.
    """
    command = (sys.executable, "-m", "memory.indexer", str(directory), "--threads", "1")
    builder = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        _, trouble = await builder.communicate()
    finally:
        if builder.returncode is None:
            builder.kill()
            await builder.wait()
    if builder.returncode:
        raise StoreError(f"{directory}: the index was not built: {trouble.decode(errors='replace').strip()}")


async def _run(thread: ThreadPoolExecutor, method: Callable[..., Any], *arguments: object, **named: object) -> Any:
    return await asyncio.get_running_loop().run_in_executor(thread, lambda: method(*arguments, **named))
