from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.calibrate import MIN_POINTS, Calibration, auroc, brier, expected_calibration_error, fit_calibration

FEW = settings(max_examples=50, deadline=None)
PAIRS = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=MIN_POINTS, max_size=80)


def _drawn(num_points: int, truth: object, seed: int = 1) -> list[tuple[float, bool]]:
    draw = random.Random(seed)
    stated = [draw.random() for _ in range(num_points)]
    return [(confidence, draw.random() < truth(confidence)) for confidence in stated]


def test_too_few_judged_confidences_give_no_curve() -> None:
    assert fit_calibration([(0.5, True)] * (MIN_POINTS - 1)) is None
    assert fit_calibration([(0.5, True)] * MIN_POINTS) is not None


def test_honest_confidences_are_left_about_as_they_are() -> None:
    curve = fit_calibration(_drawn(2000, lambda confidence: confidence))
    assert curve is not None
    for confidence in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert curve(confidence) == pytest.approx(confidence, abs=0.05)


def test_a_known_distortion_is_found_again() -> None:
    truth = Calibration(num_points=0, slope=0.4, intercept=-0.8)
    curve = fit_calibration(_drawn(5000, truth))
    assert curve is not None
    assert (curve.slope, curve.intercept) == (pytest.approx(0.4, abs=0.08), pytest.approx(-0.8, abs=0.12))


def test_the_fit_is_the_greatest_posterior() -> None:
    """Both derivatives of the penalised log-likelihood vanish at the fit."""
    pairs = _drawn(60, lambda confidence: 0.2 + 0.5 * confidence, seed=3)
    curve = fit_calibration(pairs)
    assert curve is not None
    logits = [(math.log(c / (1 - c)), y) for c, y in ((min(max(c, 0.005), 0.995), y) for c, y in pairs)]
    misses = [(x, 1 / (1 + math.exp(-curve.slope * x - curve.intercept)) - y) for x, y in logits]
    assert math.fsum(m for _, m in misses) + curve.intercept == pytest.approx(0.0, abs=1e-5)
    assert math.fsum(x * m for x, m in misses) + curve.slope - 1 == pytest.approx(0.0, abs=1e-5)


def test_confidence_that_speaks_against_itself_gives_the_base_rate() -> None:
    curve = fit_calibration([(0.9, False)] * 60 + [(0.1, True)] * 20)
    assert curve is not None
    assert curve.slope == 0.0
    assert curve(0.1) == curve(0.9) == pytest.approx(0.25, abs=0.03)


@FEW
@given(PAIRS)
def test_a_curve_never_falls_and_stays_a_probability(pairs: list[tuple[float, bool]]) -> None:
    curve = fit_calibration(pairs)
    assert curve is not None
    values = [curve(step / 20) for step in range(21)]
    assert values == sorted(values)
    assert 0.0 < values[0] <= values[-1] < 1.0


def test_outcomes_of_one_kind_give_a_curve_without_certainty() -> None:
    curve = fit_calibration([(0.6, True)] * 40)
    assert curve is not None
    assert 0.85 < curve(0.6) < 1.0


def test_brier_and_calibration_error_of_known_cases() -> None:
    assert (brier([]), expected_calibration_error([])) == (None, None)
    assert brier([(1.0, True), (0.5, False)]) == pytest.approx(0.125)
    # 0.75 stated, half of them right: off by a quarter; the sure ones are right.
    pairs = [(0.75, True), (0.75, False), (1.0, True), (1.0, True)]
    assert expected_calibration_error(pairs) == pytest.approx(0.125)
    assert expected_calibration_error([(0.95, True), (1.0, False)]) == pytest.approx(0.475)
    assert expected_calibration_error([(0.05, False), (0.95, True)], num_bins=1) == pytest.approx(0.0)


@FEW
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_in_the_right_order(cases: list[tuple[int, bool]]) -> None:
    found = auroc([float(score) for score, _ in cases], [label for _, label in cases])
    above, below = [s for s, label in cases if label], [s for s, label in cases if not label]
    if not above or not below:
        assert found is None
        return
    assert found is not None
    pairs = [(a > b) + (a == b) / 2 for a in above for b in below]
    assert found.value == pytest.approx(sum(pairs) / len(pairs))
    assert (found.num_true, found.num_false) == (len(above), len(below))
    assert 0.0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1.0


def test_turning_the_score_round_turns_auroc_and_its_interval_round() -> None:
    draw = random.Random(5)
    labels = [draw.random() < 0.3 for _ in range(60)]
    scores = [draw.gauss(1.0 if label else 0.0, 1.0) for label in labels]
    up, down = auroc(scores, labels), auroc([-score for score in scores], labels)
    assert up is not None
    assert down is not None
    assert (down.value, down.low) == (pytest.approx(1 - up.value), pytest.approx(1 - up.high))


def test_the_auroc_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw, truth, held = random.Random(11), 0.5 * (1 + math.erf(0.5)), 0
    for _ in range(200):
        labels = [i < 20 for i in range(60)]
        found = auroc([draw.gauss(1.0 if label else 0.0, 1.0) for label in labels], labels)
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.9 <= held / 200 <= 1.0


def test_perfect_separation_of_few_cases_is_no_certainty() -> None:
    found = auroc([3.0, 4.0, 1.0, 2.0, 0.0], [True, True, False, False, False])
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025**0.5)


def test_scores_without_their_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores and 1 labels"):
        auroc([1.0, 2.0], [True])
