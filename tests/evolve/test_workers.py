from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import time
from pathlib import Path

import pytest
import ray

from evolve.learning.recipe_rows import TrainingRow
from evolve.learning.recipes import Recipe
from evolve.training import scripted_train, train_here
from evolve.training.config import LoraTraining, MergeTraining, ScriptedTraining, TrainingConfig, WorkersConfig
from evolve.training.job import (
    ParentAdapter,
    TrainingJob,
    TrainingProgress,
    TrainingReport,
    finished_report,
    publish_report,
)
from evolve.training.scripted_train import scripted_shape
from evolve.training.store import TrainingStore
from evolve.training.workers import WorkersError, run_jobs, write_progress
from mesh.types import Message, Part
from serving.adapters import AdapterStore
from serving.cluster import start_local_ray
from serving.config import RayConfig
from serving.placement import GpuPlace

ROW = TrainingRow(
    task_id="t", task_type="sum", messages=(Message(role="user", parts=(Part(text="1 + 1?"),)),), completion="2"
)
QUICK = WorkersConfig(warm=False, timeout_s=60, poll_s=0.05)


def job(out: Path, name: str = "one", base: str = "left", training: TrainingConfig | None = None) -> TrainingJob:
    training = training or ScriptedTraining()
    recipe = Recipe(name=name, base=base, family=base, mix=("own_correct",), training=training, seed=1)
    return TrainingJob(base_name=base, base_dir="", recipe=recipe, rows=(ROW,), seed=1, out_dir=str(out / name))


def run(jobs, config=QUICK, on_progress=None, **settings) -> list[TrainingReport]:
    return asyncio.run(run_jobs(jobs, config, on_progress, **settings))


def test_scripted_adapters_pass_admission_and_depend_on_the_job_alone(tmp_path):
    here, there, other = job(tmp_path / "a"), job(tmp_path / "b"), job(tmp_path / "a", name="two")
    reports = run([here, there, other])
    assert [report.status for report in reports] == ["ok"] * 3
    assert reports[0] == reports[1]
    store = AdapterStore(tmp_path / "store")
    hashes = [store.admit(j.adapter_dir, scripted_shape("left"), max_rank=1).hash for j in (here, there, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_adapters_of_two_scripted_bases_are_never_the_same(tmp_path):
    one, two = job(tmp_path / "a"), job(tmp_path / "b", base="right")
    run([one, two])
    store = AdapterStore(tmp_path / "store")
    left = store.admit(one.adapter_dir, scripted_shape("left"), max_rank=1)
    right = store.admit(two.adapter_dir, scripted_shape("right"), max_rank=1)
    assert left.base != right.base


def test_a_finished_job_is_not_repeated_and_one_without_its_adapter_is(tmp_path):
    work = job(tmp_path)
    (first,) = run([work])
    weights = work.adapter_dir / "adapter_model.safetensors"
    before = weights.stat().st_ino
    assert run([work]) == [first]
    assert weights.stat().st_ino == before
    work.adapter_dir.rename(tmp_path / "gone")
    assert finished_report(work) is None
    assert run([work]) == [first]
    assert weights.is_file()


def test_a_scripted_divergence_is_quarantined(tmp_path):
    work = job(tmp_path, training=ScriptedTraining(diverges=True))
    (report,) = run([work])
    assert (report.status, report.adapter_sha256) == ("quarantined", None)
    assert "nan" in report.reason
    assert finished_report(work) == report


def test_every_report_is_told_once_as_soon_as_it_is_there_finished_ones_first(tmp_path):
    first, second = job(tmp_path, "one"), job(tmp_path, "two")
    run([second])
    told: list[str] = []
    reports = run([first, second], on_report=lambda report: told.append(report.recipe))
    assert told == ["two", "one"]
    assert [report.recipe for report in reports] == ["one", "two"]


def test_a_full_disk_quarantines_the_job_that_met_it_and_the_others_go_on(tmp_path, monkeypatch):
    def full(given: TrainingJob) -> TrainingReport:
        if given.recipe.name == "one":
            raise OSError(errno.ENOSPC, "No space left on device")
        return scripted_train.train_scripted(given)

    monkeypatch.setattr(train_here, "train_scripted", full)
    found, other = run([job(tmp_path, "one"), job(tmp_path, "two")])
    assert (found.status, found.reason) == ("quarantined", "its results could not be written: No space left on device")
    assert other.status == "ok"


def test_other_errors_of_the_system_end_the_run(tmp_path, monkeypatch):
    def forbidden(given: TrainingJob) -> TrainingReport:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(train_here, "train_scripted", forbidden)
    with pytest.raises(PermissionError):
        run([job(tmp_path)])


def test_a_full_shared_store_costs_this_run_nothing(tmp_path, monkeypatch):
    def full(self: TrainingStore, given: TrainingJob, report: TrainingReport) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TrainingStore, "keep", full)
    (report,) = run([job(tmp_path)], store=TrainingStore(tmp_path / "store"))
    assert report.status == "ok"


def test_a_finished_job_whose_report_or_weights_were_damaged_is_done_again(tmp_path):
    work = job(tmp_path)
    (first,) = run([work])
    (work.adapter_dir / "adapter_model.safetensors").write_bytes(b"other")
    assert finished_report(work) is None
    assert run([work]) == [first]
    (tmp_path / "one" / "training_report.json").write_text("{")
    assert finished_report(work) is None


def test_lora_jobs_without_ray_are_refused(tmp_path):
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(WorkersError, match="expected a running Ray"):
        run([job(tmp_path, training=LoraTraining())])


@pytest.fixture(scope="module")
def local_ray():
    # Started in seconds, but workers come one by one: too slow for the unit tests.
    running = start_local_ray(RayConfig(num_cpus=2, object_store_mib=80))
    yield
    running.close()


def trained(work: TrainingJob) -> TrainingReport:
    return TrainingReport(
        job=work.digest, recipe=work.recipe.name, base_name=work.base_name, status="ok", reason=str(os.getpid())
    )


def lora(tmp_path: Path, name: str, base: str = "left") -> TrainingJob:
    return job(tmp_path, name, base, LoraTraining(num_threads=1))


@pytest.mark.engine
@pytest.mark.usefixtures("local_ray")
class TestOnRay:
    def test_a_worker_that_is_killed_once_is_started_again(self, tmp_path):
        marker = tmp_path / "died"

        def work(given: TrainingJob) -> TrainingReport:
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return TrainingReport(job=given.digest, recipe=given.recipe.name, base_name=given.base_name, status="ok")

        (report,) = run([lora(tmp_path, "one")], work=work)
        assert marker.exists()
        assert report.status == "ok"

    def test_a_worker_that_is_killed_again_is_quarantined_and_the_others_go_on(self, tmp_path):
        def work(given: TrainingJob) -> TrainingReport:
            if given.recipe.name == "doomed":
                os.kill(os.getpid(), signal.SIGKILL)
            return TrainingReport(job=given.digest, recipe=given.recipe.name, base_name=given.base_name, status="ok")

        doomed, fine = run([lora(tmp_path, "doomed"), lora(tmp_path, "fine")], work=work)
        assert doomed.status == "quarantined"
        assert "died 2 time(s)" in doomed.reason
        assert fine.status == "ok"
        assert finished_report(lora(tmp_path, "doomed")) == doomed

    def test_a_job_that_takes_too_long_is_stopped_and_says_where(self, tmp_path):
        def work(given: TrainingJob) -> TrainingReport:
            (tmp_path / "pid").write_text(str(os.getpid()))
            write_progress(
                Path(given.out_dir) / "progress.json",
                TrainingProgress(recipe=given.recipe.name, step=3, num_steps=9, loss=1.5, seconds=1.0),
            )
            time.sleep(600)
            raise AssertionError("not stopped")

        seen: list[TrainingProgress] = []
        config = WorkersConfig(warm=False, timeout_s=20, poll_s=0.05)
        (report,) = run([lora(tmp_path, "slow")], config, seen.append, work=work)
        assert report.status == "quarantined"
        assert "stopped after 20 s at step 3 of 9" in report.reason
        assert [(p.step, p.loss) for p in seen] == [(3, 1.5)]
        pid = int((tmp_path / "pid").read_text())
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not os.path.exists(f"/proc/{pid}")

    def test_a_job_that_never_starts_says_what_it_asks_for(self, tmp_path):
        greedy = job(tmp_path, "greedy", training=LoraTraining(num_threads=64))
        (report,) = run([greedy], WorkersConfig(warm=False, timeout_s=1, poll_s=0.05), work=trained)
        assert "did not start within 1 s: it asks Ray for 64 CPU(s)" in report.reason

    def test_a_training_that_raises_is_quarantined_with_what_it_said(self, tmp_path):
        def work(given: TrainingJob) -> TrainingReport:
            raise ValueError("the base is not a language model")

        (report,) = run([lora(tmp_path, "bad")], work=work)
        assert report.reason == "training failed: ValueError: the base is not a language model"

    def test_one_base_trains_one_adapter_at_a_time_in_a_process_of_its_own(self, tmp_path):
        def work(given: TrainingJob) -> TrainingReport:
            begin = time.time()
            time.sleep(0.3)
            reason = f"{os.getpid()} {begin} {time.time()} {os.environ['OMP_NUM_THREADS']}"
            return TrainingReport(
                job=given.digest, recipe=given.recipe.name, base_name=given.base_name, status="ok", reason=reason
            )

        jobs = [lora(tmp_path, "a"), lora(tmp_path, "b")]
        reports = run(jobs, WorkersConfig(warm=False, timeout_s=60, max_concurrent=4, poll_s=0.05), work=work)
        (pid_a, *a), (pid_b, *b) = (report.reason.split() for report in reports)
        assert pid_a != pid_b
        assert float(a[1]) <= float(b[0]) or float(b[1]) <= float(a[0])
        assert a[2] == b[2] == "1"

    def test_a_job_gets_the_gpus_of_a_sleeping_engine_and_keeps_them_to_itself(self, tmp_path):
        def work(given: TrainingJob) -> TrainingReport:
            begin = time.time()
            time.sleep(0.3)
            reason = f"{os.environ['CUDA_VISIBLE_DEVICES']} {begin} {time.time()}"
            return TrainingReport(
                job=given.digest, recipe=given.recipe.name, base_name=given.base_name, status="ok", reason=reason
            )

        node = ray.get_runtime_context().get_node_id()
        jobs = [lora(tmp_path, "a", "left"), lora(tmp_path, "b", "right"), lora(tmp_path, "c", "middle")]
        config = WorkersConfig(warm=False, timeout_s=60, max_concurrent=4, num_gpus=1, poll_s=0.05)
        (one,) = run(jobs[:1], config, places=[GpuPlace(node=node, gpus=("3", "5"))], work=work)
        assert one.reason.split()[0] == "3,5"
        reports = run(jobs[1:], config, places=[GpuPlace(node=node, gpus=())], work=work)
        assert {len(report.reason.split()) for report in reports} == {2}, "no GPU is seen where the engine has none"
        (begin_b, end_b), (begin_c, end_c) = (map(float, report.reason.split()) for report in reports)
        assert end_b <= begin_c or end_c <= begin_b, "one place holds one job at a time"

    def test_a_job_whose_node_is_gone_is_quarantined(self, tmp_path):
        (report,) = run([lora(tmp_path, "one")], places=[GpuPlace(node="ab" * 28, gpus=("0",))], work=trained)
        assert report.status == "quarantined"
        assert "died 2 time(s): TaskUnschedulableError" in report.reason

    def test_a_report_that_a_killed_driver_never_read_is_found_again(self, tmp_path):
        done = lora(tmp_path, "done").model_copy(update={"out_dir": str(tmp_path / "done")})
        done.adapter_dir.mkdir(parents=True)
        (done.adapter_dir / "adapter_model.safetensors").write_bytes(b"weights")
        sha256 = hashlib.sha256(b"weights").hexdigest()
        report = trained(done).model_copy(update={"adapter_sha256": sha256})
        publish_report(done, report)
        assert run([done], work=trained) == [report]


WARM = WorkersConfig(timeout_s=60, poll_s=0.05, warm=True)


def said(given: TrainingJob, text: str = "") -> TrainingReport:
    return TrainingReport(
        job=given.digest, recipe=given.recipe.name, base_name=given.base_name, status="ok", reason=text
    )


def on(base_dir: str, *jobs: TrainingJob) -> list[TrainingJob]:
    return [one.model_copy(update={"base_dir": base_dir}) for one in jobs]


@pytest.mark.engine
@pytest.mark.usefixtures("local_ray")
class TestWarm:
    def test_all_jobs_of_a_base_share_a_process_and_another_base_has_its_own(self, tmp_path):
        def work(given: TrainingJob) -> TrainingReport:
            return said(given, str(os.getpid()))

        left = on("/left", *(lora(tmp_path, name) for name in "abc"))
        right = on("/right", lora(tmp_path, "d", "right"))
        a, b, c, d = (report.reason for report in run([left[0], *right, *left[1:]], WARM, work=work))
        assert a == c == d != b, "reports come in the order of the jobs"
        deadline = time.monotonic() + 20
        while any(os.path.exists(f"/proc/{pid}") for pid in (a, b)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in (a, b)), "and nobody is left behind"

    def test_a_warm_process_that_is_killed_is_replaced_and_the_other_jobs_go_on(self, tmp_path):
        def work(given: TrainingJob) -> TrainingReport:
            marker = tmp_path / f"died-{given.recipe.name}"
            if given.recipe.name == "doomed" or (given.recipe.name == "once" and not marker.exists()):
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return said(given, str(os.getpid()))

        jobs = [lora(tmp_path, name) for name in ("fine", "once", "doomed", "last")]
        fine, once, doomed, last = run(jobs, WARM, work=work)
        assert [r.status for r in (fine, once, last)] == ["ok"] * 3
        assert "died 2 time(s): ActorDiedError" in doomed.reason
        assert len({fine.reason, once.reason, last.reason}) == 3
        assert finished_report(jobs[2]) == doomed

    def test_what_fails_or_takes_too_long_in_a_warm_process_does_not_touch_the_next_job(self, tmp_path):
        def work(given: TrainingJob) -> TrainingReport:
            if given.recipe.name == "bad":
                raise ValueError("not a language model")
            if given.recipe.name == "slow":
                time.sleep(600)
            return said(given, str(os.getpid()))

        config = WARM.model_copy(update={"timeout_s": 15})
        bad, slow, fine = run([lora(tmp_path, name) for name in ("bad", "slow", "fine")], config, work=work)
        assert bad.reason == "training failed: ValueError: not a language model"
        assert "did not start within 15 s" in slow.reason
        assert fine.status == "ok"

    def test_a_worker_killed_in_the_middle_goes_on_from_its_checkpoint_to_the_same_adapters(self, tmp_path):
        from tests.evolve.tiny_model import make_model

        base = str(make_model(tmp_path / "model"))
        training = LoraTraining(rank=2, alpha=4, batch_size=1, num_epochs=12, num_threads=1)

        def jobs(where: str) -> list[TrainingJob]:
            made = [job(tmp_path / where, name, training=training) for name in ("one", "two")]
            return [one.model_copy(update={"base_dir": base}) for one in made]

        expected = run(jobs("cold"), QUICK.model_copy(update={"timeout_s": 300}))
        assert [r.status for r in expected] == ["ok"] * 2, expected

        def work(given: TrainingJob) -> TrainingReport:
            from evolve.training.train import train_lora

            def hear(progress: TrainingProgress) -> None:
                if progress.step == 7 and not (tmp_path / "died").exists():
                    (tmp_path / "died").touch()
                    os.kill(os.getpid(), signal.SIGKILL)

            return train_lora(given, hear)

        config = WARM.model_copy(update={"timeout_s": 300, "checkpoint_steps": 3})
        found = run(jobs("warm"), config, work=work)
        assert [r.adapter_sha256 for r in found] == [r.adapter_sha256 for r in expected]
        assert [r.resumed_steps for r in found] == [6, 0]


def test_merges_run_beside_other_jobs_without_ray(tmp_path):
    parents = [job(tmp_path, name) for name in ("one", "two")]
    run(parents)
    given = tuple(ParentAdapter(adapter=p.recipe.name, directory=str(p.adapter_dir)) for p in parents)
    recipe = parents[0].recipe.model_copy(update={"name": "merged", "training": MergeTraining(method="cat")})
    merged = job(tmp_path, "merged").model_copy(update={"recipe": recipe, "parents": given, "rows": ()})
    report, other = run([merged, job(tmp_path, "three")])
    assert (report.status, report.retained_energy, other.status) == ("ok", 1.0, "ok")
    assert AdapterStore(tmp_path / "s").admit(merged.adapter_dir, scripted_shape("left"), max_rank=2).rank == 2


def test_a_job_that_another_run_has_done_is_free_and_one_of_another_base_is_not(tmp_path):
    store = TrainingStore(tmp_path / "store")
    known = {"base_fingerprint": "aa"}
    first = job(tmp_path / "a").model_copy(update=known)
    (report,) = run([first], store=store)
    second = job(tmp_path / "b").model_copy(update=known)
    assert store.adopt(second) == report
    assert (second.adapter_dir / "adapter_model.safetensors").read_bytes() == (
        first.adapter_dir / "adapter_model.safetensors"
    ).read_bytes()
    assert finished_report(second) == report
    assert store.adopt(job(tmp_path / "c")) is None, "nothing is known of its base"
    assert store.adopt(job(tmp_path / "d").model_copy(update={"base_fingerprint": "bb"})) is None


def test_a_damaged_or_quarantined_result_is_not_taken_from_the_store(tmp_path):
    store = TrainingStore(tmp_path / "store")
    work = job(tmp_path / "a").model_copy(update={"base_fingerprint": "aa"})
    run([work], store=store)
    weights = tmp_path / "store" / work.digest / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert store.adopt(work.model_copy(update={"out_dir": str(tmp_path / "b")})) is None
    (tmp_path / "store" / work.digest / "training_report.json").write_text("{torn")
    assert store.adopt(work.model_copy(update={"out_dir": str(tmp_path / "b")})) is None
    bad = job(tmp_path / "c", training=ScriptedTraining(diverges=True)).model_copy(update={"base_fingerprint": "aa"})
    run([bad], store=store)
    assert store.adopt(bad) is None
    assert [p.name for p in (tmp_path / "store").iterdir()] == [work.digest]
