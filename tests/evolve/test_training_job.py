from __future__ import annotations

import math

import pytest

from evolve.learning.recipe_rows import PreferenceRow, TrainingRow
from evolve.learning.recipes import Recipe
from evolve.training.config import LoraTraining, MergeTraining, ScriptedTraining
from evolve.training.job import (
    ParentAdapter,
    TrainingJob,
    TrainingReport,
    diverged,
    finished_report,
    publish_report,
    quarantined,
)
from evolve.training.scripted_train import scripted_shape
from evolve.training.train_here import is_light, train_here
from memory.types import content_hash
from serving.adapters import AdapterStore


def test_losses_that_double_or_are_not_finite_are_called_diverged():
    assert diverged([2.0] * 5 + [3.9] * 5) is None
    assert "rose from 2 to 4.1" in (diverged([2.0] * 5 + [4.1] * 5) or "")
    assert diverged([1.0, math.nan]) == "loss is nan at step 1"
    assert diverged([math.inf]) == "loss is inf at step 0"
    assert diverged([]) is None
    assert diverged([0.1, 0.1, 0.3, 0.3]) is None


def test_a_job_is_known_by_its_content_and_not_by_where_it_lies(tmp_path):
    recipe = Recipe(name="r", base="b", family="f", mix=("own_correct",), training=ScriptedTraining(), seed=1)
    here = TrainingJob(base_name="b", base_dir="/here", recipe=recipe, rows=(), seed=1, out_dir=str(tmp_path / "a"))
    there = here.model_copy(update={"base_dir": "/there", "out_dir": str(tmp_path / "b")})
    assert here.digest == there.digest
    assert here.digest != here.model_copy(update={"seed": 2}).digest
    publish_report(here, quarantined(here, "why"))
    assert finished_report(here) == quarantined(here, "why")
    assert finished_report(here.model_copy(update={"seed": 2})) is None
    assert finished_report(there) is None


def plain_job(out_dir: str = "/out", **changes: object) -> TrainingJob:
    recipe = Recipe(name="r", base="b", family="f", mix=("own_correct",), training=LoraTraining(), seed=1)
    job = TrainingJob(base_name="b", base_dir="/b", recipe=recipe, rows=(), seed=1, out_dir=out_dir)
    return job.model_copy(update=changes)


def test_a_job_that_asks_for_nothing_new_has_the_digest_it_had_before_there_was_anything_new():
    training = LoraTraining().model_dump(mode="json")
    del training["preference"]
    recipe = {"name": "r", "base": "b", "family": "f", "mix": ["own_correct"], "task_types": [], "training": training}
    recipe |= {"placebo": False, "seed": 1}
    assert plain_job().digest == content_hash({"base_name": "b", "recipe": recipe, "rows": [], "seed": 1})


def test_what_changes_the_result_changes_the_digest_and_what_does_not_does_not():
    job = plain_job()
    pair = PreferenceRow(task_id="t", task_type="sum", messages=(), chosen="1", rejected="2")
    here, there = (ParentAdapter(adapter="a", directory=path) for path in ("/x", "/y"))
    named = job.recipe.model_copy(update={"arm": "b/own", "changes": ("rank 8 → 16",)})
    assert plain_job(recipe=named, checkpoint_steps=5).digest == job.digest
    assert plain_job(parents=(here,)).digest == plain_job(parents=(there,)).digest != job.digest
    assert plain_job(pairs=(pair,)).digest != job.digest
    assert plain_job(base_fingerprint="f").digest != job.digest
    assert plain_job(pairs=(pair,)).data_digest != job.data_digest


def test_light_jobs_are_carried_out_without_ray_or_torch(tmp_path):
    def scripted(name: str) -> TrainingJob:
        recipe = Recipe(name=name, base="b", family="f", mix=(), training=ScriptedTraining(rank=2), seed=1)
        row = TrainingRow(task_id=name, task_type="t", messages=(), completion="1")
        return TrainingJob(base_name="b", base_dir="", recipe=recipe, rows=(row,), seed=1, out_dir=str(tmp_path / name))

    parents = [scripted("one"), scripted("two")]
    assert all(is_light(one) and train_here(one).status == "ok" for one in parents)
    given = tuple(ParentAdapter(adapter=p.recipe.name, directory=str(p.adapter_dir)) for p in parents)

    def merge(name: str, training: MergeTraining, from_: tuple[ParentAdapter, ...] = given) -> TrainingReport:
        recipe = Recipe(name=name, base="b", family="f", mix=(), training=training, seed=1)
        job = TrainingJob(
            base_name="b", base_dir="", recipe=recipe, rows=(), seed=1, parents=from_, out_dir=str(tmp_path / name)
        )
        report = train_here(job)
        assert finished_report(job) == report
        return report

    exact = merge("cat", MergeTraining(method="cat"))
    assert (exact.status, exact.retained_energy) == ("ok", 1.0)
    stored = AdapterStore(tmp_path / "store").admit(tmp_path / "cat/adapter", scripted_shape("b"), max_rank=4)
    assert stored.rank == 4
    cut = merge("svd", MergeTraining(rank=1, min_energy=0.999))
    assert cut.status == "quarantined"
    assert "rank 1 keeps" in cut.reason
    assert not (tmp_path / "svd/adapter").exists()
    assert "at least one adapter" in merge("none", MergeTraining(), ()).reason
    assert not is_light(plain_job())
    with pytest.raises(TypeError, match="kind 'scripted'"):
        train_here(plain_job())
