from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.selection.archive import (
    Archive,
    Elite,
    Niche,
    bank_digest,
    dominated_novelty,
    heat_map,
    preference,
    shared_fitness,
    solved,
    solves_beyond,
    update,
)

SUMS, BANK = Niche(task_type="sums", base="ea"), bank_digest(["k1", "k2", "k3", "k4"])
BANKS = {"sums": BANK}


def elite(
    name: str, *scores: float, bank: str = BANK, samples: int = 4, generation: int = 1, measured: int = 1,
    niche: Niche = SUMS, flattery: float = 0.0,
) -> Elite:  # fmt: skip
    return Elite(
        name=name, adapter=f"{name}'s", niche=niche, generation=generation, measured=measured, bank=bank, scores=scores,
        num_samples=samples, flattery=flattery,
    )  # fmt: skip


def test_each_problem_is_shared_among_its_solvers() -> None:
    table = np.asarray([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.5]])
    assert shared_fitness(table) == pytest.approx([1.5, 1.5])
    assert shared_fitness(table).sum() == pytest.approx(3.0)


def test_what_one_solves_beyond_another_counts_by_how_hard_it_is() -> None:
    table = np.asarray([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    # Difficulties 0, 1/3, 2/3 and 1, of 2 together.
    assert solves_beyond(table) == pytest.approx(np.asarray([[0, 0, 1], [2, 0, 3], [0, 0, 0]]) / 6)
    assert solves_beyond(np.ones((2, 3))) == pytest.approx(np.zeros((2, 2)))


def test_failing_elsewhere_is_no_novelty_and_solving_what_the_better_miss_is() -> None:
    table = np.asarray([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.9, 0.0], [1.0, 1.0, 1.0, 0.0]])
    values = dominated_novelty(np.asarray([3.0, 2.0, 2.5, 3.0]), solves_beyond(table), neighbours=2)
    assert math.isinf(values[0])
    assert values[1] > values[2] == values[3] == 0.0


def test_a_niche_keeps_the_unlike_and_not_the_copies() -> None:
    found = update(
        Archive(),
        [elite("best", 1, 1, 1, 0), elite("copy", 1, 1, 1, 0), elite("odd", 0, 0, 0, 1), elite("weak", 1, 1, 0, 0)],
        BANKS,
        per_niche=2,
        seed=3,  # of the two copies the one that is called "best" counts
    )
    assert [one.name for one in found.archive.of(SUMS)] == ["odd", "best"] or [
        one.name for one in found.archive.of(SUMS)
    ] == ["best", "odd"]
    assert {standing.name: standing.is_kept for standing in found.standings} == {
        "best": True,
        "odd": True,
        "copy": False,
        "weak": False,
    }
    assert {niche: best.name for niche, best in heat_map(found.archive).items()} == {SUMS: "best"}


def test_a_lucky_measurement_does_not_hold_a_place_for_ever() -> None:
    first = update(Archive(), [elite("lucky", 1, 1, 1, 1, samples=2)], BANKS).archive
    second = update(first, [elite("lucky", 0, 0, 1, 0, samples=6, generation=5)], BANKS).archive
    assert second.elites[0].scores == pytest.approx((0.25, 0.25, 1.0, 0.25))
    assert (second.elites[0].num_samples, second.elites[0].generation) == (8, 1)


def test_elites_measured_on_other_problems_wait_uncompared_until_they_are_measured_again() -> None:
    before = update(Archive(), [elite("old", 1, 1, 1, 1)], BANKS).archive
    today = bank_digest(["k5", "k6", "k7", "k8"])
    moved = update(before, [elite("new", 1, 0, 0, 0, bank=today)], {"sums": today}, per_niche=1)
    assert moved.stale == ("old",)
    assert [one.name for one in moved.archive.elites] == ["new", "old"]
    assert [standing.name for standing in moved.standings] == ["new"]
    again = update(moved.archive, [elite("old", 0, 1, 1, 1, bank=today)], {"sums": today}, per_niche=2)
    assert again.stale == ()
    assert again.archive.of(SUMS)[0].bank == today
    with pytest.raises(ValueError, match="today's problems"):
        update(before, [elite("late", 1, 0, 0, 0)], {"sums": today})


def test_being_stale_in_one_niche_says_nothing_of_another() -> None:
    gcd = Niche(task_type="gcd", base="ea")
    other = elite("both", 1, 0, 0, 0, bank="g1").model_copy(update={"niche": gcd})
    before = update(Archive(), [elite("both", 1, 1, 1, 1), other], BANKS | {"gcd": "g1"}).archive
    moved = update(before, [], BANKS | {"gcd": "g2"})
    assert moved.stale == ("both",)
    assert [(standing.name, standing.niche.task_type) for standing in moved.standings] == [("both", "sums")]
    assert len(moved.archive.elites) == 2


def test_critics_are_measured_on_councils_and_stale_by_those_alone() -> None:
    talk = bank_digest(["k1", "k2"])
    critics = SUMS.model_copy(update={"role": "critic"})
    critic = Elite(name="c", niche=critics, generation=1, measured=1, bank=talk, scores=(1.0, 0.0), num_samples=1)
    found = update(Archive(), [elite("a", 1, 0, 1, 0), critic], BANKS | {critics.trial: talk})
    assert found.stale == ()
    assert [one.name for one in found.archive.of(critics)] == ["c"]
    again = update(found.archive, [], BANKS | {critics.trial: ""})
    assert again.stale == ("c",)
    assert {one.name for one in again.archive.elites} == {"a", "c"}


SCORES = st.tuples(*[st.sampled_from([0.0, 1 / 3, 1.0])] * 4)


@settings(deadline=None)
@given(
    st.lists(SCORES, min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 3), st.randoms(use_true_random=False)
)
def test_the_order_of_measuring_changes_nothing(
    rows: list[tuple[float, ...]], per_niche: int, seed: int, rng: random.Random
) -> None:
    many = [elite(str(number), *row) for number, row in enumerate(rows)]
    found = update(Archive(), many, BANKS, per_niche=per_niche, seed=seed)
    rng.shuffle(many)
    cut = rng.randint(0, len(many))
    again = update(Archive(elites=tuple(many[:cut])), many[cut:], BANKS, per_niche=per_niche, seed=seed)
    assert again == found
    assert len(found.archive.elites) == min(per_niche, len(rows))


def test_which_of_two_copies_is_kept_is_dealt_by_the_seed_and_not_by_who_was_measured_first() -> None:
    first, second = elite("best", 1, 1, 1, 0), elite("copy", 1, 1, 1, 0)
    kept = []
    for seed in range(8):
        one, other = (
            update(Archive(), measured, BANKS, per_niche=1, seed=seed).archive.elites[0].name
            for measured in ([first, second], [second, first])
        )
        assert one == other
        kept.append(one)
    assert set(kept) == {"best", "copy"}


def test_of_elites_that_wait_to_be_measured_again_a_niche_keeps_those_measured_last() -> None:
    old = [elite(f"old-{n}", 1, 1, 1, n / 10, bank=f"bank {n}", measured=n) for n in range(5)]
    moved = update(Archive(elites=tuple(old)), [elite("new", 1, 0, 0, 0, measured=9)], BANKS, per_niche=2)
    assert [one.name for one in moved.archive.elites] == ["new", "old-4", "old-3"]
    assert moved.stale == ("old-3", "old-4")


def test_an_accuracy_on_other_problems_never_decides_who_is_preferred() -> None:
    easy = [elite("then", 1, 1, 1, 1, bank="easy", measured=1), elite("also", 1, 1, 0, 1, bank="easy", measured=1)]
    hard = [elite("now", 0, 0, 1, 0, measured=2), elite("weaker", 0, 0, 0, 0, measured=2)]
    assert preference(Archive(elites=(*easy, *hard))) == ("now's", "weaker's", "then's", "also's")


def test_problems_of_a_file_stay_comparable_whenever_they_were_measured() -> None:
    found = (elite("lately", 1, 0, 0, 0, measured=4), elite("before", 1, 1, 1, 0, measured=1))
    assert preference(Archive(elites=found)) == ("before's", "lately's")


def test_an_easy_task_type_makes_nobody_preferred() -> None:
    easy = Niche(task_type="easy", base="ea")
    sums = [elite("far ahead", 1, 1, 0, 0), elite("behind", 0, 0, 0, 0)]
    others = [elite("alike", 1, 1, 1, 1, niche=easy, bank="e"), elite("too", 1, 1, 1, 1, niche=easy, bank="e")]
    assert preference(Archive(elites=(*others, *sums)))[0] == "far ahead's"


def test_what_an_elite_solves_is_told_on_the_newest_problems_alone() -> None:
    gcd = Niche(task_type="gcd", base="ea")
    stale = elite("old", 1, 1, 1, 1, bank="before", measured=1)
    now = (elite("new", 1, 0, 0, 0, measured=2), elite("old", 0, 1, 1, 0, niche=gcd, bank="g", measured=2))
    assert solved(Archive(elites=(stale, *now))) == {"new's": {"sums": 0.25}, "old's": {"gcd": 0.5}}
    assert heat_map(Archive(elites=(stale, *now)))[SUMS].name == "new"


def test_an_accuracy_by_which_an_elite_was_chosen_is_told_without_the_flattery() -> None:
    chosen, plain = elite("chosen", 1, 1, 1, 0, flattery=0.5), elite("plain", 1, 1, 0, 0)
    assert (chosen.accuracy, plain.accuracy) == (0.25, 0.5)
    assert preference(Archive(elites=(chosen, plain))) == ("plain's", "chosen's")
    assert elite("below nothing", 0, 0, 0, 0, flattery=0.5).accuracy == 0.0
    pooled = update(Archive(elites=(chosen,)), [elite("chosen", 1, 1, 0, 0, samples=12)], BANKS).archive.elites[0]
    assert pooled.flattery == 0.5 * 4 / 16
