from __future__ import annotations

from pathlib import Path

from evolve.planning.split_table import EXAMPLE_SIZES, split_line, split_table
from evolve.problems.splits import SplitShares


def test_a_larger_file_shows_a_smaller_gain_and_every_task_has_a_place() -> None:
    lines = [split_line(size, SplitShares()) for size in EXAMPLE_SIZES]
    assert [x.train + x.dev + x.gate + x.audit for x in lines] == list(EXAMPLE_SIZES)
    assert (lines[2].train, lines[2].dev, lines[2].gate, lines[2].audit) == (500, 150, 200, 150)
    shown = [x.smallest_gain for x in lines if x.smallest_gain is not None]
    assert shown == sorted(shown, reverse=True)
    assert 0.07 < (lines[2].smallest_gain or 0.0) < 0.10


def test_a_file_without_gate_items_shows_no_gain() -> None:
    line = split_line(10, SplitShares(train=1.0, dev=0.0, gate=0.0, audit=0.0))
    assert line.smallest_gain is None
    assert "| 10 | 10 | 0 | 0 | 0 | none |" in split_table([line])


def test_the_documentation_shows_the_table_as_it_is() -> None:
    table = split_table([split_line(size, SplitShares()) for size in EXAMPLE_SIZES])
    assert table.strip() in Path("docs/evolution.md").read_text(encoding="utf-8")
