"""What an estimate rests on: rates that were measured where there are any, and a plain word where there are none."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands.plan_table import print_plan
from evolve.config import ConfigError, RunConfig, dump_config
from evolve.planning.estimate import estimate, estimate_lines
from evolve.planning.rates import ASSUMED, SIMULATED, UNLIKE, Basis, Rates, assumed_for, basis_for, rates_from
from evolve.preflight import draw
from evolve.progress import StageTime
from memory.ledger import publish_json, read_json
from mesh.types import Completion, Deliberation, Exchange, Member, Message, Part, Task, Usage, Verdict
from tests.evolve.quick_run import ENGINES, quick_config, ran

MEMBER = Member(name="ada", engine="ada", family="alpha")


def trace(phase: str, texts: int, output: int, prompt: int) -> Deliberation:
    nothing = Verdict(answer=None, method="none")
    said = Exchange(
        member="ada", phase=phase, messages=(Message(role="user", parts=(Part(text="?"),)),),
        completions=(Completion(text="x", finish_reason="stop"),) * texts,
        usage=Usage(prompt_tokens=prompt, output_tokens=output, num_calls=1),
    )  # fmt: skip
    return Deliberation(
        id="d", task=Task(id="t", question="x" * 72), protocol="vote", seed=0, members=(MEMBER,),
        first_verdict=nothing, verdict=nothing, exchanges=(said,),
    )  # fmt: skip


def test_rates_are_read_off_times_and_traces_and_what_is_not_there_stays_assumed() -> None:
    times = [
        StageTime(stage="start engines", seconds=40.0),
        StageTime(stage="generation 0 harvest", seconds=10.0, output_tokens=500, prompt_tokens=1000),
        StageTime(stage="generation 0 gate", seconds=30.0, output_tokens=1500, prompt_tokens=200),
        StageTime(stage="generation 0 councils", seconds=20.0, output_tokens=200, prompt_tokens=3000),
        StageTime(stage="judge answers panel", seconds=99.0, output_tokens=1),
        StageTime(stage="generation 0 dev seats", seconds=0.1, output_tokens=900),  # too short to go by
    ]
    found = rates_from(Rates(), times, [trace("propose", 4, 40, 60)], [trace("critique", 1, 25, 200)])
    assert found.proposal_pace == pytest.approx(40.0 / (2000 / 110 + 1200 / 600))
    assert found.council_pace == pytest.approx(20.0 / (200 / 110 + 3000 / 600))
    assert found.start_s == 40.0
    assert found.tokens_per_answer == 10.0
    assert found.prompt_scale == pytest.approx(60 / (72 / 3 + 6))
    assert found.tokens_per_talk_prompt == 200.0
    assert found.tokens_per_critique == 25.0
    assert found.trained_tokens_per_s == Rates().trained_tokens_per_s
    assert rates_from(Rates(), [], [], []) == Rates()


def test_the_pace_of_a_long_stage_counts_all_its_parts_though_only_the_last_has_its_tokens() -> None:
    whole = StageTime(stage="generation 0 harvest", seconds=65.0, output_tokens=500, prompt_tokens=1000)
    parts = [
        StageTime(stage=whole.stage, seconds=30.0),
        StageTime(stage=whole.stage, seconds=30.0),
        whole.model_copy(update={"seconds": 5.0}),
    ]
    assert rates_from(Rates(), parts, [], []) == rates_from(Rates(), [whole], [], []) != Rates()


def real_config(directory: Path) -> RunConfig:
    """Engines whose speed nobody knows."""
    here = quick_config(directory)
    engine = {"kind": "vllm", "name": "v", "family": "f", "price_per_hour": 4.0}
    engine |= {"model": {"kind": "directory", "path": str(directory / "none")}}
    settings = here.model_dump(mode="json") | {"serving": {"engines": [engine]}, "training": {"kind": "lora"}}
    return RunConfig.model_validate(settings)


def test_hours_and_money_of_engines_that_nobody_measured_are_said_to_be_guesses(tmp_path: Path) -> None:
    config = real_config(tmp_path)
    basis = basis_for(config)
    assert basis.source.startswith(ASSUMED)
    assert (basis.is_measured, basis.spread, basis.training_spread) == (False, UNLIKE, UNLIKE)
    said = " ".join(estimate_lines(config, estimate(config, draw(config), basis)))
    assert "assumed from models of 135M and 270M weights on 2 CPU cores" in said
    assert "hours and money are guesses" in said
    assert said.startswith("It takes ")
    assert "without the adapters of v, whose weights are not here" in said
    simulated = quick_config(tmp_path)
    assert basis_for(simulated).source == SIMULATED
    assert "say nothing about models" in basis_for(simulated).sentence
    assert not basis_for(simulated).is_guess


def test_what_was_not_measured_is_told_as_a_span_and_what_was_as_one_number(tmp_path: Path) -> None:
    config = real_config(tmp_path)
    problems = draw(config)
    guessed = estimate(config, problems, Basis(spread=2.0, training_spread=3.0))
    training = sum(stage.seconds for stage in guessed.plan.stages if stage.stage.endswith(" training"))
    rest = guessed.plan.seconds - training
    assert (guessed.totals["seconds_low"], guessed.totals["seconds_high"]) == pytest.approx(
        (rest / 2 + training / 3, rest * 2 + training * 3)
    )
    assert guessed.totals["seconds"] == guessed.plan.seconds
    assert next(estimate_lines(config, guessed)).startswith(f"It takes {guessed.span.words};")
    out = io.StringIO()
    print_plan(Console(file=out, width=140), config, guessed)
    low, high = guessed.span.low / 60, guessed.span.high / 60
    (last,) = (line for line in out.getvalue().splitlines() if line.startswith("│ all"))
    assert f" {low:.0f} to {high:.0f} " in last
    known = estimate(config, problems, Basis(is_measured=True, is_training_measured=True))
    assert known.span.low == pytest.approx(known.plan.seconds)
    assert known.span.high == pytest.approx(known.plan.seconds)
    assert "It takes" not in " ".join(estimate_lines(config, known))


def test_a_run_goes_by_its_own_times_and_another_by_those_of_a_run_that_is_named(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    ran(config)
    own = basis_for(config)
    assert own.source == f"those of the run in {config.run_dir}"
    assert own.rates.tokens_per_answer != assumed_for(config).rates.tokens_per_answer
    other = real_config(tmp_path).model_copy(update={"run_dir": tmp_path / "other"})
    assert not basis_for(other).is_measured
    named = basis_for(other, config.run_dir)
    assert named.is_measured
    assert "that of training is assumed" in named.sentence
    assert (named.spread, named.training_spread) == (1.0, UNLIKE)
    assert own.spread == own.training_spread == 1.0
    changed = config.model_dump(mode="json")
    changed["serving"]["engines"][0]["skill"] = 0.9
    assert not basis_for(RunConfig.model_validate(changed)).is_measured  # its directory is another mesh's


def test_what_is_neither_an_assessment_nor_a_run_is_refused(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    for path in (tmp_path, tmp_path / "tasks.jsonl", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="expected an assessment"):
            basis_for(config, path)


def evomesh(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output + done.stderr
    return done.stdout


def test_an_assessment_beside_the_run_is_found_and_its_accuracy_is_taken_for_the_gate(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    path = tmp_path / "quick.yaml"
    path.write_text(dump_config(config))
    evomesh("assess", str(tmp_path / "tasks.jsonl"), "-c", str(path), "--items", "12", "--councils", "2")
    (look,) = config.run_dir.glob("assess/*")
    measured = read_json(look / "assessment.json")
    scores = measured["findings"]["mesh"]["scores"]
    found = json.loads(evomesh("estimate", str(path), "--json"))
    assert found["basis"]["source"] == f"those of the assessment in {look}"
    assert found["basis"]["accuracy"] == pytest.approx(sum(scores) / len(scores))
    assert found["bill"]["is_accuracy_measured"] is True
    assert "is measured" in evomesh("estimate", str(path)).replace("\n", " ")
    other_tasks = config.problems.model_copy(update={"path": tmp_path / "others.jsonl"})
    (tmp_path / "others.jsonl").write_text((tmp_path / "tasks.jsonl").read_text().replace(" + ", "+"))
    of_others = basis_for(config.model_copy(update={"problems": other_tasks}))
    assert (of_others.is_measured, of_others.accuracy, of_others.discordance) == (True, None, None)
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(dump_config(config.model_copy(update={"run_dir": tmp_path / "elsewhere"})))
    assert json.loads(evomesh("estimate", str(elsewhere), "--json"))["basis"]["is_measured"] is False
    named = json.loads(evomesh("estimate", str(elsewhere), "--measured", str(look), "--json"))
    assert named["basis"] == found["basis"]


def test_of_several_assessments_the_newest_of_the_same_engines_counts(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    path = tmp_path / "quick.yaml"
    path.write_text(dump_config(config))
    evomesh("assess", str(tmp_path / "tasks.jsonl"), "-c", str(path), "--items", "6", "--councils", "0")
    (look,) = config.run_dir.glob("assess/*")
    data = read_json(look / "assessment.json")
    for number, (name, engines) in enumerate((("newer", data["engines"]), ("others", "of another mesh"))):
        place = config.run_dir / "assess" / name / "assessment.json"
        place.parent.mkdir()
        publish_json(place, data | {"engines": engines})
        os.utime(place, (2e9 + number, 2e9 + number))
    assert basis_for(config).source.endswith("newer")


def test_prices_and_personas_do_not_make_other_engines(tmp_path: Path) -> None:
    dear = quick_config(
        tmp_path, serving={"in_process": True, "engines": [e | {"price_per_hour": 9.0} for e in ENGINES]}
    )
    ran(quick_config(tmp_path))
    assert basis_for(dear).is_measured
    assert Basis().sentence.startswith("Speeds are assumed")
