"""Training jobs on Ray: a process for each job, for all jobs of a base, or several for one; watched, started again."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from pydantic import ValidationError
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evolve.training.config import LoraTraining, WorkersConfig
from evolve.training.job import (
    TrainingJob,
    TrainingProgress,
    TrainingReport,
    finished_report,
    is_disk_error,
)
from evolve.training.sharded import OWN_GPU, train_sharded
from evolve.training.store import TrainingStore
from evolve.training.train_here import is_light, quarantine, train_or_say_why
from serving.placement import GpuPlace

if TYPE_CHECKING:
    from evolve.training.train import Bases

PROGRESS_NAME = "progress.json"
DEATHS = (
    WorkerCrashedError,
    NodeDiedError,
    OutOfMemoryError,
    LocalRayletDiedError,
    TaskUnschedulableError,
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
)

OnProgress = Callable[[TrainingProgress], None]
OnReport = Callable[[TrainingReport], None]
Work = Callable[[TrainingJob], TrainingReport]


class WorkersError(RuntimeError):
    """Training cannot be started here."""


async def run_jobs(
    jobs: Sequence[TrainingJob],
    config: WorkersConfig,
    on_progress: OnProgress | None = None,
    *,
    places: Sequence[GpuPlace] = (),
    work: Work | None = None,
    store: TrainingStore | None = None,
    on_report: OnReport | None = None,
) -> list[TrainingReport]:
    """Run all jobs and return their reports in the order of `jobs`.

    A job that an earlier run finished is not repeated, nor one whose result `store` holds. One base trains one adapter
    at a time; different bases train side by side, `config.max_concurrent` at most. With `config.warm` one process
    trains all jobs of a base, else each has its own; the adapters are the same. With `config.num_shards` several
    processes train each job, and hold a part of the base each. A job that fails, exceeds its time, or whose process
    died more often than `config.num_retries` allows is quarantined with the reason; the others go on.
    With `config.checkpoint_steps` a job that is started again, by this run or a later one, goes on from its checkpoint.
    `places`: GPUs that are free because their engines sleep, one process at a time on each; none: processes ask Ray for
    `config.num_gpus`. LoRA jobs need a running Ray; scripted ones and merges run in this process. A disk that is full
    quarantines the job that met it. `on_report` hears of every report once, as soon as it is there, finished ones
    first; what it raises ends the training. `work` is what a worker does, for tests.

    Raises:
        WorkersError: there are LoRA jobs to run, and Ray is not initialised.
    """
    slots: asyncio.Queue[GpuPlace | None] = asyncio.Queue()
    free: list[GpuPlace | None] = [*places[: config.max_concurrent]]
    for slot in free or [None] * config.max_concurrent:
        slots.put_nowait(slot)
    reports: dict[int, TrainingReport] = {}
    groups: defaultdict[tuple[bool, str], list[tuple[int, TrainingJob]]] = defaultdict(list)

    def keep(index: int, report: TrainingReport) -> None:
        reports[index] = report
        if on_report is not None:
            on_report(report)

    for index, job in enumerate(jobs):
        finished = finished_report(job) or _adopted(job, store)
        if finished is not None:
            keep(index, finished)
        else:
            # Light jobs take no slot; one after the other they take no more memory than one does.
            light = is_light(job)
            groups[light, "" if light else job.base_dir].append((index, job))

    async def run(job: TrainingJob, worker: _Worker | None) -> TrainingReport:
        if worker is None:
            report = await asyncio.to_thread(train_or_say_why, job)
        else:
            report = await _run_on_ray(job, config, worker, on_progress)
        _share(job, report, store)
        return report

    async def run_base(group: Sequence[tuple[int, TrainingJob]]) -> None:
        if is_light(group[0][1]):
            for index, job in group:
                keep(index, await run(job, None))
            return
        _need_ray()
        waiting = list(group)
        while waiting:
            # Cold, a place goes back after every job, so that many jobs of one base do not keep the others waiting.
            taken = waiting if config.warm and config.num_shards == 1 else waiting[:1]
            waiting = waiting[len(taken) :]
            place = await slots.get()
            worker = _Worker([job for _, job in taken], config, place, work)
            try:
                for index, job in taken:
                    keep(index, await run(job, worker))
            finally:
                worker.stop()
                slots.put_nowait(place)

    tasks = [asyncio.create_task(run_base(group)) for group in groups.values()]
    try:
        await asyncio.gather(*tasks)
    finally:
        # Without this, a job of a cancelled or failed run would train on.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [reports[index] for index in range(len(jobs))]


def train_in_worker(job: TrainingJob, bases: Bases | None = None) -> TrainingReport:
    """What a worker process does: train, and leave a trace of how far it is beside the results."""
    path = Path(job.out_dir) / PROGRESS_NAME
    write_progress(path, TrainingProgress(recipe=job.recipe.name, step=0, num_steps=0, seconds=0.0))
    # Imports torch, TRL and PEFT: seconds, and memory that only this process should pay for.
    from evolve.training.train import train_lora

    report = train_lora(job, lambda progress: write_progress(path, progress), bases)
    path.unlink(missing_ok=True)
    return report


class WarmTraining:
    """What a warm worker does: as `train_in_worker`, with the base loaded at the first job and kept for the others."""

    def __init__(self) -> None:
        from evolve.training.train import Bases

        self._bases = Bases()

    def __call__(self, job: TrainingJob) -> TrainingReport:
        """Train one job. Raises what `evolve.training.train.train_lora` raises."""
        return train_in_worker(job, self._bases)


def write_progress(path: Path, progress: TrainingProgress) -> None:
    """Replace the trace at `path`; not durable, as nothing depends on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(progress.model_dump_json(), encoding="utf-8")
    temporary.replace(path)


def read_progress(path: Path) -> TrainingProgress | None:
    """The trace at `path`; None where there is none."""
    try:
        return TrainingProgress.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


class _Worker:
    """Starts jobs on Ray: each as a task of its own, or all of them on one actor that keeps the base loaded."""

    def __init__(
        self, jobs: Sequence[TrainingJob], config: WorkersConfig, place: GpuPlace | None, work: Work | None
    ) -> None:
        self._config, self._place, self._work = config, place, work
        self._num_threads = max(map(_num_threads, jobs))
        self._actor: Any = None

    def start(self, job: TrainingJob) -> ray.ObjectRef:
        """The report to come."""
        job = job.model_copy(update={"checkpoint_steps": self._config.checkpoint_steps})
        if self._config.num_shards > 1:
            environment = _environment(self._num_threads, self._config, None)
            launch = ray.remote(num_cpus=0, max_retries=0, max_calls=1, runtime_env=_of_launcher(environment))
            return launch(train_sharded).remote(job, self._config, environment)
        if not self._config.warm:
            task = ray.remote(**self._options(), max_retries=0, max_calls=1)(self._work or train_in_worker)
            return task.remote(job)
        if self._actor is None:
            # Started again by hand: Ray would not know that a job is to be counted as dead.
            self._actor = ray.remote(**self._options(), max_restarts=0, max_task_retries=0)(_WarmActor).remote(
                self._work
            )
        return self._actor.train.remote(job)

    def cancel(self, ref: ray.ObjectRef) -> None:
        """End a job that is still running; a warm process ends with it."""
        if self._actor is None:
            ray.cancel(ref, force=True)
        self.stop()

    def stop(self) -> None:
        """End the warm process; the next job starts another. What failed in it may have left anything behind."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _options(self) -> dict[str, Any]:
        return {
            "num_cpus": self._num_threads,
            # The GPUs of a place are an engine's in Ray's books, asleep or not.
            "num_gpus": 0 if self._place else self._config.num_gpus,
            "scheduling_strategy": _strategy(self._place),
            "runtime_env": _environment(self._num_threads, self._config, self._place),
        }


class _WarmActor:
    """A process that trains one job after the other."""

    def __init__(self, work: Work | None) -> None:
        self._work = work

    def train(self, job: TrainingJob) -> TrainingReport:
        if self._work is None:
            self._work = WarmTraining()
        return self._work(job)


async def _run_on_ray(
    job: TrainingJob, config: WorkersConfig, worker: _Worker, on_progress: OnProgress | None
) -> TrainingReport:
    deaths: list[str] = []
    while True:
        try:
            return await _watch(job, config, worker, on_progress)
        except DEATHS as error:
            worker.stop()
            deaths.append(f"{type(error).__name__}: {_first_line(error)}")
            if len(deaths) <= config.num_retries:
                continue
            reason = f"the training process died {len(deaths)} time(s): {deaths[-1]}"
        except TimeoutError as error:
            reason = str(error)
        except RayTaskError as error:
            worker.stop()
            # Whatever went wrong in there went wrong for this candidate; the others, and the run, go on.
            reason = f"training failed: {_first_line(error.cause)}"
        return quarantine(job, reason)


def _adopted(job: TrainingJob, store: TrainingStore | None) -> TrainingReport | None:
    try:
        return None if store is None else store.adopt(job)
    except OSError as error:
        if not is_disk_error(error):
            raise
        return None  # the job itself will say what is wrong with the disk


def _share(job: TrainingJob, report: TrainingReport, store: TrainingStore | None) -> None:
    if store is None:
        return
    try:
        store.keep(job, report)
    except OSError as error:
        # A full store costs the next run what it would have saved, and this one nothing.
        if not is_disk_error(error):
            raise


def _need_ray() -> None:
    if not ray.is_initialized():
        raise WorkersError("expected a running Ray for training, found none; start or join one before run_jobs")


async def _watch(
    job: TrainingJob, config: WorkersConfig, worker: _Worker, on_progress: OnProgress | None
) -> TrainingReport:
    """Wait for the report, passing progress on. Raises TimeoutError, or what Ray raises for the task."""
    path = Path(job.out_dir) / PROGRESS_NAME
    path.unlink(missing_ok=True)
    ref = worker.start(job)
    result: asyncio.Future[TrainingReport] = asyncio.wrap_future(ref.future())
    deadline = time.monotonic() + config.timeout_s
    last: TrainingProgress | None = None
    try:
        while True:
            left = deadline - time.monotonic()
            done, _ = await asyncio.wait({result}, timeout=max(0.0, min(config.poll_s, left)))
            now = read_progress(path)
            if on_progress is not None and now is not None and now != last:
                on_progress(now)
            last = now or last
            if done:
                return result.result()
            if left <= 0:
                raise TimeoutError(_too_long(job, config, last))
    finally:
        if not result.done():
            worker.cancel(ref)
            # Somebody must hear of the cancelled task, or asyncio complains that nobody did.
            result.add_done_callback(lambda future: future.cancelled() or future.exception())


def _too_long(job: TrainingJob, config: WorkersConfig, last: TrainingProgress | None) -> str:
    if last is None:
        shards = config.num_shards
        return (
            f"did not start within {config.timeout_s:g} s: it asks Ray for {shards * _num_threads(job)} CPU(s) and "
            f"{shards * config.num_gpus:g} GPU(s); lower training.num_threads or workers.num_gpus, or add machines"
        )
    where = f"at step {last.step} of {last.num_steps}" if last.num_steps else "before the first step"
    return f"stopped after {config.timeout_s:g} s {where}; raise workers.timeout_s or train on less"


def _num_threads(job: TrainingJob) -> int:
    training = job.recipe.training
    return training.num_threads if isinstance(training, LoraTraining) else 1


def _strategy(place: GpuPlace | None) -> Any:
    return "DEFAULT" if place is None else NodeAffinitySchedulingStrategy(place.node, soft=False)


def _of_launcher(environment: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {"env_vars": environment["env_vars"] | OWN_GPU}


def _environment(num_threads: int, config: WorkersConfig, place: GpuPlace | None) -> dict[str, dict[str, str]]:
    threads = str(num_threads)
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    if place is not None:
        # Ray hides all GPUs from a task that asks for none.
        variables |= {"CUDA_VISIBLE_DEVICES": ",".join(place.gpus), "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
    elif config.num_gpus == 0:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return {"env_vars": variables}


def _first_line(error: BaseException | None) -> str:
    name = type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{name}: {lines[0][:300]}" if lines else name
