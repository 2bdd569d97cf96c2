"""The arms of `rival_methods` carried out: harvest, learn, train, seat, generation by generation, resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evolve.asks import first_of_each_type, proposal_asks
from evolve.config import ConfigError, RunConfig
from evolve.evaluate import Pool, member_scores
from evolve.lab import Lab
from evolve.learning.accumulate import SetRow, accumulate, set_rows
from evolve.learning.credit import credit
from evolve.learning.curate import curate
from evolve.learning.recipe_rows import TrainingRow, rows_for
from evolve.learning.recipes import PLACEBO_SUFFIX
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split
from evolve.problems.types import Problem
from evolve.run_files import TRAINING
from evolve.seats import base_seats
from evolve.studies.rival_methods import (
    EQUAL,
    MAX_PASSES,
    SINGLE,
    ArmName,
    ArmStep,
    Effort,
    RivalArm,
    Spent,
    curation_of,
    founders_of,
    frozen_arm,
    recipe_of,
    samples_of,
    steps_for,
    total_effort,
    training_of,
)
from evolve.training.config import LoraTraining
from evolve.training.job import REPORT_NAME, TrainingJob, TrainingReport
from evolve.training.stage import admit_jobs, job_of, train_jobs
from memory.ledger import publish_json, read_record
from memory.types import Record
from mesh.types import Deliberation, Member, Message, Part
from serving.counting import PromptCounter

ARMS_DIRECTORY, ARM = "arms", "arm.json"
"""Where a run's arms lie, and what each leaves when it is finished."""


TAKES_AFTER: dict[ArmName, tuple[ArmName, ...]] = {"rft-equal": ("rft",), "rft-other": ("rft-equal", "rft")}
"""Arms whose model decides an arm's own, where they are there; the first of them counts."""


class _Learned(Record):
    """All rows an arm has so far, and those it may use."""

    rows: tuple[SetRow, ...]
    used: tuple[SetRow, ...]


def arm_directory(run: Path, name: ArmName) -> Path:
    """Where an arm of the run in `run` lies."""
    return run / ARMS_DIRECTORY / name


def run_of(directory: Path) -> Path:
    """The run that an arm in `directory` belongs to; a directory that holds no arm is a run itself."""
    arms = directory.resolve().parent
    return arms.parent if arms.name == ARMS_DIRECTORY and (directory / ARM).is_file() else directory


def arm_config(config: RunConfig, name: ArmName) -> RunConfig:
    """The run's own configuration, with a directory for the arm and no memory."""
    memory = config.memory.model_copy(update={"enabled": False})
    return config.model_copy(update={"run_dir": arm_directory(config.run_dir, name), "memory": memory})


def read_arm(directory: Path) -> RivalArm | None:
    """A finished arm; None: it is not finished, or none lies there."""
    path = directory / ARM
    return read_record(path, RivalArm) if path.is_file() else None


def spent_by(run: Path, config: RunConfig, num_generations: int) -> tuple[Spent, ...]:
    """What the run's candidates took to train, generation by generation, from the reports they left."""
    found = []
    for number in range(num_generations):
        by_engine: dict[str, Effort] = {}
        for path in sorted((run / f"generation-{number}" / "training").glob(f"*/{REPORT_NAME}")):
            report = read_record(path, TrainingReport)
            engine = _engine_of(report.recipe, number, config)
            if engine is not None and not report.recipe.endswith(PLACEBO_SUFFIX):
                effort = Effort(steps=report.num_steps, tokens=report.trained_tokens)
                by_engine[engine] = by_engine.get(engine, Effort()).plus(effort)
        found.append(Spent(generation=number, by_engine=by_engine))
    return tuple(found)


async def hold_arm(lab: Lab, name: ArmName, problems: Sequence[SplitProblems], spent: Sequence[Spent]) -> RivalArm:
    """Carry an arm to its end, from wherever it was, and publish it.

    Args:
        lab: of the arm, see `arm_config`; its journal knows what was done.
        problems: what the run drew, generation by generation; TRAIN is learned from, DEV of the first chooses.
        spent: what the run spent, as many generations as the arm has to go.
    """
    seats = base_seats(lab.config)
    if name == "frozen":
        made = frozen_arm(seats, len(spent))
    else:
        held_out = frozenset[str]().union(*(one.held_out_keys for one in problems))
        members = await _founders(lab, name, seats, problems[0])
        steps, rows = [ArmStep(number=0, members=members)], tuple[SetRow, ...]()
        for one in spent:
            items = train_items(lab.config, problems, one.generation)
            step, rows = await _generation(lab, name, steps[-1], items, rows, held_out, one)
            steps.append(step)
        made = RivalArm(name=name, num_seats=len(seats), steps=tuple(steps))
    publish_json(lab.directory / ARM, made)
    return made


def train_items(config: RunConfig, problems: Sequence[SplitProblems], number: int) -> list[Problem]:
    """The TRAIN items that the run's generation `number` learned from."""
    count = config.harvest.problems_per_type
    today = problems[min(number, len(problems) - 1)]  # a user's file is one set for all generations
    return first_of_each_type(today.of(Split.TRAIN), count, skip=number * count)


async def _founders(lab: Lab, name: ArmName, seats: Sequence[Member], problems: SplitProblems) -> tuple[Member, ...]:
    """Who begins. rft-equal takes whom rft took; rft-other the best but for whom rft-equal took, else rft.

    Two models that are as good as each other would be told apart by the luck of a draw, otherwise.

    Raises ConfigError where rft-other has no other model.
    """
    if name not in SINGLE:
        return founders_of(name, seats, {})
    before = _taken(lab, TAKES_AFTER.get(name, ()))
    if name == "rft-equal" and before:
        return before
    dev = await _on_dev(lab, problems)
    if name != "rft-other":
        return founders_of(name, seats, dev)
    first = before or founders_of("rft", seats, dev)
    others = [seat for seat in seats if seat.engine != first[0].engine]
    if not others:
        raise ConfigError(f"rft-other: expected another model than {first[0].engine!r}, which rft takes; leave it out")
    return founders_of(name, others, dev)


def _taken(lab: Lab, names: Sequence[ArmName]) -> tuple[Member, ...]:
    """Whom the first of these arms that is there began with; empty: none is."""
    found = (read_arm(lab.directory.with_name(name)) for name in names)
    return next((one.steps[0].members for one in found if one is not None), ())


async def _on_dev(lab: Lab, problems: SplitProblems) -> dict[str, float]:
    """Accuracy of every base member alone on DEV, for whichever arm of one."""
    items, seats, stage = problems.of(Split.DEV), base_seats(lab.config), "rft dev"
    asks = proposal_asks(lab.config, stage, items, seats, lab.config.evaluation.dev_samples_per_member)
    drawn = await lab.hold(stage, lab.directory / "dev.parquet", asks)
    judged = (await lab.judge_all(stage, drawn, items)).lookup()
    pool = Pool(drawn)
    return {m.name: sum(member_scores(pool, m, items, judged)) / max(1, len(items)) for m in seats}


async def _generation(
    lab: Lab,
    name: ArmName,
    now: ArmStep,
    items: Sequence[Problem],
    earlier: tuple[SetRow, ...],
    held_out: frozenset[str],
    spent: Spent,
) -> tuple[ArmStep, tuple[SetRow, ...]]:
    """The next generation of an arm, and all rows it has by then."""
    stage = f"{name} generation {now.number}"
    num_councils = len(first_of_each_type(items, lab.config.harvest.councils_per_type))
    samples = samples_of(lab.config, len(items), num_councils, len(now.members))
    drawn = await lab.hold(
        f"{stage} harvest",
        lab.directory / f"generation-{now.number}" / "harvest.parquet",
        proposal_asks(
            lab.config,
            f"{stage} harvest",
            items,
            now.members,
            samples,
            temperature=lab.config.harvest.temperature,
        ),
    )
    learned = await _learn(lab, name, now.number, items, drawn, earlier, held_out)
    target = {m.engine: spent.total if name in SINGLE else spent.by_engine.get(m.engine, Effort()) for m in now.members}
    jobs, notes = await _jobs(lab, name, now, learned, target)
    step, refused = await _seat(lab, stage, now, jobs)
    found = {
        "num_samples": sum(len(one.proposals) for one in drawn),
        "output_tokens": sum(one.usage.output_tokens for one in drawn),
        "target": total_effort(target.values()),
        "notes": (*notes, *refused),
    }
    return step.model_copy(update=found), learned.rows


async def _learn(
    lab: Lab,
    name: ArmName,
    number: int,
    items: Sequence[Problem],
    drawn: Sequence[Deliberation],
    earlier: tuple[SetRow, ...],
    held_out: frozenset[str],
) -> _Learned:
    """Arms of one: what the verifier calls right, added to what there was. naive: whatever was said last."""
    config, stage = lab.config, f"{name} generation {number}"
    judged = (await lab.judge_all(stage, drawn, items)).lookup() if name in SINGLE else None
    num_members = len({one.members[0].name for one in drawn})

    async def work() -> _Learned:
        right = (lambda task, answer: True) if judged is None else (lambda t, a: judged.get((t, a or ""), False))
        caps = curation_of(config.curation, len(base_seats(config)), num_members)
        kept = curate(
            credit(drawn, right), items, caps, held_out=held_out, seed=config.seed, rules=config.curation.rules
        )
        fresh = set_rows(kept.examples, number, {problem.task.id: problem.key for problem in items})
        if name == "naive":
            return _Learned(rows=fresh, used=fresh)
        grown = accumulate(earlier, fresh, config.accumulation, held_out=held_out, seed=config.seed)
        return _Learned(rows=grown.all, used=grown.used)

    inputs = {
        "drawn": [one.id for one in drawn],
        "right": sorted([*key, value] for key, value in (judged or {}).items()),
        "earlier": [row.id for row in earlier],
    }
    return await lab.journal.record(f"{stage} learn".replace(" ", "-"), inputs, _Learned, work)


async def _jobs(
    lab: Lab, name: ArmName, now: ArmStep, learned: _Learned, target: Mapping[str, Effort]
) -> tuple[dict[str, TrainingJob], list[str]]:
    """Engine to the training of its next adapter; why there is none for the others."""
    jobs, notes = {}, []
    settings = lab.config.recipes.model_copy(update={"max_rows": None})
    for member in {member.engine: member for member in reversed(now.members)}.values():  # each engine's first seat
        draft = recipe_of(name, now.number + 1, member, lab.config.training, lab.config.seed)
        chosen = rows_for(draft, [row.example for row in learned.used], settings)
        if chosen.refusal:
            notes.append(f"{member.engine}: {chosen.refusal}")
        elif target[member.engine].tokens == 0:
            notes.append(f"{member.engine}: the mesh trained nothing in this generation, so this arm does not either")
        else:
            effort, is_equal = target[member.engine], name in EQUAL
            if is_equal:
                effort = await in_steps(lab.config, member, effort, chosen.rows)
            passes = None if is_equal else MAX_PASSES
            training = training_of(lab.config.training, effort, len(chosen.rows), max_passes=passes)
            recipe = draft.model_copy(update={"training": training})
            out = lab.directory / f"generation-{now.number}" / TRAINING / recipe.name
            jobs[member.engine] = job_of(lab, recipe, chosen.rows, out_dir=out)
    return jobs, notes


async def in_steps(config: RunConfig, member: Member, target: Effort, rows: Sequence[TrainingRow]) -> Effort:
    """The tokens to match in steps over these rows, counted as the member's engine does; scripted training has none.

    Raises ConfigError where the engine is a remote one, which cannot be trained either.
    """
    if not isinstance(config.training, LoraTraining):
        return target
    count, tokens = PromptCounter(config.serving), []
    for row in rows:
        answer = Message(role="assistant", parts=(Part(text=row.completion.strip()),))
        found = await count(member, (*row.messages, answer))
        if found is None:
            raise ConfigError(
                f"expected engine {member.engine!r} to count tokens, so that its training can meet a target"
            )
        tokens.append(found + 1)  # the end of the turn is learned too
    return steps_for(target, tokens, config.training.batch_size)


async def _seat(lab: Lab, stage: str, now: ArmStep, jobs: Mapping[str, TrainingJob]) -> tuple[ArmStep, list[str]]:
    """The seats with each new adapter in its engine's place, and why others stay; with what the training took."""
    by_name, name = {job.recipe.name: job for job in jobs.values()}, stage.replace(" ", "-")
    reports = await train_jobs(lab, f"{name}-train", list(jobs.values()), stage=f"{stage} training")
    admitted = await admit_jobs(lab, f"{name}-admit", by_name, reports, generation=now.number)
    taking = {candidate.member.engine: candidate.member for candidate in admitted.candidates}
    members = [taking.get(member.engine, member) for member in now.members]
    step = ArmStep(
        number=now.number + 1,
        members=tuple(_apart(members)),
        num_rows=sum(report.num_rows for report in reports),
        effort=total_effort(Effort(steps=one.num_steps, tokens=one.trained_tokens) for one in reports),
    )
    return step, [f"{recipe}: {reason}" for recipe, reason in admitted.refused.items()]


def _apart(members: Sequence[Member]) -> Iterator[Member]:
    """Several seats of one engine hold one adapter under names of their own, so that they draw differently."""
    seen: Counter[str] = Counter()
    for member in members:
        seen[member.name] += 1
        count = seen[member.name]
        yield member if count == 1 else member.model_copy(update={"name": f"{member.name}-{count}"})


def _engine_of(recipe: str, number: int, config: RunConfig) -> str | None:
    """The engine a run's recipe is for, by its name; None: another generation's, or of an engine that is gone."""
    names = sorted((engine.name for engine in config.serving.engines), key=len, reverse=True)
    return next((name for name in names if recipe.startswith(f"g{number + 1}-{name}-")), None)
