"""The cheap screen before DEV: a candidate that is plainly broken gets no more tokens. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydantic import Field, model_validator

from evolve.gates.paired import cluster_numbers, flip_p
from memory.types import Record

LEVEL = 0.01
"""Level of the screen's tests: it must almost never stop a good candidate; DEV and the gate stop the others."""
MAX_CONSTANT = 0.8
"""Share of different problems answered alike from which on a member has stopped reading the question."""
MAX_LENGTH_RATIO = 3.0


class Sampled(Record):
    """One answer of a member to each of some DEV problems, in the same order for all members."""

    answers: tuple[str | None, ...] = Field(min_length=1, description="None: nothing could be read")
    right: tuple[bool, ...]
    num_chars: tuple[int, ...] = Field(description="length of each text")

    @model_validator(mode="after")
    def _same_problems(self) -> Sampled:
        if not len(self.answers) == len(self.right) == len(self.num_chars):
            raise ValueError(
                f"expected one answer, result and length a problem, got {len(self.answers)}, {len(self.right)} and "
                f"{len(self.num_chars)}"
            )
        return self

    @property
    def constant_share(self) -> float:
        """Share of problems that got the most frequent answer."""
        counts = Counter(answer for answer in self.answers if answer is not None)
        return max(counts.values(), default=0) / len(self.answers)


def screen(candidate: Sampled, base: Sampled, clusters: Sequence[str] = ()) -> str | None:
    """Why the candidate is not worth DEV, beside the member it would replace; None: it is.

    `clusters`: near-duplicate cluster of each problem; empty: every problem stands alone.

    Raises:
        ValueError: other numbers of problems.
    """
    if len(candidate.answers) != len(base.answers) or len(clusters) not in (0, len(base.answers)):
        raise ValueError(
            f"expected the same problems, got {len(candidate.answers)} and {len(base.answers)}, and {len(clusters)} "
            "clusters"
        )
    read, read_before = [a is not None for a in candidate.answers], [a is not None for a in base.answers]
    if _worse(read, read_before, clusters):
        return f"{read.count(False)} of {len(read)} answers cannot be read, {read_before.count(False)} of its base's"
    if candidate.constant_share >= MAX_CONSTANT > base.constant_share and len(read) > 1:
        return f"{candidate.constant_share:.0%} of its answers are the same, {base.constant_share:.0%} of its base's"
    if _worse(candidate.right, base.right, clusters):
        return f"{sum(candidate.right)} of {len(read)} answers are right, {sum(base.right)} of its base's"
    length, before = sum(candidate.num_chars) / len(read), max(1.0, sum(base.num_chars) / len(read))
    if length > MAX_LENGTH_RATIO * before:
        return f"its answers have {length:.0f} characters on average, those of its base {before:.0f}"
    return None


def _worse(after: Sequence[bool], before: Sequence[bool], clusters: Sequence[str]) -> bool:
    losses = np.asarray(before, dtype=int) - np.asarray(after, dtype=int)
    return flip_p(np.bincount(cluster_numbers(clusters, losses.size), weights=losses).astype(int).tolist()) <= LEVEL
