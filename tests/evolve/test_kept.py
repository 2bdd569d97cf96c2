"""Judging that is cut off goes on where it was, holds nobody else up, and ends as judging in one go does."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from evolve.asks import proposal_asks
from evolve.evaluate import Judgements
from evolve.judging import kept
from evolve.judging.kept import Judged, judged_each
from evolve.judging.unchecked import all_unchecked
from evolve.lab import Lab
from evolve.progress import Silent
from memory.ledger import Ledger
from memory.types import Evidence
from mesh.types import Outcome
from tests.evolve.quick_run import Stop
from tests.evolve.small_mesh import ADA, BEN, small_lab, sums

PAIRS = [(f"t{number}", "7") for number in range(6)]


class Slow:
    """Judges every answer right, and is interrupted at the given place."""

    def __init__(self, stops_at: int | None = None, reason: str = "") -> None:
        self.stops_at, self.reason = stops_at, reason
        self.places: list[int] = []

    def __call__(self, place: int) -> Judged:
        if place == self.stops_at:
            raise Stop(str(place))
        self.places.append(place)
        task_id, answer = PAIRS[place]
        evidence = Evidence(verifier="unit_tests", verdict="passed", digest="0" * 64)
        outcome = Outcome(task_id=task_id, task_type="sums", answer=answer, correct=True, evidence=evidence)
        return Judged(outcome=outcome, reason=self.reason)


def judged(path: Path, judge: Slow, step: str = "a") -> list[Judged]:
    return asyncio.run(judged_each(path, step, PAIRS, judge))


def test_what_was_judged_before_an_interruption_is_not_judged_again_and_keeps_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "judge.partial.jsonl"
    with pytest.raises(Stop):
        judged(path, Slow(stops_at=4, reason="the scorer died"))
    after = Slow()
    found = judged(path, after)
    assert after.places == [4, 5]
    assert [one.outcome.task_id for one in found] == [task_id for task_id, _ in PAIRS]
    assert [one.reason for one in found] == ["the scorer died"] * 4 + [""] * 2


def test_what_was_judged_for_another_step_is_judged_anew(tmp_path: Path) -> None:
    path = tmp_path / "judge.partial.jsonl"
    with pytest.raises(Stop):
        judged(path, Slow(stops_at=4), step="a")
    other = Slow()
    judged(path, other, step="b")
    assert other.places == list(range(6))


def test_judging_that_is_over_at_once_writes_nothing(tmp_path: Path) -> None:
    judged(tmp_path / "judge.partial.jsonl", Slow())
    assert list(tmp_path.iterdir()) == []


def test_judging_that_takes_long_is_kept_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEEP_S", 0.0)
    path, counts = tmp_path / "judge.partial.jsonl", []

    class Looking(Slow):
        def __call__(self, place: int) -> Judged:
            counts.append(len(Ledger(path, readonly=True)) if path.exists() else 0)
            return super().__call__(place)

    judged(path, Looking())
    assert counts == [0, 1, 2, 3, 4, 5]


def test_others_go_on_while_an_answer_is_judged(tmp_path: Path) -> None:
    went_on = threading.Event()

    def judge(place: int) -> Judged:
        assert went_on.wait(timeout=30.0), "the event loop stood still"
        return Slow()(place)

    async def work() -> None:
        async def go_on() -> None:
            went_on.set()

        await asyncio.gather(judged_each(tmp_path / "judge.partial.jsonl", "a", PAIRS, judge), go_on())

    asyncio.run(work())


class Stopping(Silent):
    """Stops a run once so many answers have been judged."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.judges = False

    def stage(self, name: str, total: int, unit: str = "") -> None:
        self.judges = name.startswith("judge ")

    def advance(self, units: int = 1) -> None:
        self.left -= units * self.judges
        if self.left == 0:
            raise Stop("judging")


async def harvested(lab: Lab) -> Judgements:
    problems = sums("train", 6)
    asks = proposal_asks(lab.config, "harvest", problems, [ADA, BEN], 2)
    async with lab:
        held = await lab.hold("harvest", lab.directory / "harvest.parquet", asks)
        return await lab.judge_all("harvest", held, problems)


def test_a_stage_whose_judging_was_cut_off_ends_in_the_same_bytes(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = asyncio.run(harvested(small_lab(tmp_path / "whole")))
    lab = small_lab(tmp_path / "cut")
    lab.observer = Stopping(after=3)
    with pytest.raises(Stop):
        asyncio.run(harvested(lab))
    partial = tmp_path / "cut" / "judge-harvest.partial.jsonl"
    assert len(Ledger(partial, readonly=True)) == 3
    assert asyncio.run(harvested(small_lab(tmp_path / "cut"))) == whole
    assert not partial.exists()
    steps = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "steps").iterdir()} for name in ("whole", "cut")
    ]
    assert steps[0] == steps[1]
    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("whole", "cut")]
    assert journals[0] == journals[1]
    assert all_unchecked(tmp_path / "cut") == ()


def test_long_judging_has_a_time_of_its_own_beside_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, least, parts in (("short", 3600.0, 0), ("long", 0.0, 1)):
        monkeypatch.setattr("evolve.lab.NOTED_S", least)
        (tmp_path / name).mkdir()
        asyncio.run(harvested(small_lab(tmp_path / name)))
        entries = Ledger(tmp_path / name / "times.jsonl", readonly=True).entries()
        found = [(entry.kind, entry.payload["stage"]) for entry in entries if "harvest" in entry.payload["stage"]]
        assert found == [("stage", "harvest")] + [("part", "judge harvest")] * parts
