"""A job that several processes share under Ray Train learns what one process learns."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from evolve.recipe_rows import PreferenceRow
from evolve.training_config import WorkersConfig
from evolve.training_job import TrainingJob, TrainingProgress, TrainingReport
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
    import evolve.workers
    from serving.cluster import start_local_ray
    from serving.config import RayConfig

    running = start_local_ray(RayConfig(num_cpus=2, object_store_mib=80))
    yield evolve.workers
    running.close()


def pairs() -> tuple[PreferenceRow, ...]:
    return tuple(
        PreferenceRow(
            task_id=row.task_id, task_type="sum", messages=row.messages, chosen=row.completion, rejected="no idea"
        )
        for row in ROWS
    )


def both(workers: ModuleType, alone: TrainingJob, shared: TrainingJob) -> tuple[TrainingReport, TrainingReport]:
    from evolve.train import train_lora

    seen: list[TrainingProgress] = []
    (together,) = asyncio.run(workers.run_jobs([shared], TWO, seen.append))
    assert seen, "nobody was told how far the job is"
    assert asyncio.run(workers.run_jobs([shared], TWO)) == [together], "a finished job is not repeated"
    return train_lora(alone), together


def assert_alike(alone: TrainingJob, shared: TrainingJob) -> None:
    one, other = (load_file(work.adapter_dir / "adapter_model.safetensors") for work in (alone, shared))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        np.testing.assert_allclose(other[name], weight, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.engine
def test_two_processes_learn_rows_and_pairs_as_one_does(workers: ModuleType, base: Path, tmp_path: Path) -> None:
    # 12 rows in passes of 8: in the last one a process has less to do than the other.
    settings: dict[str, object] = {"num_epochs": 2, "batch_size": 8, "learning_rate": 0.01}
    settings["preference"] = {"min_pairs": 2, "batch_size": 4}
    alone, shared = (
        job(base, tmp_path / name, **settings).model_copy(update={"pairs": pairs()}) for name in ("alone", "shared")
    )
    report, together = both(workers, alone, shared)
    assert (report.status, together.status) == ("ok", "ok"), together.reason
    assert together.losses == pytest.approx(report.losses, abs=1e-4)
    assert together.pair_losses == pytest.approx(report.pair_losses, abs=1e-4)
    assert (together.num_rows, together.num_pairs) == (12, 12)
    assert together.trained_tokens == report.trained_tokens
    assert together.pairs_won == report.pairs_won
    assert_alike(alone, shared)
    (held, whole), world = (int(n.replace(",", "")) for n in re.findall(r"[\d,]{4,}", together.notes[0])), 2
    assert held == pytest.approx(whole / world, rel=0.05)
    assert not (tmp_path / "shared" / "ray-train").exists()


@pytest.mark.engine
def test_a_process_with_no_row_of_a_pass_counts_nothing(workers: ModuleType, base: Path, tmp_path: Path) -> None:
    # Three rows in passes of two: the second pass of an epoch has one row for two processes.
    alone, shared = (
        job(base, tmp_path / name, ROWS[:3], num_epochs=2, batch_size=2, learning_rate=0.01)
        for name in ("alone", "shared")
    )
    report, together = both(workers, alone, shared)
    assert together.losses == pytest.approx(report.losses, abs=1e-4)
    assert_alike(alone, shared)


@pytest.mark.engine
def test_a_shared_job_that_takes_too_long_is_stopped_with_all_its_processes(
    workers: ModuleType, base: Path, tmp_path: Path
) -> None:
    def processes() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended meanwhile
                found.append(path.read_bytes().decode(errors="replace"))
        return [line for line in found if "RayTrainWorker" in line or "TrainController" in line]

    work = job(base, tmp_path / "out", num_epochs=4000)
    began: list[list[str]] = []
    config = TWO.model_copy(update={"timeout_s": 60.0, "num_retries": 0})
    (report,) = asyncio.run(workers.run_jobs([work], config, lambda progress: began.append(processes())))
    assert (report.status, report.reason[:23]) == ("quarantined", "stopped after 60 s at s"), report.reason
    assert began[-1], "its processes could not be told from others"
    for _ in range(60):
        if not processes():
            break
        time.sleep(0.5)
    assert processes() == []
