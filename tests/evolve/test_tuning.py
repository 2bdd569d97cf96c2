"""Which way to ask DEV chooses, for one member and for a council."""

import asyncio
from pathlib import Path

import pytest

from evolve.asks import proposal_asks
from evolve.audit.tuning import (
    Tried,
    Tuned,
    Way,
    best_of,
    best_sampled,
    each_in_its_way,
    shared_way,
    told,
    tune,
    ways_tried,
)
from mesh.types import Demonstration
from serving.traces import read_traces
from tests.evolve.small_mesh import ADA, BEN, small_lab, sums


def tuned(name: str, *tried: tuple[float, float]) -> Tuned:
    return Tuned(member=name, tried=tuple(Tried(temperature=t, right=right, n=20) for t, right in tried))


def test_samples_are_drawn_above_0_and_the_greedy_draw_stands_beside_them() -> None:
    ada = tuned("ada", (0.7, 0.4), (0.0, 0.5), (0.3, 0.45))
    assert ada.sampled.temperature == 0.3
    assert ada.greedy is not None
    assert ada.best.temperature == 0.0
    assert tuned("ada", (0.7, 0.5), (0.0, 0.5)).best.temperature == 0.7


def test_the_greedy_draw_alone_is_how_it_is_sampled_when_nothing_else_was_tried() -> None:
    ada = tuned("ada", (0.0, 0.5))
    assert ada.sampled.temperature == 0.0
    assert ada.greedy is None


def test_the_best_single_may_be_another_than_the_best_to_sample() -> None:
    known = {"ada": tuned("ada", (0.7, 0.4), (0.0, 0.6)), "ben": tuned("ben", (0.7, 0.5), (0.0, 0.5))}
    assert best_of([ADA, BEN], known) == ADA
    assert best_sampled([ADA, BEN], known) == BEN


def test_a_council_talks_at_the_temperature_that_is_best_for_all_of_it() -> None:
    known = {
        "ada": tuned("ada", (0.7, 0.4), (0.3, 0.5), (0.0, 0.9)),
        "ben": tuned("ben", (0.7, 0.5), (0.3, 0.45), (0.0, 0.9)),
    }
    assert shared_way([ADA, BEN], known) == Way(temperature=0.3)


def test_members_are_measured_under_their_own_names_in_their_best_way_only(tmp_path: Path) -> None:
    async def measured() -> None:
        async with small_lab(tmp_path, skills=(0.9, 0.2), temperatures=[0.7, 0.3], dev_samples_per_member=3) as lab:
            found = await tune(lab, "tune", [ADA, BEN], sums("dev", 20))
        counts = {(row.member, row.task_type): row for row in found.reliability.answers}
        assert set(counts) == {(name, kind) for name in ("ada", "ben") for kind in ("even", "odd")}
        assert {row.num_judged for row in counts.values()} == {30}  # 10 tasks of a type, 3 samples, one temperature
        share = sum(row.num_correct for row in counts.values() if row.member == "ada") / 60
        assert share == pytest.approx(found.members["ada"].sampled.right)
        assert found.reliability.accuracy(ADA, "even").mean > found.reliability.accuracy(BEN, "even").mean

    asyncio.run(measured())


def test_every_combination_is_tried_once_and_the_configured_way_where_nothing_is_said(tmp_path: Path) -> None:
    assert ways_tried(small_lab(tmp_path).config) == (Way(temperature=0.7),)
    several = small_lab(tmp_path, temperatures=[0.3, 0.3, 0.0], stops=[["\n"], []]).config
    assert ways_tried(several) == tuple(
        Way(temperature=temperature, stop=stop) for stop in (("\n",), ()) for temperature in (0.3, 0.0)
    )
    labels = {way.label for way in ways_tried(several)}
    assert len(labels) == 4
    assert "t0.3" not in labels
    assert Way(temperature=0.3).label == "t0.3"


def test_a_way_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    shown = tuple(Demonstration(question=f"{n} + 1 =", answer=str(n + 1)) for n in range(3))
    (problem,) = sums("dev", 1)
    problem = problem.model_copy(update={"task": problem.task.model_copy(update={"demonstrations": shown})})
    (ask,) = proposal_asks(small_lab(tmp_path).config, "tune", [problem], [ADA], 2)
    assert Way(temperature=ask.protocol.sampling.temperature).of(ask) == ask
    other = Way(temperature=0.1, num_demonstrations=1, instruction="Only the sum.", stop=(";",)).of(ask)
    assert other.task == ask.task.model_copy(update={"demonstrations": shown[:1], "instruction": "Only the sum."})
    sampling = ask.protocol.sampling.model_copy(update={"temperature": 0.1, "stop": (";",)})
    assert other.protocol == ask.protocol.model_copy(update={"sampling": sampling})
    assert Way(temperature=0.1, num_demonstrations=0, stop=()).of(other).task.demonstrations == ()
    assert each_in_its_way([ask], {"ben": Way(temperature=0.1)}) == [ask]


def test_dev_is_asked_in_every_way_and_the_traces_say_in_which(tmp_path: Path) -> None:
    async def asked() -> None:
        async with small_lab(tmp_path, temperatures=[0.3, 0.0], instructions=["", "Only the sum."]) as lab:
            found = await tune(lab, "tune audit", [ADA], sums("dev", 4))
        assert [one.way for one in found.members["ada"].tried] == list(ways_tried(lab.config))
        traces = list(read_traces(tmp_path / "audit" / "tune-audit.parquet"))
        assert len(traces) == 4 * 4
        said = {(trace.members[0].name, trace.task.instruction) for trace in traces}
        assert said == {(f"ada~{way.label}", way.instruction) for way in ways_tried(lab.config)}

    asyncio.run(asked())


def test_the_report_says_how_each_member_was_asked_where_there_was_a_choice() -> None:
    assert told([tuned("ada", (0.7, 0.4))]) == ""
    said = told([tuned("ada", (0.7, 0.4), (0.3, 0.5)), tuned("ben", (0.7, 0.4), (0.3, 0.2))])
    assert "ada: temperature 0.3 (50% right); ben: temperature 0.7 (40% right)" in said
    assert str(Way(temperature=0.0, num_demonstrations=2, stop=())) == "temperature 0, 2 worked examples, stops none"
