"""How long a run still takes: the plan, corrected by what its stages really took."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.planning.outlook import Outlook, kind_of
from evolve.planning.span import Span, around, together
from evolve.progress import StageTime, merged_times, read_ended
from memory.ledger import Ledger

GUESSED = {
    "draw problems": around(0.0, 2.0),
    "start engines": around(100.0, 2.0),
    "generation 0 harvest": around(300.0, 2.0),
    "generation 0 training": around(600.0, 2.0),
    "generation 0 gate": around(900.0, 2.0),
}


def test_before_anything_ran_the_outlook_is_the_plan_with_its_spread() -> None:
    outlook = Outlook(GUESSED)
    outlook.begin("draw problems")
    left = outlook.left(0.0, 0.0)
    assert left is not None
    assert (left.low, left.high) == pytest.approx((1900 / 2, 1900 * 2))


def test_what_stages_of_a_kind_took_corrects_those_to_come_and_no_other_kind() -> None:
    outlook = Outlook(GUESSED)
    outlook.begin("generation 0 harvest")
    outlook.end(90.0)  # of 300 planned
    outlook.begin("generation 0 training")
    left = outlook.left(0.0, 0.0)
    assert left is not None
    of_gate = Span(low=left.low - 300.0, high=left.high - 1200.0)  # training is still what was planned
    pace = (90 + 30) / (300 + 30)
    assert of_gate.low * of_gate.high == pytest.approx((pace * 900) ** 2)
    assert of_gate.high / of_gate.low < 1.2  # of 4: much was seen of the kind


def test_the_stage_under_way_corrects_itself_and_those_of_its_kind() -> None:
    outlook = Outlook(
        {"generation 0 training": around(400.0, 1.0), "generation 0 placebo training": around(400.0, 1.0)}
    )
    outlook.begin("generation 0 training")
    left = outlook.left(100.0, 0.5)  # half of it in half the time
    pace = (100 + 30) / (200 + 30)
    assert left is not None
    assert left.low == left.high == pytest.approx(pace * (200 + 400))


def test_a_short_plan_is_given_up_as_soon_as_it_is_plainly_wrong() -> None:
    outlook = Outlook({"generation 0 gate": around(20.0, 1.0)})
    outlook.begin("generation 0 gate")
    left = outlook.left(100.0, 0.5)
    assert left is not None
    assert 80.0 < left.low == left.high < 100.0
    nothing = Outlook({"generation 0 gate": around(0.0, 1.0)})
    nothing.begin("generation 0 gate")
    assert nothing.left(100.0, 0.5) == around(0.0, 1.0)


def test_a_stage_of_which_nothing_is_done_yet_only_grows_shorter() -> None:
    outlook = Outlook({"start engines": around(100.0, 1.0), "generation 0 gate": around(50.0, 1.0)})
    outlook.begin("start engines")
    assert outlook.left(40.0, 0.0) == around(110.0, 1.0)
    assert outlook.left(500.0, 0.0) == around(50.0, 1.0)


def test_what_was_done_before_the_stage_began_is_no_evidence_of_speed() -> None:
    outlook = Outlook({"generation 0 training": around(400.0, 1.0)})
    outlook.begin("generation 0 training")
    assert outlook.left(0.5, 0.5, 0.5) == around(199.5, 1.0)
    outlook.end(200.0, 0.5)
    left = Outlook({"generation 0 training": around(400.0, 1.0)}, {"generation 0 training": 200.0})
    assert left.left(0.0, 0.0) == around(0.0, 1.0)


def test_planned_stages_that_a_later_one_overtook_are_not_waited_for() -> None:
    outlook = Outlook(GUESSED)
    outlook.begin("generation 0 gate")
    assert outlook.left(0.0, 0.0) == GUESSED["generation 0 gate"]
    outlook.end(100.0)
    outlook.begin("judge generation 0 gate")  # nobody planned it
    assert outlook.left(5.0, 0.5) == around(0.0, 1.0)


def test_a_run_that_goes_on_starts_from_what_it_took_so_far_and_starts_its_engines_again(tmp_path: Path) -> None:
    times = Ledger(tmp_path / "times.jsonl")
    for kind, stage, seconds in (
        ("stage", "start engines", 100.0),
        ("part", "generation 0 harvest", 30.0),
        ("stage", "generation 0 harvest", 60.0),
        ("part", "generation 0 training", 30.0),  # a kill came between
    ):
        times.append(kind, StageTime(stage=stage, seconds=seconds).model_dump(mode="json"))
    ended = {one.stage: one.seconds for one in read_ended(tmp_path)}
    assert ended == {"start engines": 100.0, "generation 0 harvest": 90.0}
    assert read_ended(tmp_path / "none") == []
    planned = {name: around((span.low * span.high) ** 0.5, 1.0) for name, span in GUESSED.items()}
    outlook = Outlook(planned, ended)
    outlook.begin("start engines")
    left = outlook.left(0.0, 0.0)
    assert left is not None
    assert left.low == pytest.approx(100.0 + 600.0 + 900.0 * (90 + 30) / (300 + 30))


def test_without_a_plan_no_end_is_foretold() -> None:
    outlook = Outlook({})
    outlook.begin("council")
    outlook.end(5.0)
    assert outlook.left(1.0, 0.5) is None


def test_stages_are_of_a_kind_by_their_names() -> None:
    assert kind_of("start engines") == "start"
    assert kind_of("generation 2 placebo training") == kind_of("generation 0 training") == "training"
    assert kind_of("audit councils after") == kind_of("generation 0 panel") == "councils"
    assert kind_of("generation 1 gate") == kind_of("tune audit") == "proposals"


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (Span(low=5, high=80), "about a minute"),
        (Span(low=20, high=200), "1 to 3 minutes"),
        (Span(low=720, high=2400), "12 to 40 minutes"),
        (Span(low=1321, high=1321), "about 22 minutes"),
        (Span(low=3600, high=14400), "1.0 to 4.0 hours"),
        (Span(low=14400, high=14400), "about 4.0 hours"),
    ],
)
def test_a_span_is_told_in_few_words(span: Span, words: str) -> None:
    assert span.words == words


def test_spans_add_up_as_if_all_were_off_by_the_same() -> None:
    assert together([around(100.0, 2.0), around(10.0, 1.0)]) == Span(low=60.0, high=210.0)


def test_calls_that_were_lost_count_beside_those_that_their_stage_accepted() -> None:
    lost = StageTime(stage="harvest", seconds=0.0, output_tokens=3, prompt_tokens=40, engine_seconds=2.0)
    tick = StageTime(stage="harvest", seconds=30.0)
    end = StageTime(stage="harvest", seconds=5.0, output_tokens=100, prompt_tokens=1000, engine_seconds=33.0)
    assert merged_times([lost, tick, lost, end]) == {
        "harvest": StageTime(stage="harvest", seconds=35.0, output_tokens=106, prompt_tokens=1080, engine_seconds=37.0)
    }
