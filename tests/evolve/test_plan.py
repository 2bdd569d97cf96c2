from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from evolve.config import RunConfig
from evolve.learning.recipes import CROSS, OWN
from evolve.planning.breeding import DISTINCT_SHARE, EXAMPLES_PER_PROBLEM, recipes_trained, rows_of
from evolve.planning.plan import Plan, StagePlan, plan_run
from evolve.planning.rates import Rates
from evolve.preflight import draw
from evolve.problems.splits import Split
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
            "seed": 1,
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


def compare(directory: Path, **more: object) -> tuple[Plan, dict[str, int], dict[str, int]]:
    """(the plan, output tokens by stage that the run really took, prompt tokens)."""
    one = config(directory, **more)
    plan = plan_run(one, draw(one))
    asyncio.run(run(one, Silent()))
    taken: dict[str, int] = {}
    read: dict[str, int] = {}
    for entry in Ledger(one.run_dir / "times.jsonl", readonly=True).entries():
        time = StageTime.model_validate(entry.payload)
        taken[time.stage] = taken.get(time.stage, 0) + time.output_tokens
        read[time.stage] = read.get(time.stage, 0) + time.prompt_tokens
    return plan, {stage: tokens for stage, tokens in taken.items() if tokens}, read


@pytest.mark.parametrize(
    "more",
    [
        # With controls in every generation: the gate is held also where no scripted candidate betters a seated one. The
        # seed is one in which a candidate comes as far as the gate each time, as the plan expects.
        {"gate": {"aa_every": 1}},
        {
            "recipes": {"min_rows": 4, "cross_family": True, "placebo": True},
            "gate": {"required": ["placebo", "budget"], "aa_every": 1},
            "evaluation": {"audit_councils_per_type": 4, "temperatures": [0.0, 0.7], "emergence_samples": 4},
        },
    ],
)
def test_the_plan_is_right_about_tokens_within_a_quarter_and_about_prompts_of_proposals_as_well(
    tmp_path: Path, more: dict[str, object]
) -> None:
    plan, taken, read = compare(tmp_path, **more)
    planned = {stage.stage: stage.output_tokens for stage in plan.stages}
    names = dict.fromkeys([*planned, *taken])
    shown = "\n".join(f"{name}: {planned.get(name, 0)} planned, {taken.get(name, 0)} taken" for name in names)
    assert plan.output_tokens == pytest.approx(sum(taken.values()), rel=0.25), shown
    assert plan.max_output_tokens >= sum(taken.values())
    # Councils talk less the more their members agree, so they only have an upper bound here.
    asked = [stage for stage in plan.stages if read.get(stage.stage) and "councils" not in stage.stage]
    assert sum(stage.prompt_tokens for stage in asked) == pytest.approx(sum(read[one.stage] for one in asked), rel=0.25)
    assert plan.prompt_tokens >= 0.9 * sum(read.values())


def test_every_stage_that_takes_tokens_is_in_the_plan_by_its_name(tmp_path: Path) -> None:
    plan, taken, _ = compare(tmp_path)
    planned = {stage.stage for stage in plan.stages}
    missing = [stage for stage in taken if stage not in planned and not any(w in stage for w in ONCE_IN_A_WHILE)]
    assert missing == []


def test_councils_of_critics_are_in_the_plan_by_their_names(tmp_path: Path) -> None:
    plan, taken, _ = compare(
        tmp_path,
        num_generations=1,
        recipes={"min_rows": 1, "own": False, "roles": ["synthesiser"], "placebo": True},
        gate={"required": ["placebo"], "aa_every": 1, "councils_per_type": 6},
    )
    planned = {stage.stage for stage in plan.stages}
    assert {"generation 0 dev councils before", "generation 0 dev councils g1-ada-synthesiser"} <= planned
    missing = [stage for stage in taken if stage not in planned and not any(w in stage for w in ONCE_IN_A_WHILE)]
    winner = "generation 0 dev councils again g1-"
    assert [stage for stage in missing if not stage.startswith(winner)] == []
    assert plan.max_output_tokens >= sum(taken.values())


def test_stages_are_planned_in_the_order_in_which_a_run_comes_to_them(tmp_path: Path) -> None:
    class Listening(Silent):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def stage(self, name: str, total: int, unit: str = "") -> None:
            self.heard.append(name)

    one, observer = config(tmp_path, num_generations=1), Listening()
    planned = [stage.stage for stage in plan_run(one, draw(one)).stages]
    asyncio.run(run(one, observer))
    heard = [name for name in observer.heard if name in planned]
    assert heard == sorted(heard, key=planned.index)
    assert heard[:2] == ["draw problems", "start engines"]
    assert {"generation 0 training", "generation 0 gate", "generation 0 dev again"} <= set(heard)


def test_the_winner_is_planned_to_be_measured_on_as_many_items_as_clusters_leave_for_it(tmp_path: Path) -> None:
    one = config(tmp_path, num_generations=1)
    problems = draw(one)

    def planned(size: int) -> int:
        clusters = {problem.task.id: "alike" for problem in problems.of(Split.DEV)[:size]}
        plan = plan_run(one, problems.model_copy(update={"clusters": clusters}), Rates())
        return sum(stage.num_calls for stage in plan.stages if stage.stage == "generation 0 dev again")

    num_dev = len(problems.of(Split.DEV))
    assert planned(0) == num_dev // 4 * 3 * one.evaluation.dev_samples_per_member
    assert planned(num_dev - 1) == 3 * one.evaluation.dev_samples_per_member
    assert planned(num_dev) == 0


def test_every_stage_counts_as_many_units_as_it_announced(tmp_path: Path) -> None:
    class Counting(Silent):
        def __init__(self) -> None:
            self.announced: list[tuple[str, int, str]] = []
            self.done: list[int] = []

        def stage(self, name: str, total: int, unit: str = "") -> None:
            self.announced.append((name, total, unit))
            self.done.append(0)

        def advance(self, units: int = 1) -> None:
            self.done[-1] += units

    observer = Counting()
    asyncio.run(run(config(tmp_path, num_generations=1), observer))
    counted = [(total, done) for (_, total, unit), done in zip(observer.announced, observer.done, strict=True) if unit]
    assert [total for total, _ in counted] == [done for _, done in counted]
    units = {name: unit for name, _, unit in observer.announced}
    assert units["generation 0 harvest"] == units["generation 0 gate"] == "ask"
    assert units["generation 0 training"] == "step"
    assert (units["start engines"], units["judge generation 0 harvest"]) == ("engine", "answer")
    assert {name for name, unit in units.items() if not unit} == {
        "draw problems",
        "check verifiers",
        "check contamination",
    }


def test_a_row_of_training_is_a_prompt_and_an_answer_and_no_longer_than_training_reads(tmp_path: Path) -> None:
    plain = with_a_base(tmp_path)
    tokens = training_of(plain).trained_tokens
    longer = plan_run(plain, draw(plain), Rates(prompt_scale=10 * Rates().prompt_scale))
    assert next(s for s in longer.stages if s.stage == "generation 0 training").trained_tokens > 2 * tokens
    short = with_a_base(tmp_path, max_length=16)
    assert training_of(short).trained_tokens < tokens


def test_of_what_two_families_said_alike_a_recipe_of_both_has_one_row(tmp_path: Path) -> None:
    plain = config(tmp_path, recipes={"min_rows": 1, "own": True, "cross_family": True})
    train = draw(plain).of(Split.TRAIN)
    rows = {
        recipe.mix: rows_of(recipe, plain, train, 0)
        for recipe in recipes_trained(plain, train, 0)
        if not recipe.placebo
    }
    own = rows[OWN]
    assert own == pytest.approx(EXAMPLES_PER_PROBLEM * len(train))
    assert rows[CROSS] == pytest.approx(2 * own * DISTINCT_SHARE)


def test_a_prompt_of_the_audit_is_read_once_however_often_the_best_answer_it(tmp_path: Path) -> None:
    one = config(tmp_path, num_generations=1)
    problems, rates = draw(one), Rates()
    (audit,) = (stage for stage in plan_run(one, problems, rates).stages if stage.stage == "audit proposals")
    items = problems.of(Split.AUDIT)
    once = sum(rates.prompt(item.task) for item in items) * 3  # two seats and a specialist
    assert audit.prompt_tokens == pytest.approx(once, rel=0.01)
    assert audit.num_calls == len(items) * (3 + 2) * one.evaluation.audit_samples_per_member


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


def with_a_base(directory: Path, **training: Any) -> RunConfig:
    """A run of one engine whose base has two matrices of 40 and 24 that adapters are trained on."""
    base = directory / "base"
    base.mkdir(exist_ok=True)
    matrices = {
        f"layers.{n}.{kind}.weight": np.zeros((40, 24), np.float32) for n in (0,) for kind in ("q_proj", "up_proj")
    }
    save_file(matrices | {"embed.weight": np.zeros((7, 24), np.float32)}, base / "m.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (base / name).write_text("{}")
    engine = {"kind": "vllm", "name": "v", "family": "f", "model": {"kind": "directory", "path": str(base)}}
    engine["max_lora_rank"] = 64
    more: dict[str, Any] = {"serving": {"engines": [engine]}, "training": {"kind": "lora", **training}}
    return config(directory, **more)


def training_of(config: RunConfig, number: int = 0, kind: str = "training") -> StagePlan:
    plan = plan_run(config, draw(config))
    return next(stage for stage in plan.stages if stage.stage == f"generation {number} {kind}")


def test_one_placebo_of_each_engine_is_planned_after_dev_as_large_as_the_dearest_recipe(tmp_path: Path) -> None:
    recipes = {"min_rows": 4, "per_task_type": True, "placebo": True}
    base = with_a_base(tmp_path)
    plain = config(tmp_path, recipes=recipes, serving=base.serving, training=base.training, num_generations=1)
    own = plain.model_copy(update={"recipes": plain.recipes.model_copy(update={"per_task_type": False})})
    twin, dearest = training_of(plain, kind="placebo training"), training_of(own)
    assert (twin.trained_tokens, twin.disk_bytes) == (dearest.trained_tokens, dearest.disk_bytes)
    stages = [stage.stage for stage in plan_run(plain, draw(plain)).stages]
    placebos = stages.index("generation 0 placebo training")
    assert stages[placebos - 1].startswith("generation 0 dev ")
    assert stages[placebos + 1] == "generation 0 gate"
    later = plain.model_copy(
        update={"num_generations": 2, "gate": plain.gate.model_copy(update={"required": ("budget",)})}
    )
    assert "generation 1 placebo training" not in [stage.stage for stage in plan_run(later, draw(later)).stages]


def test_adapters_take_disk_by_the_shapes_of_their_base_their_rank_and_twice(tmp_path: Path) -> None:
    weights = 4 * 16 * (2 * (40 + 24))
    stage = training_of(with_a_base(tmp_path))
    assert stage.disk_bytes == pytest.approx(2 * weights, rel=0.15)  # names and shapes come on top
    assert training_of(with_a_base(tmp_path, rank=64)).disk_bytes == pytest.approx(4 * stage.disk_bytes, rel=0.15)


def test_more_candidates_and_checkpoints_take_more_disk(tmp_path: Path) -> None:
    plain = with_a_base(tmp_path)
    more = plain.model_copy(update={"recipes": plain.recipes.model_copy(update={"mutations": 2})})
    assert training_of(more).disk_bytes == 3 * training_of(plain).disk_bytes
    passing = training_of(plain).passing_bytes
    assert passing == 3 * training_of(plain).disk_bytes  # weights and two moments, before and after
    without = plain.model_copy(update={"workers": plain.workers.model_copy(update={"checkpoint_steps": None})})
    assert training_of(without).passing_bytes == 0
    longer = plain.model_copy(update={"num_generations": 4})
    few, many = (plan_run(one, draw(plain)) for one in (plain, longer))
    assert many.disk_bytes - passing > 1.5 * (few.disk_bytes - passing)


def test_the_plan_is_right_about_the_disk_of_a_run_within_half(tmp_path: Path) -> None:
    one = config(tmp_path)
    plan = plan_run(one, draw(one))
    asyncio.run(run(one, Silent()))
    taken = sum(path.stat().st_size for path in one.run_dir.rglob("*") if path.is_file())
    assert plan.disk_bytes == pytest.approx(taken, rel=0.5)
