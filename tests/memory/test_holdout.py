"""The hold-out: a fixed share of all pairs of episode and entry, the same in every process."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.holdout import is_withheld


def _within_chance(num_withheld: int, num: int, share: float) -> bool:
    """Within five standard deviations of the binomial distribution."""
    return abs(num_withheld - num * share) <= 5.0 * math.sqrt(num * share * (1.0 - share))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_the_share_is_kept_over_episodes_and_over_entries(share: float) -> None:
    assert _within_chance(sum(is_withheld(f"episode {n}", "an entry", share) for n in range(4000)), 4000, share)
    assert _within_chance(sum(is_withheld("an episode", f"entry {n}", share) for n in range(4000)), 4000, share)


def test_entries_are_withheld_independently_of_each_other() -> None:
    both = sum(is_withheld(f"e{n}", "one", 0.3) and is_withheld(f"e{n}", "other", 0.3) for n in range(5000))
    assert _within_chance(both, 5000, 0.09)


@given(st.text(min_size=1), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_what_a_small_share_withholds_a_greater_one_withholds_too(
    episode: str, entry: str, one: float, other: float
) -> None:
    small, great = sorted((one, other))
    assert is_withheld(episode, entry, small) == is_withheld(episode, entry, small)
    assert is_withheld(episode, entry, small) <= is_withheld(episode, entry, great)


@given(st.text(), st.text())
def test_no_share_withholds_nothing_and_the_whole_share_everything(episode: str, entry: str) -> None:
    assert not is_withheld(episode, entry, 0.0)
    assert is_withheld(episode, entry, 1.0) == bool(episode)


def test_who_asks_without_an_episode_is_shown_everything() -> None:
    assert not any(is_withheld("", f"entry {n}", 0.9) for n in range(100))


def test_the_choice_is_the_same_in_every_version() -> None:
    chosen = [n for n in range(60) if is_withheld("episode", f"{n}", 0.1)]
    assert chosen == [6, 39]


def test_broken_unicode_is_a_name_like_any_other() -> None:
    assert is_withheld("\udcff", "entry", 1.0)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        is_withheld("episode", "entry", share)
