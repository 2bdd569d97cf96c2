"""What a run has cost, and the boundary at which another generation is no longer begun."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands.codes import code_of
from evolve.config import RunBudget, RunConfig, dump_config
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.planning.plan import plan_end, plan_generation
from evolve.planning.rates import Basis, assumed_for
from evolve.planning.spending import (
    BudgetTooSmall,
    Purse,
    Spent,
    check_budget,
    limit_in_the_way,
    planned,
    spent,
    spent_in,
)
from evolve.preflight import draw
from evolve.progress import Silent, StageTime
from tests.evolve.quick_run import quick_config, ran, steps_of

GIB = 2**30
NAMES = ("output_tokens", "hours", "flops", "disk_gib", "cost")


def test_spending_adds_up_all_stages_and_jobs_and_counts_idle_engines(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "a.json").write_bytes(b"\0" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "steps" / "a.json")
    times = [StageTime(stage=name, seconds=1800.0, output_tokens=n) for name, n in (("a", 10), ("b", 5))]
    found = spent(times, [1e9, 2e9], tmp_path, 2.0)
    assert found == Spent(output_tokens=15, hours=1.0, flops=3e9, disk_gib=1000 / GIB, cost=2.0)


def test_a_generation_has_spent_what_its_stages_took_whenever_they_were_held() -> None:
    stages = ["start engines", "generation 1 harvest", "generation 11 harvest", "start engines", "generation 1 gate"]
    times = [StageTime(stage=name, seconds=3600.0, output_tokens=10) for name in stages]
    assert spent_in(1, times, 5.0, 3.0) == Spent(output_tokens=20, hours=2.0, flops=5.0, cost=6.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_may_be_used_up_and_not_gone_over(name: str) -> None:
    total = Spent.model_validate({name: 230}) + Spent(output_tokens=0)
    assert limit_in_the_way(RunBudget.model_validate({name: 230}), total) == ""
    assert limit_in_the_way(RunBudget.model_validate({name: 229}), total) == name
    assert limit_in_the_way(RunBudget(), Spent(**dict.fromkeys(NAMES, 10**12))) == ""


def first_and_end(config: RunConfig) -> Spent:
    """What generation 0 and the audit after it are planned to take."""
    problems, rates = draw(config), assumed_for(config).rates
    return planned(config, [*plan_generation(config, problems, rates, 0), *plan_end(config, problems, rates, 1)])


@pytest.mark.parametrize("name", ["output_tokens", "hours", "disk_gib", "cost"])
def test_the_first_generation_is_begun_only_where_it_and_the_audit_are_planned_to_fit(
    tmp_path: Path, name: str
) -> None:
    config = quick_config(tmp_path)
    total = getattr(first_and_end(config), name)
    assert total > 0
    for factor, fits in ((1.01, True), (0.99, False)):
        limit: Any = int(total * factor) if name == "output_tokens" else total * factor
        limited = config.model_copy(update={"budget": RunBudget.model_validate({name: limit})})
        if fits:
            check_budget(limited, draw(limited), assumed_for(limited))
        else:
            with pytest.raises(BudgetTooSmall, match=rf"budget\.{name}: .* nothing was spent"):
                check_budget(limited, draw(limited), assumed_for(limited))


def test_a_limit_of_hours_that_is_too_small_says_what_the_hours_rest_on(tmp_path: Path) -> None:
    config = quick_config(tmp_path, budget={"hours": 1e-6})
    with pytest.raises(BudgetTooSmall, match="assumed from models of 135M and 270M weights on 2 CPU cores"):
        check_budget(config, draw(config), Basis())


def test_a_run_whose_budget_allows_no_generation_ends_before_it_begins_and_leaves_its_directory_free(
    tmp_path: Path,
) -> None:
    config = quick_config(tmp_path, num_generations=3, budget={"output_tokens": 1})
    for _ in range(2):
        with pytest.raises(BudgetTooSmall, match=r"budget\.output_tokens: .* got 1; nothing was spent") as caught:
            ran(config)
        found = code_of(caught.value)
        assert found is not None
        assert (found.name, found.exit) == ("EM-BUDGET-SMALL", 2)
    assert not (config.run_dir / "config.yaml").exists()
    assert not (config.run_dir / "audit").exists()
    enough = config.model_copy(update={"budget": RunBudget(output_tokens=10**6)})
    assert len(ran(enough).generations) == 4


def test_the_command_says_so_with_its_own_code_and_exit_status(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(dump_config(quick_config(tmp_path, budget={"output_tokens": 1})))
    for more in ([], ["--json"]):
        done = CliRunner().invoke(app, ["evolve", str(path), *more])
        assert done.exit_code == 2, done.output
        assert "error EM-BUDGET-SMALL: budget.output_tokens" in done.stderr


@pytest.mark.parametrize("name", ["output_tokens", "disk_gib"])
def test_a_limit_that_a_second_generation_would_exceed_ends_the_run_after_the_first(tmp_path: Path, name: str) -> None:
    config = quick_config(tmp_path, num_generations=2)
    total = getattr(first_and_end(config), name) * 1.05
    limit: Any = int(total) if name == "output_tokens" else total
    config = config.model_copy(update={"budget": RunBudget.model_validate({name: limit})})
    data = ran(config)
    assert data.evolution.num_generations == 1
    assert f"another generation would exceed budget.{name}" in data.evolution.stopped
    assert "audit-proposals" in steps_of(config.run_dir)
    assert ran(config) == data


def objection(directory: Path, so_far: list[float], **budget: float) -> str:
    """What a run says to another generation after those that took so many FLOPs, and an hour for the last."""
    directory.mkdir()
    config = quick_config(directory, budget=budget)

    async def work() -> str:
        lab = Lab(config, journal=Journal(config.run_dir), judge=Judge(), memory=None, observer=Silent())
        async with lab:
            lab.times.note(StageTime(stage=f"generation {len(so_far) - 1} harvest", seconds=3600.0))
            return await Purse(lab, draw(config)).objection(so_far)

    return asyncio.run(work())


def test_another_generation_is_expected_to_train_as_much_as_the_last(tmp_path: Path) -> None:
    """For bases without weights no operations are planned, so only those that were reported count here."""
    assert objection(tmp_path / "enough", [1e9, 3e9], flops=7e9) == ""
    told = objection(tmp_path / "short", [1e9, 3e9], flops=6.9e9)
    assert told == "another generation would exceed budget.flops (6.9e+09)"


def test_another_generation_is_expected_to_take_as_long_as_the_last(tmp_path: Path) -> None:
    assert objection(tmp_path / "enough", [0.0], hours=3.0) == ""
    told = objection(tmp_path / "short", [0.0], hours=1.9)
    assert told == "another generation would exceed budget.hours (1.9)"
