from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolve.config import RunConfig, load_config
from evolve.gates.remeasure import expected_luck
from evolve.governance.claims import Claims, claims_of
from evolve.lineage import Lineage
from evolve.problems.sealed import SplitProblems
from evolve.problems.types import DrawReport
from memory.ledger import publish_json
from mesh.reliability import seat_key
from mesh.types import Member
from tests.evolve.judged_stages import judged_in
from tests.evolve.quick_run import quick_config, ran

BASE = Member(name="ada", engine="ada", family="alpha")
WINNER = Member(name="g1-ada-own", engine="ada", family="alpha", adapter="a" * 64)
LOSERS = [Member(name=f"g1-ada-{n}", engine="ada", family="alpha", adapter=str(n) * 64) for n in range(3)]


def config(**changed: Any) -> RunConfig:
    values: dict[str, Any] = {
        "name": "claims",
        "run_dir": "run",
        "serving": {"engines": [{"kind": "scripted", "name": "ada", "family": "alpha"}]},
        "problems": {"kind": "file", "path": "t"},
        "training": {"kind": "scripted"},
    }
    return RunConfig.model_validate(values | changed)


def low(claims: Claims) -> float:
    found = claims.promised(WINNER, "sums")
    assert found is not None
    return found


def test_what_the_winner_was_chosen_by_is_no_promise_where_it_was_measured_again(tmp_path: Path) -> None:
    judged_in(tmp_path, 0, "dev/again", [BASE, WINNER], right=60, first=500)
    plain = claims_of(tmp_path, config())
    judged_in(tmp_path, 0, "dev/screen", [WINNER, *LOSERS], right=100)
    judged_in(tmp_path, 0, "dev/rung-0", [WINNER], right=100, first=100)
    claims = claims_of(tmp_path, config())
    assert low(claims) == low(plain) == plain.fresh.accuracy(WINNER, "sums").low < 0.6
    assert claims.promised(WINNER, "poems") is None


def test_a_winner_that_was_never_measured_again_is_taken_at_less_than_it_was_chosen_by(tmp_path: Path) -> None:
    judged_in(tmp_path, 0, "dev/screen", [WINNER, *LOSERS], right=80)
    claims = claims_of(tmp_path, config())
    found = claims.chosen.accuracy(WINNER, "sums")
    assert low(claims) == pytest.approx(found.low - expected_luck(4, 100, found.mean * (1 - found.mean)))
    assert low(claims) < found.low - 0.03
    judged_in(tmp_path, 1, "dev/seats", [WINNER], right=100, first=200)  # who stays is decided there
    assert low(claims_of(tmp_path, config())) == low(claims)


def test_as_a_seat_it_is_measured_on_train_items_that_nobody_was_asked_before(tmp_path: Path) -> None:
    judged_in(tmp_path, 2, "harvest", [BASE], right=50, num_items=50)
    judged_in(tmp_path, 10, "harvest", [WINNER], right=90, num_items=100)  # the first fifty come again
    claims = claims_of(tmp_path, config())
    (row,) = [one for one in claims.fresh.answers if one.member.startswith(WINNER.name)]
    assert (row.num_judged, row.num_correct) == (50, 40)


def test_a_near_duplicate_of_an_item_that_was_asked_before_is_no_new_item(tmp_path: Path) -> None:
    judged_in(tmp_path, 0, "harvest", [BASE], right=1, num_items=1)
    judged_in(tmp_path, 1, "harvest", [WINNER], right=9, num_items=10, first=1)
    near = SplitProblems(report=DrawReport(source="t"), clusters={"t0": "c", "t1": "c"})
    publish_json(tmp_path / "steps" / "problems-0123456789ab.json", near)
    (row,) = [one for one in claims_of(tmp_path, config()).fresh.answers if one.member.startswith(WINNER.name)]
    assert row.num_judged == 9


CURRICULUM = {
    "kind": "reasoning_gym",
    "families": [{"name": "gcd", "levels": [{"min_numbers": 2}, {"min_numbers": 3}]}],
    "curriculum": {},
}


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ({}, True),
        ({"harvest": {"temperature": 0.9}, "deliberation": {"sampling": {"temperature": 0.9}}}, True),
        ({"harvest": {"temperature": 1.3}}, False),
        ({"problems": CURRICULUM}, False),
    ],
)
def test_harvests_that_ask_otherwise_than_dev_promise_nothing(
    tmp_path: Path, changed: dict[str, Any], counts: bool
) -> None:
    judged_in(tmp_path, 1, "harvest", [WINNER], right=90)
    assert (claims_of(tmp_path, config(**changed)).promised(WINNER, "sums") is not None) is counts


def test_a_run_leaves_what_its_specialists_are_promised_by(tmp_path: Path) -> None:
    ran(quick_config(tmp_path, num_generations=2))
    run = tmp_path / "run"
    seated = [one for one in Lineage(run / "generations.jsonl", readonly=True).generations()[1].seats if one.adapter]
    assert seated
    claims = claims_of(run, load_config(run / "config.yaml"))
    measured = {(row.member, row.task_type): row.num_judged for row in claims.fresh.answers}
    # Three DEV items were kept for it, and four of TRAIN were harvested in its first generation as a seat.
    assert [measured[seat_key(one), "sum"] for one in seated] == [3 + 4 * 2] * len(seated)
    assert {row.member for row in claims.chosen.answers} >= {seat_key(one) for one in seated}


def test_a_run_without_traces_promises_nothing(tmp_path: Path) -> None:
    assert claims_of(tmp_path, config()).promised(WINNER, "sums") is None
