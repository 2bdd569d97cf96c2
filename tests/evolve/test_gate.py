from __future__ import annotations

from itertools import product
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.gates.gate import detectable_effect, holm, mcnemar_p, power_of


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_tail(wins: int, losses: int) -> None:
    n = wins + losses
    tail = sum(comb(n, k) for k in range(wins, n + 1)) / 2**n
    assert mcnemar_p(wins, losses) == pytest.approx(tail)
    assert mcnemar_p(wins, losses, two_sided=True) == mcnemar_p(losses, wins, two_sided=True)
    assert mcnemar_p(wins, losses, two_sided=True) == pytest.approx(
        min(1.0, 2 * min(mcnemar_p(wins, losses), mcnemar_p(losses, wins)))
    )


def test_without_a_difference_nothing_is_shown() -> None:
    assert mcnemar_p(0, 0) == mcnemar_p(0, 0, two_sided=True) == 1.0
    with pytest.raises(ValueError, match="at least 0"):
        mcnemar_p(-1, 0)


def test_holm_follows_the_textbook() -> None:
    adjusted = holm([0.01, 0.04, 0.03, 0.005], 0.05)
    assert [p for p, _, _ in adjusted] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [rejected for _, _, rejected in adjusted] == [True, False, False, True]
    assert [threshold for _, threshold, _ in adjusted] == pytest.approx([0.05 / 3, 0.05, 0.025, 0.0125])
    assert holm([], 0.05) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.3))
def test_holm_rejects_no_more_than_no_correction_and_no_less_than_bonferroni(
    p_values: list[float], alpha: float
) -> None:
    for p, (adjusted, _, rejected) in zip(p_values, holm(p_values, alpha), strict=True):
        assert adjusted >= p
        assert rejected <= (p <= alpha)
        assert rejected >= (p <= alpha / len(p_values))
        if abs(adjusted - alpha) > 1e-9:
            assert rejected == (adjusted <= alpha)


def test_a_gain_above_the_discordance_is_refused() -> None:
    with pytest.raises(ValueError, match="difference"):
        power_of(10, 0.1, 0.2, 0.05)


def test_power_is_the_sum_over_every_outcome() -> None:
    n, win, lose, alpha = 9, 0.5, 0.15, 0.1
    expected = 0.0
    for wins, losses in product(range(n + 1), repeat=2):
        if wins + losses <= n and mcnemar_p(wins, losses) <= alpha:
            ways = comb(n, wins) * comb(n - wins, losses)
            expected += ways * win**wins * lose**losses * (1 - win - lose) ** (n - wins - losses)
    assert power_of(n, win + lose, win - lose, alpha) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.floats(0.02, 1.0), st.sampled_from([0.05, 0.025, 0.05 / 3]))
def test_without_a_true_gain_the_test_errs_at_most_at_its_level(n: int, discordance: float, alpha: float) -> None:
    assert power_of(n, discordance, 0.0, alpha) <= alpha + 1e-12


def test_the_detectable_effect_agrees_with_known_sizes() -> None:
    assert detectable_effect(1300, 0.15, 0.025) == pytest.approx(0.03, abs=0.002)
    assert detectable_effect(630, 0.20, 0.025) == pytest.approx(0.05, abs=0.002)


def test_the_detectable_effect_has_the_power_it_claims() -> None:
    effect = detectable_effect(150, 0.2, 0.05 / 3)
    assert effect is not None
    assert power_of(150, 0.2, effect, 0.05 / 3) >= 0.8
    assert power_of(150, 0.2, effect - 0.001, 0.05 / 3) < 0.8


def test_a_gain_larger_than_the_discordance_is_found_where_nothing_smaller_is() -> None:
    assert power_of(20, 0.2, 0.2, 0.03) < 0.8
    effect = detectable_effect(20, 0.2, 0.03)
    assert effect is not None
    assert power_of(20, effect, effect, 0.03) >= 0.8 > power_of(20, effect - 0.001, effect - 0.001, 0.03)
    assert detectable_effect(20, 0.0, 0.03) is None


def test_more_problems_show_smaller_gains_and_too_few_show_none() -> None:
    sizes = [detectable_effect(n, 0.2, 0.05) for n in (100, 200, 400, 800)]
    assert sizes == sorted((size for size in sizes if size is not None), reverse=True)
    assert detectable_effect(4, 0.2, 0.05) is None, "four wins of four are no evidence at 5%"
    assert detectable_effect(0, 0.2, 0.05) is None
