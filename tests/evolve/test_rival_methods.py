from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.config import RunConfig
from evolve.learning.config import CurationConfig
from evolve.studies.rival_methods import (
    MAX_PASSES,
    ArmStep,
    Effort,
    RivalArm,
    curation_of,
    founders_of,
    frozen_arm,
    samples_of,
    steps_for,
    training_of,
)
from evolve.training.config import LoraTraining, PreferenceTraining, ScriptedTraining
from mesh.types import Member

ADA = Member(name="ada", engine="ada", family="alpha")
BEN = Member(name="ben", engine="ben", family="beta")


def config(**more: object) -> RunConfig:
    engines = [{"kind": "scripted", "name": n, "family": n} for n in ("ada", "ben")]
    return RunConfig.model_validate(
        {
            "name": "x",
            "run_dir": "runs/x",
            "serving": {"engines": engines},
            "problems": {"kind": "file", "path": "t"},
            "training": {"kind": "scripted"},
        }
        | more
    )


def test_the_best_single_model_is_chosen_on_dev_and_of_equals_the_earlier_seat() -> None:
    assert founders_of("rft", [ADA, BEN], {"ada": 0.3, "ben": 0.4}) == (BEN,)
    assert founders_of("rft", [ADA, BEN], {"ada": 0.4, "ben": 0.4}) == (ADA,)
    assert founders_of("rft-equal", [ADA, BEN], {"ada": 0.3, "ben": 0.4}) == (BEN,)
    assert founders_of("naive", [ADA, BEN], {}) == (ADA, BEN)


def test_an_arm_of_one_member_asks_as_often_as_the_mesh_councils_included() -> None:
    run = config(harvest={"samples_per_member": 4}, deliberation={"rounds": 1, "critique": True})
    assert samples_of(run, 10, 0, 1) == 8
    assert samples_of(run, 10, 0, 2) == 4
    # Ten councils of two seats: a proposal, a critique and a revision each are six calls, for ten problems.
    assert samples_of(run, 10, 10, 1) == 14
    assert samples_of(run, 10, 1, 1) == 9  # rounded up, in the arm's favour


def test_an_arm_of_one_member_may_keep_as_much_as_all_seats_together() -> None:
    caps = CurationConfig(max_per_problem=2, max_per_type=100)
    assert curation_of(caps, 3, 1).max_per_problem == 6
    assert curation_of(caps, 3, 1).max_per_type == 300
    assert curation_of(caps, 3, 3) == caps


def test_training_takes_the_steps_that_the_mesh_took_but_never_overfits() -> None:
    training = LoraTraining(batch_size=10, num_epochs=2, preference=PreferenceTraining())
    made = training_of(training, Effort(steps=25, tokens=9), 100)
    assert isinstance(made, LoraTraining)
    assert (made.max_steps, made.num_epochs, made.preference) == (25, 3, None)
    most = training_of(training, Effort(steps=1000, tokens=9), 100)
    assert isinstance(most, LoraTraining)
    assert most.max_steps == 10 * MAX_PASSES
    few = training_of(training, Effort(steps=3, tokens=9), 100)
    assert isinstance(few, LoraTraining)
    assert (few.max_steps, few.num_epochs) == (3, 1)
    assert training_of(ScriptedTraining(), Effort(steps=3), 100) == ScriptedTraining()


def test_without_a_limit_of_passes_training_takes_all_the_steps_of_the_mesh() -> None:
    made = training_of(LoraTraining(batch_size=10), Effort(steps=1000, tokens=9), 100, max_passes=None)
    assert isinstance(made, LoraTraining)
    assert (made.max_steps, made.num_epochs) == (1000, 100)


@given(
    tokens=st.integers(1, 10**6),
    rows=st.lists(st.integers(1, 300), min_size=1, max_size=100),
    batch_size=st.integers(1, 32),
)
def test_steps_for_a_target_of_tokens_reach_it_with_less_than_one_step_to_spare(
    tokens: int, rows: list[int], batch_size: int
) -> None:
    found = steps_for(Effort(steps=1, tokens=tokens), rows, batch_size)
    mean = Fraction(sum(rows), math.ceil(len(rows) / batch_size))
    assert (found.steps - 1) * mean < tokens <= found.steps * mean
    assert found.tokens == tokens


@pytest.mark.parametrize(("members", "samples"), [((ADA,), 4), ((ADA, BEN), 2)])
def test_every_arm_votes_as_often_as_the_mesh(members: tuple[Member, ...], samples: int) -> None:
    arm = RivalArm(name="rft", num_seats=2, steps=(ArmStep(number=0, members=members),))
    assert arm.samples_each(2) == samples


def test_the_frozen_mesh_is_generation_0_in_every_generation() -> None:
    arm = frozen_arm([ADA, BEN], 3)
    assert [step.number for step in arm.steps] == [0, 1, 2, 3]
    assert {step.members for step in arm.steps} == {(ADA, BEN)}
