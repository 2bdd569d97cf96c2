from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from evolve.cli import app
from evolve.config import ConfigError, load_mesh
from evolve.learning.recipe_rows import TrainingRow
from evolve.learning.recipes import Recipe
from evolve.lineage import Lineage, Specialist, founders, successor
from evolve.problems.adding import add_problems
from evolve.problems.config import FileProblems, NumericVerifier
from evolve.problems.draw import draw_problems
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split
from evolve.studies.assess import Arm
from evolve.studies.assessing import assess_config
from evolve.studies.fresh_tasks import LeftOut
from evolve.studies.rival_arms import ARM, run_of
from evolve.studies.rival_methods import ArmStep, RivalArm
from evolve.studies.study import Spend, Study, StudyArm, arm_cost, break_even, compare_arms
from evolve.studies.studying import StudyOptions, asked_of, hourly_prices, investment_of, notes_of, rft_of, runs_behind
from evolve.training.config import ScriptedTraining
from evolve.training.job import TrainingJob
from evolve.training.scripted_train import scripted_shape, train_scripted
from memory.ledger import Ledger, publish_json
from mesh.types import Member
from serving.adapters import AdapterStore

CONFIG = """
name: study
run_dir: {directory}/out
serving:
  in_process: true
  engines:
    - {{kind: scripted, name: ada, family: alpha, skill: 0.3, adapter_gain: 0.6, price_per_hour: 2.0}}
    - {{kind: scripted, name: ben, family: beta, skill: 0.3, adapter_gain: 0.6, price_per_hour: 2.0}}
    - {{kind: scripted, name: old, family: gamma, skill: 0.4, price_per_hour: 4.0}}
"""


def arm(
    role: Any,
    name: str,
    right: int,
    money: float | None,
    n: int = 100,
    samples: int = 4,
    investment: float | None = 0.0,
) -> StudyArm:
    scores = tuple(float(index < right) for index in range(n))
    made = Arm(name=name, scores=scores, num_samples=samples)
    return StudyArm(role=role, arm=made, output_tokens=50.0, engine_seconds=1.0, money=money, investment=investment)


def test_what_a_correct_answer_costs_decides_when_evolution_is_paid() -> None:
    evolved = arm("evolved", "evolved mesh", 80, 0.08, investment=50.0)
    old = arm("baseline", "old", 50, 0.10)
    assert evolved.money_per_correct == pytest.approx(0.1)
    assert old.money_per_correct == pytest.approx(0.2)
    assert break_even(evolved, old) == pytest.approx(500.0)
    assert break_even(old, evolved) is None
    assert break_even(arm("evolved", "evolved mesh", 80, 0.08, investment=None), old) is None
    assert break_even(evolved, arm("baseline", "old", 0, 0.1)) is None


def test_what_was_trained_as_well_is_charged_its_own_training() -> None:
    evolved = arm("evolved", "evolved mesh", 80, 0.08, investment=50.0)
    assert break_even(evolved, arm("rft", "rft", 50, 0.10, investment=20.0)) == pytest.approx(300.0)
    assert break_even(evolved, arm("rft", "rft", 50, 0.10, investment=80.0)) == 0.0
    assert break_even(evolved, arm("rft", "rft", 50, 0.10, investment=None)) is None


def test_the_sentence_is_about_what_the_user_has_today_and_tells_what_is_shown() -> None:
    arms = [
        arm("evolved", "evolved mesh", 80, 0.08, investment=50.0), arm("single", "best single", 70, 0.02),
        arm("baseline", "old, 4 samples", 50, 0.10), arm("baseline", "old, asked once", 45, 0.02, samples=1),
    ]  # fmt: skip
    found = compare_arms(arms, budget=4)
    assert found.sentence.startswith(
        "The evolved mesh is right on 80% of 100 tasks and old, 4 samples on 50% (+30.0 points"
    )
    assert "it is better" in found.sentence
    assert "paid after 500 correct answers" in found.sentence
    same = compare_arms([arms[0], arm("baseline", "old", 79, None)], budget=4)
    assert "no difference is shown" in same.sentence
    alone = compare_arms(arms[:1], budget=4)
    assert "nothing to compare it with" in alone.sentence


def test_what_the_interval_alone_would_claim_is_not_said_to_be_shown() -> None:
    """Five won and none lost of a hundred: the interval leaves zero out, the exact test does not (p = .0625)."""
    found = compare_arms([arm("evolved", "evolved mesh", 45, 0.08), arm("baseline", "old", 40, 0.02)], budget=4)
    difference = found.results[1].difference
    assert difference is not None
    assert difference.low > 0.0
    assert not difference.is_clear
    assert "no difference is shown" in found.sentence


def test_near_duplicates_count_as_one_draw() -> None:
    """Ten questions, each ten times: what looks like a hundred tasks is ten."""
    arms = [arm("evolved", "evolved mesh", 60, None), arm("baseline", "old", 45, None)]
    alone = compare_arms(arms, budget=4).results[1]
    copied = compare_arms(arms, budget=4, clusters=[str(index // 10) for index in range(100)]).results[1]
    assert alone.difference is not None
    assert copied.difference is not None
    assert alone.difference.mean == copied.difference.mean == pytest.approx(0.15)
    assert alone.difference.is_clear
    assert not copied.difference.is_clear
    (low, high), (copied_low, copied_high) = alone.accuracy.interval or (0, 0), copied.accuracy.interval or (0, 0)
    assert copied_low < low < high < copied_high


def test_what_was_left_out_is_told_with_its_reason() -> None:
    def told(left_out: LeftOut) -> str:
        return compare_arms([arm("evolved", "e", 1, None)], budget=4, left_out=left_out).left_out_sentence

    assert told(LeftOut(num_same=4, num_near=3)) == (
        "7 tasks were left out: 4 because a run had them in TRAIN, DEV, GATE or a demonstration, 3 as near duplicates "
        "of such tasks."
    )
    assert told(LeftOut(num_same=4, num_near=None)).endswith(
        "near duplicates were not looked for (problems.near_duplicates: null)."
    )


def test_arms_of_different_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="same tasks"):
        compare_arms([arm("evolved", "e", 1, None), arm("single", "s", 1, None, n=50)], budget=4)
    with pytest.raises(ValueError, match="evolved mesh first"):
        compare_arms([arm("single", "s", 1, None)], budget=4)


def test_an_arm_has_a_price_only_where_all_its_members_have_one() -> None:
    spends = {
        "a": Spend(output_tokens=10, engine_seconds=1.0, price_per_hour=3600.0),
        "b": Spend(output_tokens=20, engine_seconds=2.0),
        "c": Spend(output_tokens=100, price_per_million_tokens=5.0),
    }
    assert arm_cost({"a": 2}, spends) == (20.0, 2.0, 2.0)
    assert arm_cost({"a": 1, "b": 1}, spends) == (30.0, 3.0, None)
    assert arm_cost({"c": 2}, spends)[2] == pytest.approx(0.001)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose second generation seats a specialist on ada; it took an hour."""
    directory = tmp_path / "run"
    recipe = Recipe(
        name="g1-ada-own", base="ada", family="alpha", mix=("own_correct",), training=ScriptedTraining(), seed=1
    )
    row = TrainingRow(task_id="t", task_type="sums", messages=(), completion="7")
    job = TrainingJob(
        base_name="ada", base_dir="", recipe=recipe, rows=(row,), seed=1, out_dir=str(directory / "training")
    )
    assert train_scripted(job).status == "ok"
    adapter = AdapterStore(directory / "adapters").admit(job.adapter_dir, scripted_shape("ada"), max_rank=16)
    bases = [Member(name=n, engine=n, family=f) for n, f in (("ada", "alpha"), ("ben", "beta"))]
    lineage, first = Lineage(directory / "generations.jsonl"), founders(bases)
    lineage.append(first)
    made = Specialist(
        name="g1-ada-own", engine="ada", family="alpha", adapter=adapter.hash, generation=1, recipe="g1-ada-own",
        data_digest="d", gate_digest="g",
    )  # fmt: skip
    seat = Member(name="g1-ada-own", engine="ada", family="alpha", adapter=adapter.hash)
    lineage.append(successor(first, [seat, bases[1]], [made]))
    Ledger(directory / "times.jsonl").append("stage", {"stage": "all", "seconds": 3600.0})
    return directory


def study(directory: Path, *more: str, text: str = CONFIG) -> Any:
    config, tasks = directory / "config.yaml", directory / "tasks.jsonl"
    config.write_text(text.format(directory=directory))
    rows = [{"question": f"What is {n} + {n % 7}?", "answer": str(n + n % 7)} for n in range(10, 90)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CliRunner().invoke(app, ["study", str(tasks), "-c", str(config), "--run", str(directory / "run"), *more])


def test_the_evolved_mesh_is_studied_against_all_one_could_have_done(tmp_path: Path, run: Path) -> None:
    done = study(tmp_path, "--baseline", "old", "--baseline-price", "10", "--rft", str(run), "--json")
    assert done.exit_code == 0, done.output
    found = Study.model_validate({k: v for k, v in json.loads(done.stdout).items() if k != "directory"})
    roles = [one.role for one in found.results]
    assert roles == ["evolved", "generation 0", "single", "self-consistency", "rft", "baseline", "baseline"]
    assert (found.num_tasks, found.budget) == (80, 4)
    assert found.investment == pytest.approx(4.0)  # the baseline's engine is not the run's
    assert {one.num_samples for one in found.results} == {4, 1}
    evolved, first = found.of("evolved"), found.of("generation 0")
    assert evolved is not None
    assert first is not None
    assert first.difference is not None
    assert first.difference.low > 0.0  # the specialist is much better than its base
    assert found.results[-1].money_per_correct is not None
    again = study(tmp_path, "--baseline", "old", "--baseline-price", "10", "--rft", str(run))
    assert again.stdout.startswith("The evolved mesh is right on ")
    told = " ".join(re.sub("[│┃]", " ", again.stdout).split())
    assert "tokens" in told
    assert f" {evolved.tokens_per_correct:.0f} " in told


def test_the_break_even_against_an_arm_that_was_trained_rests_on_the_difference(tmp_path: Path, run: Path) -> None:
    """RFT here took as much to train as the evolution, and asks the dear engine for all of its answers."""
    dear = CONFIG.replace("adapter_gain: 0.6, price_per_hour: 2.0", "adapter_gain: 0.6, price_per_hour: 300.0", 1)
    done = study(
        tmp_path, "--rft", str(run), "--json", text=dear.replace("skill: 0.3,", "skill: 0.3, latency_s: 0.01,", 1)
    )
    found = Study.model_validate({k: v for k, v in json.loads(done.stdout).items() if k != "directory"})
    rft = found.of("rft")
    assert rft is not None
    assert found.investment == pytest.approx(302.0)
    assert rft.break_even == 0.0


def test_without_a_configuration_the_run_s_own_engines_are_studied(tmp_path: Path, run: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(f'{{"question": "What is {n} + 1?", "answer": "{n + 1}"}}\n' for n in range(10, 40)))
    ask = ["study", str(tasks), "--run", str(run), "--json"]
    missing = CliRunner().invoke(app, ask)
    assert missing.exit_code == 2
    assert "expected a run with its config.yaml" in missing.stderr
    (run / "config.yaml").write_text(CONFIG.format(directory=tmp_path))
    done = CliRunner().invoke(app, ask)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["directory"].startswith(str(run / "study"))


def test_a_best_single_whose_name_begins_like_another_s_costs_what_it_costs_alone(tmp_path: Path) -> None:
    bases = [Member(name=name, engine=name, family=name) for name in ("small", "smaller")]
    Lineage(tmp_path / "run" / "generations.jsonl").append(founders(bases))
    engines = (
        "    - {{kind: scripted, name: small, family: alpha, skill: 0.05}}\n"
        "    - {{kind: scripted, name: smaller, family: beta, skill: 0.95, price_per_hour: 2.0}}\n"
    )
    done = study(tmp_path, "--json", text=CONFIG.partition("    - ")[0] + engines)
    assert done.exit_code == 0, done.output
    found = Study.model_validate({k: v for k, v in json.loads(done.stdout).items() if k != "directory"})
    single = found.of("single")
    assert single is not None
    assert single.name == "best single (smaller)"
    assert single.money_per_correct is not None  # the other one has no price


def own_tasks(directory: Path, run: Path) -> tuple[Path, SplitProblems]:
    """A file that the run learned from, to which six new tasks and a near duplicate of a TRAIN one were added."""
    path, more = directory / "own.jsonl", directory / "more.jsonl"
    rows = [{"question": f"What is {n} + {n % 7} in all?", "answer": n + n % 7} for n in range(10, 90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = FileProblems(path=path, verifier=NumericVerifier(), answer_kind="number")
    drawn = draw_problems(problems, 0)
    publish_json(run / "steps" / "problems-0123456789ab.json", drawn)
    settings = {"problems": problems.model_dump(mode="json"), "training": {"kind": "scripted"}}
    (run / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(CONFIG.format(directory=directory)) | settings))
    new = [{"question": f"What remains of {n} if {n % 9} are lost?", "answer": n - n % 9} for n in range(100, 106)]
    twin = {"question": drawn.of(Split.TRAIN)[0].task.question.replace("all", "all now"), "answer": 1}
    more.write_text("".join(json.dumps(row) + "\n" for row in [*new, twin]))
    assert add_problems(problems, more).num_added == 7
    return path, drawn


def test_of_the_run_s_own_file_which_was_added_to_what_the_run_never_had_is_studied(tmp_path: Path, run: Path) -> None:
    path, drawn = own_tasks(tmp_path, run)
    num_had = sum(len(drawn.of(split)) for split in (Split.TRAIN, Split.DEV, Split.GATE))
    ask = ["study", str(path), "--run", str(run)]
    done = CliRunner().invoke(app, [*ask, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["num_tasks"] == len(drawn.of(Split.AUDIT)) + 6
    assert (found["num_left_out"], found["num_near"]) == (num_had + 1, 1)
    told = " ".join(CliRunner().invoke(app, ask).stdout.split())
    assert f"{num_had + 1} tasks were left out: {num_had} because a run had them in TRAIN, DEV, GATE or" in told
    assert "1 as near duplicates of such tasks." in told


def test_a_study_of_nothing_new_says_why_nothing_is_left(tmp_path: Path, run: Path) -> None:
    path, drawn = own_tasks(tmp_path, run)
    known = tmp_path / "known.jsonl"
    train = [one.task.question for one in drawn.of(Split.TRAIN)[:2]]
    asked = [train[0], train[1].replace("What", "So what")]
    known.write_text("".join(json.dumps({"question": one, "answer": 1}) + "\n" for one in asked))
    done = CliRunner().invoke(app, ["study", str(known), "--run", str(run)])
    assert done.exit_code == 2
    assert "it had 1 itself, and 1 are near duplicates" in done.stderr
    assert "near_duplicates: null" in done.stderr
    assert path.with_name("own.deal.jsonl").is_file()


def test_arms_that_are_not_there_are_named_with_the_option_that_measures_them(tmp_path: Path, run: Path) -> None:
    rft, baseline = "RFT of the best single model was not measured", "Your present system was not measured"
    bare = " ".join(study(tmp_path).stdout.split())
    assert f"{rft}: the run has no finished arm rft. --train-rft trains it first, --rft DIRECTORY" in bare
    assert f"{baseline}: --baseline ENGINE names it" in bare
    notes = json.loads(study(tmp_path, "--baseline", "old", "--json").stdout)["notes"]
    assert any(rft in note for note in notes)
    assert not any(baseline in note for note in notes)
    assert f"{run} holds no judged proposals: tied votes of the evolved mesh fall to its earlier seat" in notes
    full = study(tmp_path, "--baseline", "old", "--rft", str(run))
    assert full.exit_code == 0, full.output
    assert "was not measured" not in full.stdout


def test_an_arm_in_which_nothing_was_trained_and_a_run_without_its_problems_are_told(run: Path) -> None:
    base = Lineage(run / "generations.jsonl").generations()[0].seats[:1]
    publish_json(
        run / "arms" / "rft" / ARM, RivalArm(name="rft", num_seats=2, steps=(ArmStep(number=0, members=base),))
    )
    notes = notes_of(StudyOptions(run=run, baseline="old"))
    assert "nothing was trained in" in notes[0]
    assert "left no record of its problems" in notes[1]


def test_an_arm_that_was_trained_since_makes_another_study_and_an_old_one_is_not_taken_for_it(
    tmp_path: Path, run: Path
) -> None:
    before = study(tmp_path, "--out", str(tmp_path / "held"))
    assert before.exit_code == 0, before.output
    assert study(tmp_path, "--out", str(tmp_path / "held")).exit_code == 0
    config, tasks, options = load_mesh(tmp_path / "config.yaml"), tmp_path / "tasks.jsonl", StudyOptions(run=run)
    asked = asked_of(config, tasks, options)
    seats = Lineage(run / "generations.jsonl").generations()[-1].seats
    steps = (ArmStep(number=1, members=seats[:1]),)
    publish_json(run / "arms" / "rft" / ARM, RivalArm(name="rft", num_seats=2, steps=steps))
    assert asked_of(config, tasks, options) != asked
    again = study(tmp_path, "--out", str(tmp_path / "held"))
    assert again.exit_code == 2
    assert "give another --out" in again.stderr


def test_the_tasks_of_the_run_behind_a_named_arm_are_left_out_as_well(tmp_path: Path, run: Path) -> None:
    arm = tmp_path / "other" / "arms" / "rft"
    seats = Lineage(run / "generations.jsonl").generations()[-1].seats
    publish_json(arm / ARM, RivalArm(name="rft", num_seats=2, steps=(ArmStep(number=1, members=seats[:1]),)))
    assert run_of(arm) == (tmp_path / "other").resolve()
    assert run_of(run) == run
    assert runs_behind(StudyOptions(run=run, rft=arm)) == (run.resolve(), (tmp_path / "other").resolve())
    assert runs_behind(StudyOptions(run=run, rft=run)) == (run.resolve(),)


def test_investment_counts_every_replica_of_the_run_s_engines_for_the_whole_time(tmp_path: Path, run: Path) -> None:
    study(tmp_path)
    config = load_mesh(tmp_path / "config.yaml")
    study_of = assess_config(config, tmp_path / "tasks.jsonl", tmp_path)
    assert investment_of(study_of, run) == pytest.approx(4.0)
    twice = [engine.model_copy(update={"replicas": 2}) for engine in study_of.serving.engines]
    serving = study_of.serving.model_copy(update={"engines": tuple(twice)})
    assert investment_of(study_of.model_copy(update={"serving": serving}), run) == pytest.approx(8.0)


def test_an_hour_of_an_engine_is_paid_for_with_all_its_replicas(tmp_path: Path, run: Path) -> None:
    study(tmp_path)
    serving = load_mesh(tmp_path / "config.yaml").serving
    assert hourly_prices(serving) == {"ada": 2.0, "ben": 2.0, "old": 4.0}
    first, *others = serving.engines
    engines = (
        first.model_copy(update={"replicas": 3}),
        *(one.model_copy(update={"price_per_hour": None}) for one in others),
    )
    assert hourly_prices(serving.model_copy(update={"engines": engines})) == {"ada": 6.0}


def test_the_run_s_own_prices_count_before_the_study_s(tmp_path: Path, run: Path) -> None:
    study(tmp_path)
    study_of = assess_config(load_mesh(tmp_path / "config.yaml"), tmp_path / "tasks.jsonl", tmp_path)
    own = CONFIG.format(directory=tmp_path).partition("    - {kind: scripted, name: old")[0]
    (run / "config.yaml").write_text(own.replace("price_per_hour: 2.0", "price_per_hour: 5.0", 1))
    assert investment_of(study_of, run) == pytest.approx(7.0)
    (run / "config.yaml").write_text(own.replace(", price_per_hour: 2.0", "", 1))
    assert investment_of(study_of, run) == pytest.approx(4.0)
    unpriced = [engine.model_copy(update={"price_per_hour": None}) for engine in study_of.serving.engines]
    serving = study_of.serving.model_copy(update={"engines": tuple(unpriced)})
    assert investment_of(study_of.model_copy(update={"serving": serving}), run) is None


def test_an_arm_is_charged_its_own_hours_on_its_run_s_engines_and_one_on_its_own_is_not_known(
    tmp_path: Path, run: Path
) -> None:
    study(tmp_path)
    study_of = assess_config(load_mesh(tmp_path / "config.yaml"), tmp_path / "tasks.jsonl", tmp_path)
    for arm_directory in (run / "arms" / "rft", tmp_path / "moved"):
        members = Lineage(run / "generations.jsonl").generations()[-1].seats[:1]
        publish_json(
            arm_directory / ARM, RivalArm(name="rft", num_seats=2, steps=(ArmStep(number=1, members=members),))
        )
        assert investment_of(study_of, arm_directory) is None
        Ledger(arm_directory / "times.jsonl").append("stage", {"stage": "all", "seconds": 1800.0})
    assert investment_of(study_of, run / "arms" / "rft") == pytest.approx(2.0)
    assert investment_of(study_of, tmp_path / "moved") is None


def test_a_seat_that_was_given_a_critic_is_not_drawn_a_second_time(tmp_path: Path, run: Path) -> None:
    """It keeps its name: what was drawn twice would be one proposer with twice the samples."""
    lineage = Lineage(run / "generations.jsonl").generations()
    critic = lineage[1].specialists[0].model_copy(update={"role": "critic"})
    ada = lineage[0].seats[0].model_copy(update={"phase_adapters": (("critique", critic.adapter),)})
    (run / "generations.jsonl").unlink()
    anew = Lineage(run / "generations.jsonl")
    anew.append(lineage[0])
    anew.append(successor(lineage[0], [ada, lineage[0].seats[1]], [critic]))
    done = study(tmp_path, "--json", "--out", str(tmp_path / "held"))
    assert done.exit_code == 0, done.output
    found = Study.model_validate({k: v for k, v in json.loads(done.stdout).items() if k != "directory"})
    assert {one.num_samples for one in found.results} == {4, 1}
    assert not (tmp_path / "held" / "study-specialists.parquet").exists()
    evolved, first = found.of("evolved"), found.of("generation 0")
    assert evolved is not None
    assert first is not None
    assert (evolved.accuracy, evolved.tokens_per_task) == (first.accuracy, first.tokens_per_task)


def test_a_run_s_own_arm_of_the_best_single_is_studied_without_being_named(run: Path) -> None:
    options = StudyOptions(run=run)
    assert rft_of(options) is None
    arm = run / "arms" / "rft"
    members = Lineage(run / "generations.jsonl").generations()[-1].seats
    publish_json(arm / ARM, RivalArm(name="rft", num_seats=2, steps=(ArmStep(number=1, members=members[:1]),)))
    assert rft_of(options) == (arm, members[:1])
    assert rft_of(StudyOptions(run=run, rft=run)) == (run, members[:1])  # a run with trained members will do as well
    with pytest.raises(ConfigError):
        rft_of(StudyOptions(run=run, rft=run / "nowhere"))


def test_training_the_best_single_needs_a_run_that_was_audited(tmp_path: Path, run: Path) -> None:
    done = study(tmp_path, "--train-rft")
    assert done.exit_code == 2
    assert "config.yaml" in done.stderr


def test_what_is_wrong_with_a_study_is_told_before_anything_is_spent(tmp_path: Path, run: Path) -> None:
    done = study(tmp_path, "--baseline", "remote:old")
    assert done.exit_code == 2
    assert "scripted:old" in done.stderr
    (run / "generations.jsonl").unlink()
    assert study(tmp_path).exit_code == 2
