from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from pydantic import ValidationError

from evolve.gates.conjunction import Contest, Rival, hold
from evolve.gates.gate import HARM_ALPHA, mcnemar_p, power_of
from evolve.gates.paired import flip_p
from evolve.gates.power import (
    Assumed,
    conjunction_power,
    detectable_conjunction,
    equal_clusters,
    flips_show,
    guarded_power,
    problems_needed,
    with_gain,
)

ALONE = {"placebo_gain": None, "budget_gain": None}


def test_against_one_rival_the_simulation_finds_the_exact_power() -> None:
    found = conjunction_power(Assumed(num_problems=150, gain=0.1, num_finalists=3, **ALONE), seed=1)
    assert found.all_beaten == pytest.approx(power_of(150, 0.2, 0.1, 0.05 / 3), abs=0.025)
    assert found.interval.low <= guarded_power([150], 0.2, 0.1, 0.05 / 3) <= found.interval.high


def test_guards_are_counted_exactly() -> None:
    sizes, win, lose, level = (5, 4), 0.4, 0.2, 0.2
    expected = 0.0
    outcomes = [[(w, x) for w, x in product(range(size + 1), repeat=2) if w + x <= size] for size in sizes]
    for cells in product(*outcomes):
        chance = 1.0
        for size, (w, x) in zip(sizes, cells, strict=True):
            chance *= comb(size, w) * comb(size - w, x) * win**w * lose**x * (1 - win - lose) ** (size - w - x)
        harmed = any(mcnemar_p(x, w) <= HARM_ALPHA for w, x in cells)
        if not harmed and mcnemar_p(sum(w for w, _ in cells), sum(x for _, x in cells)) <= level:
            expected += chance
    assert guarded_power(sizes, win + lose, win - lose, level) == pytest.approx(expected)


def test_every_condition_more_costs_power() -> None:
    base = {"num_problems": 300, "gain": 0.1, "num_finalists": 3}
    alone = conjunction_power(Assumed(**base, **ALONE))
    whole = conjunction_power(Assumed(**base))
    assert whole.power < alone.power
    assert whole.power <= whole.all_beaten <= min(share for _, share in whole.beaten)
    assert [kind for kind, _ in whole.beaten] == ["incumbent", "placebo", "budget"]
    assert "passes the gate with a chance of" in whole.sentence


def test_form_alone_is_let_through_no_more_often_than_the_level() -> None:
    form = Assumed(num_problems=400, gain=0.15, placebo_gain=0.15, budget_gain=0.0, discordance=0.2)
    found = conjunction_power(form, seed=2)
    assert dict(found.beaten)["incumbent"] > 0.99
    assert found.power <= 0.05 + 0.01


def test_the_detectable_gain_has_the_power_it_claims() -> None:
    assumed = Assumed(num_problems=400, num_task_types=2, gain=0.0)
    found = detectable_conjunction(assumed, rounds=1000, seed=3)
    assert found is not None
    assert found.power >= 0.8
    again = conjunction_power(found.assumed, seed=9)
    assert again.power == pytest.approx(0.8, abs=0.04)
    assert detectable_conjunction(Assumed(num_problems=12, gain=0.0), rounds=200) is None


def test_a_small_gate_finds_a_gain_that_is_larger_than_the_discordance() -> None:
    """45 problems of which a fifth may differ: no gain up to 20 points is enough, and 30 points pass nearly always."""
    gate = Assumed(num_problems=45, gain=0.0)
    assert conjunction_power(with_gain(gate, 0.2)).power < 0.7
    assert conjunction_power(with_gain(gate, 0.3)).power > 0.9
    found = detectable_conjunction(gate, rounds=1000)
    assert found is not None
    assert 0.2 < found.assumed.gain < 0.3
    assert found.assumed.discordance >= found.assumed.gain
    assert conjunction_power(found.assumed, seed=9).power == pytest.approx(0.8, abs=0.04)


def test_clusters_cost_power_and_full_copies_leave_as_many_problems_as_clusters() -> None:
    base = {"gain": 0.1, "discordance": 0.2, **ALONE}
    copies = conjunction_power(Assumed(num_problems=600, cluster_size=4, cluster_correlation=1.0, **base), rounds=1000)
    fewer = conjunction_power(Assumed(num_problems=150, **base), rounds=4000)
    free = conjunction_power(Assumed(num_problems=600, **base), rounds=1000)
    assert copies.all_beaten == pytest.approx(fewer.all_beaten, abs=0.05)
    assert copies.power < free.power


@pytest.mark.parametrize(("num_clusters", "size"), [(5, 20), (10, 5), (24, 5), (24, 4)])
@pytest.mark.parametrize("gain", [0.1, 0.2])
def test_few_clusters_of_copies_have_the_exact_power_of_as_many_problems(
    num_clusters: int, size: int, gain: float
) -> None:
    """A normal test that is corrected for steps of one problem finds twice as much, and something in five clusters."""
    copies = Assumed(num_problems=num_clusters * size, cluster_size=size, gain=gain, **ALONE)
    exact = power_of(num_clusters, 0.2, gain, 0.05)
    assert conjunction_power(copies, rounds=4000).all_beaten == pytest.approx(exact, abs=0.025)


@pytest.mark.parametrize("level", [0.05, 0.05 / 3, 0.0034])
def test_cluster_sums_show_what_the_gates_own_test_shows(level: float) -> None:
    rng = np.random.default_rng(4)
    few = rng.integers(-1, 4, size=(40, 24, 2)) * rng.integers(0, 2, size=(40, 24, 2))
    exact = [[flip_p(few[row, :, rival].tolist()) <= level for rival in (0, 1)] for row in range(40)]
    assert flips_show(few, level).tolist() == exact
    assert 0 < np.sum(exact) < 80


def test_many_clusters_show_what_the_gates_own_test_shows_but_for_the_last_steps() -> None:
    rng = np.random.default_rng(5)
    many = 3 * rng.choice([-1, 0, 1], p=[0.15, 0.65, 0.2], size=(400, 500, 1))
    exact = np.asarray([flip_p(row[:, 0].tolist()) <= 0.05 for row in many])
    assert 0.2 < exact.mean() < 0.8
    assert np.mean(flips_show(many, 0.05)[:, 0] != exact) <= 0.01


def test_clusters_of_which_nothing_else_is_said_count_as_one_draw() -> None:
    """A call that names their size alone must not have them tested as if each problem stood alone."""
    base = {"num_problems": 600, "gain": 0.1, "discordance": 0.2, "cluster_size": 4, **ALONE}
    unsaid, copies, free = (
        conjunction_power(Assumed(**base, **more), rounds=1000)
        for more in ({}, {"cluster_correlation": 1.0}, {"cluster_correlation": 0.0})
    )
    assert unsaid.power == copies.power < free.power
    assert "600 problems (worth 150 that stand alone, for near duplicates) of 1 task types" in unsaid.sentence
    assert "stand alone" not in free.sentence


@pytest.mark.parametrize("effect", [1.0, 1.2, 2.0, 3.7, 9.0])
def test_equal_clusters_have_the_design_effect_that_was_measured(effect: float) -> None:
    size, correlation = equal_clusters(effect)
    assumed = Assumed(num_problems=100, gain=0.0, cluster_size=size, cluster_correlation=correlation)
    assert assumed.design_effect == pytest.approx(effect)


def test_an_effect_of_nothing_but_noise_leaves_problems_alone() -> None:
    assert [equal_clusters(effect)[0] for effect in (0.4, 1.0, 1.0 + 1e-9)] == [1, 1, 1]


def test_as_many_times_more_problems_are_needed_as_clusters_weigh() -> None:
    alone = problems_needed(Assumed(num_problems=50, gain=0.0, **ALONE), 0.1, rounds=400)
    clustered = Assumed(num_problems=50, gain=0.0, cluster_size=3, cluster_correlation=0.5, **ALONE)
    assert alone is not None
    assert problems_needed(clustered, 0.1, rounds=400) == 2 * alone


def test_the_power_is_that_of_the_code_that_decides() -> None:
    assumed = Assumed(num_problems=200, num_task_types=2, gain=0.12, discordance=0.2, alpha=0.1)
    rng = np.random.default_rng(5)
    passed, rounds = 0, 150
    for _ in range(rounds):
        now = rng.random(200) < 0.5
        arms = {
            name: now ^ (rng.random(200) < np.where(now, 0.2 - gain, 0.2 + gain))
            for name, gain in (("new", 0.12), ("placebo", 0.0), ("budget", 0.0))
        }
        rivals = [("incumbent", now), ("placebo", arms["placebo"]), ("budget", arms["budget"])]
        contest = Contest(
            name="new",
            right=arms["new"].tolist(),
            rivals=tuple(Rival(kind=kind, name=kind, right=right.tolist()) for kind, right in rivals),  # type: ignore[arg-type]
            task_types=("a",) * 100 + ("b",) * 100,
        )
        passed += hold([contest], 0.1, seed=0).results[0].passed
    assert passed / rounds == pytest.approx(conjunction_power(assumed).power, abs=0.1)


def test_an_impossible_gain_is_refused() -> None:
    with pytest.raises(ValidationError, match="impossible"):
        Assumed(num_problems=10, gain=0.3, discordance=0.2)
    with pytest.raises(ValidationError, match="1 - accuracy"):
        Assumed(num_problems=10, gain=0.2, discordance=0.2, accuracy=0.9)


@pytest.mark.parametrize("accuracy", [0.03, 0.1, 0.5, 0.9, 0.97])
def test_a_candidate_of_any_gain_differs_on_as_many_problems_as_can_be(accuracy: float) -> None:
    share = min(0.2, 2 * accuracy, 2 * (1 - accuracy))
    gate = Assumed(num_problems=400, gain=0.0, accuracy=accuracy, discordance=share)
    for gain in (0.0, 0.02, (1 - accuracy) / 2, 1 - accuracy):
        Assumed.model_validate(with_gain(gate, gain).model_dump())  # which refuses what is impossible
    found = detectable_conjunction(gate, rounds=500)
    assert found is not None
    assert 0.01 < found.assumed.gain <= 1 - accuracy


def test_as_many_problems_are_needed_as_find_the_gain() -> None:
    gate = Assumed(num_problems=50, num_task_types=2, gain=0.0, num_finalists=2)
    found = problems_needed(gate, 0.1, seed=1)
    assert found is not None
    held = gate.model_copy(update={"gain": 0.1, "num_problems": found})
    assert conjunction_power(held, seed=7).power == pytest.approx(0.8, abs=0.04)
    fewer = problems_needed(gate, 0.3, seed=1)  # more than differ at first: so many differ then
    assert fewer is not None
    assert fewer < found / 3
    alone = problems_needed(Assumed(num_problems=50, gain=0.0, num_finalists=2, **ALONE), 0.1, seed=1)
    assert alone is not None
    assert alone < found


def test_no_number_of_problems_finds_what_cannot_be_or_is_next_to_nothing() -> None:
    gate = Assumed(num_problems=50, gain=0.0, accuracy=0.9)
    assert problems_needed(gate, 0.0) is None
    assert problems_needed(gate, 0.2) is None
    assert problems_needed(gate, 0.0001, rounds=200) is None
