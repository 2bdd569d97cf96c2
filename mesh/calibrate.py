"""Confidence against outcome: how far stated confidences can be trusted, and the curve that puts them right."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from pydantic import Field

from memory.types import Record

MIN_POINTS = 30
"""A curve fitted to fewer judged confidences says more about chance than about them."""

RIDGE = 1.0
"""Strength of the pull towards the curve that changes nothing; worth about five judged confidences."""

MAX_STEPS = 100
"""Newton's method needs about six; the bound is there so that it ends."""

_CLIP = 0.005
_Z95 = 1.959963984540054

Pair = tuple[float, bool]
"""A stated confidence in 0..1, and whether what it was stated of was right."""


class Calibration(Record):
    """A curve from raw to calibrated confidence that never falls: `sigmoid(slope * logit(raw) + intercept)`."""

    num_points: int = Field(ge=0, description="judged confidences it was fitted to")
    slope: float = Field(ge=0.0, description="1: as sharp as stated; below: the confidences were overstated")
    intercept: float

    def __call__(self, confidence: float) -> float:
        """Calibrated probability, 0..1, of a raw confidence, 0..1."""
        return _sigmoid(self.slope * _logit(confidence) + self.intercept)


def fit_calibration(pairs: Iterable[Pair]) -> Calibration | None:
    """The curve for these judged confidences; None below `MIN_POINTS`.

    Platt scaling (Platt 1999) on the log-odds of the confidence, which is Cox's (1958) recalibration. It has two
    parameters: isotonic regression overfits below about a thousand points (Niculescu-Mizil and Caruana 2005). A
    Gaussian prior of precision `RIDGE` pulls slope and intercept towards 1 and 0, so that outcomes all of one kind
    have a fit too. A slope below 0 is refused: then the base rate is given for every confidence.
    """
    points = [(_logit(confidence), float(correct)) for confidence, correct in pairs]
    if len(points) < MIN_POINTS:
        return None
    slope, intercept = _fit(points)
    if slope < 0.0:
        slope, intercept = 0.0, _fit([(0.0, outcome) for _, outcome in points])[1]
    return Calibration(num_points=len(points), slope=slope, intercept=intercept)


def brier(pairs: Sequence[Pair]) -> float | None:
    """Mean squared distance of confidence from outcome (Brier 1950): 0 best, 0.25 for always 0.5. None: no pairs."""
    if not pairs:
        return None
    return math.fsum((confidence - correct) ** 2 for confidence, correct in pairs) / len(pairs)


def expected_calibration_error(pairs: Sequence[Pair], num_bins: int = 10) -> float | None:
    """Mean distance of confidence from accuracy over bins, weighted by their size (Guo et al. 2017). None: no pairs.

    The bins are of equal width. Bins of equal mass would cut through the many verdicts of exactly equal confidence,
    and the result would depend on their order.
    """
    bins: dict[int, list[Pair]] = {}
    for confidence, correct in pairs:
        bins.setdefault(min(int(confidence * num_bins), num_bins - 1), []).append((confidence, correct))
    if not bins:
        return None
    return math.fsum(abs(math.fsum(c - correct for c, correct in found)) for found in bins.values()) / len(pairs)


class Auroc(Record):
    """How well a score tells two classes apart: the chance that a true case scores above a false one."""

    value: float = Field(description="1: always; 0.5: a coin would do as well; ties count half")
    low: float = Field(description="lower end of the 95% interval")
    high: float
    num_true: int
    num_false: int


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> Auroc | None:
    """Area under the ROC curve of `scores` (higher: more likely True) with its 95% interval; None: only one class.

    The variance is DeLong's (1988), taken to the log-odds scale so that the interval stays within 0..1. Where the
    classes are told apart without a fault that variance is 0: then the near end is Clopper and Pearson's for the
    min(num_true, num_false) disjoint, and so independent, pairs that were all in one order. One score for
    all gives 0.5 without a width.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(scores) != len(labels):
        raise ValueError(f"expected one label for each score, got {len(scores)} scores and {len(labels)} labels")
    above = sorted(score for score, label in zip(scores, labels, strict=True) if label)
    below = sorted(score for score, label in zip(scores, labels, strict=True) if not label)
    if not above or not below:
        return None
    of_true = [_share_under(score, below) for score in above]
    of_false = [1.0 - _share_under(score, above) for score in below]
    value = math.fsum(of_true) / len(above)
    low, high = _interval(value, _variance_of_mean(of_true) + _variance_of_mean(of_false), min(len(above), len(below)))
    return Auroc(value=value, low=low, high=high, num_true=len(above), num_false=len(below))


def _share_under(score: float, others: Sequence[float]) -> float:
    """Share of the sorted `others` that lie below `score`; equal ones count half."""
    return (bisect_left(others, score) + bisect_right(others, score)) / 2 / len(others)


def _variance_of_mean(values: Sequence[float]) -> float:
    if len(values) < 2:
        # One case says nothing about the spread of its class: the most that values in 0..1 can have.
        return 0.25
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def _interval(value: float, variance: float, num_pairs: int) -> tuple[float, float]:
    if value <= 0.0 or value >= 1.0:
        end = 0.025 ** (1.0 / num_pairs)
        return (end, 1.0) if value >= 1.0 else (0.0, 1.0 - end)
    centre = math.log(value / (1.0 - value))
    spread = _Z95 * math.sqrt(variance) / (value * (1.0 - value))
    return _sigmoid(centre - spread), _sigmoid(centre + spread)


def _fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of the greatest posterior, by Newton's method; a step that overshoots is halved."""
    slope, intercept = 1.0, 0.0
    loss = _loss(points, slope, intercept)
    for _ in range(MAX_STEPS):
        step_s, step_i = _newton_step(points, slope, intercept)
        size = 1.0
        while (tried := _loss(points, slope - size * step_s, intercept - size * step_i)) > loss and size > 1e-6:
            size /= 2.0
        if loss - tried < 1e-12:
            break
        slope, intercept, loss = slope - size * step_s, intercept - size * step_i, tried
    return slope, intercept


def _newton_step(points: Sequence[tuple[float, float]], slope: float, intercept: float) -> tuple[float, float]:
    misses = [(x, _sigmoid(slope * x + intercept) - y) for x, y in points]
    bends = [(x, (miss + y) * (1.0 - miss - y)) for (x, y), (_, miss) in zip(points, misses, strict=True)]
    pull_s = math.fsum(x * miss for x, miss in misses) + RIDGE * (slope - 1.0)
    pull_i = math.fsum(miss for _, miss in misses) + RIDGE * intercept
    bend_s = math.fsum(x * x * bend for x, bend in bends) + RIDGE
    bend_i = math.fsum(bend for _, bend in bends) + RIDGE
    both = math.fsum(x * bend for x, bend in bends)
    determinant = bend_s * bend_i - both * both
    return (bend_i * pull_s - both * pull_i) / determinant, (bend_s * pull_i - both * pull_s) / determinant


def _loss(points: Sequence[tuple[float, float]], slope: float, intercept: float) -> float:
    prior = RIDGE / 2.0 * ((slope - 1.0) ** 2 + intercept**2)
    return prior - math.fsum(_log_sigmoid((2.0 * y - 1.0) * (slope * x + intercept)) for x, y in points)


def _logit(confidence: float) -> float:
    clipped = min(max(confidence, _CLIP), 1.0 - _CLIP)
    return math.log(clipped / (1.0 - clipped))


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0.0 else x - math.log1p(math.exp(x))


def _sigmoid(x: float) -> float:
    return math.exp(_log_sigmoid(x))
