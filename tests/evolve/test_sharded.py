"""A job that several processes share under Ray Train learns what one process learns."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from evolve.learning.recipe_rows import PreferenceRow
from evolve.training.config import WorkersConfig
from evolve.training.job import TrainingJob, TrainingProgress, TrainingReport
from tests.evolve.test_train import ROWS, job

TWO = WorkersConfig(num_shards=2, timeout_s=300, checkpoint_steps=2)


def test_processes_that_share_a_job_have_a_gpu_each_or_none() -> None:
    with pytest.raises(ValidationError, match=r"expected workers\.num_gpus: 1"):
        WorkersConfig(num_shards=2, num_gpus=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.evolve.tiny_model import make_model

    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def workers() -> Iterator[ModuleType]:
    import evolve.training.workers
    from serving.cluster import start_local_ray
    from serving.config import RayConfig

    running = start_local_ray(RayConfig(num_cpus=2, object_store_mib=80))
    yield evolve.training.workers
    running.close()


def pairs() -> tuple[PreferenceRow, ...]:
    return tuple(
        PreferenceRow(
            task_id=row.task_id, task_type="sum", messages=row.messages, chosen=row.completion, rejected="no idea"
        )
        for row in ROWS
    )


def both(workers: ModuleType, alone: TrainingJob, shared: TrainingJob) -> tuple[TrainingReport, TrainingReport]:
    from evolve.training.train import train_lora

    seen: list[TrainingProgress] = []
    (together,) = asyncio.run(workers.run_jobs([shared], TWO, seen.append))
    assert seen, "nobody was told how far the job is"
    assert asyncio.run(workers.run_jobs([shared], TWO)) == [together], "a finished job is not repeated"
    return train_lora(alone), together


LOSS = 5e-4
"""Sums in another order round differently, and Adam divides by the gradient's size; what is measured is the loss."""


def assert_alike(alone: TrainingJob, shared: TrainingJob) -> None:
    one, other = (load_file(work.adapter_dir / "adapter_model.safetensors") for work in (alone, shared))
    assert one.keys() == other.keys()
    # A step is as long as the learning rate, 0.01, where the gradients of two processes are not added up.
    close = [np.isclose(other[name], weight, atol=1e-3).mean() for name, weight in one.items()]
    assert min(close) > 0.97


@pytest.mark.engine
def test_two_processes_learn_rows_and_pairs_as_one_does(workers: ModuleType, base: Path, tmp_path: Path) -> None:
    # 9 rows in passes of 8: in the last one a process has nothing to do. Of 12 pairs each has half of every pass.
    settings: dict[str, object] = {"num_epochs": 2, "batch_size": 8, "learning_rate": 0.01}
    settings["preference"] = {"min_pairs": 2, "batch_size": 4}
    alone, shared = (
        job(base, tmp_path / name, ROWS[:9], **settings).model_copy(update={"pairs": pairs()})
        for name in ("alone", "shared")
    )
    report, together = both(workers, alone, shared)
    assert (report.status, together.status) == ("ok", "ok"), together.reason
    assert together.losses == pytest.approx(report.losses, abs=LOSS)
    assert together.pair_losses == pytest.approx(report.pair_losses, abs=LOSS)
    assert (together.num_rows, together.num_pairs) == (9, 12)
    assert together.trained_tokens == report.trained_tokens
    # Hardly anything is learned in so few steps (losses of .693): a pair near a tie is won or lost by rounding.
    assert together.pairs_won == pytest.approx(report.pairs_won, abs=1.01 / 12)
    assert_alike(alone, shared)
    (held, whole), world = (int(n.replace(",", "")) for n in re.findall(r"[\d,]{4,}", together.notes[0])), 2
    assert held == pytest.approx(whole / world, rel=0.05)
    assert not (tmp_path / "shared" / "ray-train").exists()
