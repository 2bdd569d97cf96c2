from __future__ import annotations

import numpy as np
import pytest

from evolve.gates.screening import Sampled, screen

N = 30


def sampled(right: int = 15, unread: int = 0, length: int = 100, answers: list[str] | None = None) -> Sampled:
    given: list[str | None] = list(answers or [str(index) for index in range(N)])
    for index in range(unread):
        given[N - 1 - index] = None
    return Sampled(
        answers=tuple(given), right=tuple(index < right for index in range(N)), num_chars=tuple([length] * N)
    )


def test_a_candidate_like_its_base_goes_on() -> None:
    assert screen(sampled(), sampled()) is None
    assert screen(sampled(right=12, unread=3, length=180), sampled()) is None


def test_what_is_plainly_broken_is_stopped_with_the_reason() -> None:
    assert screen(sampled(unread=10), sampled()) == "10 of 30 answers cannot be read, 0 of its base's"
    assert screen(sampled(answers=["7"] * N), sampled()) == "100% of its answers are the same, 3% of its base's"
    assert screen(sampled(right=4), sampled()) == "4 of 30 answers are right, 15 of its base's"
    assert "400 characters" in (screen(sampled(length=400), sampled()) or "")


def test_a_base_that_answers_one_thing_does_not_hold_its_candidate_to_more() -> None:
    assert screen(sampled(answers=["7"] * N), sampled(answers=["7"] * N)) is None


def test_equal_candidates_are_almost_never_stopped() -> None:
    rng, stopped = np.random.default_rng(2), 0
    for _ in range(150):
        pair = []
        for _ in range(2):
            answers = tuple(None if rng.random() < 0.2 else str(i) for i in range(N))
            right = tuple(bool(a is not None and rng.random() < 0.5) for a in answers)
            pair.append(Sampled(answers=answers, right=right, num_chars=tuple(rng.integers(50, 200, N).tolist())))
        stopped += screen(*pair) is not None
    assert stopped <= 5


def test_losses_in_a_few_clusters_stop_nobody_and_problems_that_stand_alone_are_tested_by_themselves() -> None:
    """Eleven problems fewer are right, of three clusters, and ten unread answers are all of two."""
    clusters = [f"c{index // 5}" for index in range(N)]
    assert screen(sampled(right=4), sampled(), clusters) is None
    assert screen(sampled(unread=10), sampled(), clusters) is None
    for broken in (sampled(right=4), sampled(unread=10)):
        assert screen(broken, sampled(), [str(index) for index in range(N)]) == screen(broken, sampled()) is not None


def test_other_problems_are_refused() -> None:
    short = Sampled(answers=("1",), right=(True,), num_chars=(1,))
    with pytest.raises(ValueError, match="same problems"):
        screen(short, sampled())
    with pytest.raises(ValueError, match="2 clusters"):
        screen(sampled(), sampled(), ["a", "b"])
