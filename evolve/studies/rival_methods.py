"""What an evolution is held against: the same tasks and the same effort, spent in simpler ways. Pure.

Five arms. *frozen*: generation 0 all along. *rft*: the best single model learns from its own verified answers, of all
generations so far, anew from its base each time (rejection-sampling fine-tuning). *rft-equal*: the same, in as many
passes as it takes to train on as many tokens as the mesh. *rft-other*: likewise, of the best other model, since
DEV, which is small, may have put the wrong one first. *naive*: every engine learns from all answers its seat gave last,
right or wrong, and the new adapter takes the seat unasked.
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

ArmName = Literal["frozen", "rft", "rft-equal", "rft-other", "naive"]
ARMS: tuple[ArmName, ...] = ("frozen", "rft", "rft-equal", "rft-other", "naive")
SINGLE: tuple[ArmName, ...] = ("rft", "rft-equal", "rft-other")
"""Arms of a single model, which learns from what was verified of its own."""
EQUAL: tuple[ArmName, ...] = ("rft-equal", "rft-other")
"""Those that train on as many tokens as the mesh, however many passes that takes."""

MEANING: dict[ArmName, str] = {
    "frozen": "generation 0 all along",
    "rft": "the best single model, trained on its own verified answers",
    "rft-equal": "the best single model, likewise, trained on as many tokens as the mesh",
    "rft-other": "the best other model, likewise, trained on as many tokens as the mesh",
    "naive": "every answer learned from unverified, always replaced",
}

MAX_PASSES = 4.0
"""Passes over the rows beyond which an arm is not trained that does not match tokens, however much the mesh spent."""


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
    """Who begins: in an arm of one the seat with the highest accuracy on DEV, of equals the earlier one; else all."""
    if name not in SINGLE:
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


def training_of(
    training: TrainingConfig, target: Effort, num_rows: int, *, max_passes: float | None = MAX_PASSES
) -> TrainingConfig:
    """The run's training, for as many optimizer steps as the mesh took; of the same batch size, so of as many rows.

    Never more than `max_passes` over the rows; None: however many it takes. Scripted training has no steps to match.
    """
    if not isinstance(training, LoraTraining) or num_rows == 0:
        return training
    steps_a_pass = math.ceil(num_rows / training.batch_size)
    most = target.steps if max_passes is None else min(target.steps, math.floor(max_passes * steps_a_pass))
    steps = max(1, most)
    update = {"num_epochs": math.ceil(steps / steps_a_pass), "max_steps": steps, "preference": None}
    return training.model_copy(update=update)


def steps_for(target: Effort, row_tokens: Sequence[int], batch_size: int) -> Effort:
    """The same tokens, in the steps that rows of `row_tokens` tokens take to come to them; the last one rounded up."""
    steps_a_pass = math.ceil(len(row_tokens) / batch_size)
    return Effort(steps=math.ceil(target.tokens * steps_a_pass / sum(row_tokens)), tokens=target.tokens)


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
