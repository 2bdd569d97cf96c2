"""What a whole batch will take, from a sample of its tasks: totals with an interval. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache

from pydantic import Field

from memory.beta import beta_quantile
from memory.types import Record
from mesh.seeds import derive_seed

CONFIDENCE = 0.9


class Range(Record):
    """A total that is not known yet."""

    expected: float
    low: float = Field(description="it is at least this in 95 of 100 cases, if the tasks are alike")
    high: float = Field(description="it is at most this in 95 of 100 cases, if the tasks are alike")


class Taken(Record):
    """What one task took."""

    prompt_tokens: int
    output_tokens: int
    num_calls: int
    seconds: float = Field(description="wall seconds from its beginning to its end, beside its neighbours")
    cost: float = Field(description="money, by the engines' prices per hour")


class BatchEstimate(Record):
    """What a batch will take, extrapolated from the tasks of a sample."""

    num_tasks: int
    num_sampled: int = Field(description="tasks that were done for this; the batch does not repeat them")
    num_left: int = Field(description="tasks that are still to be done")
    concurrency: int
    prompt_tokens: Range = Field(description="of the whole batch, the sample included")
    output_tokens: Range = Field(description="of the whole batch, the sample included")
    num_calls: Range = Field(description="of the whole batch, the sample included")
    cost: Range = Field(description="of the whole batch, the sample included; 0 without prices")
    seconds: Range = Field(description="wall seconds for what is left, with the concurrency of the sample")


def sample_of(num_tasks: int, num_sampled: int, seed: int) -> list[int]:
    """Places of the tasks that stand for all, in order: drawn evenly from the whole file, the same ones every time."""
    draw = random.Random(derive_seed(seed, "sample of a batch"))
    return sorted(draw.sample(range(num_tasks), min(num_sampled, num_tasks)))


def estimate(taken: Sequence[Taken], *, num_tasks: int, num_left: int, concurrency: int) -> BatchEstimate:
    """Totals from a random sample of `num_tasks` tasks, of which `num_left` are still to be done.

    The interval is that of a prediction: Student's t with the sample's variance, for the mean and for the draw of the
    tasks that were not sampled. It holds for tasks like those of the sample, on engines as busy as they were then;
    one task in a thousand that takes an hour is not foreseen.

    Raises:
        ValueError: an empty sample.
    """
    if not taken:
        raise ValueError("expected a sample of at least one task, got none")
    rest = num_tasks - len(taken)
    whole = {
        name: _total([float(getattr(one, name)) for one in taken], rest)
        for name in ("prompt_tokens", "output_tokens", "num_calls", "cost")
    }
    left = _unseen([one.seconds for one in taken], num_left)
    slots = max(1, min(concurrency, num_left))
    return BatchEstimate(
        num_tasks=num_tasks,
        num_sampled=len(taken),
        num_left=num_left,
        concurrency=concurrency,
        seconds=Range(expected=left.expected / slots, low=left.low / slots, high=left.high / slots),
        **whole,
    )


def _total(seen: Sequence[float], num_unseen: int) -> Range:
    known, rest = math.fsum(seen), _unseen(seen, num_unseen)
    return Range(expected=known + rest.expected, low=known + rest.low, high=known + rest.high)


def _unseen(seen: Sequence[float], num_unseen: int) -> Range:
    """Sum of `num_unseen` values drawn like `seen`; nothing is known of the spread of one value, so it is its mean."""
    mean = math.fsum(seen) / len(seen)
    expected = num_unseen * mean
    if len(seen) < 2 or num_unseen == 0:
        return Range(expected=expected, low=expected, high=expected)
    variance = math.fsum((value - mean) ** 2 for value in seen) / (len(seen) - 1)
    error = math.sqrt(variance * (num_unseen**2 / len(seen) + num_unseen))
    reach = t_quantile(0.5 + CONFIDENCE / 2, len(seen) - 1) * error
    return Range(expected=expected, low=max(0.0, expected - reach), high=expected + reach)


@lru_cache(maxsize=64)
def t_quantile(share: float, degrees: int) -> float:
    """The value below which `share` (above one half) of Student's t with so many degrees of freedom lies.

    From the Beta distribution: t² = ν (1 - x) / x, where x is the 2(1 - share) quantile of Beta(ν/2, 1/2).
    """
    x = beta_quantile(2.0 * (1.0 - share), degrees / 2.0, 0.5)
    return math.sqrt(degrees * (1.0 - x) / x)
