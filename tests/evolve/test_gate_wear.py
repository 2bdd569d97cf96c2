from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from evolve.gates.gate_wear import (
    GateWear,
    Holding,
    Level,
    WearConfig,
    WearLedger,
    holding,
    level_after,
    levels_of_gates,
    spending,
    wear_of,
)
from memory.ledger import AlreadyLocked, LedgerError

ITEMS = [f"k{n}" for n in range(10)]
SPEND, REFUSE = WearConfig(), WearConfig(policy="refuse", max_uses=2)


def worn(uses: int) -> GateWear:
    return wear_of(ITEMS, [holding("r", n, ITEMS, 3) for n in range(uses)])


def test_spending_adds_up_to_the_whole_level_and_never_more() -> None:
    total = math.fsum(spending(number) for number in range(1, 100_000))
    assert 0.9999 < total < 1.0
    assert spending(1) > 0.6


def test_wear_counts_holdings_that_share_an_item() -> None:
    holdings = [holding("a", 0, ["k1", "x"], 2), holding("b", 0, ["y"], 5), holding("a", 1, ITEMS[:4], 3)]
    assert wear_of(ITEMS, holdings) == GateWear(num_items=10, num_used=4, num_holdings=2, num_tests=5)


def test_a_holding_that_is_continued_does_not_wear_itself() -> None:
    holdings = [holding("a", 0, ITEMS, 3), holding("a", 1, ITEMS, 3)]
    assert wear_of(ITEMS, holdings, run="a", generation=1).num_holdings == 1


def test_fresh_items_have_the_whole_level() -> None:
    level = level_after(worn(0), 0.05, SPEND, will_reuse=False)
    assert (level.alpha, level.reason) == (0.05, "no gate was held on these items before")


def test_items_that_stay_spend_the_level_over_all_gates() -> None:
    levels = [level_after(worn(uses), 0.05, SPEND, will_reuse=True).alpha for uses in range(30)]
    assert levels[0] == pytest.approx(0.0304, abs=1e-4)
    assert sum(level for level in levels if level) < 0.05
    assert all(later < before for before, later in itertools.pairwise(levels) if before and later)
    reason = level_after(worn(1), 0.05, SPEND, will_reuse=True).reason
    assert reason == "1 earlier gate was held on 10 of these 10 items: the level is 0.0076 instead of 0.05"


def test_a_gate_is_refused_after_its_uses() -> None:
    assert level_after(worn(1), 0.05, REFUSE, will_reuse=True).alpha == 0.05
    refused = level_after(worn(2), 0.05, REFUSE, will_reuse=True)
    assert refused.alpha is None
    assert refused.reason == "2 earlier gates were held on 10 of these 10 items, the most is 2; give new tasks"


def test_wear_that_is_ignored_is_still_said() -> None:
    level = level_after(worn(3), 0.05, WearConfig(policy="ignore"), will_reuse=True)
    assert (level.alpha, level.reason.endswith("which the configuration ignores")) == (0.05, True)


def test_the_levels_of_gates_to_come_are_those_that_each_will_get() -> None:
    ahead = levels_of_gates(worn(1), 0.05, SPEND, will_reuse=True, num_gates=4)
    each = [level_after(worn(uses), 0.05, SPEND, will_reuse=True) for uses in (1, 2, 3, 4)]
    assert [(level.alpha, level.reason) for level in ahead] == [(level.alpha, level.reason) for level in each]
    fresh = levels_of_gates(worn(0), 0.05, SPEND, will_reuse=False, num_gates=3)
    assert [level.alpha for level in fresh] == [0.05] * 3
    refused = levels_of_gates(worn(0), 0.05, REFUSE, will_reuse=True, num_gates=4)
    assert [level.alpha for level in refused] == [0.05, 0.05, None, None]


def test_a_level_outside_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="expected alpha between 0 and 1"):
        level_after(worn(0), 1.0, SPEND, will_reuse=True)
    with pytest.raises(ValueError, match="at least 1"):
        spending(0)


def test_the_ledger_keeps_a_holding_once_and_no_question(tmp_path: Path) -> None:
    ledger = WearLedger(tmp_path / "gate.jsonl")
    assert ledger.holdings == ()
    first = holding("a", 0, ITEMS, 3)
    assert ledger.note(first)
    assert not ledger.note(first)
    assert ledger.note(holding("b", 0, ITEMS, 1))
    assert ledger.holdings == (first, holding("b", 0, ITEMS, 1))
    assert "k1" not in (tmp_path / "gate.jsonl").read_text()


def test_a_level_is_decided_and_the_holding_written_down_under_one_lock(tmp_path: Path) -> None:
    first, second = WearLedger(tmp_path / "gate.jsonl"), WearLedger(tmp_path / "gate.jsonl")

    def level_of(holdings: Sequence[Holding]) -> Level:
        return level_after(wear_of(ITEMS, holdings), 0.05, SPEND, will_reuse=True)

    def while_another_run_comes(holdings: Sequence[Holding]) -> Level:
        with pytest.raises(AlreadyLocked):
            second.decide(holding("b", 0, ITEMS, 1), level_of)
        return level_of(holdings)

    levels = [first.decide(holding("a", 0, ITEMS, 1), while_another_run_comes)]
    levels.append(second.decide(holding("b", 0, ITEMS, 1), level_of))
    assert [level.alpha for level in levels] == pytest.approx([0.05 * spending(1), 0.05 * spending(2)])
    assert [one.run for one in first.holdings] == ["a", "b"]


def test_a_gate_without_a_finalist_or_without_a_level_wears_nothing(tmp_path: Path) -> None:
    ledger = WearLedger(tmp_path / "gate.jsonl")
    ledger.decide(holding("a", 0, ITEMS, 0), lambda _: level_after(worn(0), 0.05, SPEND, will_reuse=True))
    ledger.decide(holding("a", 0, ITEMS, 2), lambda _: level_after(worn(2), 0.05, REFUSE, will_reuse=True))
    assert ledger.holdings == ()


def test_a_run_that_holds_a_generations_gate_on_other_items_is_an_error(tmp_path: Path) -> None:
    ledger = WearLedger(tmp_path / "gate.jsonl")
    ledger.note(holding("a", 0, ITEMS, 3))
    with pytest.raises(ValueError, match="generation 0 of run 'a' has held its gate on other items"):
        ledger.note(holding("a", 0, ITEMS[:3], 3))


def test_a_damaged_ledger_is_an_error(tmp_path: Path) -> None:
    ledger = WearLedger(tmp_path / "gate.jsonl")
    ledger.note(holding("a", 0, ITEMS, 3))
    path = tmp_path / "gate.jsonl"
    path.write_text(path.read_text().replace('"num_finalists":3', '"num_finalists":0'))
    with pytest.raises(LedgerError):
        _ = ledger.holdings
