from __future__ import annotations

import math

from evolve.recipes import Recipe
from evolve.training_config import ScriptedTraining
from evolve.training_job import TrainingJob, diverged, finished_report, publish_report, quarantined


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
