"""The measuring behind `evomesh study`: whose proposals every arm needs, drawn once and replayed for all of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from evolve.asks import proposal_asks
from evolve.audit.measured import what_is_measured
from evolve.config import ConfigError, MeshConfig, RunConfig, load_mesh
from evolve.evaluate import Pool, Precedence, member_scores
from evolve.governance.rosters import generations_of
from evolve.lab import Lab
from evolve.problems.config import FileProblems
from evolve.problems.draw import UNDIVIDED, draw_undealt
from evolve.problems.types import Problem
from evolve.progress import read_times
from evolve.run_files import CONFIG, GENERATIONS
from evolve.studies.assess import Arm, best_single
from evolve.studies.fresh_tasks import LeftOut, fresh_tasks, questions_seen
from evolve.studies.rival_arms import arm_directory, read_arm, run_of
from evolve.studies.study import ArmRole, Spend, Study, StudyArm, arm_cost, compare_arms
from evolve.ties import by_reliability
from memory.types import Record, content_hash
from mesh.reliability import seat_key
from mesh.tally import plurality
from mesh.types import Deliberation, Member, Usage
from serving.config import ServingConfig, prices

FORM = 4
"""Of what a study holds; a finished one of an earlier form is not taken for today's."""

NO_TIES = "{run} holds no judged proposals: tied votes of the evolved mesh fall to its earlier seat"


class StudyOptions(Record):
    """What is compared."""

    run: Path | None = Field(default=None, description="run whose last generation is the evolved mesh")
    baseline: str | None = Field(default=None, description="engine that is the present system, by name")
    rft: Path | None = Field(
        default=None,
        description="where the best single model was trained alone: an arm of a run, or a run with one engine; None: "
        "the run's own arm, if it has one",
    )
    votes_each: int = Field(default=2, ge=1, description="proposals of each seat of the evolved mesh for a task")
    num_tasks: int | None = Field(default=None, ge=1, description="tasks at most; None: all")
    baseline_price: float | None = Field(
        default=None, ge=0.0, description="money for a million output tokens of the baseline; None: its price_per_hour"
    )


def study_config(config: RunConfig) -> RunConfig:
    """The same with every task in one split, since a study learns nothing. Raises ConfigError for another source."""
    if not isinstance(config.problems, FileProblems):
        raise ConfigError("expected tasks in a file, got another source of problems")
    problems = config.problems.model_copy(update={"shares": UNDIVIDED, "sizes": None})
    return config.model_copy(update={"problems": problems})


class StudyItems(NamedTuple):
    """What a study measures on."""

    tasks: list[Problem]
    clusters: list[str]
    """Of near duplicates, for each task; its own id where it stands alone."""
    left_out: LeftOut
    """Tasks that one of the runs had, or nearly the same."""


def study_items(config: RunConfig, options: StudyOptions) -> StudyItems:
    """The tasks of the file that none of the runs had.

    Of a run's own file AUDIT remains, which steered nothing, and what was added since.

    Raises ConfigError: nothing is left, or the tasks are not in a file.
    """
    problems = config.problems
    if not isinstance(problems, FileProblems):
        raise ConfigError("expected tasks in a file, got another source of problems")
    seen = questions_seen(runs_behind(options))
    tasks, clusters = draw_undealt(problems, config.seed)
    fresh, left_out = fresh_tasks(tasks, seen, problems.near_duplicates)
    if not fresh:
        raise ConfigError(
            f"expected tasks that the run has not learned from or chosen by, got none: it had {left_out.num_same} "
            f"itself, and {left_out.num_near or 0} are near duplicates of what it had; give other tasks, or set "
            "problems.near_duplicates: null in the configuration if they are different tasks in one wording"
        )
    taken = fresh[: options.num_tasks]
    return StudyItems(taken, [clusters.get(one.task.id, one.task.id) for one in taken], left_out)


def runs_behind(options: StudyOptions) -> tuple[Path, ...]:
    """The runs whose tasks the trained arms learned from, each once."""
    named = (options.run, None if options.rft is None else run_of(options.rft))
    return tuple(dict.fromkeys(run.resolve() for run in named if run is not None))


def share_adapters(run: Path, members: Iterable[Member], into: Path) -> None:
    """Copy the adapters of a run's members to the study's own store; what is there already stays."""
    for name, adapter in ((member.name, adapter) for member in members for adapter in member.adapters):
        if (into / adapter).exists():
            continue
        source, partial = run / "adapters" / adapter, into / f".{adapter}.partial"
        if not source.is_dir():
            raise ConfigError(f"{run}: expected the adapter of {name} in {source}, found none; restore it")
        into.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(into / adapter)


def rft_of(options: StudyOptions) -> tuple[Path, tuple[Member, ...]] | None:
    """(directory with the adapters, the trained members) of the best single model's own training; None: there is none.

    Raises ConfigError where a directory is named that is neither a finished arm nor a run.
    """
    where = options.rft
    if where is None:
        where = arm_directory(options.run, "rft") if options.run is not None else None
        if where is None or read_arm(where) is None:
            return None
    arm = read_arm(where)
    members = generations_of(where)[-1].seats if arm is None else arm.last.members
    return where, tuple(member for member in members if member.adapter is not None)


async def study(lab: Lab, given: StudyItems, options: StudyOptions) -> Study:
    """Draw, judge and compare. Draws are journalled, so the same command goes on where it was cut off."""
    items = given.tasks
    founders, evolved, rft = _seats(lab, options)
    budget = options.votes_each * len(evolved)
    baseline = _baseline(lab, options)
    bases = [*founders, *([baseline] if baseline is not None else [])]
    trained = [m for m in dict.fromkeys([*evolved, *rft]) if m not in bases]
    drawn = await _draw(lab, "study bases", items, bases, budget)
    most = max(-(-budget // len(seats)) for seats in (evolved, rft) if seats)
    drawn += await _draw(lab, "study specialists", items, trained, most)
    judged = (await lab.judge_all("study", drawn, items)).lookup()
    pool, spends = Pool(drawn), _spends(lab, drawn, baseline, options)
    assert options.run is not None, "its seats were read above"
    measured = what_is_measured(options.run)
    ties = by_reliability(measured, seat_key)

    def arm(
        role: ArmRole, name: str, samples: Mapping[str, int], scores: Sequence[float], made_in: Path | None = None
    ) -> StudyArm:
        tokens, seconds, money = arm_cost(samples, spends)
        return StudyArm(
            role=role,
            arm=Arm(name=name, scores=tuple(scores), num_samples=sum(samples.values())),
            output_tokens=tokens,
            engine_seconds=seconds,
            money=money,
            investment=0.0 if made_in is None else investment_of(lab.config, made_in),
        )

    def voting(role: ArmRole, name: str, seats: Sequence[Member], made_in: Path | None = None) -> StudyArm:
        counts = _shared_out(budget, seats)
        return arm(role, name, counts, _votes(pool, seats, counts, items, judged, ties), made_in)

    single, consistency, chosen = best_single(pool, founders, items, judged, budget, given.clusters)
    spends["best single"] = _mean_spend([spends[name] for name in chosen])
    arms = [
        voting("evolved", "evolved mesh", evolved, options.run),
        voting("generation 0", "generation 0", founders),
        arm("single", single.name, {"best single": 1}, single.scores),
        arm("self-consistency", consistency.name, {"best single": budget}, consistency.scores),
    ]
    if rft and (found := rft_of(options)) is not None:
        arms.append(voting("rft", "RFT of the best single", rft, found[0]))
    if baseline is not None:
        once = member_scores(pool, baseline, items, judged)
        arms.append(voting("baseline", f"{baseline.name}, {budget} samples", [baseline]))
        arms.append(arm("baseline", f"{baseline.name}, asked once", {baseline.name: 1}, once))
    return compare_arms(
        arms,
        budget=budget,
        left_out=given.left_out,
        clusters=given.clusters,
        notes=(*notes_of(options), *([] if measured.answers else [NO_TIES.format(run=options.run)])),
    )


def notes_of(options: StudyOptions) -> tuple[str, ...]:
    """What a study with these options does not measure, with the option that would; runs without a record of tasks."""
    notes, found = [], rft_of(options)
    if found is None:
        notes.append(
            "RFT of the best single model was not measured: the run has no finished arm rft. --train-rft trains it "
            "first, --rft DIRECTORY takes another"
        )
    elif not found[1]:
        notes.append(f"RFT of the best single model was not measured: nothing was trained in {found[0]}")
    if options.baseline is None:
        notes.append(
            "Your present system was not measured: --baseline ENGINE names it, an engine of the configuration (-c)"
        )
    notes += [
        f"{run} left no record of its problems: no task of its could be left out"
        for run in runs_behind(options)
        if not questions_seen([run])
    ]
    return tuple(notes)


def asked_of(config: MeshConfig, tasks: Path, options: StudyOptions) -> str:
    """Hash of all that a study's figures follow from: another roster or arm of the same run is another study."""
    evolved = () if options.run is None else generations_of(options.run)[-1].seats
    found = rft_of(options)
    return content_hash(
        [
            FORM,
            config.model_dump(mode="json"),
            content_hash(tasks.read_bytes().hex()),
            options.model_dump(mode="json"),
            [member.model_dump(mode="json") for member in (*evolved, *(found[1] if found else ()))],
        ]
    )


def investment_of(config: RunConfig, made_in: Path) -> float | None:
    """Money that a run or an arm of one took: its stages' hours on all engines that the run has, every replica.

    A price that the run's own configuration lacks is taken from `config`, the study's. None: an engine has none, or no
    times were kept.
    """
    run, times, known = run_of(made_in), read_times(made_in), prices(config.serving)
    if not times or not (run / GENERATIONS).is_file():
        return None
    own = load_mesh(run / CONFIG) if (run / CONFIG).is_file() else config
    seated = {member.engine for member in generations_of(run)[0].seats}
    engines = [one for one in own.serving.engines if one.name in seated and one.kind != "remote"]
    known |= prices(own.serving)
    if any(one.name not in known for one in engines):
        return None
    return sum(time.seconds for time in times) / 3600.0 * sum(known[one.name] * one.replicas for one in engines)


def _seats(lab: Lab, options: StudyOptions) -> tuple[list[Member], list[Member], list[Member]]:
    """(generation 0, the evolved mesh, the RFT run's seats) as they propose, their adapters in the study's store.

    A seat that was given a critic is the same proposer: drawn anew under its name, it would have twice the samples.
    """
    if options.run is None:
        raise ConfigError("--run: expected a run with generations to study; `evomesh evolve` makes one")
    generations, store = generations_of(options.run), lab.directory / "adapters"
    founders, evolved = ([seat.at("propose") for seat in generations[place].seats] for place in (0, -1))
    share_adapters(options.run, evolved, store)
    rft: list[Member] = []
    if (found := rft_of(options)) is not None:
        where, members = found[0], [member.at("propose") for member in found[1]]
        share_adapters(where, members, store)
        # Two runs may call different specialists by one name.
        rft = [member.model_copy(update={"name": f"{member.name} (rft)"}) for member in members]
    return founders, evolved, rft


def _baseline(lab: Lab, options: StudyOptions) -> Member | None:
    if options.baseline is None:
        return None
    name = options.baseline.removeprefix("remote:")
    spec = next((engine for engine in lab.config.serving.engines if engine.name == name), None)
    if spec is None or (options.baseline.startswith("remote:") and spec.kind != "remote"):
        known = ", ".join(f"{engine.kind}:{engine.name}" for engine in lab.config.serving.engines)
        raise ConfigError(f"--baseline: expected an engine of the configuration ({known}), got {options.baseline!r}")
    return Member(name=f"{name} (present system)", engine=name, family=spec.family)


async def _draw(
    lab: Lab, stage: str, items: Sequence[Problem], members: Sequence[Member], count: int
) -> list[Deliberation]:
    if not members:
        return []
    asks = proposal_asks(lab.config, stage, items, members, count)
    return await lab.hold(stage, lab.directory / f"{stage.replace(' ', '-')}.parquet", asks)


def _spends(
    lab: Lab, drawn: Iterable[Deliberation], baseline: Member | None, options: StudyOptions
) -> dict[str, Spend]:
    """By member: the mean of all its proposals."""
    usage: dict[str, list[Usage]] = {}
    counts: dict[str, int] = {}
    for trace in drawn:
        name = trace.members[0].name
        usage.setdefault(name, []).append(trace.usage)
        counts[name] = counts.get(name, 0) + len(trace.proposals)
    engines = {trace.members[0].name: trace.members[0].engine for trace in drawn}
    hourly = hourly_prices(lab.config.serving)
    spends = {}
    for name, used in usage.items():
        total, count = Usage.total(used), max(1, counts[name])
        by_tokens = options.baseline_price if baseline is not None and name == baseline.name else None
        spends[name] = Spend(
            output_tokens=total.output_tokens / count,
            engine_seconds=total.engine_seconds / count,
            price_per_hour=hourly.get(engines[name]),
            price_per_million_tokens=by_tokens,
        )
    return spends


def hourly_prices(serving: ServingConfig) -> dict[str, float]:
    """Money per hour in which an engine is busy; none for one without a price.

    An engine is busy while any of its replicas is, and then all of them are paid for.
    """
    replicas = {spec.name: spec.replicas for spec in serving.engines}
    return {name: price * replicas[name] for name, price in prices(serving).items()}


def _mean_spend(spends: Sequence[Spend]) -> Spend:
    """Of the members chosen on the two halves, one or two; a price only where all have one."""
    known = [one.price_per_hour for one in spends if one.price_per_hour is not None]
    return Spend(
        output_tokens=sum(one.output_tokens for one in spends) / len(spends),
        engine_seconds=sum(one.engine_seconds for one in spends) / len(spends),
        price_per_hour=sum(known) / len(known) if len(known) == len(spends) else None,
    )


def _shared_out(budget: int, seats: Sequence[Member]) -> dict[str, int]:
    """Proposals by member name that add up to the budget, as even as can be, earlier seats first."""
    return {seat.name: budget // len(seats) + (place < budget % len(seats)) for place, seat in enumerate(seats)}


def _votes(
    pool: Pool,
    seats: Sequence[Member],
    counts: Mapping[str, int],
    items: Sequence[Problem],
    judged: Mapping[tuple[str, str], bool],
    ties: Precedence,
) -> list[float]:
    scores = []
    for problem in items:
        ballots = [p for seat in ties(seats, problem.task) for p in pool.of(seat, problem.task)[: counts[seat.name]]]
        answer = plurality(ballots, problem.task.answer_kind).answer
        scores.append(float(answer is not None and judged.get((problem.task.id, answer), False)))
    return scores
