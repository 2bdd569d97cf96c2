from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from evolve.config import RunConfig
from evolve.plan import Plan, plan_run
from evolve.preflight import draw
from evolve.progress import Silent, StageTime
from evolve.run import run
from memory.ledger import Ledger

ONCE_IN_A_WHILE = ("emergence", "internalisation", "top-up")


def config(directory: Path, **more: object) -> RunConfig:
    tasks = directory / "tasks.jsonl"
    rows = [
        {"question": f"{a} + {b} =", "answer": str(a + b), "type": "near" if b < 40 else "far"}
        for a in range(11, 41)
        for b in (30, 31, 32, 33, 50, 51, 52, 53)
    ]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engines = [
        {"kind": "scripted", "name": "ada", "family": "alpha", "skill": 0.35, "adapter_gain": 0.4},
        {"kind": "scripted", "name": "ben", "family": "beta", "skill": 0.3, "adapter_gain": 0.4},
    ]
    return RunConfig.model_validate(
        {
            "name": "planned",
            "run_dir": str(directory / "run"),
            "seed": 5,
            "num_generations": 2,
            "serving": {"in_process": True, "engines": engines},
            "problems": {"kind": "file", "path": str(tasks), "verifier": {"kind": "numeric"}, "answer_kind": "number"},
            "training": {"kind": "scripted"},
            "memory": {"enabled": False},
            "recipes": {"min_rows": 4},
            "harvest": {"problems_per_type": 12, "samples_per_member": 3, "councils_per_type": 4},
            "evaluation": {"audit_councils_per_type": 4, "emergence_samples": 4},
        }
        | more
    )


def compare(directory: Path, **more: object) -> tuple[Plan, dict[str, int]]:
    """(the plan, output tokens by stage that the run really took)."""
    one = config(directory, **more)
    plan = plan_run(one, draw(one))
    asyncio.run(run(one, Silent()))
    taken: dict[str, int] = {}
    for entry in Ledger(one.run_dir / "times.jsonl", readonly=True).entries():
        time = StageTime.model_validate(entry.payload)
        taken[time.stage] = taken.get(time.stage, 0) + time.output_tokens
    return plan, {stage: tokens for stage, tokens in taken.items() if tokens}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "recipes": {"min_rows": 4, "cross_family": True, "placebo": True},
            "gate": {"required": ["placebo", "budget"], "aa_every": 1},
            "evaluation": {"audit_councils_per_type": 4, "temperatures": [0.0, 0.7], "emergence_samples": 4},
        },
    ],
)
def test_the_plan_is_right_about_tokens_within_a_quarter(tmp_path: Path, more: dict[str, object]) -> None:
    plan, taken = compare(tmp_path, **more)
    planned = {stage.stage: stage.output_tokens for stage in plan.stages}
    names = dict.fromkeys([*planned, *taken])
    shown = "\n".join(f"{name}: {planned.get(name, 0)} planned, {taken.get(name, 0)} taken" for name in names)
    assert plan.output_tokens == pytest.approx(sum(taken.values()), rel=0.25), shown
    assert plan.max_output_tokens >= sum(taken.values())


def test_every_stage_that_takes_tokens_is_in_the_plan_by_its_name(tmp_path: Path) -> None:
    plan, taken = compare(tmp_path)
    planned = {stage.stage for stage in plan.stages}
    missing = [stage for stage in taken if stage not in planned and not any(w in stage for w in ONCE_IN_A_WHILE)]
    assert missing == []


def test_more_recipes_and_generations_cost_more(tmp_path: Path) -> None:
    few = config(tmp_path)
    problems = draw(few)
    many = few.model_copy(update={"recipes": few.recipes.model_copy(update={"cross_family": True})})
    assert plan_run(many, problems).output_tokens > plan_run(few, problems).output_tokens
    longer = few.model_copy(update={"num_generations": 4})
    assert plan_run(longer, problems).output_tokens > 1.5 * plan_run(few, problems).output_tokens


def test_a_recipe_without_enough_rows_is_not_counted(tmp_path: Path) -> None:
    none = config(tmp_path, recipes={"min_rows": 10_000})
    stages = [stage.stage for stage in plan_run(none, draw(none)).stages]
    assert "generation 0 dev seats" in stages
    assert "generation 0 dev screen" not in stages
