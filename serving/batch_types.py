"""What a batch is given, what it tells while it runs, and what it came to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pydantic import Field

from memory.types import Record
from mesh.budget import Budget
from mesh.config import ProtocolConfig
from mesh.engine import Engine
from mesh.inert import TalkSummary
from mesh.reliability import Reliability
from mesh.types import Usage
from serving.recalling import Recaller
from serving.roster import SeatSource


class BatchError(RuntimeError):
    """The batch cannot start or go on; what is finished stays finished."""


class BatchPlan(Record):
    """What is wanted of a batch; it stays the same however often the batch is started."""

    protocol: ProtocolConfig = Field(description="how every task is decided while there is time")
    seed: int = Field(default=0, ge=0, description="every draw follows from it and from the task's id")
    answer_schema: str | None = Field(
        default=None, description="JSON schema that answers are brought into, as JSON text; null: answers as they are"
    )
    channel: str | None = Field(
        default=None,
        description="channel whose seats decide, whatever they are at the time; null: the same seats always",
    )


class BatchPace(Record):
    """How fast one start may go and what it may spend; another start may have another."""

    concurrency: int = Field(default=8, description="tasks in flight at the same time, at least 1")
    budget: Budget = Field(default=Budget(), description="of this start, all tasks together")
    deadline: float | None = Field(
        default=None, description="no task is begun after it, in seconds since the epoch; null: there is time"
    )


async def always_open() -> None:
    """The gate of a batch that may run at any time."""


@dataclass(frozen=True)
class BatchMesh:
    """Who decides the tasks, and what they know."""

    engine: Engine
    seats: SeatSource
    """Held for the length of one task, so that a channel may change between two."""
    reliability: Reliability | None = None
    """None: what the roster says, which may be nothing."""
    prices: Mapping[str, float] = field(default_factory=dict)
    """Money per engine-hour, by engine name."""
    recaller: Recaller | None = None
    """Reads a memory that must not change between two starts: a frozen copy. None: nothing is recalled."""
    gate: Callable[[], Awaitable[None]] = always_open
    """Waited for before each task: a batch may be confined to certain hours."""


class BatchProgress(Record):
    """How far a batch is, told after every task."""

    num_done: int = Field(description="finished tasks, those of earlier starts included")
    num_tasks: int
    num_resumed: int = Field(description="tasks that an earlier start had finished")
    output_tokens: int = Field(description="spent by this start")
    seconds: float = Field(default=0.0, description="wall seconds of this start, its waiting for a window left out")
    protocol: str = Field(default="", description="kind of protocol that the task was held under")
    fallback: str = Field(default="", description="why it was not the configured protocol; empty: it was")


class ProtocolShare(Record):
    """How many tasks were held under one protocol, and from where on."""

    protocol: str = Field(description="its kind; '2. vote' where the ladder of fallbacks has another one of that kind")
    num_tasks: int
    first_task: str = Field(description="id of the first of these tasks, in the order of the file")
    reason: str = Field(description="why, of that task; empty: as configured")


class BatchSummary(Record):
    """What a batch came to."""

    num_tasks: int
    num_answered: int = Field(description="tasks with an answer; the others are in the answers file with null")
    num_waiting: int = Field(default=0, description="tasks that wait for a person; the same command goes on with them")
    num_cut: int = Field(default=0, description="tasks in which a budget left something undone")
    num_left: int = Field(
        default=0, description="tasks that the deadline left undone; the same command goes on with them"
    )
    num_review: int = Field(default=0, description="tasks whose answer a person should look at, for whatever reason")
    num_misshapen: int = Field(default=0, description="answers that do not follow the schema")
    num_malformed: int = Field(description="lines that gave no task, listed in errors.jsonl")
    num_resumed: int = Field(
        description="tasks that an earlier start had finished; all of them: nothing was left to do"
    )
    usage: Usage = Field(description="of all tasks, whichever start did them")
    seconds: float = Field(description="wall seconds of the start that finished the batch")
    ignored_keys: tuple[str, ...] = Field(description="keys of the task file that were not used")
    talk: TalkSummary = Field(default=TalkSummary(), description="what the talking did, per phase")
    cost: float = Field(default=0.0, description="money, by the engines' prices per hour; 0 without prices")
    protocols: tuple[ProtocolShare, ...] = Field(default=(), description="which protocols decided, the dearest first")
    rosters: tuple[tuple[str, int], ...] = Field(default=(), description="(roster id, tasks), in the order of use")
