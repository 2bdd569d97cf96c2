"""A file of tasks to answers and traces: resumable after a kill, published whole, in the order of the file."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from memory.ledger import LOCK_NAME, Ledger, exclusive_lock, publish_bytes
from memory.types import Recall, Record, content_hash
from mesh.budget import Budget, cost_of
from mesh.config import ProtocolConfig
from mesh.deliberate import check_seats, deliberate
from mesh.engine import Engine, EngineError
from mesh.inert import TalkSummary, summarise_talk
from mesh.job import Job
from mesh.reliability import Reliability
from mesh.reviews import ReviewDesk
from mesh.seeds import derive_seed
from mesh.table import OUT_OF_BUDGET
from mesh.types import Deliberation, Failure, Member, Message, Part, Sampling, Task, Usage
from serving.batch_tasks import TaskFile, read_tasks
from serving.recalling import Recaller
from serving.traces import write_traces

ANSWERS, TRACES, ERRORS, JOURNAL, PARTS = "answers.jsonl", "traces.parquet", "errors.jsonl", "journal.jsonl", "parts"

_PROBE = Message(role="user", parts=(Part(text="What is 1 + 1?"),))


class BatchError(RuntimeError):
    """The batch cannot start or go on; what is finished stays finished."""


class BatchProgress(Record):
    """How far a batch is, told after every task."""

    num_done: int = Field(description="finished tasks, those of earlier starts included")
    num_tasks: int
    num_resumed: int = Field(description="tasks that an earlier start had finished")
    output_tokens: int = Field(description="spent by this start")


class BatchSummary(Record):
    """What a finished batch came to."""

    num_tasks: int
    num_answered: int = Field(description="tasks with an answer; the others are in the answers file with null")
    num_waiting: int = Field(default=0, description="tasks that wait for a person; the same command goes on with them")
    num_cut: int = Field(default=0, description="tasks in which a budget left something undone")
    num_malformed: int = Field(description="lines that gave no task, listed in errors.jsonl")
    num_resumed: int = Field(
        description="tasks that an earlier start had finished; all of them: nothing was left to do"
    )
    usage: Usage = Field(description="of all tasks, whichever start did them")
    seconds: float = Field(description="wall seconds of the start that finished the batch")
    ignored_keys: tuple[str, ...] = Field(description="keys of the task file that were not used")
    talk: TalkSummary = Field(default=TalkSummary(), description="what the talking did, per phase")
    cost: float = Field(default=0.0, description="money, by the engines' prices per hour; 0 without prices")


async def run_batch(
    tasks_path: Path,
    out_dir: Path,
    members: Sequence[Member],
    engine: Engine,
    protocol: ProtocolConfig,
    *,
    seed: int,
    concurrency: int = 8,
    reliability: Reliability | None = None,
    prices: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    recaller: Recaller | None = None,
    progress: Callable[[BatchProgress], None] | None = None,
) -> BatchSummary:
    """Deliberate every task of `tasks_path` and publish `answers.jsonl`, `traces.parquet` and `errors.jsonl`.

    Run again after a kill, it does the tasks that were not finished and no other; a finished batch answers at once. A
    task whose members all fail is recorded without an answer if the engine still answers something else. Where the
    protocol has `oversight`, questions for a person are kept in `out_dir` (`reviews.jsonl`); the others do not wait for
    them, and the same call goes on with those that were answered. `budget` is for this start, all tasks together.
    `recaller` reads a memory that must not change between two starts: a frozen copy. None: nothing is recalled.

    Raises:
        TaskFileError: the task file cannot be read.
        AlreadyLocked: another process works in `out_dir`.
        BatchError: `out_dir` belongs to other tasks, members, models, protocol or seed; its files were changed; or no
            member answers any more.
    """
    if concurrency < 1:
        raise BatchError(f"concurrency must be at least 1, got {concurrency}")
    started = time.perf_counter()
    file = read_tasks(tasks_path)
    with exclusive_lock(out_dir / LOCK_NAME):
        ledger = Ledger(out_dir / JOURNAL)
        plan = _plan(file, members, protocol, seed, reliability) | {"memory": recaller.head if recaller else "none"}
        _check_plan(ledger, plan, out_dir)
        summary = _finished(ledger, out_dir)
        if summary is None:
            models = {f"model of {member.name}": (await engine.profile(member)).model for member in members}
            _check_plan(ledger, plan | models, out_dir)
            ledger.append("start", {"plan": plan | models})
            publish_bytes(out_dir / ERRORS, _lines(malformed.model_dump() for malformed in file.malformed))
            job = Job(budget=budget, prices=prices, reliability=reliability, desk=ReviewDesk(out_dir))
            check_seats(members, protocol, job)
            batch = _Batch(file.tasks, tuple(members), engine, protocol, seed, out_dir, ledger, job, recaller, progress)
            try:
                await batch.work(concurrency)
            finally:
                await job.close()
            summary = batch.publish(file, started)
        if summary.num_waiting == 0:
            shutil.rmtree(out_dir / PARTS, ignore_errors=True)
    return summary


@dataclass
class _Batch:
    tasks: tuple[Task, ...]
    members: tuple[Member, ...]
    engine: Engine
    protocol: ProtocolConfig
    seed: int
    out_dir: Path
    ledger: Ledger
    job: Job
    recaller: Recaller | None
    progress: Callable[[BatchProgress], None] | None
    num_resumed: int = 0
    num_done: int = 0
    output_tokens: int = 0
    _digests: dict[int, str] = field(default_factory=dict)
    _waiting: dict[int, str] = field(default_factory=dict)

    async def work(self, concurrency: int) -> None:
        """Deliberate what is not finished, at most `concurrency` tasks at a time, in the order of the file."""
        self._digests = {
            int(entry.payload["index"]): str(entry.payload["digest"])
            for entry in self.ledger.entries()
            if entry.kind == "finished"
        }
        self._waiting = {
            int(entry.payload["index"]): str(entry.payload["digest"])
            for entry in self.ledger.entries()
            if entry.kind == "waiting"
        }
        pending = [index for index in range(len(self.tasks)) if self._part(index) is None]
        self.num_done = self.num_resumed = len(self.tasks) - len(pending)
        queue = iter(pending)
        workers = [asyncio.create_task(self._worker(queue)) for _ in range(min(concurrency, len(pending)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def publish(self, file: TaskFile, started: float) -> BatchSummary:
        """Publish answers and traces, and write into the journal that they are complete."""
        answers: list[dict[str, object]] = []
        usages: list[Usage] = []
        talk, cost = TalkSummary(), 0.0

        def noted() -> Iterator[Deliberation]:
            for index in range(len(self.tasks)):
                deliberation = self._part(index) or self._paused(index)
                if deliberation is None:
                    raise BatchError(f"{self._part_path(index)} was removed or changed meanwhile; run the batch again")
                answers.append(_answer(deliberation))
                usages.append(deliberation.usage)
                nonlocal talk, cost
                cost += cost_of(deliberation, self.job.purse.prices)
                talk = talk + summarise_talk(part for _, part in deliberation.walk())
                yield deliberation

        digests = {TRACES: write_traces(self.out_dir / TRACES, noted())}
        digests[ANSWERS] = publish_bytes(self.out_dir / ANSWERS, _lines(answers))
        summary = BatchSummary(
            num_tasks=len(self.tasks),
            num_answered=sum(answer["answer"] is not None for answer in answers),
            num_waiting=sum(bool(answer["waiting"]) for answer in answers),
            num_cut=sum(bool(answer["cut"]) for answer in answers),
            num_malformed=len(file.malformed),
            num_resumed=self.num_resumed,
            usage=Usage.total(usages),
            seconds=time.perf_counter() - started,
            ignored_keys=file.ignored_keys,
            talk=talk,
            cost=cost,
        )
        if summary.num_waiting:
            return summary
        self.ledger.append("complete", {"files": digests, "summary": summary.model_dump(mode="json")})
        return summary

    async def _worker(self, queue: Iterator[int]) -> None:
        for index in queue:
            task = self.tasks[index]
            recalled = Recall() if self.recaller is None else await self.recaller.recall(task)
            deliberation = await deliberate(
                task, self.members, self.engine, self.protocol, seed=derive_seed(self.seed, task.id),
                recalled=recalled, job=self.job, earlier=self._paused(index),
            )  # fmt: skip
            failed = [
                failure for _, part in deliberation.walk() for failure in part.failures if failure.kind != OUT_OF_BUDGET
            ]
            if failed and not any(part.proposals for _, part in deliberation.walk()):
                await self._check_alive(failed[0])
            self._keep(index, deliberation)

    def _keep(self, index: int, deliberation: Deliberation) -> None:
        data = deliberation.model_dump_json().encode()
        digest = publish_bytes(self._part_path(index), data)
        (self._waiting if deliberation.is_waiting else self._digests)[index] = digest
        kind = "waiting" if deliberation.is_waiting else "finished"
        self.ledger.append(kind, {"index": index, "digest": digest})
        self.num_done += not deliberation.is_waiting
        self.output_tokens += deliberation.usage.output_tokens
        if self.progress is not None:
            self.progress(
                BatchProgress(
                    num_done=self.num_done,
                    num_tasks=len(self.tasks),
                    num_resumed=self.num_resumed,
                    output_tokens=self.output_tokens,
                )
            )

    async def _check_alive(self, first: Failure) -> None:
        """Tell a task that no member can answer (too long, say) from engines that are gone.

        Raises BatchError if no member answers a trivial question either: going on would spend every remaining task.
        """
        for member in self.members:
            try:
                async with asyncio.timeout(self.protocol.call_timeout_s):
                    await self.engine.complete(member, [_PROBE], Sampling(temperature=0.0, max_tokens=1))
            except (EngineError, TimeoutError):
                continue
            return
        raise BatchError(
            f"no member answers any more ({first.member}: {first.kind}: {first.message}); {self.num_done} of "
            f"{len(self.tasks)} tasks are finished and kept: see to the engines and run the same batch again"
        )

    def _part(self, index: int) -> Deliberation | None:
        """The kept trace of a finished task; None if it is not finished, or its file is not what the journal says."""
        return self._kept(index, self._digests.get(index))

    def _paused(self, index: int) -> Deliberation | None:
        """The kept trace of a task that waits for a person; None if it does not."""
        return self._kept(index, self._waiting.get(index))

    def _kept(self, index: int, digest: str | None) -> Deliberation | None:
        path = self._part_path(index)
        if digest is None or not path.exists():
            return None
        data = path.read_bytes()
        return Deliberation.model_validate_json(data) if hashlib.sha256(data).hexdigest() == digest else None

    def _part_path(self, index: int) -> Path:
        return self.out_dir / PARTS / f"{index:08d}.json"


def _plan(
    file: TaskFile,
    members: Sequence[Member],
    protocol: ProtocolConfig,
    seed: int,
    reliability: Reliability | None,
) -> dict[str, str]:
    """What must stay the same between two starts of one batch."""
    return {
        "task file": file.digest,
        "members": content_hash([member.model_dump(mode="json") for member in members]),
        "protocol": content_hash(protocol),
        "seed": str(seed),
        "reliability": "none" if reliability is None else content_hash(reliability),
    }


def _check_plan(ledger: Ledger, plan: Mapping[str, str], out_dir: Path) -> None:
    """Raises BatchError if `out_dir` holds work that was done under another plan; `plan` may be a part of it."""
    entries = ledger.entries()
    if not entries and ((out_dir / ANSWERS).exists() or (out_dir / TRACES).exists()):
        raise BatchError(f"{out_dir} holds results but no journal; give an empty directory")
    if all(entry.kind == "start" for entry in entries):
        return  # nothing was done yet: a first start that was stopped by its settings may be corrected
    before = [entry.payload["plan"] for entry in entries if entry.kind == "start"][-1]
    changed = [name for name in plan if before.get(name) != plan[name]]
    if changed:
        name = changed[0]
        raise BatchError(
            f"{out_dir} was started with another {', '.join(changed)} (expected {str(before.get(name))[:60]}, got "
            f"{plan[name][:60]}); start again with the same, or give an empty directory"
        )


def _finished(ledger: Ledger, out_dir: Path) -> BatchSummary | None:
    """The summary of a batch that is complete, with its files checked; None if there is something left to do."""
    entries = ledger.entries()
    if not entries or entries[-1].kind != "complete":
        return None
    for name, digest in entries[-1].payload["files"].items():
        path = out_dir / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
        if found != digest:
            raise BatchError(
                f"{path}: expected sha256 {digest[:12]}, got {found[:12]}; restore it, or run in an empty directory"
            )
    summary = BatchSummary.model_validate(entries[-1].payload["summary"])
    return summary.model_copy(update={"num_resumed": summary.num_tasks})


def _answer(deliberation: Deliberation) -> dict[str, object]:
    verdict = deliberation.verdict
    is_cut = any(failure.kind == OUT_OF_BUDGET for _, part in deliberation.walk() for failure in part.failures)
    return {
        "id": deliberation.task.id,
        "answer": verdict.answer,
        "confidence": verdict.confidence,
        "calibrated": verdict.calibrated,
        "waiting": deliberation.is_waiting,
        "cut": is_cut,
        "needs_review": deliberation.is_waiting or verdict.answer is None or is_cut,
        "method": verdict.method,
        "support": [list(pair) for pair in verdict.support],
        "tokens": deliberation.usage.output_tokens,
    }


def _lines(rows: Iterator[dict[str, object]] | Sequence[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
