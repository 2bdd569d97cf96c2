"""One copy of an engine as a fleet sees it, and how an engine of this very process becomes one."""

from __future__ import annotations

import inspect
import os
from typing import Literal, Protocol, cast, runtime_checkable

from pydantic import Field

from memory.types import Record
from mesh.engine import Engine
from mesh.types import Sampling
from serving.hosting import EngineDied, EngineLost
from serving.requests import Answer, Request
from serving.ticket import RankedEngine

State = Literal["up", "away", "dead"]


class ReplicaLoad(Record):
    """What is known of one replica, as of its last report."""

    engine: str
    replica: int = Field(default=0, ge=0, description="number among the replicas of the engine")
    state: State = Field(
        default="up", description="up: it answers; away: it restarts or cannot be reached; dead: it does not come back"
    )
    pending: int = Field(default=0, ge=0, description="requests taken in and not answered, of every driver")
    running: int = Field(default=0, ge=0, description="those of them that the engine has been given")
    own: int = Field(default=0, ge=0, description="requests of this process that wait for an answer")
    served: int = Field(default=0, ge=0, description="requests it has answered since its process started")
    restarts: int = Field(default=0, ge=0, description="times its process was started again")
    pid: int | None = Field(default=None, description="process id on its node; null: it has not reported yet")
    node: str = Field(default="", description="address of its node; empty: it has not reported yet")
    free_memory_mib: int | None = Field(default=None, description="of its node; null: it has not reported yet")
    asleep: bool = Field(default=False, description="it has given its GPU memory back")
    trouble: str = Field(
        default="", description="why it is away or dead, or what its last start left out; empty: nothing"
    )

    @property
    def alive(self) -> bool:
        """Whether it can be asked now."""
        return self.state == "up"


@runtime_checkable
class Replica(Protocol):
    """One copy of an engine. Implementations make one attempt a call; asking again is the fleet's business."""

    @property
    def timeout_s(self) -> float:
        """Seconds one request may take, attempts at every replica together."""
        ...

    @property
    def state(self) -> State:
        """As `ReplicaLoad.state`."""
        ...

    @property
    def pending(self) -> int:
        """As `ReplicaLoad.pending`, with what is still on its way."""
        ...

    def load(self) -> ReplicaLoad:
        """What is known of it without asking."""
        ...

    async def ask(self, request: Request) -> Answer:
        """The answer.

        Raises:
            EngineBusy: it takes in nothing new.
            EngineLost: the process is gone or out of reach.
            EngineError: refused; another replica would refuse it as well.
        """
        ...

    async def wait_up(self) -> None:
        """Returns once it can be asked, or is known to be dead."""
        ...


@runtime_checkable
class AsksLoad(Protocol):
    """A replica in another process, which can be asked how it stands."""

    async def ask_load(self) -> ReplicaLoad:
        """What it says now; does not raise when it says nothing."""
        ...


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can give its GPU memory back for a while."""

    async def sleep(self) -> None:
        """As `HostedEngine.sleep`."""
        ...

    async def wake(self) -> None:
        """As `HostedEngine.wake`."""
        ...


class LocalReplica:
    """A replica that is an object of this process. An engine that died stays dead: nothing would start it again."""

    timeout_s = 300.0

    def __init__(self, name: str, engine: Engine) -> None:
        self.engine = engine
        self._name = name
        self._takes_rank = takes_rank(engine)
        self._own = 0
        self._served = 0
        self._is_dead = False

    @property
    def state(self) -> State:
        """As `ReplicaLoad.state`; never away."""
        return "dead" if self._is_dead else "up"

    @property
    def pending(self) -> int:
        """As `ReplicaLoad.pending`."""
        return self._own

    def load(self) -> ReplicaLoad:
        """As `Replica.load`."""
        own, served = self._own, self._served
        return ReplicaLoad(
            engine=self._name, state=self.state, pending=own, running=own, own=own, served=served, pid=os.getpid()
        )

    async def ask(self, request: Request) -> Answer:
        """As `Replica.ask`."""
        self._own += 1
        try:
            return await answer(self.engine, request, takes_rank=self._takes_rank)
        except EngineDied as error:
            self._is_dead = True
            raise EngineLost(str(error), died=True) from error
        finally:
            self._own -= 1
            self._served += 1

    async def wait_up(self) -> None:
        """Returns at once."""


async def answer(engine: Engine, request: Request, *, takes_rank: bool) -> Answer:
    """What `engine` says to `request`. `takes_rank` False: an engine without the `rank` keyword."""
    member, messages, argument = request.member, request.messages, request.argument
    if request.verb == "count_tokens":
        return await engine.count_tokens(member, messages)
    if request.verb == "profile":
        return await engine.profile(member)
    # An engine that takes no rank is called without one: the mesh's protocol does not know it.
    ranked, rank = cast(RankedEngine, engine), {"rank": request.rank} if takes_rank else {}
    if request.verb == "complete":
        assert isinstance(argument, Sampling)
        return await ranked.complete(member, messages, argument, **rank)
    if request.verb == "choose":
        assert isinstance(argument, tuple)
        return await ranked.choose(member, messages, argument, **rank)
    assert isinstance(argument, str)
    return await ranked.score(member, messages, argument, **rank)


def takes_rank(engine: Engine) -> bool:
    """Whether the engine serves smaller ranks first."""
    return "rank" in inspect.signature(engine.complete).parameters
