"""Any engine as a Ray actor: the actor that hosts it, and the client that speaks to it as an `Engine`."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import ray
from pydantic import Field
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from memory.ledger import publish_json, read_record
from memory.types import Record
from mesh.engine import EngineError
from mesh.types import Completion, Member, Message, Profile, Sampling, Score
from serving.adapter_share import ShareError, bring
from serving.adapters import Adapter, AdapterCorrupt, AdapterMissing, AdapterStore
from serving.config import EngineSpec
from serving.hosting import EngineBusy, EngineDied, EngineLost, HostedEngine, build_engine, engine_environment
from serving.mailbox import SILENCE_S, Mailbox, Parcel
from serving.mailroom import Mailroom
from serving.member_http import HttpAddress, HttpHost
from serving.pool import Pool
from serving.pushback import Pushback
from serving.replica import ReplicaLoad, State, answer, takes_rank
from serving.requests import Answer, Argument, Request, Requests, Verb
from serving.wire import Refusal, Report, answer_of, encode_request

_Result = TypeVar("_Result")
EXIT_ENGINE_DIED = 70
SLEEP_RETRY_S = 5.0
"""Seconds after which it is worth asking an engine again that sleeps."""
SHUTDOWN_S = 20.0
"""Seconds an engine has to end in an orderly way."""
_LOOK_AGAIN_S = 0.5


class Loaded(Record):
    """What a restarted actor must know of its earlier lives."""

    adapters: tuple[str, ...] = Field(default=(), description="hashes it holds; it loads them again")
    asleep: bool = Field(default=False, description="it gave its memory back, and does not take it before it is woken")
    num_starts: int = Field(default=0, ge=0, description="times the engine was started")


class Seat(Record):
    """Everything an actor needs to become the same engine again after a restart; nothing of it is in memory alone."""

    spec: EngineSpec
    model_dir: Path | None = Field(description="prepared weights; None for engines that need none")
    adapter_root: Path = Field(description="root of the adapter store")
    loaded_file: Path = Field(description="published list of loaded adapters, of this replica alone")
    probe_interval_s: float = Field(description="seconds between probes; 0: no probes")
    probe_timeout_s: float = Field(description="seconds a probe may take before the engine counts as hung")
    max_pending: int = Field(default=1024, ge=1, description="requests of one priority it takes in before it is busy")
    min_free_memory_mib: int = Field(
        default=0, ge=0, description="free memory of its node below which it takes in nothing new; 0: not looked at"
    )


class EngineActor:
    """Hosts one engine. When the engine dies, the process exits, and Ray starts it again from its `Seat`.

    Raising instead would keep the actor, and every retry would meet the same dead engine.
    """

    def __init__(self, seat: Seat) -> None:
        os.environ.update(engine_environment(seat.spec))
        self._seat = seat
        self._store = AdapterStore(seat.adapter_root)
        self._engine: HostedEngine | None = None
        self._takes_rank = True
        self._start_lock = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._asleep = self._loaded().asleep
        self._num_starts = self._loaded().num_starts
        self._node = ray.util.get_node_ip_address()
        self._trouble = ""
        self._num_running = 0
        self._pushback = Pushback(seat.spec.name, seat.max_pending, seat.min_free_memory_mib)
        self._mailroom = Mailroom(self._serve, self._refuse)

    async def start(self) -> Report | Refusal:
        """Starts the engine if it is not running and loads its adapters again; one that sleeps is not started."""

        async def started() -> Report:
            if not self._asleep:
                await self._ready()
            return self._report("")

        return await self._guarded(started())

    async def report(self) -> Report:
        """How it stands, without starting anything."""
        return self._report("")

    async def post(self, client: str, box: str, num_had: int, letters: list[bytes], cancelled: list[str]) -> str:
        """As `Mailroom.post`."""
        return self._mailroom.post(client, box, num_had, letters, cancelled)

    async def collect(self, client: str, box: str, num_had: int, wait_s: float) -> Parcel:
        """As `Mailroom.collect`, and a report in JSON."""
        box, last, replies = await self._mailroom.collect(client, box, num_had, wait_s)
        return box, last, replies, self._report(client).model_dump_json().encode()

    async def load_adapter(self, adapter: Adapter) -> float | Refusal:
        """As `AdapterHost.load_adapter`; remembered for a restart before it returns."""

        async def load() -> float:
            engine = await self._ready()
            await self._fetch(adapter)
            seconds = await engine.load_adapter(adapter)
            held = self._loaded().adapters
            self._remember(adapters=(*(one for one in held if one != adapter.hash), adapter.hash))
            return seconds

        return await self._guarded(load())

    async def _fetch(self, adapter: Adapter) -> None:
        """Has the files here that another process speaks of, maybe on another node. Raises EngineError."""
        if adapter.path is None and adapter.shared is None:
            return  # a record alone, for an engine that reads no weights
        try:
            await asyncio.to_thread(bring, self._store, adapter)
        except (AdapterMissing, AdapterCorrupt, ShareError, OSError) as error:
            raise EngineError(f"engine {self._seat.spec.name!r}: {error}") from error

    async def retire_adapter(self, adapter_hash: str) -> Refusal | None:
        """As `AdapterHost.retire_adapter`."""

        async def retire() -> None:
            await (await self._ready()).retire_adapter(adapter_hash)
            self._remember(adapters=tuple(one for one in self._loaded().adapters if one != adapter_hash))

        return await self._guarded(retire())

    async def sleep(self) -> Refusal | None:
        """As `HostedEngine.sleep`; it stays asleep over a restart, and says that it is busy until it is woken."""

        async def sleep() -> None:
            engine = await self._ready(even_asleep=True)
            # Before it sleeps: if it dies now, somebody else counts on its memory.
            self._set_asleep(True)
            try:
                await engine.sleep()
            except EngineError:
                self._set_asleep(False)
                raise

        return await self._guarded(sleep())

    async def wake(self) -> Refusal | None:
        """As `HostedEngine.wake`."""

        async def wake() -> None:
            await (await self._ready(even_asleep=True)).wake()
            self._set_asleep(False)

        return await self._guarded(wake())

    async def http_address(self) -> HttpAddress | Refusal | None:
        """As `HttpHost.http_address`, at this node's address."""

        async def address() -> HttpAddress | None:
            engine = await self._ready()
            return await engine.http_address(self._node) if isinstance(engine, HttpHost) else None

        return await self._guarded(address())

    async def shutdown(self) -> None:
        """Ends the engine and its child processes; the actor itself stays until it is killed."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._engine is not None:
            await self._engine.shutdown()
            self._engine = None

    def _refuse(self, rank: int, pending: Counter[int]) -> EngineBusy | None:
        return _sleeping(self._seat.spec.name) if self._asleep else self._pushback.refuse(rank, pending)

    async def _serve(self, request: Request) -> Answer:
        try:
            engine = await self._ready()
            self._num_running += 1
            try:
                return await answer(engine, request, takes_rank=self._takes_rank)
            finally:
                self._num_running -= 1
                self._pushback.ended()
        except EngineDied as error:
            _leave(str(error))

    async def _guarded(self, work: Awaitable[_Result]) -> _Result | Refusal:
        try:
            return await work
        except EngineDied as error:
            _leave(str(error))
        except EngineError as error:
            return Refusal.of(error)

    async def _ready(self, *, even_asleep: bool = False) -> HostedEngine:
        """The engine, started on first use: after a restart nobody calls `start`. Raises EngineBusy if it sleeps."""
        if self._asleep and not even_asleep:
            raise _sleeping(self._seat.spec.name)
        if self._engine is not None:
            return self._engine
        async with self._start_lock:
            if self._engine is None:
                self._engine = await self._started()
            return self._engine

    async def _started(self) -> HostedEngine:
        engine = build_engine(self._seat.spec, self._seat.model_dir, self._store)
        self._takes_rank = takes_rank(engine)
        await engine.start()
        self._num_starts += 1
        self._remember(num_starts=self._num_starts)
        troubles = [await self._reload(engine, held) for held in self._loaded().adapters]
        self._trouble = "; ".join(trouble for trouble in troubles if trouble)
        # A remote server answers for itself, and is paid for every probe.
        if self._seat.probe_interval_s > 0 and self._seat.spec.kind != "remote":
            self._watch = asyncio.create_task(self._leave_if_hung(engine))
        return engine

    async def _reload(self, engine: HostedEngine, adapter_hash: str) -> str:
        """What kept an adapter from being loaded again; empty: nothing. One that is lost costs its member alone."""
        try:
            await engine.load_adapter(self._store.get(adapter_hash))
        except EngineDied:
            raise
        except (AdapterMissing, AdapterCorrupt, EngineError) as error:
            return f"adapter {adapter_hash[:12]} is not loaded again: {error}"
        return ""

    async def _leave_if_hung(self, engine: HostedEngine) -> None:
        while True:
            await asyncio.sleep(self._seat.probe_interval_s)
            if self._asleep:
                continue
            try:
                async with asyncio.timeout(self._seat.probe_timeout_s):
                    await engine.probe()
            except (TimeoutError, EngineDied) as error:
                _leave(f"engine {self._seat.spec.name!r} hangs or died ({error!r})")
            except EngineError as error:
                # Too busy for a probe, or refusing it: neither dead nor hung.
                self._trouble = f"the last probe was refused: {error}"

    def _report(self, client: str) -> Report:
        return Report(
            pid=os.getpid(),
            node=self._node,
            pending=self._mailroom.num_pending,
            yours=self._mailroom.num_pending_of(client),
            running=self._num_running,
            served=self._mailroom.num_served,
            restarts=max(0, self._num_starts - 1),
            free_memory_mib=self._pushback.free_memory(),
            asleep=self._asleep,
            trouble=self._trouble,
        )

    def _loaded(self) -> Loaded:
        try:
            return read_record(self._seat.loaded_file, Loaded)
        except FileNotFoundError:
            return Loaded()

    def _remember(self, **changes: object) -> None:
        publish_json(self._seat.loaded_file, self._loaded().model_copy(update=changes))

    def _set_asleep(self, asleep: bool) -> None:
        self._remember(asleep=asleep)
        self._asleep = asleep


class RayEngine:
    """`Engine`, `AdapterHost` and `Replica` over an `EngineActor`: the client of one replica.

    As an `Engine` it asks again when the actor died, once it is back, until the time of the call is up. Belongs to one
    event loop at a time; what was asked in an earlier one is given up.
    """

    def __init__(
        self, name: str, actor: Any, *, timeout_s: float, start_timeout_s: float, silence_s: float = SILENCE_S
    ) -> None:
        """`timeout_s`: of one request, restarts included; `silence_s`: after which the actor is out of reach."""
        self.name = name
        self.actor = actor
        self.timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._silence_s = silence_s
        self._carrier = RayCarrier(name, actor)
        self._mail: tuple[asyncio.AbstractEventLoop, Mailbox] | None = None
        self._alone = Pool(name, [self])
        self._requests = Requests()

    async def start(self) -> int:
        """Waits until the engine is ready; returns the process id of its actor. Raises EngineError."""
        return (await self._surely(self._carrier.start)).pid

    async def shutdown(self) -> None:
        """Ends the engine in an orderly way, then its actor."""
        try:
            async with asyncio.timeout(SHUTDOWN_S):
                await self._carrier.call("shutdown")
        except TimeoutError:
            pass
        finally:
            ray.kill(self.actor, no_restart=True)

    async def http_address(self, host: str = "") -> HttpAddress | None:
        """As `HttpHost.http_address`; `host` is the address of the actor's node. Raises EngineLost if it is gone."""
        return cast(HttpAddress | None, await self._carrier.call("http_address"))

    @property
    def state(self) -> State:
        """As `ReplicaLoad.state`."""
        return self._mail[1].state if self._mail is not None else "up"

    @property
    def pending(self) -> int:
        """As `ReplicaLoad.pending`, with what is still on its way."""
        return self._mail[1].num_asked + self._mail[1].num_of_others if self._mail is not None else 0

    def load(self) -> ReplicaLoad:
        """As `Replica.load`; the last report may be old when nothing was asked for a while."""
        report = self._mail[1].report if self._mail is not None else None
        known = report.model_dump(exclude={"yours", "trouble"}) if report is not None else {}
        mail = self._mail[1] if self._mail is not None else None
        trouble = (mail.trouble if mail is not None else "") or (report.trouble if report is not None else "")
        own = mail.num_asked if mail is not None else 0
        return ReplicaLoad(engine=self.name, **known | {"state": self.state, "own": own, "trouble": trouble})

    async def ask_load(self) -> ReplicaLoad:
        """As `load`, asked of the actor now; one that does not say anything within seconds is away."""
        await self._mailbox().look()
        return self.load()

    async def ask(self, request: Request) -> Answer:
        """As `Replica.ask`."""
        return answer_of(request, await self._mailbox().ask(request.id, encode_request(request)))

    async def wait_up(self) -> None:
        """As `Replica.wait_up`."""
        await self._mailbox().wait_up()

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        """As `Engine.complete`."""
        return cast(
            tuple[tuple[Completion, ...], int], await self._answer("complete", member, messages, sampling, rank)
        )

    async def choose(
        self, member: Member, messages: Sequence[Message], labels: Sequence[str], *, rank: int = 0
    ) -> tuple[float, ...]:
        """As `Engine.choose`."""
        return cast(tuple[float, ...], await self._answer("choose", member, messages, tuple(labels), rank))

    async def score(self, member: Member, messages: Sequence[Message], text: str, *, rank: int = 0) -> Score:
        """As `Engine.score`."""
        return cast(Score, await self._answer("score", member, messages, text, rank))

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """As `Engine.count_tokens`."""
        return cast(int, await self._answer("count_tokens", member, messages))

    async def profile(self, member: Member) -> Profile:
        """As `Engine.profile`."""
        return cast(Profile, await self._answer("profile", member))

    async def load_adapter(self, adapter: Adapter) -> float:
        """As `AdapterHost.load_adapter`; one that restarts is waited for."""
        seconds = float(await self._surely(lambda: self._carrier.call("load_adapter", adapter)))
        self._carrier.adapters[adapter.hash] = adapter
        return seconds

    async def retire_adapter(self, adapter_hash: str) -> None:
        """As `AdapterHost.retire_adapter`; one that restarts is waited for."""
        self._carrier.adapters.pop(adapter_hash, None)
        await self._surely(lambda: self._carrier.call("retire_adapter", adapter_hash))

    async def sleep(self) -> None:
        """As `HostedEngine.sleep`."""
        await self._surely(lambda: self._carrier.call("sleep"))

    async def wake(self) -> None:
        """As `HostedEngine.wake`."""
        await self._surely(lambda: self._carrier.call("wake"))

    async def _answer(
        self,
        verb: Verb,
        member: Member,
        messages: Sequence[Message] = (),
        argument: Argument = None,
        rank: int = 0,
    ) -> Answer:
        return await self._alone.ask(self._requests.new(verb, member, messages, argument, rank), "", may_wait=True)

    async def _surely(self, act: Callable[[], Awaitable[_Result]]) -> _Result:
        """What `act` gives, done again while the actor restarts; for verbs that may be done twice."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                while True:
                    try:
                        return await act()
                    except EngineLost:
                        await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            raise EngineError(
                f"engine {self.name!r}: not ready within {self._start_timeout_s:g} s; look at its log, or raise "
                "serving.start_timeout_s"
            ) from None

    def _mailbox(self) -> Mailbox:
        loop = asyncio.get_running_loop()
        if self._mail is None or self._mail[0] is not loop:
            self._mail = (
                loop,
                Mailbox(self.name, self._carrier, start_timeout_s=self._start_timeout_s, silence_s=self._silence_s),
            )
        return self._mail[1]


class RayCarrier:
    """Brings post to an actor, and says in the words of `Carrier` what Ray says when it does not arrive."""

    def __init__(self, name: str, actor: Any) -> None:
        self._name = name
        self._actor = actor
        self.adapters: dict[str, Adapter] = {}
        """What was loaded from here. A process that is started again on another node finds no list of it there."""

    async def post(self, client: str, box: str, num_had: int, letters: list[bytes], cancelled: list[str]) -> str:
        """As `Carrier.post`."""
        return str(await self.call("post", client, box, num_had, letters, cancelled))

    async def collect(self, client: str, box: str, num_had: int, wait_s: float) -> Parcel:
        """As `Carrier.collect`."""
        return cast(Parcel, await self.call("collect", client, box, num_had, wait_s))

    async def start(self) -> Report:
        """As `Carrier.start`."""
        report = cast(Report, await self.call("start"))
        for adapter in [] if report.asleep else list(self.adapters.values()):
            try:
                # Does nothing where it is loaded already.
                await self.call("load_adapter", adapter)
            except (EngineLost, EngineDied):
                raise
            except EngineError as error:
                # Its member fails; the others need not.
                report = report.model_copy(update={"trouble": f"{report.trouble} {error}".strip()})
        return report

    async def report(self) -> Report:
        """As `Carrier.report`."""
        return cast(Report, await self.call("report"))

    async def call(self, method: str, *arguments: object) -> Any:
        """What the actor's method returns. Raises as every verb of `Carrier` does."""
        if not ray.is_initialized():
            # Asked once more while everything closes; Ray would start a cluster for it.
            raise EngineLost("this process has left the cluster", died=False)
        try:
            reference = getattr(self._actor, method).remote(*arguments)
            try:
                result = await asyncio.wrap_future(reference.future())
            except asyncio.CancelledError:
                if ray.is_initialized():
                    ray.cancel(reference)
                raise
        except ActorUnavailableError as error:
            # What Ray says of an actor that it starts again, and of one whose node does not answer.
            raise EngineLost(f"its process died or is out of reach ({_first_line(error)})", died=True) from error
        except RayActorError as error:
            raise EngineDied(f"engine {self._name!r} has died for good: {_first_line(error)}") from error
        except RayTaskError as error:
            raise EngineError(f"engine {self._name!r} failed in {method}: {error.cause!r}") from error
        except RayError as error:
            raise EngineLost(f"{method} was lost on the way ({_first_line(error)})", died=False) from error
        if isinstance(result, Refusal):
            raise result.to_error()
        return result


def _sleeping(name: str) -> EngineBusy:
    return EngineBusy(f"engine {name!r} sleeps while others use its memory", retry_after_s=SLEEP_RETRY_S)


def _leave(reason: str) -> NoReturn:
    """Ends this process, so that Ray starts a new one."""
    print(f"{reason}; leaving, so that a new process takes over", flush=True)
    os._exit(EXIT_ENGINE_DIED)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
