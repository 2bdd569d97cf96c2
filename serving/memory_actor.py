"""A memory for every node: the Ray actor that is its one writer, and the client that speaks to it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from memory.database import StoreError
from memory.embed import Embedder, EmbedderError
from memory.ledger import AlreadyLocked
from memory.stats import MemoryStats
from memory.store import Submission
from memory.types import (
    Artefact,
    Cue,
    Edge,
    Erasure,
    Evidence,
    Experience,
    Observation,
    Recall,
    Recollection,
    Record,
    Standing,
    Use,
)
from memory.upkeep import Tidied
from mesh.text import well_formed
from serving.hosting import engine_environment
from serving.memory_host import EmbedderDied, MemoryHost, MemorySeat, ReadVerb, WriteVerb, build_embedder

_Result = TypeVar("_Result")
EXIT_EMBEDDER_DIED = 71
RAY_NAMESPACE = "evomesh"
MAX_WAITING_CALLS = 1_000
_RETRY_S = 0.1


class MemoryRefusal(Record):
    """An error of memory on its way from the actor to its client, without the traceback Ray would add."""

    message: str


class MemoryActor:
    """Hosts one memory. Ray starts it again from its `MemorySeat` when it dies; what it acknowledged is on disk.

    The memory opens at the first call, so that what is wrong with it reaches the caller as an ordinary refusal.
    """

    def __init__(self, seat: MemorySeat) -> None:
        if seat.vllm is not None:
            os.environ.update(engine_environment(seat.vllm.spec))
        self._seat = seat
        self._opening = asyncio.Lock()
        self._host: MemoryHost | None = None
        self._embedder: Embedder | None = None
        self._upkeep: asyncio.Task[MemoryRefusal | None] | None = None

    async def start(self) -> int | MemoryRefusal:
        """Opens the memory if it is not open; returns the process id."""

        async def pid() -> int:
            await self._ready()
            return os.getpid()

        return await self._guarded(pid())

    async def remember(self, observations: Sequence[Observation], edges: Sequence[Edge]) -> list[str] | MemoryRefusal:
        """As `MemoryHost.remember`."""

        async def ids() -> list[str]:
            return await (await self._ready()).remember(Submission(observations, edges))

        return await self._guarded(ids())

    async def write(self, verb: WriteVerb, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """As `MemoryHost.write`."""

        async def answer() -> Any:
            return await (await self._ready()).write(verb, *arguments, **named)

        return await self._guarded(answer())

    async def read(self, verb: ReadVerb, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """As `MemoryHost.read`."""

        async def answer() -> Any:
            return await (await self._ready()).read(verb, *arguments, **named)

        return await self._guarded(answer())

    async def flush(self) -> MemoryRefusal | None:
        """As `MemoryHost.flush`."""

        async def done() -> None:
            await (await self._ready()).flush()

        return await self._guarded(done())

    async def tidy(self) -> Tidied | MemoryRefusal:
        """As `MemoryHost.tidy`."""

        async def done() -> Tidied:
            return await (await self._ready()).tidy()

        return await self._guarded(done())

    async def shutdown(self) -> MemoryRefusal | None:
        """Closes the memory and ends the embedder's processes; the actor itself stays until it is killed."""
        return await self._guarded(self._close())

    async def _guarded(self, work: Awaitable[_Result]) -> _Result | MemoryRefusal:
        try:
            return await work
        except EmbedderDied as error:
            print(f"{error}; leaving, so that a new process takes over", flush=True)
            os._exit(EXIT_EMBEDDER_DIED)
        except (StoreError, EmbedderError, AlreadyLocked, ValueError, TypeError, OSError) as error:
            return MemoryRefusal(message=str(error))

    async def _ready(self) -> MemoryHost:
        """The memory, opened on first use: after a restart nobody calls `start`."""
        async with self._opening:
            if self._host is None:
                if self._embedder is None:
                    self._embedder = await asyncio.to_thread(build_embedder, self._seat)
                self._host = await MemoryHost.open(self._seat, self._embedder)
                self._upkeep = asyncio.create_task(self._guarded(self._host.follow()))
            return self._host

    async def _close(self) -> None:
        async with self._opening:
            if self._upkeep is not None:
                self._upkeep.cancel()
                await asyncio.wait([self._upkeep])
                self._upkeep = None
            if self._host is not None:
                host, self._host = self._host, None
                await host.close()
            end = getattr(self._embedder, "close", None)
            if end is not None:
                await asyncio.to_thread(end)
            self._embedder = None


def start_memory(
    seat: MemorySeat, *, name: str | None = None, max_restarts: int = -1, timeout_s: float = 60.0
) -> RemoteMemory:
    """Opens a memory in an actor on this node, whose disk holds it, and returns the client once it is ready.

    Ray must be running. With a `name`, every node of the cluster finds it by `RemoteMemory.named`. `max_restarts` -1
    means always. The actor ends with the process that started it.

    Raises:
        StoreError: the memory cannot be opened, another process writes to it, or it took longer than `timeout_s`.
    """
    # A restart on another node would find another disk, and make an empty memory there.
    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {} if name is None else {"name": name, "namespace": RAY_NAMESPACE}
    actor = ray.remote(MemoryActor).options(
        num_cpus=0,
        num_gpus=0 if seat.vllm is None else seat.vllm.spec.num_gpus,
        max_restarts=max_restarts,
        max_concurrency=MAX_WAITING_CALLS,
        scheduling_strategy=here,
        **options,
    )
    memory = RemoteMemory(actor.remote(seat), timeout_s=timeout_s)
    try:
        memory.start()
    except StoreError:
        ray.kill(memory.actor, no_restart=True)
        raise
    return memory


class RemoteMemory:
    """The verbs of `Memory` over a `MemoryActor`; may be handed to other Ray tasks and actors, and shared by threads.

    Every error is a StoreError with the memory's own words. A call that dies with its actor is made again, since
    saying the same twice changes nothing; `rollback` and `erase`, whose answers would differ, are not.
    """

    def __init__(self, actor: Any, *, timeout_s: float = 60.0) -> None:
        """`timeout_s`: how long a call may take; calls to an actor that restarts would otherwise wait for ever."""
        self.actor = actor
        self._timeout_s = timeout_s

    @classmethod
    def named(cls, name: str, *, timeout_s: float = 60.0) -> RemoteMemory:
        """The memory that was started under this name anywhere in the cluster. Raises StoreError."""
        try:
            return cls(ray.get_actor(name, namespace=RAY_NAMESPACE), timeout_s=timeout_s)
        except ValueError as error:
            raise StoreError(f"expected a memory named {name!r} in this cluster, got none: start it first") from error

    def start(self) -> int:
        """Waits until the memory is open; returns the process id of its actor."""
        return int(self._call("start"))

    def remember(self, observations: Sequence[Observation], edges: Sequence[Edge] = ()) -> list[str]:
        """As `Memory.remember`; durable when it returns."""
        return list(self._call("remember", tuple(observations), tuple(edges)))

    def verify(self, id: str, evidence: Evidence, *, source: str = "", episode: str = "") -> Standing:
        """As `Memory.verify`."""
        return Standing.model_validate(self._write("verify", id, evidence, source=source, episode=episode))

    def used(self, use: Use) -> None:
        """As `Memory.used`."""
        self._write("used", use)

    def merge(self, duplicate: str, into: str, reason: str) -> None:
        """As `Memory.merge`."""
        self._write("merge", duplicate, into, reason)

    def unmerge(self, duplicate: str, reason: str = "") -> None:
        """As `Memory.unmerge`."""
        self._write("unmerge", duplicate, reason)

    def retire(self, id: str, reason: str) -> None:
        """As `Memory.retire`."""
        self._write("retire", id, reason)

    def restore(self, id: str, reason: str = "") -> None:
        """As `Memory.restore`."""
        self._write("restore", id, reason)

    def rollback(self, *, source: str | None = None, since: int | None = None, reason: str = "") -> int:
        """As `Memory.rollback`."""
        named = {"source": source, "since": since, "reason": reason}
        return int(self._call("write", "rollback", (), named, repeats=False))

    def erase(self, id: str) -> Erasure:
        """As `Memory.erase`."""
        return Erasure.model_validate(self._call("write", "erase", (id,), {}, repeats=False))

    def record_artefact(self, artefact: Artefact) -> None:
        """As `Memory.record_artefact`."""
        self._write("record_artefact", artefact)

    def recall(self, cue: Cue) -> Recall:
        """As `Memory.recall`, with the vectors that have followed so far."""
        return Recall.model_validate(self._read("recall", cue))

    def search(self, text: str, namespaces: Sequence[str], limit: int = 10) -> list[Recollection]:
        """As `Memory.search`."""
        return list(self._read("search", well_formed(text), tuple(namespaces), limit))

    def get(self, id: str) -> Experience | None:
        """As `Memory.get`."""
        found: Experience | None = self._read("get", id)
        return found

    def standing(self, id: str) -> Standing | None:
        """As `Memory.standing`."""
        found: Standing | None = self._read("standing", id)
        return found

    def edges_of(self, id: str) -> list[Edge]:
        """As `Memory.edges_of`."""
        return list(self._read("edges_of", id))

    def neighbours(self, id: str) -> list[Experience]:
        """As `Memory.neighbours`."""
        return list(self._read("neighbours", id))

    def brief(self, max_tokens: int, namespaces: Sequence[str]) -> str:
        """As `Memory.brief`, by its own estimate of tokens."""
        return str(self._read("brief", max_tokens, tuple(namespaces)))

    def stats(self) -> MemoryStats:
        """As `Memory.stats`."""
        found: MemoryStats = self._read("stats")
        return found

    def flush(self, timeout_s: float | None = None) -> None:
        """Waits until everything remembered before has its vectors; None means the ordinary time limit."""
        self._call("flush", timeout_s=timeout_s)

    def tidy(self, timeout_s: float | None = None) -> Tidied:
        """As `memory.upkeep.tidy`, which the actor also does by itself from time to time."""
        return Tidied.model_validate(self._call("tidy", timeout_s=timeout_s))

    def publish_index(self, timeout_s: float | None = None) -> None:
        """As `Memory.publish_index`."""
        self._call("write", "publish_index", (), {}, timeout_s=timeout_s)

    def shutdown(self, timeout_s: float = 300.0) -> None:
        """Closes the memory in an orderly way, which embeds what is left and publishes the index, then its actor."""
        try:
            self._call("shutdown", repeats=False, timeout_s=timeout_s)
        finally:
            ray.kill(self.actor, no_restart=True)

    def _write(self, verb: WriteVerb, *arguments: object, **named: object) -> Any:
        return self._call("write", verb, arguments, named)

    def _read(self, verb: ReadVerb, *arguments: object) -> Any:
        return self._call("read", verb, arguments, {})

    def _call(self, method: str, *arguments: Any, repeats: bool = True, timeout_s: float | None = None) -> Any:
        limit = self._timeout_s if timeout_s is None else timeout_s
        verb = arguments[0] if method in ("write", "read") else method
        end, num_deaths = time.monotonic() + limit, 0
        while True:
            try:
                return self._call_once(method, verb, arguments, max(end - time.monotonic(), 0.0))
            except RayActorError as error:
                if not repeats:
                    raise StoreError(
                        f"memory died while answering {verb}, which may have happened or not: look, then repeat; "
                        f"{error}"
                    ) from error
                # A restart is announced as "unavailable", a death of which Ray starts no other as "died" every time.
                num_deaths += isinstance(error, ActorDiedError)
                if num_deaths > 1 or time.monotonic() > end:
                    raise StoreError(
                        f"memory is gone: it died while answering {verb}, and also when asked again; what it "
                        f"acknowledged is on disk: start it anew; {error}"
                    ) from error
            time.sleep(_RETRY_S)

    def _call_once(self, method: str, verb: str, arguments: tuple[Any, ...], limit: float) -> Any:
        try:
            result = ray.get(getattr(self.actor, method).remote(*arguments), timeout=limit)
        except GetTimeoutError:
            raise StoreError(
                f"memory: expected {verb} within {limit:.3g} s, got nothing; it may be restarting or overloaded, and "
                "may still do it: try again, or raise timeout_s"
            ) from None
        except RayActorError:
            raise
        except RayTaskError as error:
            raise StoreError(f"memory failed in {verb}: {error.cause!r}") from error
        except RayError as error:
            raise StoreError(f"memory: Ray could not carry {verb}: {error}; is the cluster running?") from error
        if isinstance(result, MemoryRefusal):
            raise StoreError(result.message)
        return result
