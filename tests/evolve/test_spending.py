"""What a run has cost, and the boundary at which another generation is no longer begun."""

from pathlib import Path

import pytest

from evolve.config import RunBudget
from evolve.progress import StageTime
from evolve.spending import Spent, another, spent

NOTHING = Spent()
GIB = 2**30


def test_spending_adds_up_all_stages_and_jobs_and_counts_idle_engines(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "a.json").write_bytes(b"\0" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "steps" / "a.json")
    times = [StageTime(stage=name, seconds=1800.0, output_tokens=n) for name, n in (("a", 10), ("b", 5))]
    found = spent(times, [1e9, 2e9], tmp_path, {"ada": 1.5, "ben": 0.5})
    assert found == Spent(output_tokens=15, hours=1.0, flops=3e9, disk_gib=1000 / GIB, cost=2.0)


def test_without_prices_nothing_costs_money(tmp_path: Path) -> None:
    assert spent([StageTime(stage="a", seconds=3600.0)], [], tmp_path, {}).cost == 0.0


@pytest.mark.parametrize("name", ["output_tokens", "hours", "flops", "disk_gib", "cost"])
def test_another_generation_may_use_up_a_limit_and_not_go_over_it(name: str) -> None:
    history = [Spent.model_validate({name: 100}), Spent.model_validate({name: 160})]
    reserve = Spent.model_validate({name: 10})
    assert another(history, RunBudget.model_validate({name: 230}), reserve).goes_on  # 160 + 60 + 10
    ruling = another(history, RunBudget.model_validate({name: 229}), reserve)
    assert not ruling.goes_on
    assert ruling.reason == f"another generation would exceed budget.{name} (229)"


def test_without_limits_a_run_goes_on_whatever_it_costs() -> None:
    huge = Spent(output_tokens=10**12, hours=1e6, flops=1e30, disk_gib=1e6, cost=1e9)
    assert another([NOTHING, huge], RunBudget(), huge).goes_on


def test_the_first_generation_is_begun_unless_the_end_of_the_run_alone_is_too_much() -> None:
    budget = RunBudget(output_tokens=100)
    assert another([NOTHING], budget, Spent(output_tokens=100)).goes_on
    assert not another([NOTHING], budget, Spent(output_tokens=101)).goes_on


def test_the_next_generation_is_expected_to_cost_what_the_last_one_did() -> None:
    budget = RunBudget(hours=10.0)
    dear_then_cheap = [Spent(hours=0.0), Spent(hours=6.0), Spent(hours=7.0)]
    cheap_then_dear = [Spent(hours=0.0), Spent(hours=1.0), Spent(hours=7.0)]
    assert another(dear_then_cheap, budget, NOTHING).goes_on
    assert not another(cheap_then_dear, budget, NOTHING).goes_on


def test_the_first_limit_that_stands_in_the_way_is_named_without_measured_numbers() -> None:
    both = RunBudget(output_tokens=5, hours=0.5)
    ruling = another([NOTHING, Spent(output_tokens=7, hours=0.7)], both, NOTHING)
    assert ruling.reason == "another generation would exceed budget.output_tokens (5)"
