from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from evolve.config import ConfigError, RunConfig
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.learning.accumulate import SetRow
from evolve.learning.recipe_rows import TrainingRow
from evolve.learning.recipes import Recipe
from evolve.problems.drawn import problems_by_generation
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split
from evolve.progress import Silent
from evolve.studies.rival_arms import ARM, arm_config, hold_arm, in_steps, read_arm, spent_by
from evolve.studies.rival_methods import ArmName, Effort, RivalArm, Spent
from evolve.training.config import LoraTraining, ScriptedTraining
from evolve.training.job import TrainingJob
from evolve.training.scripted_train import train_scripted
from memory.ledger import publish_json
from mesh.types import Member, Message, Part

BEN = Member(name="ben", engine="ben", family="beta")
SPENT = tuple(
    Spent(generation=number, by_engine={"ada": Effort(steps=4, tokens=90), "ben": Effort(steps=4, tokens=90)})
    for number in range(2)
)


class CutOff(Exception):
    """The run is stopped here."""


def config(directory: Path, **more: object) -> RunConfig:
    tasks = directory / "tasks.jsonl"
    rows = [f'{{"question": "{a} + {b} =", "answer": "{a + b}", "type": "sum"}}' for a in range(40) for b in (3, 57)]
    tasks.write_text("\n".join(rows))
    engines = [
        {"kind": "scripted", "name": "ada", "family": "alpha", "skill": 0.3, "adapter_gain": 0.3},
        {"kind": "scripted", "name": "ben", "family": "beta", "skill": 0.7, "adapter_gain": 0.2},
    ]
    return RunConfig.model_validate(
        {
            "name": "small",
            "run_dir": str(directory / "run"),
            "seed": 3,
            "num_generations": 2,
            "serving": {"in_process": True, "engines": engines},
            "problems": {"kind": "file", "path": str(tasks), "verifier": {"kind": "numeric"}, "answer_kind": "number"},
            "training": {"kind": "scripted"},
            "recipes": {"min_rows": 4},
            "harvest": {"problems_per_type": 10, "samples_per_member": 2, "councils_per_type": 2},
        }
        | more
    )


def drawn(run: RunConfig) -> tuple[SplitProblems, ...]:
    """The problems of a run on a file, one set for all generations, as the run leaves them."""

    async def work() -> None:
        with Judge() as judge:
            async with Lab(run, journal=Journal(run.run_dir), judge=judge, memory=None, observer=Silent()) as lab:
                await lab.draw_problems()

    asyncio.run(work())
    return problems_by_generation(run.run_dir)


def hold(run: RunConfig, name: ArmName, problems: tuple[SplitProblems, ...], die_at: int | None = None) -> RivalArm:
    """An arm held to its end; with `die_at` it is cut off at so many durable steps."""
    count = 0

    def commit(step: str) -> None:
        nonlocal count
        count += 1
        if count == die_at:
            raise CutOff(step)

    async def work() -> RivalArm:
        one = arm_config(run, name)
        one.run_dir.mkdir(parents=True, exist_ok=True)
        with Judge() as judge:
            journal = Journal(one.run_dir, on_commit=commit)
            async with Lab(one, journal=journal, judge=judge, memory=None, observer=Silent()) as lab:
                return await hold_arm(lab, name, problems, SPENT)

    return asyncio.run(work())


def rows_of(run: RunConfig, name: ArmName, number: int) -> list[SetRow]:
    """The rows that an arm's generation used."""
    steps = arm_config(run, name).run_dir / "steps"
    (path,) = steps.glob(f"{name}-generation-{number}-learn-*.json")
    return [SetRow.model_validate(row) for row in json.loads(path.read_text())["used"]]


def test_rft_takes_the_better_model_alone_and_trains_it_on_all_that_was_verified_so_far(tmp_path: Path) -> None:
    run = config(tmp_path)
    arm = hold(run, "rft", drawn(run))
    assert [len(step.members) for step in arm.steps] == [1, 1, 1]
    assert {step.members[0].engine for step in arm.steps} == {"ben"}
    adapters = [step.members[0].adapter for step in arm.steps]
    assert adapters[0] is None
    assert len(set(adapters)) == 3  # another one each generation
    # Two seats of two samples for each problem, and two councils of eight calls or so shared out over ten problems.
    assert arm.steps[1].num_samples >= 10 * 4
    right = {row.generation for row in rows_of(run, "rft", 1)}
    assert right == {0, 1}
    assert arm.steps[1].target == SPENT[0].total
    assert read_arm(arm_config(run, "rft").run_dir) == arm


def test_tokens_to_match_become_steps_over_rows_as_their_engine_counts_them(tmp_path: Path) -> None:
    run = config(tmp_path).model_copy(update={"training": LoraTraining(batch_size=2)})  # words are its tokens
    ask = Message(role="user", parts=(Part(text="one two three"),))
    rows = [TrainingRow(task_id=f"t{n}", task_type="sum", messages=(ask,), completion=" 4 ") for n in range(5)]
    # A row: three words and one, a role for each of two turns, and the end. Five rows are three steps, 35 tokens.
    target = Effort(steps=1, tokens=100)
    assert asyncio.run(in_steps(run, BEN, target, rows)) == Effort(steps=9, tokens=100)
    assert asyncio.run(in_steps(config(tmp_path), BEN, target, rows)) == target  # scripted training has no steps


def test_rft_equal_learns_as_rft_does(tmp_path: Path) -> None:
    run = config(tmp_path)
    problems = drawn(run)
    arm = hold(run, "rft-equal", problems)
    assert [[m.engine for m in step.members] for step in arm.steps] == [["ben"]] * 3
    assert {row.generation for row in rows_of(run, "rft-equal", 1)} == {0, 1}
    assert [step.num_samples for step in arm.steps] == [step.num_samples for step in hold(run, "rft", problems).steps]


def test_rft_equal_takes_the_model_that_rft_took(tmp_path: Path) -> None:
    run = config(tmp_path)
    problems = drawn(run)
    rft = hold(run, "rft", problems)
    ada = Member(name="ada", engine="ada", family="alpha")
    first = rft.steps[0].model_copy(update={"members": (ada,)})
    publish_json(arm_config(run, "rft").run_dir / ARM, rft.model_copy(update={"steps": (first, *rft.steps[1:])}))
    assert {m.engine for step in hold(run, "rft-equal", problems).steps for m in step.members} == {"ada"}


@pytest.mark.parametrize("before", ["rft", "rft-equal", None])
def test_rft_other_takes_the_model_that_rft_did_not(tmp_path: Path, before: ArmName | None) -> None:
    run = config(tmp_path)
    problems = drawn(run)
    if before is not None:
        assert {m.engine for m in hold(run, before, problems).steps[0].members} == {"ben"}
    arm = hold(run, "rft-other", problems)
    assert [[m.engine for m in step.members] for step in arm.steps] == [["ada"]] * 3
    assert {row.generation for row in rows_of(run, "rft-other", 1)} == {0, 1}


def test_rft_other_is_the_other_one_of_rft_equal_where_rft_took_another_still(tmp_path: Path) -> None:
    run = config(tmp_path)
    problems = drawn(run)
    equal = hold(run, "rft-equal", problems)
    ada = Member(name="ada", engine="ada", family="alpha")
    first = equal.steps[0].model_copy(update={"members": (ada,)})
    publish_json(arm_config(run, "rft").run_dir / ARM, equal.model_copy(update={"name": "rft", "steps": (first,)}))
    assert equal.steps[0].members[0].engine == "ben"
    assert hold(run, "rft-other", problems).steps[0].members[0].engine == "ada"


def test_rft_other_is_refused_where_there_is_no_other_model(tmp_path: Path) -> None:
    run = config(tmp_path)
    problems = drawn(run)
    alone = run.serving.model_copy(update={"engines": run.serving.engines[-1:]})
    with pytest.raises(ConfigError, match="rft-other: expected another model than 'ben'"):
        hold(run.model_copy(update={"serving": alone}), "rft-other", problems)


def test_naive_learns_whatever_its_seats_said_last_and_always_replaces_them(tmp_path: Path) -> None:
    run = config(tmp_path)
    problems = drawn(run)
    arm = hold(run, "naive", problems)
    assert [[m.engine for m in step.members] for step in arm.steps] == [["ada", "ben"]] * 3
    assert all(m.adapter is not None for step in arm.steps[1:] for m in step.members)
    rows = rows_of(run, "naive", 1)
    assert {row.generation for row in rows} == {1}
    answers = {p.task.id: p.reference for p in problems[0].of(Split.TRAIN)}
    wrong = [row for row in rows if answers[row.example.task_id] not in row.example.completion]
    assert wrong


def test_an_arm_cut_off_anywhere_ends_as_if_it_never_was(tmp_path: Path) -> None:
    run = config(tmp_path)
    problems = drawn(run)
    whole = hold(run, "rft", problems)
    again = config(tmp_path, run_dir=str(tmp_path / "cut"))
    for die_at in (1, 5, 9):
        with pytest.raises((CutOff, ExceptionGroup)):
            hold(again, "rft", problems, die_at=die_at)
    assert hold(again, "rft", problems) == whole


def test_an_arm_that_is_to_match_nothing_keeps_its_seat_and_says_why(tmp_path: Path) -> None:
    run = config(tmp_path)
    problems = drawn(run)
    nothing = tuple(Spent(generation=number) for number in range(1))

    async def work() -> RivalArm:
        one = arm_config(run, "rft")
        one.run_dir.mkdir(parents=True)
        with Judge() as judge:
            async with Lab(one, journal=Journal(one.run_dir), judge=judge, memory=None, observer=Silent()) as lab:
                return await hold_arm(lab, "rft", problems, nothing)

    arm = asyncio.run(work())
    assert arm.last.members == arm.steps[0].members
    assert "the mesh trained nothing" in arm.last.notes[0]


def test_what_a_run_spent_is_read_from_its_reports_without_placebos(tmp_path: Path) -> None:
    run = config(tmp_path)
    for name in ("g1-ada-own", "g1-ada-placebo", "g1-ben-own", "g1-ben-cross"):
        recipe = Recipe(
            name=name,
            base=name.split("-")[1],
            family="x",
            mix=("own_correct",),
            training=ScriptedTraining(),
            seed=1,
            placebo=name.endswith("placebo"),
        )
        row = TrainingRow(task_id="t", task_type="sum", messages=(), completion="7 and 8")
        out = run.run_dir / "generation-0" / "training" / name
        train_scripted(
            TrainingJob(base_name=recipe.base, base_dir="", recipe=recipe, rows=(row,), seed=1, out_dir=str(out))
        )
    spent = spent_by(run.run_dir, run, 2)
    assert {engine: effort.steps for engine, effort in spent[0].by_engine.items()} == {"ada": 4, "ben": 8}
    assert spent[1].by_engine == {}
