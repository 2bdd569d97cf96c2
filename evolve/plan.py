"""What a run will cost before it starts: tokens, time and disk by stage, and the smallest gain its gate can see."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from evolve.config import RunConfig
from evolve.problem_types import Problem, ProblemSet
from evolve.splits import Split
from memory.types import Record

TYPICAL_ANSWER_SHARE = 0.5
"""Share of `max_tokens` a first proposal takes on average; answers mostly stop long before the limit."""
SPLIT_COUNCIL_SHARE = 0.8
"""Share of councils expected to disagree at first, and so to talk."""
EXAMPLES_PER_PROBLEM = 0.4
"""Verified, distinct examples that one member gives for one TRAIN problem; small models solve less than half."""
TOKENS_PER_ROW = 150
"""Prompt and answer of a training row."""
BYTES_PER_PROPOSAL = 400
"""Compressed bytes of one proposal in a trace."""


class Rates(Record):
    """What the machine manages; the defaults are 2 CPU cores with two engines of 135M and 270M weights."""

    output_tokens_per_s: float = Field(default=110.0, gt=0, description="over all engines together")
    proposals_per_s: float = Field(default=9.0, gt=0, description="short proposals, prompts included, over all engines")
    trained_tokens_per_s: float = Field(default=200.0, gt=0, description="one training job")
    start_s: float = Field(default=120.0, ge=0, description="starting all engines")


class StagePlan(Record):
    """One stage, before it runs."""

    stage: str
    num_calls: int = 0
    output_tokens: int = Field(default=0, description="expected")
    max_output_tokens: int = Field(default=0, description="if every answer ran to its limit")
    seconds: float = 0.0


class Plan(Record):
    """The bill of a run."""

    stages: tuple[StagePlan, ...]
    disk_bytes: int
    num_gate_problems: int
    detectable_effect: float | None = Field(description="smallest gain found with 80% power; None: none at this size")
    expected_discordance: float

    @property
    def output_tokens(self) -> int:
        """Expected, over all stages."""
        return sum(stage.output_tokens for stage in self.stages)

    @property
    def max_output_tokens(self) -> int:
        """Upper bound, over all stages."""
        return sum(stage.max_output_tokens for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Expected wall time."""
        return sum(stage.seconds for stage in self.stages)


def plan_run(config: RunConfig, problems: ProblemSet, rates: Rates | None = None) -> Plan:
    """The bill of `config` on these problems. Candidates are counted as if one an engine were trained and gated."""
    from evolve.gate import detectable_effect

    rates = rates or Rates()
    num_seats = len(config.serving.engines)
    stages = [StagePlan(stage="start engines", seconds=rates.start_s)]
    for number in range(config.num_generations):
        stages += _generation(config, problems, rates, number)
    last = _sample(problems.of(Split.TRAIN), config.harvest.councils_per_type)
    stages.append(_councils(config, rates, f"generation {config.num_generations} councils", last))
    audit = problems.of(Split.AUDIT)
    k = config.evaluation.audit_samples_per_member
    stages.append(_proposals(rates, "audit proposals", audit, 2 * num_seats * k))
    sample = _sample(audit, config.evaluation.audit_councils_per_type)
    for label in ("before", "after"):
        stages.append(_councils(config, rates, f"audit councils {label}", sample))
    num_gate = len(problems.of(Split.GATE))
    return Plan(
        stages=tuple(stages),
        disk_bytes=BYTES_PER_PROPOSAL * sum(stage.num_calls for stage in stages) + 40 * 2**20,
        num_gate_problems=num_gate,
        detectable_effect=detectable_effect(
            num_gate, config.gate.expected_discordance, config.gate.alpha / config.gate.max_finalists
        ),
        expected_discordance=config.gate.expected_discordance,
    )


def plan_assessment(
    config: RunConfig, problems: Sequence[Problem], num_samples: int, num_councils: int, rates: Rates | None = None
) -> tuple[StagePlan, ...]:
    """The bill of `evomesh assess`: `num_samples` proposals of each member, and councils on the first problems."""
    rates = rates or Rates()
    stages = [
        StagePlan(stage="start engines", seconds=rates.start_s),
        _proposals(rates, "proposals", problems, num_samples * len(config.serving.engines)),
    ]
    if num_councils:
        stages.append(_councils(config, rates, "councils", list(problems)[:num_councils]))
    return tuple(stages)


def _generation(config: RunConfig, problems: ProblemSet, rates: Rates, number: int) -> list[StagePlan]:
    seats, name = len(config.serving.engines), f"generation {number}"
    train = _train(config, problems)
    councils = _sample(train, config.harvest.councils_per_type)
    gate = config.gate.samples_per_member
    return [
        _proposals(rates, f"{name} harvest", train, seats * config.harvest.samples_per_member),
        _councils(config, rates, f"{name} councils", councils),
        StagePlan(stage=f"{name} training", seconds=_training_seconds(config, rates, len(train))),
        _proposals(rates, f"{name} dev", problems.of(Split.DEV), 2 * seats * config.evaluation.dev_samples_per_member),
        _proposals(rates, f"{name} gate", problems.of(Split.GATE), 2 * seats * gate),
    ]


def _proposals(rates: Rates, stage: str, problems: Sequence[Problem], samples_per_problem: int) -> StagePlan:
    num_calls = len(problems) * samples_per_problem
    most = sum(problem.max_tokens for problem in problems) * samples_per_problem
    expected = round(most * TYPICAL_ANSWER_SHARE)
    seconds = max(expected / rates.output_tokens_per_s, num_calls / rates.proposals_per_s)
    return StagePlan(stage=stage, num_calls=num_calls, output_tokens=expected, max_output_tokens=most, seconds=seconds)


def _councils(config: RunConfig, rates: Rates, stage: str, problems: Sequence[Problem]) -> StagePlan:
    seats, talk = len(config.serving.engines), config.deliberation
    answers = sum(problem.max_tokens for problem in problems) * seats
    critiques = len(problems) * seats * talk.talk_max_tokens * talk.rounds if talk.critique else 0
    most = answers * (1 + talk.rounds) + critiques
    expected = answers * TYPICAL_ANSWER_SHARE + SPLIT_COUNCIL_SHARE * (
        critiques + answers * TYPICAL_ANSWER_SHARE * talk.rounds
    )
    return StagePlan(
        stage=stage,
        num_calls=len(problems) * seats * (2 + 2 * talk.rounds),
        output_tokens=round(expected),
        max_output_tokens=most,
        seconds=expected / rates.output_tokens_per_s,
    )


def training_tokens(config: RunConfig, problems: ProblemSet) -> float:
    """Tokens that one engine's adapters of one generation are expected to be trained on, every pass counted."""
    return _training_tokens(config, len(_train(config, problems)))


def _training_seconds(config: RunConfig, rates: Rates, num_problems: int) -> float:
    if config.training.kind != "lora":
        return 1.0
    return len(config.serving.engines) * _training_tokens(config, num_problems) / rates.trained_tokens_per_s


def _training_tokens(config: RunConfig, num_problems: int) -> float:
    if config.training.kind != "lora":
        return 0.0
    seats, recipes = len(config.serving.engines), config.recipes
    rows_of_arm = {
        "own": EXAMPLES_PER_PROBLEM * num_problems * (recipes.own + recipes.placebo + recipes.per_task_type),
        "cross": EXAMPLES_PER_PROBLEM * num_problems * seats * recipes.cross_family,
    }
    most = recipes.max_rows or 10**9
    rows = sum(min(most, count) for count in rows_of_arm.values())
    return rows * config.training.num_epochs * TOKENS_PER_ROW


def _train(config: RunConfig, problems: ProblemSet) -> list[Problem]:
    return _sample(problems.of(Split.TRAIN), config.harvest.problems_per_type)


def _sample(problems: Sequence[Problem], per_type: int) -> list[Problem]:
    counts: dict[str, int] = {}
    chosen = []
    for problem in problems:
        counts[problem.task.type] = counts.get(problem.task.type, 0) + 1
        if counts[problem.task.type] <= per_type:
            chosen.append(problem)
    return chosen
