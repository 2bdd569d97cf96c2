"""A file of tasks to answers and traces: resumable after a kill, published whole, in the order of the file."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from memory.ledger import LOCK_NAME, exclusive_lock, publish_bytes
from memory.types import content_hash
from mesh.deliberate import check_seats
from mesh.job import Job
from mesh.reviews import ReviewDesk
from serving.batch_answers import to_lines
from serving.batch_estimate import BatchEstimate, estimate, sample_of
from serving.batch_journal import ERRORS, BatchJournal
from serving.batch_results import Results, taken_by
from serving.batch_tasks import TaskFile, read_tasks
from serving.batch_types import BatchError, BatchMesh, BatchPace, BatchPlan, BatchSummary
from serving.batch_work import BatchWork, Told
from serving.shaping import AnswerSchema


async def run_batch(
    tasks_path: Path,
    out_dir: Path,
    plan: BatchPlan,
    mesh: BatchMesh,
    pace: BatchPace = BatchPace(),  # noqa: B008 - frozen
    *,
    progress: Told | None = None,
) -> BatchSummary:
    """Deliberate every task of `tasks_path` and publish `answers.jsonl`, `traces.parquet` and `errors.jsonl`.

    Run again after a kill, it does the tasks that were not finished and no other; a finished batch answers at once. A
    task whose members all fail is recorded without an answer if the engine still answers something else. Where the
    protocol has `oversight`, questions for a person are kept in `out_dir` (`reviews.jsonl`); the others do not wait for
    them, and the same call goes on with those that were answered, on the seats that asked. With a deadline, tasks are
    held under cheaper protocols as time runs out (`serving.batch_ladder`), and those it leaves undone are done by the
    same call later.

    Raises:
        TaskFileError: the task file cannot be read.
        SchemaError: the plan's schema is none.
        AlreadyLocked: another process works in `out_dir`.
        BatchError: `out_dir` belongs to other tasks, members, models, protocol, schema or seed; its files were changed;
            or no member answers any more.
    """
    started = time.perf_counter()
    async with _opened(tasks_path, out_dir, plan, mesh, pace) as batch:
        summary = batch.journal.summary()
        if summary is None:
            await batch.start()
            await batch.work.do(range(len(batch.file.tasks)), progress)
            results = Results(batch.file, batch.journal, batch.work.ladder, mesh.prices)
            summary = results.publish(batch.work.num_resumed, started)
        if not summary.num_waiting and not summary.num_left:
            batch.journal.clean()
    return summary


async def estimate_batch(
    tasks_path: Path,
    out_dir: Path,
    plan: BatchPlan,
    mesh: BatchMesh,
    pace: BatchPace = BatchPace(),  # noqa: B008 - frozen
    *,
    num_sampled: int,
    progress: Told | None = None,
) -> BatchEstimate:
    """Do `num_sampled` tasks, drawn evenly from the file, and say what the whole batch will take.

    They are the batch's own tasks: `run_batch` does not repeat them, and asking again costs nothing.

    Raises:
        BatchError: as `run_batch`; or there are no tasks, or the batch is finished.
    """
    async with _opened(tasks_path, out_dir, plan, mesh, pace) as batch:
        tasks = batch.file.tasks
        if not tasks or batch.journal.summary() is not None:
            state = "is finished" if tasks else "has no tasks"
            raise BatchError(
                f"expected a batch with something to do, got one that {state}: there is nothing to estimate"
            )
        sample = sample_of(len(tasks), num_sampled, plan.seed)
        await batch.start()
        await batch.work.do(sample, progress)
        done = [part for index in sample if (part := batch.journal.part(index)) is not None]
        if not done:
            raise BatchError("expected a sample of finished tasks, got none: the deadline or a person keeps them all")
        num_left = sum(batch.journal.part(index) is None for index in range(len(tasks)))
        taken = [taken_by(*part, mesh.prices) for part in done]
        return estimate(taken, num_tasks=len(tasks), num_left=num_left, concurrency=pace.concurrency)


@asynccontextmanager
async def _opened(
    tasks_path: Path, out_dir: Path, plan: BatchPlan, mesh: BatchMesh, pace: BatchPace
) -> AsyncIterator[_Batch]:
    """The batch in `out_dir`, locked, and checked against what it was started with."""
    if pace.concurrency < 1:
        raise BatchError(f"concurrency must be at least 1, got {pace.concurrency}")
    schema = None if plan.answer_schema is None else AnswerSchema(plan.answer_schema)
    file = read_tasks(tasks_path)
    with exclusive_lock(out_dir / LOCK_NAME):
        journal = BatchJournal(out_dir)
        job = _job_of(mesh, pace, out_dir)
        batch = _Batch(file, journal, BatchWork(file.tasks, plan, mesh, pace, journal, schema, job))
        try:
            journal.check_plan(await batch.pinned())
            yield batch
        finally:
            await job.close()


def _job_of(mesh: BatchMesh, pace: BatchPace, out_dir: Path) -> Job:
    """What all tasks of this start share. What is under way at the deadline is decided by what was said until then."""
    budget = pace.budget
    if pace.deadline is not None:
        left = max(pace.deadline - time.time(), 0.001)
        budget = budget.model_copy(update={"seconds": left if budget.seconds is None else min(left, budget.seconds)})
    return Job(budget=budget, prices=mesh.prices, reliability=mesh.reliability, desk=ReviewDesk(out_dir))


@dataclass(frozen=True)
class _Batch:
    file: TaskFile
    journal: BatchJournal
    work: BatchWork

    async def pinned(self) -> dict[str, str]:
        """What must stay the same between two starts, as far as it is known before an engine is asked."""
        mesh, plan, reliability = self.work.mesh, self.work.plan, self.work.mesh.reliability
        members = f"channel {plan.channel}"
        if plan.channel is None:
            async with mesh.seats.held() as roster:
                members = content_hash([member.model_dump(mode="json") for member in roster.seats])
                reliability = reliability or roster.reliability
        return {
            "task file": self.file.digest,
            "members": members,
            "protocol": content_hash(plan.protocol),
            "seed": str(plan.seed),
            "reliability": "none" if reliability is None else content_hash(reliability),
            "memory": "none" if mesh.recaller is None else mesh.recaller.head,
            "schema": "none" if plan.answer_schema is None else content_hash(plan.answer_schema),
        }

    async def start(self) -> None:
        """Write down what this start works with. Raises BatchError where it is not what earlier ones worked with."""
        pinned, mesh, plan = await self.pinned(), self.work.mesh, self.work.plan
        async with mesh.seats.held() as roster:
            if plan.channel is None:
                models = {f"model of {m.name}": (await mesh.engine.profile(m)).model for m in roster.seats}
                self.journal.check_plan(pinned | models)
                pinned |= models
            self.journal.start(pinned)
            publish_bytes(self.journal.out_dir / ERRORS, to_lines(bad.model_dump() for bad in self.file.malformed))
            check_seats(roster.seats, plan.protocol, self.work.job)
