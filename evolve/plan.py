"""What a run will cost before it starts: tokens, time and disk by stage, and the smallest gain its gate can see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import Field

from evolve.config import RunConfig
from evolve.plan_breeding import Bred, bred_in, rows_trained
from evolve.problem_types import ProblemSet
from evolve.sealed import Asked, SplitProblems
from evolve.seats import base_seats
from evolve.splits import Split
from memory.types import Record

_A = TypeVar("_A", bound=Asked)
Problems = ProblemSet | SplitProblems

TYPICAL_ANSWER_SHARE = 0.5
"""Share of `max_tokens` a first proposal takes on average; answers mostly stop long before the limit."""
SPLIT_COUNCIL_SHARE = 0.8
"""Share of councils expected to disagree at first, and so to talk."""
EMERGENT_SHARE = 0.03
"""Share of councils that solve what no member's sample does, and that are therefore probed."""
TOP_UP = 2.0
"""Samples of a probed task against `emergence_samples`: a council's tokens, prompts included, have to be matched."""
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
    tokens_per_answer: float | None = Field(
        default=None, gt=0, description="of one first proposal, if measured; None: a share of its limit"
    )
    tokens_per_critique: float | None = Field(default=None, gt=0, description="if measured; None: its limit")

    def answer(self, problem: Asked) -> float:
        """Tokens expected of one answer."""
        measured = self.tokens_per_answer
        return TYPICAL_ANSWER_SHARE * problem.max_tokens if measured is None else min(measured, problem.max_tokens)


SCRIPTED = Rates(
    output_tokens_per_s=1e5, proposals_per_s=300.0, start_s=0.0, tokens_per_answer=5.5, tokens_per_critique=13.0
)
"""Of engines that are only simulated: what their made-up answers have in words."""


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


def rates_of(config: RunConfig) -> Rates:
    """What is known without measuring."""
    return SCRIPTED if all(engine.kind == "scripted" for engine in config.serving.engines) else Rates()


def plan_run(config: RunConfig, problems: Problems, rates: Rates | None = None) -> Plan:
    """The bill of `config` on these problems, which are generation 0's.

    Expected is a run in which every recipe trains, one candidate of every engine goes to the gate, and one seat changes
    in every generation. What a rare success brings (probing what only the mesh solved) counts by its usual share.
    """
    from evolve.gate import detectable_effect

    rates = rates or rates_of(config)
    stages = [StagePlan(stage="start engines", seconds=rates.start_s)]
    for number in range(config.num_generations):
        stages += _generation(config, problems, rates, number)
    last = _sample(problems.of(Split.TRAIN), config.harvest.councils_per_type)
    stages.append(_councils(config, rates, f"generation {config.num_generations} councils", last))
    stages += _audit(config, problems, rates)
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
    config: RunConfig, problems: Sequence[Asked], num_samples: int, num_councils: int, rates: Rates | None = None
) -> tuple[StagePlan, ...]:
    """The bill of `evomesh assess`: `num_samples` proposals of each member, and councils on the first problems."""
    rates = rates or Rates()
    stages = [
        StagePlan(stage="start engines", seconds=rates.start_s),
        _proposals(rates, "proposals", problems, num_samples * len(base_seats(config))),
    ]
    if num_councils:
        stages.append(_councils(config, rates, "councils", list(problems)[:num_councils]))
    return tuple(stages)


def training_tokens(config: RunConfig, problems: Problems) -> float:
    """Tokens that one engine's adapters are expected to be trained on in the whole run, every pass counted."""
    total = sum(_tokens_trained(config, problems, number) for number in range(config.num_generations))
    return total / len(config.serving.engines)


def _generation(config: RunConfig, problems: Problems, rates: Rates, number: int) -> list[StagePlan]:
    name, seats = f"generation {number}", len(base_seats(config))
    train = _sample(problems.of(Split.TRAIN), config.harvest.problems_per_type)
    councils = _sample(train, config.harvest.councils_per_type)
    bred = bred_in(config, train, number)
    seconds = _tokens_trained(config, problems, number) / rates.trained_tokens_per_s
    return [
        _proposals(rates, f"{name} harvest", train, seats * config.harvest.samples_per_member),
        _councils(config, rates, f"{name} councils", councils),
        _probe(config, rates, f"{name} emergence", councils),
        StagePlan(stage=f"{name} training", seconds=seconds if config.training.kind == "lora" else 1.0),
        *_dev(config, problems, rates, name, bred),
        *_gate(config, problems, rates, number, bred),
    ]


def _probe(config: RunConfig, rates: Rates, stage: str, councils: Sequence[Asked]) -> StagePlan:
    """Members asked alone what only the mesh solved; nearly always few tasks, so no whole number is expected."""
    settings, seats = config.evaluation, len(base_seats(config))
    tasks = min(float(settings.emergence_tasks), EMERGENT_SHARE * len(councils))
    share = tasks * TOP_UP / max(1, len(councils))
    return _scaled(_proposals(rates, stage, councils, seats * settings.emergence_samples), share)


def _dev(config: RunConfig, problems: Problems, rates: Rates, name: str, bred: Bred) -> list[StagePlan]:
    """Seats on all problems, candidates screened and halved, the winner again on those that were kept."""
    from evolve.halving import plan_halving

    settings, items, seats = config.evaluation, problems.of(Split.DEV), len(base_seats(config))
    kept = int(len(items) * settings.remeasure_share) if config.gate.remeasure else 0
    choosing = items[: len(items) - kept]
    k, count = settings.dev_samples_per_member, bred.num_contenders
    stages = [_proposals(rates, f"{name} dev seats", choosing, seats * k)]
    if not choosing or not count:
        return stages
    seen = min(settings.screen_items, len(choosing))
    stages.append(_proposals(rates, f"{name} dev screen", choosing[:seen], count * k))
    plan = plan_halving(count, len(choosing), num_finalists=config.gate.max_finalists, keep=settings.keep)
    left = count
    for rung, (stop, survivors) in enumerate(zip(plan.rungs, plan.survivors, strict=True)):
        if stop > seen:
            stages.append(_proposals(rates, f"{name} dev rung {rung}", choosing[seen:stop], left * k))
            seen = stop
        left = min(left, survivors)
    if kept:
        again = _proposals(rates, f"{name} dev again", items[len(items) - kept :], (seats + 1) * k)
        stages.append(again)
    return stages


def _gate(config: RunConfig, problems: Problems, rates: Rates, number: int, bred: Bred) -> list[StagePlan]:
    """Seats, finalists, their rivals and, where they are due, the controls, each drawn once."""
    from evolve.aa import aa_is_due

    items, seats, required = problems.of(Split.GATE), len(base_seats(config)), config.gate.required
    due, finalists = aa_is_due(number, config.gate.aa_every), bred.num_finalists
    if not items or not (due or finalists):
        return []
    members = seats + finalists
    members += finalists if "budget" in required else 0
    members += bred.num_placebos if due or "placebo" in required else 0
    members += seats if due else 0  # the incumbents anew
    members += 1 if due and not (finalists and "budget" in required) else 0
    stages = [_proposals(rates, f"generation {number} gate", items, members * config.gate.samples_per_member)]
    if config.gate.councils_per_type and finalists:
        some = _sample(items, config.gate.councils_per_type)
        sides = ("before", "after")
        stages += [_councils(config, rates, f"generation {number} gate councils {side}", some) for side in sides]
    return stages


def _audit(config: RunConfig, problems: Problems, rates: Rates) -> list[StagePlan]:
    """Every distinct member tuned on DEV and drawn once for AUDIT; the best also as often as the whole mesh votes."""
    settings, seats = config.evaluation, len(base_seats(config))
    items, k = problems.of(Split.AUDIT), settings.audit_samples_per_member
    members, bests = seats + config.num_generations, 1 + config.num_generations
    warm = [t for t in settings.temperatures if t > 0.0] or ([] if settings.temperatures else [1.0])
    cold = len(settings.temperatures) > len(warm)
    tries = members * (len(warm) * settings.dev_samples_per_member + cold)
    draws = members * k + bests * k * (seats - 1) + (members if cold and warm else 0)
    sample = _sample(items, settings.audit_councils_per_type)
    return [
        _proposals(rates, "tune audit", _sample(problems.of(Split.DEV), settings.tuning_items_per_type), tries),
        _proposals(rates, "audit proposals", items, draws),
        *(_councils(config, rates, f"audit councils {label}", sample) for label in ("before", "after")),
    ]


def _proposals(rates: Rates, stage: str, problems: Sequence[Asked], samples_per_problem: int) -> StagePlan:
    num_calls = len(problems) * samples_per_problem
    most = sum(problem.max_tokens for problem in problems) * samples_per_problem
    expected = round(sum(rates.answer(problem) for problem in problems) * samples_per_problem)
    seconds = max(expected / rates.output_tokens_per_s, num_calls / rates.proposals_per_s)
    return StagePlan(stage=stage, num_calls=num_calls, output_tokens=expected, max_output_tokens=most, seconds=seconds)


def _scaled(stage: StagePlan, share: float) -> StagePlan:
    """The same stage, expected with a share of its draws; at most with all of them."""
    return stage.model_copy(
        update={
            "num_calls": round(stage.num_calls * share),
            "output_tokens": round(stage.output_tokens * share),
            "seconds": stage.seconds * share,
        }
    )


def _councils(config: RunConfig, rates: Rates, stage: str, problems: Sequence[Asked]) -> StagePlan:
    seats, talk = len(base_seats(config)), config.deliberation
    answers = sum(problem.max_tokens for problem in problems) * seats
    critiques = len(problems) * seats * talk.rounds if talk.critique else 0
    most = answers * (1 + talk.rounds) + critiques * talk.talk_max_tokens
    said = sum(rates.answer(problem) for problem in problems) * seats
    objections = critiques * (rates.tokens_per_critique or talk.talk_max_tokens)
    expected = said + SPLIT_COUNCIL_SHARE * (objections + said * talk.rounds)
    return StagePlan(
        stage=stage,
        num_calls=len(problems) * seats * (2 + 2 * talk.rounds),
        output_tokens=round(expected),
        max_output_tokens=most,
        seconds=expected / rates.output_tokens_per_s,
    )


def _tokens_trained(config: RunConfig, problems: Problems, number: int) -> float:
    """By all engines' adapters of one generation together."""
    if config.training.kind != "lora":
        return 0.0
    train = _sample(problems.of(Split.TRAIN), config.harvest.problems_per_type)
    return rows_trained(config, train, number) * TOKENS_PER_ROW


def _sample(problems: Sequence[_A], per_type: int) -> list[_A]:
    counts: dict[str, int] = {}
    chosen = []
    for problem in problems:
        counts[problem.task.type] = counts.get(problem.task.type, 0) + 1
        if counts[problem.task.type] <= per_type:
            chosen.append(problem)
    return chosen
