"""A training job whose base is too large for one GPU: several processes under Ray Train share it, a GPU each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from evolve.training.config import WorkersConfig
from evolve.training.job import TrainingJob, TrainingReport, finished_report

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
"""What tells libraries of several processes. Each is to train as if alone, but for what `share` does."""
OWN_GPU = {"TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "0"}
"""Ray Train shows every process all GPUs of its machine unless told otherwise; the trainer would take them all."""


class ShardedError(RuntimeError):
    """The processes ended without a report."""


def train_sharded(job: TrainingJob, config: WorkersConfig, environment: dict[str, Any]) -> TrainingReport:
    """Train one job in `config.num_shards` processes, and return its report when all have ended.

    They write where `train_lora` does, so a process that dies costs the steps since the last checkpoint: all of them
    are started again, `config.num_retries` times.

    Args:
        environment: Ray's `runtime_env` of each process.

    Raises:
        ShardedError: there is no report.
        ray.train.TrainingFailedError: a process failed, or died too often.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    scratch = Path(job.out_dir).resolve() / "ray-train"
    threads = getattr(job.recipe.training, "num_threads", 1)
    trainer = TorchTrainer(
        _train_part,
        train_loop_config={"job": job.model_dump_json()},
        scaling_config=ScalingConfig(
            num_workers=config.num_shards,
            use_gpu=config.num_gpus > 0,
            resources_per_worker={"CPU": threads} | ({"GPU": 1} if config.num_gpus else {}),
        ),
        run_config=RunConfig(
            name="shards",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=config.num_retries),
            worker_runtime_env=environment,  # type: ignore[call-arg]  # stubs are of the older Train, which has none
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report = finished_report(job)
    if report is None:
        raise ShardedError(f"expected a report in {job.out_dir} from {config.num_shards} processes, found none")
    return report


def _train_part(settings: dict[str, str]) -> None:
    """What each of the processes does."""
    import ray.train

    from evolve.training.share import Share
    from evolve.training.train import train_lora
    from evolve.training.workers import PROGRESS_NAME, write_progress

    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    for name in LAUNCHER:
        os.environ.pop(name, None)
    job = TrainingJob.model_validate_json(settings["job"])
    path = Path(job.out_dir) / PROGRESS_NAME
    train_lora(job, (lambda progress: write_progress(path, progress)) if share.is_first else None, share=share)
    if share.is_first:
        path.unlink(missing_ok=True)
