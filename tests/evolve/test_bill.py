from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from evolve.config import RunConfig
from evolve.gates.gate import detectable_effect
from evolve.planning.bill import bill_lines, bill_of, training_flops
from evolve.planning.disk import BaseSize, size_of
from evolve.planning.plan import Plan, StagePlan, plan_run
from evolve.planning.rates import Basis, Rates
from evolve.problems.config import ExactVerifier
from evolve.problems.sealed import SplitProblems, sealed
from evolve.problems.splits import Split
from evolve.problems.types import DrawReport, Problem, ProblemSet
from mesh.types import Task
from serving.config import DirectoryModel, ScriptedSpec, VllmSpec


def problems(count: int) -> SplitProblems:
    made = tuple(
        Problem(task=Task(id=str(n), question="?", type="sums"), reference="7", verifier=ExactVerifier(), key=str(n))
        for n in range(count)
    )
    return sealed(ProblemSet(problems={split: made for split in Split}, report=DrawReport(source="test")))


def config(engines: list[dict[str, Any]], **more: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"name": "x", "run_dir": "runs/x", "serving": {"engines": engines}, "problems": {"kind": "file", "path": "t"}}
        | more
    )


def scripted(**fields: Any) -> dict[str, Any]:
    return {"kind": "scripted", "name": "ada", "family": "alpha"} | fields


PLAN = Plan(
    stages=(
        StagePlan(stage="all", prompt_tokens=1500, output_tokens=500, trained_tokens=70, seconds=7200.0),
    ),
)  # fmt: skip


def model(directory: Path) -> Path:
    directory.mkdir()
    save_file(
        {
            "a.weight": np.zeros((30, 10), np.float32),
            "layers.0.q_proj.weight": np.zeros((12, 8), np.float32),
            "layers.0.q_norm.weight": np.zeros(9, np.float32),
        },
        directory / "m.safetensors",
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_text("{}")
    return directory


def test_weights_are_counted_from_the_headers_and_a_made_up_base_has_none(tmp_path: Path) -> None:
    source = DirectoryModel(path=model(tmp_path / "base"))
    found = size_of(VllmSpec(name="v", family="f", model=source), tmp_path)
    assert found == BaseSize(num_weights=405, adapted_width=20, num_adapted=1)
    gone = DirectoryModel(path=tmp_path / "none")
    assert size_of(VllmSpec(name="v", family="f", model=gone), tmp_path) is None
    made_up = size_of(ScriptedSpec(name="s", family="f"), tmp_path)
    assert made_up is not None
    assert made_up.num_weights == 0


def test_operations_follow_from_weights_and_tokens(tmp_path: Path) -> None:
    source = {"kind": "directory", "path": str(model(tmp_path / "base"))}
    run = config([{"kind": "vllm", "name": "v", "family": "f", "model": source}], num_generations=2)
    run = run.model_copy(update={"recipes": run.recipes.model_copy(update={"placebo": False})})
    bill = bill_of(run, problems(40), PLAN, Basis(), rounds=50)
    assert bill.inference_flops == pytest.approx(2 * 405 * (500 + 1500))
    assert bill.training_flops == pytest.approx(4 * 405 * 70)
    rows = 0.4 * 40 + 0.4 * 80  # one recipe on one engine, on all rows there are by then
    (one, *_) = problems(1).of(Split.TRAIN)
    row = Rates().prompt(one.task) + Rates().answer(one)
    assert plan_run(run, problems(40), Rates()).trained_tokens == pytest.approx(rows * 2 * row, abs=2)  # rounded


def test_without_the_weights_operations_are_not_known_and_a_server_s_are_not_trained(tmp_path: Path) -> None:
    gone = {"kind": "vllm", "name": "v", "family": "f", "model": {"kind": "directory", "path": str(tmp_path / "none")}}
    assert training_flops(config([gone]), 100.0) is None
    here = gone | {"model": {"kind": "directory", "path": str(model(tmp_path / "base"))}}
    server = {"kind": "remote", "name": "r", "family": "g", "base_url": "http://h/v1", "model": "m"}
    both = config([here, server])
    assert training_flops(both, 100.0) == 4 * 405 * 100.0
    assert bill_of(both, problems(9), PLAN, Basis(), rounds=50).inference_flops is None


def test_money_needs_a_price_of_every_engine_and_counts_replicas() -> None:
    training = {"kind": "scripted"}
    priced = config([scripted(price_per_hour=3.0, replicas=2)], training=training)
    bill = bill_of(priced, problems(9), PLAN, Basis(), rounds=50)
    assert (bill.engine_hours, bill.money) == (4.0, 12.0)
    mixed = config([scripted(price_per_hour=3.0), scripted(name="ben")], training=training)
    assert bill_of(mixed, problems(9), PLAN, Basis(), rounds=50).money is None
    assert "no engine has a price_per_hour" in " ".join(
        bill_lines(bill_of(mixed, problems(9), PLAN, Basis(), rounds=50))
    )


def test_the_gain_that_the_whole_gate_finds_falls_with_more_problems() -> None:
    run = config([scripted()], training={"kind": "scripted"})
    few, many = (bill_of(run, problems(count), PLAN, Basis(), rounds=200).detectable for count in (150, 1500))
    assert many is not None
    assert few is None or few.assumed.gain > many.assumed.gain
    assert bill_of(run, problems(5), PLAN, Basis(), rounds=50).detectable is None
    assert "finds no gain with 80% power" in " ".join(bill_lines(bill_of(run, problems(5), PLAN, Basis(), rounds=50)))


def test_a_gain_that_more_problems_have_to_differ_for_is_told_with_as_many() -> None:
    run = config([scripted()], training={"kind": "scripted"})
    bill = bill_of(run, problems(45), PLAN, Basis(), rounds=200)
    assert bill.detectable is not None
    gain = bill.detectable.assumed.gain
    assert gain > 0.25, "a fifth is expected to differ"
    assert f"of which {gain:.0%} may differ" in bill_lines(bill)[0]
    few_differ = bill_of(run, problems(45), PLAN, Basis(discordance=0.02), rounds=50)
    assert few_differ.expected is not None, "five points are possible where two differ now"


def test_the_same_run_has_the_same_bill() -> None:
    run = config([scripted()], training={"kind": "scripted"})
    assert bill_of(run, problems(200), PLAN, Basis(), rounds=100) == bill_of(
        run, problems(200), PLAN, Basis(), rounds=100
    )


def test_the_whole_gate_is_told_with_what_it_assumes_and_finds_less_than_a_single_test() -> None:
    run = config([scripted()], training={"kind": "scripted"})
    bill = bill_of(run, problems(300), PLAN, Basis(), rounds=500)
    assert bill.detectable is not None
    assert bill.detectable.assumed.gain > detectable_effect(300, 0.2, 0.05 / 3)
    (first, *_) = bill_lines(bill)
    assert "(the incumbents, its placebo and one more sample of the best incumbent beaten, no guard raised)" in first
    assert "accuracy of 50% is assumed" in first


def test_a_measured_accuracy_and_discordance_take_the_place_of_the_assumed_ones() -> None:
    run = config([scripted()], training={"kind": "scripted"})
    basis = Basis(is_measured=True, accuracy=0.9, discordance=0.3)
    bill = bill_of(run, problems(300), PLAN, basis, rounds=500)
    assert bill.detectable is not None
    assert bill.detectable.assumed.accuracy == 0.9
    gain = bill.detectable.assumed.gain
    assert bill.detectable.assumed.discordance == pytest.approx(0.2 - gain)  # no more than the mistakes there are
    assert "accuracy of 90% is measured" in bill_lines(bill)[0]
    for accuracy in (0.0, 1.0):  # nobody or everybody solves them: the rest of the estimate stands all the same
        assert bill_of(run, problems(300), PLAN, Basis(accuracy=accuracy), rounds=50).engine_hours == 2.0
