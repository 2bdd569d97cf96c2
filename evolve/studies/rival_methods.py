"""What an evolution is held against: the same tasks and the same effort, spent in simpler ways. Pure.

Three arms. *frozen*: generation 0 all along. *rft*: the best single model learns from its own verified answers, of all
generations so far, anew from its base each time (rejection-sampling fine-tuning). *naive*: every engine learns from all
answers its seat gave last, right or wrong, and the new adapter takes the seat unasked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from evolve.config import RunConfig
from evolve.learning.config import CurationConfig
from evolve.learning.recipes import OWN, Recipe
from evolve.seats import base_seats
from evolve.training.config import LoraTraining, TrainingConfig
from memory.types import Record, content_hash
from mesh.types import Member

ArmName = Literal["frozen", "rft", "naive"]
ARMS: tuple[ArmName, ...] = ("frozen", "rft", "naive")

MEANING: dict[ArmName, str] = {
    "frozen": "generation 0 all along",
    "rft": "the best single model, trained on its own verified answers",
    "naive": "every answer learned from unverified, always replaced",
}

MAX_PASSES = 4.0
"""Passes over the rows beyond which an arm is not trained, however much the mesh spent: more would only overfit it."""


class Effort(Record):
    """What a training took."""

    steps: int = Field(default=0, ge=0, description="optimizer steps")
    tokens: int = Field(default=0, ge=0, description="tokens of all rows seen, every pass counted")

    def plus(self, other: Effort) -> Effort:
        """Both together."""
        return Effort(steps=self.steps + other.steps, tokens=self.tokens + other.tokens)


class Spent(Record):
    """What the mesh's candidates of one generation took to train; placebos, which are controls, are not counted."""

    generation: int = Field(ge=0)
    by_engine: dict[str, Effort] = Field(default_factory=dict)

    @property
    def total(self) -> Effort:
        """Over all engines."""
        return total_effort(self.by_engine.values())


class ArmStep(Record):
    """One generation of an arm, and what it took to come there."""

    number: int = Field(ge=0, description="0: before anything was learned")
    members: tuple[Member, ...]
    num_samples: int = Field(default=0, description="first proposals drawn to learn from")
    output_tokens: int = Field(default=0, description="of these")
    num_rows: int = Field(default=0, description="rows learned from, over all its adapters")
    effort: Effort = Effort()
    target: Effort = Field(default=Effort(), description="what the mesh spent, which was to be matched")
    notes: tuple[str, ...] = ()


class RivalArm(Record):
    """An arm from its base to its last generation."""

    name: ArmName
    num_seats: int = Field(ge=1, description="seats of the mesh, whose votes a task it may match")
    steps: tuple[ArmStep, ...] = Field(min_length=1, description="by number, generation 0 first")

    @property
    def last(self) -> ArmStep:
        """Where it ended."""
        return self.steps[-1]

    def samples_each(self, votes_each: int) -> int:
        """First proposals of each of its members for one task, so that it votes as often as the mesh's seats do."""
        return max(1, votes_each * self.num_seats // len(self.last.members))


def total_effort(efforts: Iterable[Effort]) -> Effort:
    """All together."""
    found = Effort()
    for one in efforts:
        found = found.plus(one)
    return found


def frozen_arm(seats: Sequence[Member], num_generations: int) -> RivalArm:
    """Generation 0 in every generation; nothing has to be done for it."""
    steps = tuple(ArmStep(number=number, members=tuple(seats)) for number in range(num_generations + 1))
    return RivalArm(name="frozen", num_seats=len(seats), steps=steps)


def founders_of(name: ArmName, seats: Sequence[Member], dev: Mapping[str, float]) -> tuple[Member, ...]:
    """Who begins: the seat with the highest accuracy on DEV (of equals the earlier one) for rft, else all seats."""
    if name != "rft":
        return tuple(seats)
    return (max(seats, key=lambda member: dev[member.name]),)


def samples_of(config: RunConfig, num_problems: int, num_councils: int, num_members: int) -> int:
    """First proposals of each of an arm's members for each TRAIN problem, so that it asks as often as the mesh does.

    Calls of councils are shared out over all problems; what does not divide is rounded up, in the arm's favour.
    """
    seats, talk = len(base_seats(config)), config.deliberation
    council = seats * (1 + talk.rounds * (2 if talk.critique else 1))
    calls = num_problems * seats * config.harvest.samples_per_member + num_councils * council
    return math.ceil(calls / max(1, num_problems * num_members))


def curation_of(config: CurationConfig, num_seats: int, num_members: int) -> CurationConfig:
    """The run's caps for each member, so that an arm with fewer members may keep as much as all seats together."""
    share = math.ceil(num_seats / num_members)
    return config.model_copy(
        update={"max_per_problem": config.max_per_problem * share, "max_per_type": config.max_per_type * share}
    )


def training_of(training: TrainingConfig, target: Effort, num_rows: int) -> TrainingConfig:
    """The run's training, for as many optimizer steps as the mesh took; of the same batch size, so of as many rows.

    Never more than `MAX_PASSES` over the rows. Scripted training has no steps to match.
    """
    if not isinstance(training, LoraTraining) or num_rows == 0:
        return training
    steps_a_pass = math.ceil(num_rows / training.batch_size)
    steps = max(1, min(target.steps, math.floor(MAX_PASSES * steps_a_pass)))
    update = {"num_epochs": math.ceil(steps / steps_a_pass), "max_steps": steps, "preference": None}
    return training.model_copy(update=update)


def recipe_of(name: ArmName, number: int, member: Member, training: TrainingConfig, seed: int) -> Recipe:
    """One adapter of an arm: fresh from its base, on its own rows."""
    called = f"{name}-g{number}-{member.engine}"
    return Recipe(
        name=called,
        base=member.engine,
        family=member.family,
        mix=OWN,
        training=training,
        seed=int(content_hash([seed, called])[:8], 16),
    )
