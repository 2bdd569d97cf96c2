"""Which temperature DEV chooses, for one member and for a council."""

import asyncio
from pathlib import Path

import pytest

from evolve.tuning import Tried, Tuned, best_of, best_sampled, shared_temperature, tune
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
    assert shared_temperature([ADA, BEN], known) == 0.3


def test_members_are_measured_under_their_own_names_at_their_best_temperature_only(tmp_path: Path) -> None:
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
