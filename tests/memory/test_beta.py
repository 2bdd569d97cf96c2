"""The Beta distribution against the binomial sums it is made of."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.beta import beta_cdf, beta_interval, beta_quantile


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.01, 0.99))
def test_the_beta_distribution_is_the_binomial_tail(a: int, b: int, x: float) -> None:
    num = a + b - 1
    tail = math.fsum(math.comb(num, k) * x**k * (1 - x) ** (num - k) for k in range(a, num + 1))
    assert beta_cdf(x, a, b) == pytest.approx(tail, abs=1e-10)


def test_a_beta_interval_holds_its_mass() -> None:
    low, high = beta_interval(3.5, 90.0)
    assert (beta_cdf(low, 3.5, 90.0), beta_cdf(high, 3.5, 90.0)) == (pytest.approx(0.025), pytest.approx(0.975))


@pytest.mark.parametrize("num", [1, 2, 5, 40])
def test_the_quantile_of_trials_that_all_passed_is_a_root(num: int) -> None:
    assert beta_quantile(0.1, 1.0 + num, 1.0) == pytest.approx(0.1 ** (1 / (num + 1)))
