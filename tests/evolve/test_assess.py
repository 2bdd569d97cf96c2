from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands.assess import print_assessment
from evolve.config import RunConfig
from evolve.evaluate import Pool
from evolve.gates.gate import detectable_effect
from evolve.gates.gate_wear import GateWear, Level, spending
from evolve.gates.power import Assumed, detectable_conjunction
from evolve.judging.judge import Judge, Probe
from evolve.planning.plan import plan_assessment
from evolve.planning.rates import Rates
from evolve.problems.config import ExactVerifier, NumericVerifier
from evolve.problems.sealed import sealed
from evolve.problems.splits import Split
from evolve.problems.types import DrawReport, Problem, ProblemSet
from evolve.studies.advice import Advice, Assessment, advise, unfit
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
from evolve.studies.assessing import AssessOptions, choose_items, guess_problems, num_samples
from memory.types import content_hash
from mesh.types import Deliberation, Member, Proposal, Task, Verdict
from serving.traces import read_traces

CONFIG = """
name: look
run_dir: {directory}/run
serving:
  in_process: true
  engines:
    - {{kind: scripted, name: ada, family: alpha, skill: {ada}}}
    - {{kind: scripted, name: ben, family: beta, skill: {ben}}}
"""


def arm(name: str, right: int, n: int = 100) -> Arm:
    return Arm(name=name, scores=tuple(float(index < right) for index in range(n)))


def findings(**changes: Any) -> Findings:
    fields: dict[str, Any] = {
        "probes": (Probe(task_type="t", probe="reference", accepted=9, n=9),), "num_items": 100,
        "constant": arm("constant", 10), "alone": (arm("a", 40), arm("b", 35)), "single": arm("best single", 40),
        "consistency": arm("self-consistency", 45), "mesh": arm("mesh vote", 48), "ceiling": arm("any", 60),
        "reach": arm("reach", 75), "n_eff": 1.8, "discordance": 0.2, "num_gate": 400, "detectable": 0.07,
        "expected_examples": 80.0, "min_examples": 16,
    }  # fmt: skip
    return Findings(**(fields | changes))


def advice(**changes: Any) -> Advice:
    return advise(findings(**changes))


def test_with_room_and_a_gate_that_can_see_it_the_first_word_is_evolve() -> None:
    found = advice()
    assert found.evolve
    assert found.because == ()
    assert found.sentence.startswith("Evolve: the mesh has 48% right, the best of all samples 75%")
    assert "room for 27 points" in found.sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probes": (Probe(task_type="t", probe="reference", accepted=8, n=9),)}, "refuses the reference answer"),
        ({"probes": (Probe(task_type="t", probe="empty", accepted=1, n=9),)}, "accepts the empty answer in 1 of 9"),
        ({"probes": (Probe(task_type="t", probe="shuffled", accepted=5, n=9),)}, "accepts another item's reference"),
        ({"probes": (Probe(task_type="t", probe="echo", accepted=5, n=9),)}, "accepts the question itself"),
        ({"num_gate": 0, "detectable": None}, "leave no item for the gate"),
        ({"expected_examples": 3.2}, "about 3 verified examples, and a specialist needs 16"),
        ({"mesh": arm("mesh vote", 98)}, "nothing to gain: mesh vote is right on 98% already"),
        ({"constant": arm("constant", 47)}, "no way of asking is shown to beat a constant answer"),
        ({"detectable": 0.30}, "shows gains below 30 points in fewer than four cases of five, and there are only 27"),
        ({"detectable": None, "num_gate": 12}, "a whole gate of 12 items can show no gain of any size"),
        ({"night": Night(hours=14.0, output_tokens=1)}, "takes about 14.0 hours and a night has 10"),
    ],
)
def test_every_reason_not_to_is_told_in_the_first_sentence(changes: dict[str, Any], words: str) -> None:
    found = advice(**changes)
    assert not found.evolve
    assert found.sentence.startswith("Don't, because ")
    assert words in found.sentence


def test_all_reasons_are_kept_and_the_verifier_comes_first() -> None:
    found = advice(
        probes=(Probe(task_type="t", probe="empty", accepted=9, n=9),), expected_examples=0.0, reach=arm("reach", 48)
    )
    assert "the verifier accepts the empty answer" in found.sentence
    assert len(found.because) == 3


def test_a_high_constant_is_no_fault_of_the_verifier_but_is_told() -> None:
    probe = Probe(task_type="gcd", probe="'2'", accepted=4, n=10)
    assert unfit([probe]) == ()
    assert any("The constant '2' is right on 40% of gcd" in note for note in advice(probes=(probe,)).notes)


def test_what_can_be_copied_from_the_question_has_to_be_beaten_and_is_no_fault_of_the_verifier() -> None:
    probe = Probe(task_type="larger", probe="echo, parsed", accepted=12, n=26)
    assert unfit([probe]) == ()
    found = advice(probes=(probe,), copied=arm("copied from the question", 47))
    assert "beat copying from the question" in found.sentence
    assert any("right on 46% of larger" in note for note in found.notes)
    assert advice(copied=arm("copied from the question", 20)).evolve


def test_the_mesh_is_compared_with_one_member_asked_as_often() -> None:
    (note, *_) = advice(mesh=arm("mesh vote", 30), consistency=arm("self-consistency (a)", 50)).notes
    assert "one member asked again is better than a mesh" in note


def test_a_gain_beyond_the_discordance_is_told_with_the_items_that_have_to_differ_for_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    measured = findings(detectable=0.26, num_gate=45)
    found = Assessment(advice=advise(measured), findings=measured, rates=Rates(), engines="", tasks="")
    assert found.advice.evolve, "the room is 27 points"
    print_assessment(found, tmp_path)
    told = " ".join(capsys.readouterr().out.split())
    assert "a whole gate of 45 items can show 26;" in told
    assert "A whole gate of 45 items, of which 26% may differ, finds a gain of 26.0 points" in told


def test_the_intervals_that_are_told_take_near_duplicates_as_one_draw(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def table(**changes: Any) -> dict[str, str]:
        measured = findings(council=arm("council", 8, 16), council_vote=arm("first", 4, 16), **changes)
        print_assessment(
            Assessment(advice=advise(measured), findings=measured, rates=Rates(), engines="", tasks=""), tmp_path
        )
        told = capsys.readouterr().out
        rows = [" ".join(row.split()) for row in told.split("\n")]
        return {name: next(row for row in rows if f"│ {name} " in row) for name in ("mesh vote", "council")}

    alone = table(clusters=tuple(map(str, range(100))), council_clusters=tuple(map(str, range(16))))
    assert alone == table()
    assert ".38 to .58 (n=100)" in alone["mesh vote"]
    copies = table(clusters=tuple(str(i // 10) for i in range(100)), council_clusters=tuple("aaaabbbbccccdddd"))
    assert ".12 to .84 (n=100)" in copies["mesh vote"]
    assert "(n=16)" in copies["council"]
    assert copies["council"] != alone["council"]


def test_items_on_which_no_gate_may_be_held_any_more_speak_against_a_run() -> None:
    wear = GateWear(num_items=400, num_used=400, num_holdings=8, num_tests=8)
    refused = Level(alpha=None, wear=wear, reason="8 earlier gates were held, the most is 8; give new tasks")
    found = advice(detectable=None, gate_level=refused)
    assert found.sentence == f"Don't, because no gate may be held on these items any more: {refused.reason}."


def test_how_many_items_it_takes_is_told_where_there_are_too_few() -> None:
    found = advice(detectable=0.30, num_gate_needed=520)
    assert "about 520 GATE items would do" in found.sentence
    assert "take harder tasks" in advice(detectable=0.30).sentence


SEATS = [Member(name=name, engine=name, family=name) for name in "ab"]


def problem(task_id: str, reference: str = "7", verifier: Any = None) -> Problem:
    task = Task(id=task_id, question=f"{task_id}?", answer_kind="number", type="sums")
    return Problem(task=task, reference=reference, verifier=verifier or NumericVerifier(), key=task_id)


def pool_of(said: dict[str, dict[str, list[str | None]]]) -> Pool:
    """Task id to member to answers."""
    nothing = Verdict(answer=None, method="none")
    return Pool(
        Deliberation(
            id=f"{task}{member}", task=Task(id=task, question="?", answer_kind="number"), protocol="vote", seed=0,
            members=tuple(SEATS), first_verdict=nothing, verdict=nothing,
            proposals=tuple(
                Proposal(member=member, family=member, text=f"it is {answer}", answer=answer, sample=number)
                for number, answer in enumerate(answers)
            ),
        )
        for task, members in said.items()
        for member, answers in members.items()
    )  # fmt: skip


RIGHT = {("t", "7"): True, ("u", "7"): True}


def test_votes_are_taken_from_disjoint_samples() -> None:
    pool = pool_of({"t": {"a": ["7", "7", "8", "8"], "b": ["7", "8", "8", "8"]}})
    replicates = vote_replicates(pool, SEATS, [problem("t")], RIGHT, 2, [])
    assert replicates == [[1.0], [0.0]]
    assert flips(replicates) == 1.0
    assert flips(replicates[:1]) == 0.0


def test_any_right_is_a_ceiling_at_the_same_number_of_samples() -> None:
    pool = pool_of({"t": {"a": ["8", "8", "8", "7"], "b": ["9", "9", "9", None]}, "u": {"a": ["1"], "b": ["2"]}})
    problems = [problem("t"), problem("u")]
    assert any_right(pool, SEATS, problems, RIGHT, 2) == [0.5, 0.0]
    assert any_right(pool, SEATS, problems, RIGHT) == [1.0, 0.0]


def test_the_best_single_is_chosen_on_the_half_it_is_not_measured_on() -> None:
    lucky = {f"p{n}": {"a": ["7"], "b": ["8"]} for n in range(8)}
    problems = [problem(task) for task in lucky]
    single, vote, members = best_single(pool_of(lucky), SEATS, problems, {(task, "7"): True for task in lucky}, 4, [])
    assert single.name == "best single (a)"
    assert members == ("a",)
    assert single.mean == vote.mean == 1.0

    # Each member is right on one half alone: whoever is chosen on the other half is wrong here.
    half = {task: int(content_hash(task)[:2], 16) % 2 for task in lucky}
    split = {task: {"a": ["7" if half[task] else "8"], "b": ["8" if half[task] else "7"]} for task in lucky}
    single, _, members = best_single(pool_of(split), SEATS, problems, {(task, "7"): True for task in lucky}, 4, [])
    assert single.mean == 0.0
    assert sorted(members) == ["a", "b"]


def test_the_best_single_is_not_chosen_on_near_duplicates_of_what_it_is_measured_on() -> None:
    """Each member is right on all copies of one question alone, and the two questions are on two halves."""
    names = {int(content_hash(name)[:2], 16) % 2: name for name in ("one", "other", "third", "fourth")}
    copies = {f"p{n}": n % 2 for n in range(40)}
    said = {task: {"a": ["7" if side else "8"], "b": ["8" if side else "7"]} for task, side in copies.items()}
    problems, right = [problem(task) for task in copies], {(task, "7"): True for task in copies}
    clusters = [names[side] for side in copies.values()]
    assert best_single(pool_of(said), SEATS, problems, right, 1, clusters).alone.mean == 0.0
    assert best_single(pool_of(said), SEATS, problems, right, 1, []).alone.mean > 0.3  # what it would look like


def test_the_best_single_votes_over_no_more_samples_than_the_mesh_has() -> None:
    pool = pool_of({"t": {"a": ["7", "8", "8"], "b": ["8", "8", "8"]}})
    assert best_single(pool, SEATS, [problem("t")], RIGHT, 1, []).consistency == Arm(
        name="self-consistency (a)", scores=(1.0,), num_samples=1
    )
    assert best_single(pool, SEATS, [problem("t")], RIGHT, 3, []).consistency.scores == (0.0,)


def test_examples_are_counted_as_a_generation_would_keep_them() -> None:
    pool = pool_of({"t": {"a": ["7", "7", "7", "8"], "b": ["8"]}, "u": {"a": ["8"], "b": ["8"]}})
    assert expected_examples(pool, SEATS, [problem("t"), problem("u")], RIGHT, 40, 2, 4) == 20.0  # one wording


def test_examples_are_counted_over_as_many_samples_as_a_harvest_draws(tmp_path: Path) -> None:
    pool = pool_of({"t": {"a": ["8", "8", "7"], "b": ["8", "8", "8"]}})
    found = [expected_examples(pool, SEATS, [problem("t")], RIGHT, 40, 2, samples) for samples in (2, 3)]
    assert found == [0.0, 40.0]
    config = run_config(tmp_path)
    thirsty = config.model_copy(update={"harvest": config.harvest.model_copy(update={"samples_per_member": 11})})
    assert num_samples(thirsty, AssessOptions()) == 11


def test_an_items_reference_must_not_pass_for_anothers() -> None:
    with Judge() as judge:
        sound = [problem("t", "7"), problem("u", "7.0"), problem("v", "8")]
        assert [(p.accepted, p.n) for p in probe_shuffled(sound, judge)] == [(0, 3)]
        loose = [problem(one, str(n), NumericVerifier(tolerance=5.0)) for n, one in enumerate("tuv")]
        (probe,) = probe_shuffled(loose, judge)
        assert (probe.accepted, probe.n) == (3, 3)
        same = [problem(one, "yes", ExactVerifier()) for one in "tuv"]
        assert [(p.accepted, p.n) for p in probe_shuffled(same, judge)] == [(0, 0)]
        assert unfit(probe_shuffled(same, judge)) == ()


def tasks_file(directory: Path, count: int, answer: str | None = None) -> Path:
    path = directory / "my.jsonl"
    rows = [{"question": f"What is {n} + {n % 7}?", "answer": answer or str(n + n % 7)} for n in range(10, 10 + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def look(directory: Path, tasks: Path, ada: float, ben: float, *more: str) -> Any:
    config = directory / "config.yaml"
    config.write_text(CONFIG.format(directory=directory, ada=ada, ben=ben))
    return CliRunner().invoke(app, ["assess", str(tasks), "-c", str(config), *more])


def test_a_users_file_is_assessed_end_to_end_and_the_verdict_is_the_first_sentence(tmp_path: Path) -> None:
    tasks = tasks_file(tmp_path, 400)
    done = look(tmp_path, tasks, 0.35, 0.3, "--items", "60", "--councils", "4", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["advice"]["evolve"] is True
    assert found["advice"]["sentence"].startswith("Evolve: ")
    measured = found["findings"]
    assert measured["num_items"] == 60
    assert 50 < measured["num_gate"] < 110
    single = detectable_effect(measured["num_gate"], measured["discordance"], 0.05 / 3)
    assert single is not None
    assert measured["detectable"] > single  # of the whole gate, which is harder to pass
    first = Assumed(
        num_problems=measured["num_gate"],
        accuracy=sum(measured["mesh"]["scores"]) / 60,
        gain=0.0,
        discordance=measured["discordance"],
        alpha=measured["gate_level"]["alpha"],
        num_finalists=3,
    )
    assert first.alpha == pytest.approx(0.05 * spending(1)), "others will be held on this file"
    shown = detectable_conjunction(first, rounds=1000)
    assert shown is not None
    assert measured["detectable"] == pytest.approx(shown.assumed.gain, abs=1e-6)
    assert 1.0 <= measured["n_eff"] <= 2.0
    assert sum(measured["constant"]["scores"]) < sum(measured["mesh"]["scores"]) < sum(measured["reach"]["scores"])
    assert sum(measured["mesh"]["scores"]) <= sum(measured["ceiling"]["scores"]) <= sum(measured["reach"]["scores"])
    again = look(tmp_path, tasks, 0.35, 0.3, "--items", "60", "--councils", "4")
    assert again.exit_code == 0, again.output
    assert again.stdout.startswith("Evolve: ")
    assert "any member right" in again.stdout
    assert re.search(r"No two of \d+ tasks are near duplicates", again.stdout)


def test_the_first_thing_on_standard_output_is_the_verdict_also_of_a_fresh_look(tmp_path: Path) -> None:
    done = look(tmp_path, tasks_file(tmp_path, 120), 1.0, 1.0, "--items", "12", "--councils", "0")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Don't, because ")
    assert "12 items, " in done.stderr


@pytest.mark.parametrize(
    ("ada", "ben", "count", "answer", "words"),
    [
        (1.0, 1.0, 120, None, "nothing to gain"),
        (0.0, 0.0, 120, None, "nothing to learn from"),
        (0.35, 0.3, 40, None, "items can show"),
        (0.0, 0.0, 120, "77", "beat a constant answer"),
    ],
)
def test_bad_cases_are_told_not_to(
    tmp_path: Path, ada: float, ben: float, count: int, answer: str | None, words: str
) -> None:
    done = look(tmp_path, tasks_file(tmp_path, count, answer), ada, ben, "--items", "30", "--councils", "0", "--json")
    assert done.exit_code == 0, done.output
    advice = json.loads(done.stdout)["advice"]
    assert advice["evolve"] is False
    assert any(words in reason for reason in advice["because"]), advice["because"]


def test_a_file_that_is_none_ends_with_its_code(tmp_path: Path) -> None:
    bad = tmp_path / "my.jsonl"
    bad.write_text("not json\n")
    done = look(tmp_path, bad, 0.5, 0.5)
    assert done.exit_code == 2
    assert "EM-PROBLEMS" in done.stderr
    assert look(tmp_path, tmp_path / "none.jsonl", 0.5, 0.5).exit_code == 4


def run_config(directory: Path) -> RunConfig:
    engines = [{"kind": "scripted", "name": name, "family": name} for name in ("ada", "ben")]
    return RunConfig.model_validate(
        {
            "name": "x", "run_dir": directory, "serving": {"engines": engines}, "training": {"kind": "scripted"},
            "problems": {"kind": "file", "path": "t"},
        }
    )  # fmt: skip


@pytest.mark.parametrize(("engines", "seats_each"), [(2, 2), (1, 1), (2, 1)])
def test_the_mesh_and_one_member_asked_again_are_compared_at_equal_samples(
    tmp_path: Path, engines: int, seats_each: int
) -> None:
    tasks, config = tasks_file(tmp_path, 60), tmp_path / "config.yaml"
    text = CONFIG.format(directory=tmp_path, ada=0.4, ben=0.3)
    text = text if engines == 2 else text.partition("    - {kind: scripted, name: ben")[0]
    config.write_text(f"{text}seats_per_engine: {seats_each}\n")
    ask = ["assess", str(tasks), "-c", str(config), "--items", "12", "--councils", "0", "--json"]
    done = CliRunner().invoke(app, ask)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    measured = found["findings"]
    assert measured["mesh"]["num_samples"] == measured["consistency"]["num_samples"] == 2 * engines * seats_each
    assert any(note.startswith("At equal samples the mesh has") for note in found["advice"]["notes"])


def test_councils_are_held_on_all_types_of_tasks_alike(tmp_path: Path) -> None:
    tasks = tasks_file(tmp_path, 120)
    rows = [json.loads(line) for line in tasks.read_text().splitlines()]
    kinds = ("near", "far", "else")
    tasks.write_text("".join(json.dumps(row | {"type": kinds[n % 3]}) + "\n" for n, row in enumerate(rows)))
    done = look(tmp_path, tasks, 0.4, 0.3, "--items", "30", "--councils", "6")
    assert done.exit_code == 0, done.output
    [held] = (tmp_path / "run" / "assess").glob("*/councils.parquet")
    assert Counter(trace.task.type for trace in read_traces(held)) == dict.fromkeys(kinds, 2)


def test_an_assessment_of_one_engine_bills_no_councils_for_it_holds_none(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    serving = config.serving.model_copy(update={"engines": config.serving.engines[:1]})
    alone = config.model_copy(update={"serving": serving})
    names = [[s.stage for s in plan_assessment(one, [problem("t")], 2, 2, Rates())] for one in (config, alone)]
    assert names == [["start engines", "proposals", "councils"], ["start engines", "proposals"]]


def test_the_bill_of_councils_is_that_of_all_types_of_tasks_alike(tmp_path: Path) -> None:
    def of(kind: str, max_tokens: int) -> list[Problem]:
        one = problem(kind)
        task = one.task.model_copy(update={"type": kind})
        return [one.model_copy(update={"task": task, "max_tokens": max_tokens})] * 10

    def most(items: list[Problem]) -> int:
        return plan_assessment(run_config(tmp_path), items, 2, 2, Rates())[-1].max_output_tokens

    short, long = of("short", 10), of("long", 1000)
    assert most([*short, *long]) == most([short[0], long[0]]) > most(short)


def test_as_many_items_are_taken_as_fit_into_the_minutes_and_never_one_of_the_gate(tmp_path: Path) -> None:
    made = {
        split: tuple(problem(f"{split.value}-{n}") for n in range(200)) for split in Split
    }  # fmt: skip
    problems, config = sealed(ProblemSet(problems=made, report=DrawReport(source="test"))), run_config(tmp_path)
    budgets = [AssessOptions(minutes=minutes) for minutes in (1.0, 4.0, 6.0, 90.0)]
    counts = [len(choose_items(config, problems, options, Rates())) for options in budgets]
    assert counts == sorted(counts)
    assert counts[0] == 1  # the engines alone take longer than a minute; one item is the least there is to say
    assert 10 < counts[1] < counts[2] < 400
    assert counts[3] == 400
    chosen = choose_items(config, problems, AssessOptions(minutes=90.0))
    assert {item.task.id.split("-")[0] for item in chosen} == {"train", "dev"}
    assert len(choose_items(config, problems, AssessOptions(num_items=7))) == 7


def test_a_file_nobody_described_is_read_as_numbers_where_its_answers_are(tmp_path: Path) -> None:
    numbers = guess_problems(tasks_file(tmp_path, 30))
    assert (numbers.answer_kind, numbers.verifier.kind) == ("number", "numeric")
    words = guess_problems(tasks_file(tmp_path, 30, "tea"))
    assert (words.answer_kind, words.verifier.kind) == ("text", "exact")
