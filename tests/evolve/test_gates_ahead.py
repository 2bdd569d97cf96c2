"""What is told of a run's gates before it: at what level each works, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolve.config import RunConfig
from evolve.gates.gate_wear import WearLedger, holding, run_of, spending, wear_path
from evolve.gates.power import detectable_conjunction
from evolve.identity import identity_of
from evolve.planning.bill import Bill, bill_lines, bill_of
from evolve.planning.gates_ahead import assumed_gate, later_gates, level_sentence, planned_levels
from evolve.planning.plan import Plan, StagePlan
from evolve.planning.rates import Basis
from evolve.problems.config import ExactVerifier
from evolve.problems.sealed import SplitProblems, sealed
from evolve.problems.splits import Split
from evolve.problems.types import DrawReport, Problem, ProblemSet
from memory.ledger import LedgerError
from mesh.types import Task

PLAN = Plan(stages=(StagePlan(stage="all", seconds=60.0),))


def problems(count: int, clusters: dict[str, str] | None = None) -> SplitProblems:
    made = tuple(
        Problem(task=Task(id=str(n), question="?", type="sums"), reference="7", verifier=ExactVerifier(), key=str(n))
        for n in range(count)
    )
    held = {split: made for split in Split}
    return sealed(ProblemSet(problems=held, report=DrawReport(source="test"), clusters=clusters or {}))


def config(directory: Path, **more: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "x",
            "run_dir": str(directory / "run"),
            "num_generations": 3,
            "serving": {"engines": [{"kind": "scripted", "name": "ada", "family": "alpha"}]},
            "problems": {"kind": "file", "path": str(directory / "tasks.jsonl")},
            "training": {"kind": "scripted"},
        }
        | more
    )


def wear(settings: RunConfig, run: str, count: int, num_items: int = 400) -> None:
    """So many gates that `run` has held on all items."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    ledger = WearLedger(wear_path(settings.problems, settings.run_dir))
    for number in range(count):
        ledger.note(holding(run, number, [str(n) for n in range(num_items)], 1))


def alphas(settings: RunConfig) -> list[float | None]:
    return [level.alpha for level in planned_levels(settings, problems(400))]


def bill(settings: RunConfig, count: int = 400, rounds: int = 200) -> Bill:
    return bill_of(settings, problems(count), PLAN, Basis(), rounds=rounds)


def test_the_gates_of_a_file_work_at_the_levels_that_the_run_will_give_them(tmp_path: Path) -> None:
    assert alphas(config(tmp_path)) == pytest.approx([0.05 * spending(number) for number in (1, 2, 3)])


def test_fresh_problems_leave_every_gate_the_whole_level(tmp_path: Path) -> None:
    gym = {"kind": "reasoning_gym", "families": [{"name": "chain_sum"}]}
    settings = config(tmp_path, problems=gym)
    assert alphas(settings) == [0.05] * 3
    found = bill(settings)
    assert (found.level, found.later) == (None, ())
    assert level_sentence(found.level, found.later) == ""


def test_what_other_runs_wore_of_the_file_counts_and_what_this_run_held_itself_does_not(tmp_path: Path) -> None:
    settings = config(tmp_path)
    wear(settings, "another:0", 2)
    assert alphas(settings) == pytest.approx([0.05 * spending(number) for number in (3, 4, 5)])
    wear(settings, run_of(settings.name, identity_of(settings.run_dir)), 1)
    assert alphas(settings) == pytest.approx([0.05 * spending(number) for number in (3, 4, 5)])


def test_to_look_ahead_draws_no_identity_and_writes_nothing(tmp_path: Path) -> None:
    alphas(config(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_of_earlier_gates_is_found_before_the_run(tmp_path: Path) -> None:
    settings = config(tmp_path)
    wear(settings, "another:0", 1)
    path = wear_path(settings.problems, settings.run_dir)
    path.write_text(path.read_text().replace('"num_finalists":1', '"num_finalists":0'))
    with pytest.raises(LedgerError):
        planned_levels(settings, problems(400))


def test_the_bill_tells_the_gain_that_the_first_gate_shows_at_its_own_level(tmp_path: Path) -> None:
    settings = config(tmp_path)
    found, whole = bill(settings), bill(config(tmp_path, gate={"wear": {"policy": "ignore"}}))
    assert found.detectable is not None
    assert whole.detectable is not None
    assert found.detectable.assumed.alpha == pytest.approx(0.05 * spending(1))
    assert found.detectable.assumed.gain > whole.detectable.assumed.gain
    wear(settings, "another:0", 1)
    worn = bill(settings)
    assert worn.detectable is not None
    assert worn.detectable.assumed.gain > found.detectable.assumed.gain
    assert "1 earlier gate was held on 400 of these 400 items: the level is 0.0076" in bill_lines(worn)[1]


def test_the_later_gates_are_told_in_one_line(tmp_path: Path) -> None:
    found = bill(config(tmp_path))
    assert [one.generation for one in found.later] == [1, 2]
    gains = [one.gain or 0.0 for one in found.later]
    assert found.detectable is not None
    assert found.detectable.assumed.gain < gains[0] < gains[1]
    assert bill_lines(found)[1] == (
        "Generation 0: no gate was held on these items before, and others will be: the level is 0.03 instead of 0.05. "
        f"Generation 1's gate works at level 0.0076 and finds a gain of {100 * gains[0]:.1f} points. "
        f"Generation 2's gate works at level 0.0034 and finds a gain of {100 * gains[1]:.1f} points."
    )


def test_of_many_gates_the_next_two_and_the_last_are_told(tmp_path: Path) -> None:
    settings = config(tmp_path, num_generations=30)
    found = bill(settings, rounds=50).later
    assert [one.generation for one in found] == [1, 2, 29]


def test_a_gate_that_will_be_refused_is_told_once_and_one_that_is_refused_at_once_shows_nothing(tmp_path: Path) -> None:
    settings = config(tmp_path, gate={"wear": {"policy": "refuse", "max_uses": 1}})
    found = bill(settings)
    assert found.level is None
    assert [(one.generation, one.gain) for one in found.later] == [(1, None)]
    assert "Generation 1's gate may not be held any more (1 earlier gate was held" in bill_lines(found)[1]
    wear(settings, "another:0", 1)
    refused = bill(settings)
    assert (refused.detectable, refused.expected, refused.later) == (None, None, ())
    first, second, *_ = bill_lines(refused)
    assert first == "The gate may not be held, so nothing can be seated."
    assert second.endswith("the most is 1; give new tasks.")


def test_near_duplicates_count_as_one_draw_before_a_gate_was_held(tmp_path: Path) -> None:
    settings = config(tmp_path)
    level = planned_levels(settings, problems(400))[0]
    fives = problems(400, {str(n): str(n // 5) for n in range(400)})
    uneven = problems(400, {str(n): "one" for n in range(40)})  # the others stand alone
    gates = [assumed_gate(settings, some, level, 0.5) for some in (problems(400), fives, uneven)]
    effects = [gate.design_effect for gate in gates if gate is not None]
    assert effects == pytest.approx([1.0, 5.0, (40 * 40 + 360) / 400])
    shown = [detectable_conjunction(gate, rounds=200) for gate in gates if gate is not None]
    assert shown[0] is not None
    assert shown[1] is None or shown[1].assumed.gain > shown[0].assumed.gain
    many = problems(1000, {str(n): "one" for n in range(40)})
    told = bill_lines(bill_of(settings, many, PLAN, Basis(), rounds=200))
    assert told[0].startswith("With 1000 GATE problems (worth 391 that stand alone, for near duplicates), of which")


def test_without_a_gate_or_an_item_there_is_nothing_ahead(tmp_path: Path) -> None:
    settings = config(tmp_path)
    levels = planned_levels(settings, problems(0))
    assert assumed_gate(settings, problems(0), levels[0], 0.5) is None
    assert later_gates(None, levels, rounds=10, seed=0) == ()
