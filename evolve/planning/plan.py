"""What a run will cost before it starts: tokens, time and disk by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import Field

from evolve.asks import types_in_turn
from evolve.audit.tuning import ways_tried
from evolve.config import RunConfig
from evolve.judging.panel import panel_for
from evolve.judging.panel_asking import judges_of, panel_of
from evolve.learning.recipes import Recipe
from evolve.planning.breeding import Bred, bred_in, placebos_trained, recipes_trained, rows_trained
from evolve.planning.disk import bytes_in_passing, bytes_kept, sizes_of
from evolve.planning.rates import Rates, assumed_for, plain_seconds
from evolve.problems.config import FileProblems
from evolve.problems.sealed import Asked, SplitProblems
from evolve.problems.splits import Split
from evolve.seats import base_seats
from evolve.training.config import LoraTraining
from memory.types import Record

_A = TypeVar("_A", bound=Asked)
Problems = SplitProblems

SPLIT_COUNCIL_SHARE = 0.8
"""Share of councils expected to disagree at first, and so to talk."""
EMERGENT_SHARE = 0.03
"""Share of councils that solve what no member's sample does, and that are therefore probed."""
TOP_UP = 2.0
"""Samples of a probed task against `emergence_samples`: a council's tokens, prompts included, have to be matched."""
BYTES_PER_CALL = 500
"""Of one proposal, critique or vote: in its trace, as it is judged, and in what is remembered of it."""
BYTES_PER_PROBLEM = 2000
"""Of one problem as it is drawn, sealed and asked about."""


class StagePlan(Record):
    """One stage, before it runs."""

    stage: str
    num_calls: int = Field(default=0, description="answers, critiques and votes that are asked for")
    prompt_tokens: int = Field(default=0, description="expected; a prompt is computed once for all answers to it")
    output_tokens: int = Field(default=0, description="expected")
    max_output_tokens: int = Field(default=0, description="if every answer ran to its limit")
    trained_tokens: int = Field(default=0, description="by all jobs of the stage, every pass counted")
    disk_bytes: int = Field(default=0, description="left behind in the run's directory")
    passing_bytes: int = Field(default=0, description="taken there at most meanwhile, besides what is left behind")
    seconds: float = 0.0


class Plan(Record):
    """The bill of a run."""

    stages: tuple[StagePlan, ...]

    @property
    def num_calls(self) -> int:
        """Expected, over all stages."""
        return sum(stage.num_calls for stage in self.stages)

    @property
    def prompt_tokens(self) -> int:
        """Expected, over all stages."""
        return sum(stage.prompt_tokens for stage in self.stages)

    @property
    def output_tokens(self) -> int:
        """Expected, over all stages."""
        return sum(stage.output_tokens for stage in self.stages)

    @property
    def max_output_tokens(self) -> int:
        """Upper bound, over all stages."""
        return sum(stage.max_output_tokens for stage in self.stages)

    @property
    def trained_tokens(self) -> int:
        """Of all adapters of the run."""
        return sum(stage.trained_tokens for stage in self.stages)

    @property
    def totals(self) -> dict[str, float]:
        """All of it by name, for programs."""
        names = ("num_calls", "prompt_tokens", "output_tokens", "max_output_tokens", "trained_tokens", "disk_bytes")
        return {name: getattr(self, name) for name in (*names, "seconds")}

    @property
    def disk_bytes(self) -> int:
        """Most that the run's directory is expected to hold at a time."""
        return disk_bytes(self.stages)

    @property
    def seconds(self) -> float:
        """Expected wall time."""
        return sum(stage.seconds for stage in self.stages)


def disk_bytes(stages: Sequence[StagePlan]) -> int:
    """Most that these stages add to the run's directory at a time: all they leave, and the largest in passing."""
    return sum(stage.disk_bytes for stage in stages) + max((stage.passing_bytes for stage in stages), default=0)


def plan_run(config: RunConfig, problems: Problems, rates: Rates | None = None) -> Plan:
    """The bill of `config` on these problems, which are generation 0's.

    Expected is a run in which every recipe trains, one candidate of every engine goes to the gate, and one seat changes
    in every generation. What a rare success brings (probing what only the mesh solved) counts by its usual share.
    """
    rates = rates or assumed_for(config).rates
    stages = []
    for number in range(config.num_generations):
        stages += plan_generation(config, problems, rates, number)
    return Plan(stages=(*stages, *plan_end(config, problems, rates, config.num_generations)))


def plan_generation(config: RunConfig, problems: Problems, rates: Rates, number: int) -> list[StagePlan]:
    """What generation `number` takes; the first one starts the engines."""
    name, seats = f"generation {number}", len(base_seats(config))
    train = _sample(problems.of(Split.TRAIN), config.harvest.problems_per_type)
    councils = _sample(train, config.harvest.councils_per_type)
    bred, placebos = bred_in(config, train, number), placebos_trained(config, train, number)
    is_drawn = number == 0 or not isinstance(config.problems, FileProblems)  # a file has no others to give
    drawn = sum(len(problems.of(split)) for split in Split) * BYTES_PER_PROBLEM if is_drawn else 0
    first = [StagePlan(stage="start engines", seconds=rates.start_s)] if number == 0 else []
    stages = [
        StagePlan(stage="draw problems" if number == 0 else f"{name} problems", disk_bytes=drawn),
        *first,
        _proposals(rates, f"{name} harvest", train, seats, config.harvest.samples_per_member),
        _councils(config, rates, f"{name} councils", councils),
        _probe(config, rates, f"{name} emergence", councils),
        _training(config, rates, train, number, "training", recipes_trained(config, train, number)),
        *_dev(config, problems, rates, name, bred),
        *([_training(config, rates, train, number, "placebo training", placebos)] if placebos else []),
        *_gate(config, problems, rates, number, bred),
        *_again(config, problems, rates, name, bred),
        *_helpers(config, problems, rates, number, bred),
    ]
    return [*stages, *_panel(config, rates, f"{name} panel", stages)]


def plan_end(config: RunConfig, problems: Problems, rates: Rates, num_generations: int) -> list[StagePlan]:
    """What a run takes after its last generation: that one's councils, and the audit of all."""
    last = _sample(problems.of(Split.TRAIN), config.harvest.councils_per_type)
    councils = _councils(config, rates, f"generation {num_generations} councils", last)
    stages = [councils, *_audit(config, problems, rates, num_generations)]
    return [*stages, *_panel(config, rates, "audit panel", stages)]


def plan_assessment(
    config: RunConfig, problems: Sequence[Asked], num_samples: int, num_councils: int, rates: Rates | None = None
) -> tuple[StagePlan, ...]:
    """The bill of `evomesh assess`: `num_samples` proposals of each member, and councils on a few, types in turn."""
    rates, seats = rates or assumed_for(config).rates, len(base_seats(config))
    stages = [
        StagePlan(stage="start engines", seconds=rates.start_s),
        _proposals(rates, "proposals", problems, seats, num_samples),
    ]
    if num_councils and len(config.serving.engines) > 1:  # one engine alone is no council
        stages.append(_councils(config, rates, "councils", types_in_turn(problems)[:num_councils]))
    return (*stages, *_panel(config, rates, "panel", stages))


def _training(
    config: RunConfig, rates: Rates, train: Sequence[Asked], number: int, name: str, recipes: Sequence[Recipe]
) -> StagePlan:
    """These jobs of a generation, one after the other; simulated ones take no time worth planning."""
    sizes = sizes_of(config)
    tokens = rows_trained(recipes, config, train, number) * _tokens_per_row(config, rates, train)
    return StagePlan(
        stage=f"generation {number} {name}",
        trained_tokens=round(tokens),
        disk_bytes=bytes_kept(config, recipes, sizes),
        passing_bytes=bytes_in_passing(config, recipes, sizes),
        seconds=tokens / rates.trained_tokens_per_s if config.training.kind == "lora" else 1.0,
    )


def _tokens_per_row(config: RunConfig, rates: Rates, train: Sequence[Asked]) -> float:
    """Of a training row: a prompt as harvests ask it and an answer, mean over these problems."""
    mean = sum(rates.prompt(problem.task) + rates.answer(problem) for problem in train) / max(1, len(train))
    training = config.training
    return min(mean, training.max_length) if isinstance(training, LoraTraining) else mean


def _probe(config: RunConfig, rates: Rates, stage: str, councils: Sequence[Asked]) -> StagePlan:
    """Members asked alone what only the mesh solved; nearly always few tasks, so no whole number is expected."""
    settings, seats = config.evaluation, len(base_seats(config))
    tasks = min(float(settings.emergence_tasks), EMERGENT_SHARE * len(councils))
    share = tasks * TOP_UP / max(1, len(councils))
    return _scaled(_proposals(rates, stage, councils, seats, settings.emergence_samples), share)


def _dev(config: RunConfig, problems: Problems, rates: Rates, name: str, bred: Bred) -> list[StagePlan]:
    """Seats on all problems, candidates screened and halved."""
    from evolve.gates.halving import plan_halving

    settings, seats = config.evaluation, len(base_seats(config))
    choosing, _ = _divided(config, problems)
    k, count = settings.dev_samples_per_member, bred.num_contenders
    stages = [_proposals(rates, f"{name} dev seats", choosing, seats, k)]
    if not choosing or not count:
        return stages
    seen = min(settings.screen_items, len(choosing))
    stages.append(_proposals(rates, f"{name} dev screen", choosing[:seen], count, k))
    plan = plan_halving(count, len(choosing), num_finalists=config.gate.max_finalists, keep=settings.keep)
    left = count
    for rung, (stop, survivors) in enumerate(zip(plan.rungs, plan.survivors, strict=True)):
        if stop > seen:
            stages.append(_proposals(rates, f"{name} dev rung {rung}", choosing[seen:stop], left, k))
            seen = stop
        left = min(left, survivors)
    return stages


def _again(config: RunConfig, problems: Problems, rates: Rates, name: str, bred: Bred) -> list[StagePlan]:
    """The winner measured on DEV problems that chose nobody."""
    choosing, kept = _divided(config, problems)
    if not (choosing and bred.num_contenders and kept):
        return []
    k = config.evaluation.dev_samples_per_member
    return [_proposals(rates, f"{name} dev again", kept, len(base_seats(config)) + 1, k)]


def _divided(config: RunConfig, problems: Problems) -> tuple[Sequence[Asked], Sequence[Asked]]:
    """(as many DEV problems as choosing uses, as many as are kept for measuring the winner)."""
    from evolve.gates.dev import divided

    items = problems.of(Split.DEV)
    choosing, _ = divided(problems, config, 0)
    return items[: len(choosing)], items[len(choosing) :]


def _gate(config: RunConfig, problems: Problems, rates: Rates, number: int, bred: Bred) -> list[StagePlan]:
    """Seats, finalists, their rivals and, where they are due, the controls, each drawn once."""
    from evolve.gates.aa import aa_is_due

    items, seats, required = problems.of(Split.GATE), len(base_seats(config)), config.gate.required
    due, finalists = aa_is_due(number, config.gate.aa_every), bred.num_finalists
    if not items or not (due or finalists):
        return []
    members = seats + finalists
    members += finalists if "budget" in required else 0
    members += bred.num_placebos
    members += seats if due else 0  # the incumbents anew
    members += 1 if due and not (finalists and "budget" in required) else 0
    stages = [_proposals(rates, f"generation {number} gate", items, members, config.gate.samples_per_member)]
    if bred.num_placebos:
        choosing, _ = _divided(config, problems)
        samples = config.evaluation.dev_samples_per_member
        stages.append(_proposals(rates, f"generation {number} dev twins", choosing, bred.num_placebos, samples))
    if config.gate.councils_per_type and finalists:
        some = _sample(items, config.gate.councils_per_type)
        sides = ("before", "after")
        stages += [_councils(config, rates, f"generation {number} gate councils {side}", some) for side in sides]
    return stages


def _helpers(config: RunConfig, problems: Problems, rates: Rates, number: int, bred: Bred) -> list[StagePlan]:
    """Councils with every critic and synthesiser: on DEV, again as if one won, and at the gate with rivals."""
    from evolve.gates.aa import aa_is_due

    if not bred.helpers:
        return []
    due, required = aa_is_due(number, config.gate.aa_every), config.gate.required
    choosing, kept = _divided(config, problems)
    finalists = bred.helpers[: config.gate.max_finalists]
    at_gate = list(finalists) if bred.num_finalists else ["before", *finalists]  # else a finalist's councils have it
    at_gate += [f"{name} budget" for name in finalists] if "budget" in required else []
    at_gate += [f"placebo {name}" for name in bred.helper_placebos] if due or "placebo" in required else []
    at_gate += [f"A/A {number} in councils"] if due else []
    sides: dict[str, tuple[Sequence[Asked], list[str]]] = {
        "dev councils": (choosing, ["before", *bred.helpers]),
        "dev councils again": (kept, ["before", bred.helpers[0]] if kept else []),
        "gate councils": (problems.of(Split.GATE), at_gate),
    }
    return [
        _councils(config, rates, f"generation {number} {stage} {side}", _sample(some, config.gate.councils_per_type))
        for stage, (some, named) in sides.items()
        for side in named
    ]


def _audit(config: RunConfig, problems: Problems, rates: Rates, num_generations: int) -> list[StagePlan]:
    """Every distinct member tuned on DEV and drawn once for AUDIT; the best also as often as the whole mesh votes."""
    settings, seats = config.evaluation, len(base_seats(config))
    items, k = problems.of(Split.AUDIT), settings.audit_samples_per_member
    members, bests = seats + num_generations, 1 + num_generations
    ways = ways_tried(config)
    cold = sum(way.temperature == 0.0 for way in ways)
    warm = len(ways) - cold
    tuned = _sample(problems.of(Split.DEV), settings.tuning_items_per_type)
    sample = _sample(items, settings.audit_councils_per_type)
    tries = [_proposals(rates, "tune audit", tuned, members * warm, settings.dev_samples_per_member)]
    tries += [_proposals(rates, "tune audit", tuned, members * cold, 1)]
    draws = [
        _proposals(rates, "audit proposals", items, members, k),
        _unread(_proposals(rates, "audit proposals", items, bests, k * (seats - 1)), rates),
    ]
    draws += [_proposals(rates, "audit proposals", items, members, 1)] if cold and warm else []
    return [
        _together(tries),
        _together(draws),
        *(_councils(config, rates, f"audit councils {label}", sample) for label in ("before", "after")),
        *(_probe(config, rates, f"audit emergence {number}", sample) for number in (0, num_generations)),
    ]


def _proposals(rates: Rates, stage: str, problems: Sequence[Asked], num_members: int, samples_each: int) -> StagePlan:
    """Every member reads every problem once, and answers it so many times."""
    num_calls = len(problems) * num_members * samples_each
    most = sum(problem.max_tokens for problem in problems) * num_members * samples_each
    expected = round(sum(rates.answer(problem) for problem in problems) * num_members * samples_each)
    read = sum(rates.prompt(problem.task) for problem in problems) * num_members
    return StagePlan(
        stage=stage,
        num_calls=num_calls,
        prompt_tokens=round(read),
        output_tokens=expected,
        max_output_tokens=most,
        disk_bytes=num_calls * BYTES_PER_CALL,
        seconds=rates.proposal_pace * plain_seconds(read, expected),
    )


def _panel(config: RunConfig, rates: Rates, stage: str, stages: Sequence[StagePlan]) -> list[StagePlan]:
    """Free text is seldom said twice alike: its judges read every answer of these stages in both orders of the letters.

    Critiques and votes, which nobody judges, are counted too.
    """
    rule = panel_of(config)
    if rule is None:
        return []
    judges = judges_of(config)
    per_answer = max(len(panel_for(judges, {one.family}, rule.num_judges, seed=0, task_id="")) for one in judges)
    num_calls = 2 * per_answer * sum(one.num_calls for one in stages)
    read = num_calls * rates.tokens_per_talk_prompt
    return [
        StagePlan(
            stage=stage,
            num_calls=num_calls,
            prompt_tokens=round(read),
            output_tokens=num_calls,
            max_output_tokens=num_calls,
            disk_bytes=num_calls * BYTES_PER_CALL,
            seconds=rates.council_pace * plain_seconds(read, num_calls),
        )
    ]


def _unread(stage: StagePlan, rates: Rates) -> StagePlan:
    """The same draws where they come with others of the same members, whose prompts are read for all of them."""
    seconds = rates.proposal_pace * plain_seconds(0, stage.output_tokens)
    return stage.model_copy(update={"prompt_tokens": 0, "seconds": seconds})


def _together(stages: Sequence[StagePlan]) -> StagePlan:
    """Draws that are held as one stage."""
    names = ("num_calls", "prompt_tokens", "output_tokens", "max_output_tokens", "disk_bytes", "seconds")
    sums = {name: sum(getattr(stage, name) for stage in stages) for name in names}
    return StagePlan(stage=stages[0].stage, **sums)


def _scaled(stage: StagePlan, share: float) -> StagePlan:
    """The same stage, expected with a share of its draws; at most with all of them."""
    return stage.model_copy(
        update={
            "num_calls": round(stage.num_calls * share),
            "prompt_tokens": round(stage.prompt_tokens * share),
            "output_tokens": round(stage.output_tokens * share),
            "disk_bytes": round(stage.disk_bytes * share),
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
    firsts = len(problems) * seats
    talks = firsts * (1 + talk.rounds * (2 if talk.critique else 1))
    read = seats * sum(rates.prompt(problem.task) for problem in problems)
    read += SPLIT_COUNCIL_SHARE * talks * rates.tokens_per_talk_prompt
    return StagePlan(
        stage=stage,
        num_calls=firsts + talks,
        prompt_tokens=round(read),
        output_tokens=round(expected),
        max_output_tokens=most,
        disk_bytes=(firsts + talks) * BYTES_PER_CALL,
        seconds=rates.council_pace * plain_seconds(read, expected),
    )


def _sample(problems: Sequence[_A], per_type: int) -> list[_A]:
    counts: dict[str, int] = {}
    chosen = []
    for problem in problems:
        counts[problem.task.type] = counts.get(problem.task.type, 0) + 1
        if counts[problem.task.type] <= per_type:
            chosen.append(problem)
    return chosen
