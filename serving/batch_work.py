"""A batch at work: one task after the other, several at a time, each decided, brought into form and kept."""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from memory.types import Recall, content_hash
from mesh.budget import Purse
from mesh.calls import Caller
from mesh.config import ProtocolConfig
from mesh.deliberate import check_seats, deliberate
from mesh.engine import Engine, EngineError
from mesh.job import Job
from mesh.replay import Replay
from mesh.seeds import derive_seed
from mesh.table import OUT_OF_BUDGET
from mesh.types import Deliberation, Failure, Member, Message, Part, Sampling, Task
from serving.batch_journal import BatchJournal, Note
from serving.batch_ladder import Choice, choose_rung, expect, label, ladder_of
from serving.batch_types import BatchError, BatchMesh, BatchPace, BatchPlan, BatchProgress
from serving.roster import Roster
from serving.shaping import AnswerSchema, Shaped, readers_of, shape_answer
from serving.ticket import Ticket, with_ticket

Told = Callable[[BatchProgress], None]

MAX_SHAPE_TOKENS = 512
"""Output tokens of one rewriting of an answer by the schema."""
MEASURED = 50
"""The last so many tasks on a rung say how long one takes there."""

_PROBE = Message(role="user", parts=(Part(text="What is 1 + 1?"),))


@dataclass
class BatchWork:
    """The tasks of a batch and everything that is needed to decide them."""

    tasks: tuple[Task, ...]
    plan: BatchPlan
    mesh: BatchMesh
    pace: BatchPace
    journal: BatchJournal
    schema: AnswerSchema | None
    job: Job
    ladder: tuple[ProtocolConfig, ...] = field(init=False)
    num_resumed: int = 0
    num_done: int = 0
    output_tokens: int = 0
    _num_started: int = 0
    _num_left: int = 0
    _in_flight: int = 0
    _is_measuring: bool = False
    _busy_since: float = 0.0
    _busy_seconds: float = 0.0
    _measured: dict[int, deque[float]] = field(default_factory=dict)
    _jobs: dict[str, Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ladder = ladder_of(self.plan.protocol)
        for note in self.journal.notes():
            if note.seconds:
                self._measure(note.rung, note.seconds)

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self.pace.deadline is not None and time.time() >= self.pace.deadline

    async def do(self, wanted: Sequence[int], progress: Told | None) -> None:
        """Deliberate what is not finished of `wanted`, at most `concurrency` tasks at a time, in that order."""
        pending = [index for index in wanted if self.journal.part(index) is None]
        self.num_done = self.num_resumed = len(wanted) - len(pending)
        self._num_left = len(pending)
        queue = iter(pending)
        workers = [
            asyncio.create_task(self._worker(queue, len(wanted), progress))
            for _ in range(min(self.pace.concurrency, len(pending)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self, queue: Iterator[int], num_wanted: int, progress: Told | None) -> None:
        for index in queue:
            await self.mesh.gate()
            if self.is_late:
                return
            async with self.mesh.seats.held() as roster:
                with self._timed():
                    note = await self._hold(index, roster)
            self._num_left -= 1
            if note is not None and progress is not None:
                progress(self._progress(note, num_wanted))

    async def _hold(self, index: int, roster: Roster) -> Note | None:
        """Deliberate one task and keep what came of it; None: the deadline passed before anybody had an answer."""
        task, paused = self.tasks[index], self.journal.paused(index)
        choice, members = self._choose(), roster.seats
        if paused is not None:  # it goes on where it was, on the seats and by the protocol that asked the person
            choice, members = Choice(rung=paused[1].rung, reason=paused[1].reason), paused[0].members
        protocol, job = self.ladder[choice.rung], self._job_for(roster, members)
        engine = with_ticket(self.mesh.engine, self._ticket(task))
        started = time.perf_counter()
        recalled = Recall() if self.mesh.recaller is None else await self.mesh.recaller.recall(task)
        held = await deliberate(
            task, members, engine, protocol, seed=derive_seed(self.plan.seed, task.id), recalled=recalled, job=job,
            earlier=None if paused is None else paused[0],
        )  # fmt: skip
        if self.is_late and held.verdict.answer is None and not held.is_waiting:
            return None
        await self._check_alive(held, members)
        held, shaped = await self._shape(held, engine, protocol, job)
        note = Note(
            index=index, digest="", roster=roster.id if paused is None else paused[1].roster, rung=choice.rung,
            reason=choice.reason, seconds=0.0 if paused else time.perf_counter() - started, shaped=shaped,
        )  # fmt: skip
        self.journal.seat(roster)
        self.journal.keep(index, held, note)
        if paused is None:
            self._measure(choice.rung, time.perf_counter() - started)
        self.num_done += not held.is_waiting
        self.output_tokens += held.usage.output_tokens
        return note

    def _choose(self) -> Choice:
        deadline = self.pace.deadline
        if deadline is None:
            return Choice(rung=0)
        means = [_mean(self._measured.get(rung, ())) for rung in range(len(self.ladder))]
        if self._is_measuring and means[-1] is None:
            means[-1] = expect(means)[-1]  # one task is on it; the others go on meanwhile
        choice = choose_rung(
            means, num_left=self._num_left - self._in_flight + 1, num_slots=self.pace.concurrency,
            seconds_left=deadline - time.time(),
        )  # fmt: skip
        self._is_measuring = self._is_measuring or (choice.rung > 0 and choice.rung == len(self.ladder) - 1)
        return choice

    def _ticket(self, task: Task) -> Ticket:
        self._num_started += 1
        return Ticket(priority="batch", order=self._num_started, affinity=content_hash(task.id)[:16])

    def _job_for(self, roster: Roster, members: Sequence[Member]) -> Job:
        """The job with what is measured of a roster's seats. Raises BatchError where they cannot hold the protocol."""
        if roster.id not in self._jobs:
            job = copy.copy(self.job)  # purse, clock and desk stay those of the batch
            job.reliability = self.mesh.reliability or roster.reliability
            try:
                check_seats(members, self.plan.protocol, job)
            except ValueError as error:
                raise BatchError(
                    f"channel {roster.channel!r} has a roster now ({roster.id}) that cannot hold this batch: {error}; "
                    f"{self.num_done} tasks are finished and kept: publish another, and run the same batch again"
                ) from error
            self._jobs[roster.id] = job
        return self._jobs[roster.id]

    async def _shape(
        self, held: Deliberation, engine: Engine, protocol: ProtocolConfig, job: Job
    ) -> tuple[Deliberation, Shaped | None]:
        """The answer in the form of the schema; what was said for it belongs to the trace."""
        if self.schema is None or held.is_waiting:
            return held, None
        purse = Purse(protocol.budget, job.purse.prices, parent=job.purse)
        caller = Caller(
            engine, held.task, derive_seed(self.plan.seed, held.task.id), protocol.call_timeout_s, purse, job.clock,
            Replay(None),
        )  # fmt: skip
        shaped = await shape_answer(caller, self.schema, held, readers_of(held), MAX_SHAPE_TOKENS)
        return held.model_copy(update={"exchanges": (*held.exchanges, *caller.exchanges)}), shaped

    async def _check_alive(self, held: Deliberation, members: Sequence[Member]) -> None:
        """Tell a task that no member can answer (too long, say) from engines that are gone.

        Raises BatchError if no member answers a trivial question either: going on would spend every remaining task.
        """
        parts = [part for _, part in held.walk()]
        failed = [failure for part in parts for failure in part.failures if failure.kind != OUT_OF_BUDGET]
        if not failed or any(part.proposals for part in parts):
            return
        for member in members:
            try:
                async with asyncio.timeout(self.plan.protocol.call_timeout_s):
                    await self.mesh.engine.complete(member, [_PROBE], Sampling(temperature=0.0, max_tokens=1))
            except (EngineError, TimeoutError):
                continue
            return
        raise BatchError(self._all_gone(failed[0]))

    def _all_gone(self, first: Failure) -> str:
        return (
            f"no member answers any more ({first.member}: {first.kind}: {first.message}); {self.num_done} of "
            f"{len(self.tasks)} tasks are finished and kept: see to the engines and run the same batch again"
        )

    def _progress(self, note: Note, num_wanted: int) -> BatchProgress:
        return BatchProgress(
            num_done=self.num_done, num_tasks=num_wanted, num_resumed=self.num_resumed,
            output_tokens=self.output_tokens, seconds=self._busy_seconds + self._since_busy(),
            protocol=label(self.ladder, note.rung), fallback=note.reason,
        )  # fmt: skip

    def _measure(self, rung: int, seconds: float) -> None:
        self._measured.setdefault(rung, deque(maxlen=MEASURED)).append(seconds)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Counts the seconds in which any task is under way."""
        if self._in_flight == 0:
            self._busy_since = time.perf_counter()
        self._in_flight += 1
        try:
            yield
        finally:
            if self._in_flight == 1:
                self._busy_seconds += self._since_busy()
            self._in_flight -= 1

    def _since_busy(self) -> float:
        return time.perf_counter() - self._busy_since if self._in_flight else 0.0


def _mean(values: Iterable[float]) -> float | None:
    seen = list(values)
    return sum(seen) / len(seen) if seen else None
