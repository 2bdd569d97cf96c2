"""Training jobs as Ray tasks: one process a job, watched, timed out, started again once if it dies."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from pydantic import ValidationError
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evolve.scripted_train import train_scripted
from evolve.training_config import LoraTraining, WorkersConfig
from evolve.training_job import (
    TrainingJob,
    TrainingProgress,
    TrainingReport,
    finished_report,
    publish_report,
    quarantined,
)
from serving.placement import GpuPlace

PROGRESS_NAME = "progress.json"
DEATHS = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, LocalRayletDiedError, TaskUnschedulableError)

OnProgress = Callable[[TrainingProgress], None]
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
) -> list[TrainingReport]:
    """Run all jobs and return their reports in the order of `jobs`.

    A job that an earlier run finished is not repeated. One base trains one adapter at a time; different bases train
    side by side, `config.max_concurrent` at most. A job that fails, exceeds its time, or whose process died more often
    than `config.num_retries` allows is quarantined with the reason; the others go on.
    `places`: GPUs that are free because their engines sleep, one job at a time on each; none: jobs ask Ray for
    `config.num_gpus`. LoRA jobs need a running Ray; scripted ones run in this process. `work` is what a worker does,
    for tests.

    Raises:
        WorkersError: there are LoRA jobs to run, and Ray is not initialised.
        OSError: a report cannot be written.
    """
    slots: asyncio.Queue[GpuPlace | None] = asyncio.Queue()
    free: list[GpuPlace | None] = [*places[: config.max_concurrent]]
    for slot in free or [None] * config.max_concurrent:
        slots.put_nowait(slot)
    bases: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(job: TrainingJob) -> TrainingReport:
        finished = finished_report(job)
        if finished is not None:
            return finished
        if job.recipe.training.kind == "scripted":
            return train_scripted(job)
        async with bases[job.base_dir]:
            place = await slots.get()
            try:
                return await _run_on_ray(job, config, place, on_progress, work or train_in_worker)
            finally:
                slots.put_nowait(place)

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        # Without this, a job of a cancelled or failed run would train on.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def train_in_worker(job: TrainingJob) -> TrainingReport:
    """What a worker process does: train, and leave a trace of how far it is beside the results."""
    path = Path(job.out_dir) / PROGRESS_NAME
    write_progress(path, TrainingProgress(recipe=job.recipe.name, step=0, num_steps=0, seconds=0.0))
    # Imports torch, TRL and PEFT: seconds, and memory that only this process should pay for.
    from evolve.train import train_lora

    report = train_lora(job, lambda progress: write_progress(path, progress))
    path.unlink(missing_ok=True)
    return report


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


async def _run_on_ray(
    job: TrainingJob, config: WorkersConfig, place: GpuPlace | None, on_progress: OnProgress | None, work: Work
) -> TrainingReport:
    if not ray.is_initialized():
        raise WorkersError("expected a running Ray for training, found none; start or join one before run_jobs")
    task = ray.remote(
        num_cpus=_num_threads(job),
        # The GPUs of a place are an engine's in Ray's books, asleep or not.
        num_gpus=0 if place else config.num_gpus,
        max_retries=0,
        max_calls=1,
        scheduling_strategy=_strategy(place),
        runtime_env=_environment(job, config, place),
    )(work)
    deaths: list[str] = []
    while True:
        try:
            return await _watch(task.remote(job), job, config, on_progress)
        except DEATHS as error:
            deaths.append(f"{type(error).__name__}: {_first_line(error)}")
            if len(deaths) <= config.num_retries:
                continue
            reason = f"the training process died {len(deaths)} time(s): {deaths[-1]}"
        except TimeoutError as error:
            reason = str(error)
        except RayTaskError as error:
            # Whatever went wrong in there went wrong for this candidate; the others, and the run, go on.
            reason = f"training failed: {_first_line(error.cause)}"
        report = quarantined(job, reason)
        publish_report(job, report)
        return report


async def _watch(
    ref: ray.ObjectRef, job: TrainingJob, config: WorkersConfig, on_progress: OnProgress | None
) -> TrainingReport:
    """Wait for the report, passing progress on. Raises TimeoutError, or what Ray raises for the task."""
    path = Path(job.out_dir) / PROGRESS_NAME
    path.unlink(missing_ok=True)
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
            ray.cancel(ref, force=True)
            # Somebody must hear of the cancelled task, or asyncio complains that nobody did.
            result.add_done_callback(lambda future: future.cancelled() or future.exception())


def _too_long(job: TrainingJob, config: WorkersConfig, last: TrainingProgress | None) -> str:
    if last is None:
        return (
            f"did not start within {config.timeout_s:g} s: it asks Ray for {_num_threads(job)} CPU(s) and "
            f"{config.num_gpus:g} GPU(s); lower training.num_threads or workers.num_gpus, or add machines"
        )
    where = f"at step {last.step} of {last.num_steps}" if last.num_steps else "before the first step"
    return f"stopped after {config.timeout_s:g} s {where}; raise workers.timeout_s or train on less"


def _num_threads(job: TrainingJob) -> int:
    training = job.recipe.training
    return training.num_threads if isinstance(training, LoraTraining) else 1


def _strategy(place: GpuPlace | None) -> Any:
    return "DEFAULT" if place is None else NodeAffinitySchedulingStrategy(place.node, soft=False)


def _environment(job: TrainingJob, config: WorkersConfig, place: GpuPlace | None) -> dict[str, dict[str, str]]:
    threads = str(_num_threads(job))
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
