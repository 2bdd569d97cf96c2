"""What the archive is told of a generation's members, and who is to give up a seat."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evolve.gates.arrangements import Arrangement
from evolve.gates.dev import DevRecord, Measured
from evolve.gates.paired import paired_test
from evolve.gates.remeasure import remeasured
from evolve.lab import Lab
from evolve.learning.breed import Brood
from evolve.learning.curate import Curated
from evolve.learning.past import Past
from evolve.learning.recipe_rows import TrainingRow
from evolve.learning.recipes import Recipe
from evolve.lineage import Specialist, founders, successor
from evolve.selection.select import Selection, flattery_of, select
from evolve.training.config import ScriptedTraining
from evolve.training.job import TrainingJob
from evolve.training.scripted_train import scripted_shape, train_scripted
from tests.evolve.small_mesh import ADA, BEN, dealt, small_lab

ADA_TOO = ADA.model_copy(update={"name": "ada-2"})
NEW = ADA.model_copy(update={"name": "new", "adapter": "1" * 64})


def test_a_winner_is_flattered_by_what_its_gain_over_its_engines_seats_lost_on_fresh_problems() -> None:
    generation = founders([ADA, BEN, ADA_TOO])
    winner = Arrangement(name="new", seats=(NEW, BEN, ADA_TOO), candidates=("new",))
    scores = {"ada": (0.0, 0.5), "ada-2": (0.5, 0.5), "ben": (1.0, 1.0), "new": (1.0, 0.75)}
    dev = DevRecord(
        members=tuple(Measured(name=name, scores=found, num_samples=4) for name, found in scores.items()),
    )
    test = paired_test([False, True], [True, True], seed=0)
    fresh = {"ada": 0.5, "ada-2": 0.7, "ben": 0.1, "new": 0.8}
    again = remeasured("new", test, 3, test, fresh)
    assert flattery_of(generation, winner, dev, again) == {"new": pytest.approx(0.5 - 0.2)}


def admitted(lab: Lab, name: str) -> str:
    """The hash of an adapter for ada that the lab can load."""
    recipe = Recipe(name=name, base="ada", family="alpha", mix=("own_correct",), training=ScriptedTraining(), seed=1)
    row = TrainingRow(task_id="t", task_type="sums", messages=(), completion="7")
    job = TrainingJob(
        base_name="ada", base_dir="", recipe=recipe, rows=(row,), seed=1, out_dir=str(lab.directory / "training")
    )
    train_scripted(job)
    return lab.adapters.admit(job.adapter_dir, scripted_shape("ada"), max_rank=16).hash


def selected(directory: Path, adapter_gain: float) -> Selection:
    """What comes of a generation that bred nothing and in which a specialist sits in ada's place."""

    async def work() -> Selection:
        async with small_lab(
            directory, skills=(0.5, 0.5), adapter_gain=adapter_gain, dev_samples_per_member=6, remeasure_share=0.0
        ) as lab:
            adapter = admitted(lab, "old")
            born = Specialist(
                name="old", engine="ada", family="alpha", adapter=adapter, generation=1, recipe="old", data_digest="d",
                gate_digest="g",
            )  # fmt: skip
            old = ADA.model_copy(update={"name": "old", "adapter": adapter})
            generation = successor(founders([ADA, BEN]), [old, BEN], [born])
            brood = Brood(curated=Curated(examples=(), drops=()), selections={})
            return await select(lab, generation, brood, dealt(num_dev=40), Past())

    return asyncio.run(work())


def test_a_seated_specialist_that_is_shown_to_take_away_from_the_vote_is_to_give_up_its_seat(tmp_path: Path) -> None:
    found = selected(tmp_path, -0.5)
    assert list(found.retired) == ["old"]
    assert found.retired["old"].startswith("its share in the vote is -")
    assert found.chosen is None


def test_a_specialist_that_adds_to_the_vote_keeps_its_seat(tmp_path: Path) -> None:
    assert selected(tmp_path, 0.4).retired == {}
