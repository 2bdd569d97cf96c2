from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from evolve.bill import bill_lines, bill_of, num_weights
from evolve.config import RunConfig
from evolve.plan import Plan, StagePlan
from evolve.problem_config import ExactVerifier
from evolve.problem_types import DrawReport, Problem, ProblemSet
from evolve.splits import Split
from mesh.types import Task
from serving.config import DirectoryModel, ScriptedSpec, VllmSpec


def problems(count: int) -> ProblemSet:
    made = tuple(
        Problem(task=Task(id=str(n), question="?", type="sums"), reference="7", verifier=ExactVerifier(), key=str(n))
        for n in range(count)
    )
    return ProblemSet(problems={split: made for split in Split}, report=DrawReport(source="test"))


def config(engines: list[dict[str, Any]], **more: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"name": "x", "run_dir": "runs/x", "serving": {"engines": engines}, "problems": {"kind": "file", "path": "t"}}
        | more
    )


def scripted(**fields: Any) -> dict[str, Any]:
    return {"kind": "scripted", "name": "ada", "family": "alpha"} | fields


PLAN = Plan(
    stages=(StagePlan(stage="all", num_calls=10, output_tokens=500, seconds=7200.0),), disk_bytes=0,
    num_gate_problems=9, detectable_effect=None, expected_discordance=0.2,
)  # fmt: skip


def model(directory: Path) -> Path:
    directory.mkdir()
    save_file(
        {"a.weight": np.zeros((30, 10), np.float32), "norm": np.zeros(5, np.float32)}, directory / "m.safetensors"
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_text("{}")
    return directory


def test_weights_are_counted_from_the_headers_and_a_made_up_base_has_none(tmp_path: Path) -> None:
    source = DirectoryModel(path=model(tmp_path / "base"))
    assert num_weights(VllmSpec(name="v", family="f", model=source), tmp_path) == 305
    gone = DirectoryModel(path=tmp_path / "none")
    assert num_weights(VllmSpec(name="v", family="f", model=gone), tmp_path) is None
    assert num_weights(ScriptedSpec(name="s", family="f"), tmp_path) is None


def test_operations_follow_from_weights_and_tokens(tmp_path: Path) -> None:
    source = {"kind": "directory", "path": str(model(tmp_path / "base"))}
    run = config([{"kind": "vllm", "name": "v", "family": "f", "model": source}], num_generations=2)
    bill = bill_of(run, problems(40), PLAN, rounds=50)
    assert bill.inference_flops == pytest.approx(2 * 305 * (500 + 10 * 150))
    rows = 0.4 * 40 + 0.4 * 80  # one recipe on one engine, on all rows there are by then
    assert bill.training_flops == pytest.approx(4 * 305 * rows * 2 * 150)


def test_money_needs_a_price_of_every_engine_and_counts_replicas() -> None:
    training = {"kind": "scripted"}
    priced = config([scripted(price_per_hour=3.0, replicas=2)], training=training)
    bill = bill_of(priced, problems(9), PLAN, rounds=50)
    assert (bill.engine_hours, bill.money) == (4.0, 12.0)
    mixed = config([scripted(price_per_hour=3.0), scripted(name="ben")], training=training)
    assert bill_of(mixed, problems(9), PLAN, rounds=50).money is None
    assert "no engine has a price_per_hour" in " ".join(bill_lines(bill_of(mixed, problems(9), PLAN, rounds=50)))


def test_the_gain_that_the_whole_gate_finds_falls_with_more_problems() -> None:
    run = config([scripted()], training={"kind": "scripted"})
    few, many = (bill_of(run, problems(count), PLAN, rounds=200).detectable for count in (150, 1500))
    assert many is not None
    assert few is None or few.assumed.gain > many.assumed.gain
    assert bill_of(run, problems(5), PLAN, rounds=50).detectable is None
    assert "finds no gain with 80% power" in " ".join(bill_lines(bill_of(run, problems(5), PLAN, rounds=50)))


def test_the_same_run_has_the_same_bill() -> None:
    run = config([scripted()], training={"kind": "scripted"})
    assert bill_of(run, problems(200), PLAN, rounds=100) == bill_of(run, problems(200), PLAN, rounds=100)
