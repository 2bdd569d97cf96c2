"""The measuring behind `evomesh assess`: draw proposals and some councils, judge them, put it together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from evolve.asks import council_asks, first_of_each_type, proposal_asks, types_in_turn
from evolve.config import ConfigError, MeshConfig, RunConfig
from evolve.evaluate import Pool, member_scores, verdict_scores
from evolve.gates.power import Assumed, detectable_conjunction, problems_needed
from evolve.judging.judge import Judge, Probe, best_constant, verifier_audit
from evolve.lab import Lab
from evolve.planning.bill import money_per_hour
from evolve.planning.gates_ahead import assumed_gate, later_gates, planned_levels
from evolve.planning.plan import plan_assessment, plan_run
from evolve.planning.rates import Rates, assumed_for, engines_id, rates_from, tasks_id
from evolve.problems.config import ExactVerifier, FileProblems, NumericVerifier
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split
from evolve.problems.taskfile import share_of_numbers
from evolve.problems.types import Problem, clusters_sentence
from evolve.seats import base_seats
from evolve.studies.advice import Assessment, advise
from evolve.studies.assess import (
    Arm,
    Findings,
    Night,
    any_right,
    best_single,
    expected_examples,
    flips,
    probe_shuffled,
    vote_replicates,
)
from evolve.studies.copying import copied
from memory.types import Record
from mesh.measuring import measure_traces
from mesh.types import Deliberation, Member
from serving.config import prices

MAX_PROBED, MAX_PROBED_BY_PANEL = 60, 10
"""Items of one type the verifier is tried on; a panel costs two calls a judge for every answer to each."""
POWER_ROUNDS = 1000
"""Simulated gates for each power that is asked for."""
NUMERIC_SHARE = 0.95
"""From this share of numbers among the answers on, a file of unknown kind holds numbers."""


class AssessOptions(Record):
    """How much is spent on the look."""

    minutes: float = Field(default=15.0, gt=0.0, description="about how long it may take, engines included")
    num_items: int | None = Field(default=None, ge=1, description="items to measure on; None: as many as fit")
    votes_each: int = Field(default=2, ge=1, description="first proposals of each member in a vote of the mesh")
    num_councils: int = Field(default=16, ge=0, description="items that go through a full council as well")
    night_hours: float = Field(default=10.0, gt=0.0)


def assess_config(config: MeshConfig, tasks: Path, run_dir: Path) -> RunConfig:
    """The run that an assessment of `tasks` stands for: the configuration with its problems taken from that file.

    A run on a file keeps how it reads and checks answers; else numbers are told from text by the answers themselves.

    Raises:
        ConfigError: the learning settings do not fit the engines. ProblemsError: the file cannot be used.
    """
    problems = config.problems if isinstance(config, RunConfig) else None
    ours = problems.model_copy(update={"path": tasks}) if isinstance(problems, FileProblems) else guess_problems(tasks)
    settings = config.model_dump() | {"problems": ours.model_dump(), "run_dir": run_dir}
    if not isinstance(config, RunConfig):
        settings["training"] = {"kind": "scripted" if config.is_simulated else "lora"}
    try:
        return RunConfig.model_validate(settings)
    except ValueError as error:
        raise ConfigError(f"expected a configuration that could evolve: {error}") from error


def guess_problems(tasks: Path) -> FileProblems:
    """How to read a file nobody described: as numbers where nearly all its answers are, else as text.

    Raises ProblemsError for a file that cannot be used.
    """
    if share_of_numbers(tasks) >= NUMERIC_SHARE:
        return FileProblems(path=tasks, verifier=NumericVerifier(), answer_kind="number")
    return FileProblems(path=tasks, verifier=ExactVerifier(), answer_kind="text")


def choose_items(
    config: RunConfig, problems: SplitProblems, options: AssessOptions, rates: Rates | None = None
) -> list[Problem]:
    """TRAIN and DEV items to measure on, types evenly, as many as fit into the minutes. GATE and AUDIT stay unread."""
    usable = [*problems.of(Split.TRAIN), *problems.of(Split.DEV)]
    per_type: dict[str, int] = {}
    for problem in usable:
        per_type[problem.task.type] = per_type.get(problem.task.type, 0) + 1
    for count in range(max(per_type.values(), default=0), 0, -1):
        items = first_of_each_type(usable, count)
        if options.num_items is not None:
            if len(items) <= options.num_items:
                return items
            continue
        stages = plan_assessment(config, items, num_samples(config, options), options.num_councils, rates)
        if sum(stage.seconds for stage in stages) <= 60.0 * options.minutes:
            return items
    limit = options.num_items or len(per_type)
    return first_of_each_type(usable, 1)[:limit]


def num_samples(config: RunConfig, options: AssessOptions) -> int:
    """First proposals of each member for each item: enough that one member alone fills the mesh's whole vote.

    Enough for two votes as well, since how far they differ by chance is a figure; and as many as a harvest draws, whose
    right answers are counted.
    """
    return max(options.votes_each * max(2, len(base_seats(config))), config.harvest.samples_per_member)


async def assess(lab: Lab, problems: SplitProblems, options: AssessOptions) -> Assessment:
    """Measure and advise. Every draw is journalled, so the same command goes on where it was cut off."""
    seen = await _look(lab, problems, options)
    rates = rates_from(assumed_for(lab.config).rates, lab.times.all, seen.drawn, seen.councils)
    findings = _findings(lab.config, problems, options, seen, rates, sum(stage.seconds for stage in lab.times.all))
    return Assessment(
        advice=advise(findings),
        findings=findings,
        rates=rates,
        engines=engines_id(lab.config),
        tasks=tasks_id(lab.config),
    )


class _Seen(NamedTuple):
    """What was asked and answered, and what the verifier says of it."""

    items: Sequence[Problem]
    probes: tuple[Probe, ...]
    constant: Arm
    copied: Arm
    drawn: Sequence[Deliberation]
    councils: Sequence[Deliberation]
    judged: dict[tuple[str, str], bool]


async def _look(lab: Lab, problems: SplitProblems, options: AssessOptions) -> _Seen:
    items = choose_items(lab.config, problems, options)
    tried = first_of_each_type(items, MAX_PROBED if lab.panel is None else MAX_PROBED_BY_PANEL)
    probes = await lab.heard_out("assess probes", lambda: _probe(tried, lab.judge))
    guessed = tried if lab.panel is not None else items
    constant = await lab.heard_out("assess constants", lambda: _constant(items, guessed, lab.judge))
    copied = await lab.heard_out("assess copied", lambda: _copied(lab, items))
    asks = proposal_asks(lab.config, "assess", items, base_seats(lab.config), num_samples(lab.config, options))
    drawn = await lab.hold("assess proposals", lab.directory / "proposals.parquet", asks)
    councils = await _councils(lab, items, options)
    judged = (await lab.judge_all("assess", [*drawn, *councils], items)).lookup()
    return _Seen(items, probes, constant, copied, drawn, councils, judged)


def _findings(
    config: RunConfig, problems: SplitProblems, options: AssessOptions, seen: _Seen, rates: Rates, seconds: float
) -> Findings:
    """All figures, from what was seen in `seconds`."""
    items, judged, seats, pool = seen.items, seen.judged, base_seats(config), Pool(seen.drawn)
    clusters, num_votes = tuple(problems.cluster_of(item) for item in items), options.votes_each * len(seats)
    replicates = vote_replicates(pool, seats, items, judged, options.votes_each, clusters)
    single, consistency, _ = best_single(pool, seats, items, judged, num_votes, clusters)
    n_eff, same_wrong = _dependence(seats, seen)
    discordance = max(config.gate.expected_discordance, flips(replicates))
    means = tuple(sum(scores) / len(replicates) for scores in zip(*replicates, strict=True))
    mesh = Arm(name="mesh vote", scores=means, num_samples=num_votes)
    reach = Arm(
        name="any of all samples right",
        scores=tuple(any_right(pool, seats, items, judged)),
        num_samples=num_samples(config, options) * len(seats),
    )
    ceiling = Arm(
        name="any member right",
        scores=tuple(any_right(pool, seats, items, judged, options.votes_each)),
        num_samples=num_votes,
    )
    levels = planned_levels(config, problems)
    gate = assumed_gate(config, problems, levels[0], mesh.mean, discordance)
    detectable, needed = _shown(gate, reach.mean - mesh.mean, config.seed)
    talked = _with_council(items, seen.councils)
    first, last = _council_arms(talked, seen.councils, judged)
    return Findings(
        probes=seen.probes,
        num_items=len(items),
        clusters=clusters,
        constant=seen.constant,
        copied=seen.copied,
        alone=tuple(
            Arm(name=s.name, scores=tuple(member_scores(pool, s, items, judged)), num_samples=1) for s in seats
        ),
        single=single,
        consistency=consistency,
        mesh=mesh,
        council=last,
        council_vote=first,
        council_clusters=tuple(problems.cluster_of(item) for item in talked),
        ceiling=ceiling,
        reach=reach,
        n_eff=n_eff,
        same_wrong=same_wrong,
        discordance=discordance,
        num_gate=len(problems.of(Split.GATE)),
        gate_level=None if levels[0].alpha == config.gate.alpha else levels[0],
        later_gates=later_gates(gate, levels, rounds=POWER_ROUNDS, seed=config.seed),
        near_duplicates=_near_duplicates(config, problems),
        detectable=detectable,
        num_gate_needed=needed,
        expected_examples=expected_examples(
            pool,
            seats,
            items,
            judged,
            _harvested(config, problems),
            config.curation.max_per_problem,
            config.harvest.samples_per_member,
        ),
        min_examples=config.recipes.min_rows,
        night=_night(config, problems, rates),
        night_hours=options.night_hours,
        output_tokens=sum(trace.usage.output_tokens for trace in (*seen.drawn, *seen.councils)),
        seconds=seconds,
    )


def _dependence(seats: Sequence[Member], seen: _Seen) -> tuple[float, float | None]:
    """(independent votes the seats are worth, mean share of pairs of wrong answers that are the same)."""
    found = measure_traces(seen.drawn, seen.judged, councils=seen.councils)
    names = [seat.name for seat in seats]
    same = [found.same_wrong_share(a, b) for a, b in combinations(names, 2)]
    known = [share for share in same if share is not None]
    return found.num_effective(names), sum(known) / len(known) if known else None


def _shown(gate: Assumed | None, room: float, seed: int) -> tuple[float | None, int | None]:
    """(smallest gain that the whole gate finds, items it needs to find `room`); the latter only where it finds less."""
    if gate is None:
        return None, None
    found = detectable_conjunction(gate, rounds=POWER_ROUNDS, seed=seed)
    gain = None if found is None else found.assumed.gain
    if gain is not None and gain <= room:
        return gain, None
    return gain, problems_needed(gate, room, rounds=POWER_ROUNDS, seed=seed)


def _probe(sample: Sequence[Problem], judge: Judge) -> tuple[Probe, ...]:
    return (*verifier_audit(sample, judge).probes, *probe_shuffled(sample, judge))


def _constant(items: Sequence[Problem], sample: Sequence[Problem], judge: Judge) -> Arm:
    """Item by item, whether its type's best constant, chosen on `sample`, is right."""
    by_type: dict[str, list[Problem]] = {}
    for problem in sample:
        by_type.setdefault(problem.task.type, []).append(problem)
    best = {name: best_constant(group, judge)[0] for name, group in by_type.items()}
    shown = ", ".join(f"'{answer}'" for answer in dict.fromkeys(best.values()))
    scores = tuple(float(judge.judge(problem, best[problem.task.type]).correct) for problem in items)
    return Arm(name=f"best constant ({shown})", scores=scores)


def _copied(lab: Lab, items: Sequence[Problem]) -> Arm:
    return copied(items, lambda one, answer: lab.judge.judge(one, answer).correct, one_way=lab.panel is not None)


async def _councils(lab: Lab, items: Sequence[Problem], options: AssessOptions) -> list[Deliberation]:
    chosen = types_in_turn(items)[: options.num_councils]
    if not chosen or len(lab.config.serving.engines) < 2:
        return []
    asks = council_asks(lab.config, "assess councils", chosen, base_seats(lab.config))
    return await lab.hold("assess councils", lab.directory / "councils.parquet", asks)


def _with_council(items: Sequence[Problem], councils: Sequence[Deliberation]) -> list[Problem]:
    held = {council.task.id for council in councils}
    return [problem for problem in items if problem.task.id in held]


def _council_arms(
    items: Sequence[Problem], councils: Sequence[Deliberation], judged: dict[tuple[str, str], bool]
) -> tuple[Arm | None, Arm | None]:
    """(the councils' own first vote, their verdict) on the items they were held on; None without councils."""
    if not councils:
        return None, None
    first, last = verdict_scores(councils, judged, first=True), verdict_scores(councils, judged)
    return (
        Arm(name="council's first vote", scores=tuple(first[one.task.id] for one in items)),
        Arm(name="mesh council", scores=tuple(last[one.task.id] for one in items)),
    )


def _harvested(config: RunConfig, problems: SplitProblems) -> int:
    """TRAIN problems one generation draws on."""
    train = problems.of(Split.TRAIN)
    types = len({problem.task.type for problem in train})
    return min(len(train), config.harvest.problems_per_type * types)


def _near_duplicates(config: RunConfig, problems: SplitProblems) -> str:
    if not isinstance(config.problems, FileProblems):
        return ""
    return clusters_sentence(problems.clusters, problems.report.num_items, config.problems.near_duplicates)


def _night(config: RunConfig, problems: SplitProblems, rates: Rates) -> Night:
    plan = plan_run(config, problems, rates)
    hours = plan.seconds / 3600
    is_priced = len(prices(config.serving)) == len(config.serving.engines)
    money = hours * money_per_hour(config) if is_priced else None
    return Night(hours=hours, output_tokens=plan.output_tokens, money=money)
