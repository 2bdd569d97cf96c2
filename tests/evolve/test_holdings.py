"""What a report says of memory: counts by kind and state, worth against the hold-out, one story, and the page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evolve.report.data import MemoryView, ReportData
from evolve.report.holdings import STATES, Holdings, holdings_of
from evolve.report.page import render
from evolve.report.trust_plot import trust_plot
from memory.store import Memory
from memory.types import Kind, Namespace, Use
from tests.memory.doubles import APPLES, EMBEDDER, HERE, PEARS, failed, note, solved, use


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", EMBEDDER) as found:
        yield found


def page_of(holdings: Holdings) -> str:
    view = MemoryView(experiences=(("problem", 1),), holdings=holdings)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return render(ReportData(run="r", config="", started_at=now, headline_method="vote", memory=view))


def test_it_counts_by_kind_and_state_and_only_where_it_is_told_to_look(memory: Memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    memory.remember(*failed(APPLES, "9"))
    memory.remember(*solved(PEARS, "6", namespace=Namespace(team="others")))
    (pattern,) = memory.remember([note(Kind.PATTERN, "add")])
    memory.retire(pattern, "vague")
    found = holdings_of(memory, HERE)
    counts = {row.kind: dict(zip(STATES, row.counts, strict=True)) for row in found.kinds}
    assert counts["solution"]["works"] == 1
    assert counts["error"]["fails"] == counts["attempt"]["fails"] == 1
    assert counts["problem"]["observed"] == 1
    assert counts["pattern"]["retired"] == 1
    assert sum(sum(parts) for parts in found.trust) == 3
    assert found.story is not None
    assert len(found.story.nodes) == 4


def test_worth_is_with_minus_without_and_only_where_both_were_seen(memory: Memory) -> None:
    memory.remember(*solved(APPLES, "5"))
    (solution,) = memory.remember([solved(APPLES, "5")[0][1]])
    for number in range(8):
        memory.used(use(solution, success=True, episode=f"with {number}"))
    (row,) = holdings_of(memory, HERE).worth
    assert (row.about, row.num_with, row.right_with, row.gain) == ("the very same problem", 8, 8, None)
    for number in range(8):
        held_out = Use(
            episode=f"without {number}", success=False, verifier="exact", withheld=(solution,), same=(solution,)
        )
        memory.used(held_out)
    (row,) = holdings_of(memory, HERE).worth
    assert (row.num_without, row.right_without) == (8, 0)
    assert row.gain is not None
    assert row.low < row.gain < row.high
    assert row.gain > 0.3


def test_the_page_shows_all_of_it_and_stays_free_of_a_texts_markup(memory: Memory) -> None:
    memory.remember(*solved(f"{APPLES} <script>alert(1)</script>", "5"))
    memory.used(use(memory.find("")[0], success=True, episode="u"))
    found = holdings_of(memory, HERE)
    page = page_of(found)
    assert "What recalling was worth" in page
    assert 'class="story"' in page
    assert "Checked experiences by trust" in page
    assert "<script" not in page
    assert page_of(Holdings.model_validate_json(found.model_dump_json())) == page


def test_an_empty_memory_makes_a_page_too(memory: Memory) -> None:
    page = page_of(holdings_of(memory, HERE))
    assert "No judged episode" in page
    assert trust_plot(()) == ""


def test_the_trust_plot_is_xml_with_a_bar_for_what_there_is() -> None:
    svg = trust_plot([(0, 0, 0)] * 9 + [(3, 0, 1)])
    root = ElementTree.fromstring(svg)
    assert len(root.findall("rect")) == 2
