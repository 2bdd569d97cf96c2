"""Any engine as a Ray actor: the actor that hosts it, and the client that speaks to it as an `Engine`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from pydantic import Field
from ray.exceptions import RayActorError, RayTaskError

from memory.ledger import publish_json, read_record
from memory.types import Record
from mesh.engine import EngineError
from mesh.text import well_formed
from mesh.types import Completion, Member, Message, Profile, Sampling, Score
from serving.adapters import Adapter, AdapterStore
from serving.config import EngineSpec
from serving.hosting import EngineDied, HostedEngine, build_engine, engine_environment

_Result = TypeVar("_Result")
EXIT_ENGINE_DIED = 70


class Loaded(Record):
    """The adapters an engine holds; a restarted actor loads them again."""

    adapters: tuple[str, ...] = ()


class Refusal(Record):
    """An EngineError on its way from the actor to its client, without the traceback Ray would add."""

    message: str


class Seat(Record):
    """Everything an actor needs to become the same engine again after a restart; nothing of it is in memory alone."""

    spec: EngineSpec
    model_dir: Path | None = Field(description="prepared weights; None for engines that need none")
    adapter_root: Path = Field(description="root of the adapter store")
    loaded_file: Path = Field(description="published list of loaded adapters")
    probe_interval_s: float = Field(description="seconds between probes; 0: no probes")
    probe_timeout_s: float = Field(description="seconds a probe may take before the engine counts as hung")


class EngineActor:
    """Hosts one engine. When the engine dies, the process exits, and Ray starts it again from its `Seat`.

    Raising instead would keep the actor, and every retry would meet the same dead engine.
    """

    def __init__(self, seat: Seat) -> None:
        os.environ.update(engine_environment(seat.spec))
        self._seat = seat
        self._store = AdapterStore(seat.adapter_root)
        self._engine: HostedEngine | None = None
        self._start_lock = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> int | Refusal:
        """Starts the engine if it is not running and loads its adapters again; returns the process id."""

        async def pid() -> int:
            await self._ready()
            return os.getpid()

        return await self._guarded(pid())

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int] | Refusal:
        """As `Engine.complete`."""
        return await self._ask(lambda engine: engine.complete(member, messages, sampling))

    async def choose(
        self, member: Member, messages: Sequence[Message], labels: Sequence[str]
    ) -> tuple[float, ...] | Refusal:
        """As `Engine.choose`."""
        return await self._ask(lambda engine: engine.choose(member, messages, labels))

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score | Refusal:
        """As `Engine.score`."""
        return await self._ask(lambda engine: engine.score(member, messages, text))

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int | Refusal:
        """As `Engine.count_tokens`."""
        return await self._ask(lambda engine: engine.count_tokens(member, messages))

    async def profile(self, member: Member) -> Profile | Refusal:
        """As `Engine.profile`."""
        return await self._ask(lambda engine: engine.profile(member))

    async def load_adapter(self, adapter: Adapter) -> float | Refusal:
        """As `AdapterHost.load_adapter`; remembered for a restart before it returns."""
        seconds = await self._ask(lambda engine: engine.load_adapter(adapter))
        if not isinstance(seconds, Refusal):
            self._remember(lambda held: (*(one for one in held if one != adapter.hash), adapter.hash))
        return seconds

    async def retire_adapter(self, adapter_hash: str) -> Refusal | None:
        """As `AdapterHost.retire_adapter`."""
        refusal = await self._ask(lambda engine: engine.retire_adapter(adapter_hash))
        if refusal is None:
            self._remember(lambda held: tuple(one for one in held if one != adapter_hash))
        return refusal

    async def shutdown(self) -> None:
        """Ends the engine and its child processes; the actor itself stays until it is killed."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._engine is not None:
            await self._engine.shutdown()
            self._engine = None

    async def _ask(self, question: Callable[[HostedEngine], Awaitable[_Result]]) -> _Result | Refusal:
        async def asked() -> _Result:
            return await question(await self._ready())

        return await self._guarded(asked())

    async def _guarded(self, work: Awaitable[_Result]) -> _Result | Refusal:
        try:
            return await work
        except EngineDied as error:
            print(f"{error}; leaving, so that a new process takes over", flush=True)
            os._exit(EXIT_ENGINE_DIED)
        except EngineError as error:
            return Refusal(message=str(error))

    async def _ready(self) -> HostedEngine:
        """The engine, started on first use: after a restart nobody calls `start`."""
        async with self._start_lock:
            if self._engine is None:
                engine = build_engine(self._seat.spec, self._seat.model_dir, self._store)
                await engine.start()
                for adapter_hash in self._held():
                    await engine.load_adapter(self._store.get(adapter_hash))
                self._engine = engine
                if self._seat.probe_interval_s > 0 and self._seat.spec.kind == "vllm":
                    self._watch = asyncio.create_task(self._leave_if_hung(engine))
            return self._engine

    async def _leave_if_hung(self, engine: Any) -> None:
        while True:
            await asyncio.sleep(self._seat.probe_interval_s)
            try:
                await asyncio.wait_for(engine.probe(), self._seat.probe_timeout_s)
            except (TimeoutError, EngineDied) as error:
                print(f"engine {self._seat.spec.name!r} hangs or died ({error!r}); leaving", flush=True)
                os._exit(EXIT_ENGINE_DIED)

    def _held(self) -> tuple[str, ...]:
        try:
            return read_record(self._seat.loaded_file, Loaded).adapters
        except FileNotFoundError:
            return ()

    def _remember(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
        publish_json(self._seat.loaded_file, Loaded(adapters=change(self._held())))


class RayEngine:
    """`Engine` and `AdapterHost` over an `EngineActor`. A call that dies with its actor is made once more.

    Every call has a time limit: calls to an actor that restarts would otherwise wait for ever.
    """

    def __init__(self, name: str, actor: Any, *, timeout_s: float, start_timeout_s: float) -> None:
        self.name = name
        self.actor = actor
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s

    async def start(self) -> int:
        """Waits until the engine is ready; returns the process id of its actor. Raises EngineError."""
        return int(await self._call("start", timeout_s=self._start_timeout_s))

    async def shutdown(self) -> None:
        """Ends the engine in an orderly way, then its actor."""
        try:
            await self._call("shutdown", timeout_s=20.0)
        finally:
            ray.kill(self.actor, no_restart=True)

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """As `Engine.complete`."""
        completions, prompt_tokens = await self._call("complete", member, tuple(messages), sampling)
        return completions, prompt_tokens

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        """As `Engine.choose`."""
        return tuple(await self._call("choose", member, tuple(messages), tuple(labels)))

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        """As `Engine.score`."""
        # Ray cannot carry half a character from one process to another.
        return Score.model_validate(await self._call("score", member, tuple(messages), well_formed(text)))

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """As `Engine.count_tokens`."""
        return int(await self._call("count_tokens", member, tuple(messages)))

    async def profile(self, member: Member) -> Profile:
        """As `Engine.profile`."""
        return Profile.model_validate(await self._call("profile", member))

    async def load_adapter(self, adapter: Adapter) -> float:
        """As `AdapterHost.load_adapter`."""
        return float(await self._call("load_adapter", adapter))

    async def retire_adapter(self, adapter_hash: str) -> None:
        """As `AdapterHost.retire_adapter`."""
        await self._call("retire_adapter", adapter_hash)

    async def _call(self, method: str, *arguments: object, timeout_s: float | None = None) -> Any:
        limit = self._timeout_s if timeout_s is None else timeout_s
        try:
            return await self._call_once(method, arguments, limit)
        except RayActorError:
            # Ray starts the actor again; the call waits for it.
            pass
        try:
            return await self._call_once(method, arguments, limit)
        except RayActorError as error:
            raise EngineError(f"engine {self.name!r} died twice while answering {method}: {error}") from error

    async def _call_once(self, method: str, arguments: tuple[object, ...], limit: float) -> Any:
        reference = getattr(self.actor, method).remote(*arguments)
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(reference.future()), limit)
        except TimeoutError:
            ray.cancel(reference)
            raise EngineError(
                f"engine {self.name!r}: expected {method} within {limit:g} s, got nothing; it may be restarting, "
                "overloaded or hung: try again, or raise serving.call_timeout_s"
            ) from None
        except asyncio.CancelledError:
            ray.cancel(reference)
            raise
        except RayTaskError as error:
            raise EngineError(f"engine {self.name!r} failed in {method}: {error.cause!r}") from error
        if isinstance(result, Refusal):
            raise EngineError(result.message)
        return result
