"""With minus without: what an experience is worth, measured, shrunk, and honest about what it does not know."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.utility import NO_EFFECT, SPREAD, Prior, Tally, class_prior, harms, utility, worth

tallies = st.integers(0, 60).flatmap(lambda num: st.builds(Tally, st.just(num), st.integers(0, num)))


def test_nothing_is_known_of_what_was_never_used() -> None:
    found = utility(Tally(), Tally())
    assert (found.mean, found.num_with, found.num_without) == (0.0, 0, 0)
    assert worth(found.mean) == 1.0
    assert not harms(found)


def test_success_alone_is_no_gain() -> None:
    assert utility(Tally(50, 50), Tally()).mean == 0.0
    assert not harms(utility(Tally(50, 0), Tally()))


def test_the_shrunk_difference_is_the_one_of_the_normal_model() -> None:
    # Beta(9, 1) has mean .9 and variance .09 / 11, Beta(2, 6) has mean .25 and variance .1875 / 9.
    noise = 0.09 / 11 + 0.1875 / 9
    share = SPREAD**2 / (SPREAD**2 + noise)
    found = utility(Tally(8, 8), Tally(6, 1))
    assert found.mean == pytest.approx(share * 0.65)
    assert found.upper - found.lower == pytest.approx(2 * 2.326 * (share * noise) ** 0.5)


def test_what_does_clear_harm_is_told_from_what_had_bad_luck() -> None:
    assert harms(utility(Tally(20, 2), Tally(8, 7)))
    assert not harms(utility(Tally(4, 1), Tally(2, 1)))


def test_an_entry_with_few_trials_stands_near_its_class_and_one_with_many_by_itself() -> None:
    helps = class_prior(Tally(400, 320), Tally(100, 30))
    assert helps.mean == pytest.approx(0.5, abs=0.03)
    assert utility(Tally(), Tally(), helps).mean == helps.mean
    assert utility(Tally(2, 1), Tally(1, 1), helps).mean > 0.2
    assert utility(Tally(300, 60), Tally(60, 40), helps).mean < -0.3


def test_a_class_that_nobody_used_expects_nothing_and_leaves_room() -> None:
    unknown = class_prior(Tally(), Tally())
    assert unknown.mean == 0.0
    assert unknown.variance > NO_EFFECT.variance


@given(tallies, tallies, st.floats(-0.9, 0.9))
def test_a_gain_lies_between_what_was_expected_and_what_was_seen_and_so_in_its_interval(
    with_: Tally, without: Tally, mean: float
) -> None:
    found = utility(with_, without, Prior(mean, 0.05))
    seen = with_.mean - without.mean if with_.num and without.num else mean
    assert min(mean, seen) - 1e-9 <= found.mean <= max(mean, seen) + 1e-9
    assert -1.0 <= found.lower <= found.mean <= found.upper <= 1.0
    assert 0.0 < worth(found.mean) < 2.0


@given(tallies, tallies)
def test_the_two_sides_are_treated_alike(with_: Tally, without: Tally) -> None:
    assert utility(with_, without).mean == pytest.approx(-utility(without, with_).mean)


@given(tallies, tallies)
def test_one_more_success_with_it_never_lowers_its_gain(with_: Tally, without: Tally) -> None:
    better = Tally(with_.num, min(with_.num, with_.num_success + 1))
    assert utility(better, without).mean >= utility(with_, without).mean


def _ever_seems_harmful(draw: random.Random, num_episodes: int) -> bool:
    """An entry that changes nothing, looked at after every episode, a tenth of them held out."""
    counts = {True: [0, 0], False: [0, 0]}
    for _ in range(num_episodes):
        side = counts[draw.random() < 0.9]
        side[0] += 1
        side[1] += draw.random() < 0.5
        if harms(utility(Tally(*counts[True]), Tally(*counts[False]))):
            return True
    return False


def test_of_entries_that_change_nothing_few_ever_seem_to_do_harm() -> None:
    draw = random.Random(7)
    num_harmful = sum(_ever_seems_harmful(draw, num_episodes=80) for _ in range(150))
    assert num_harmful <= 0.06 * 150


@pytest.mark.parametrize("bad", [Tally(1, 2), Tally(-1, -1), Tally(2, -1)])
def test_counts_that_cannot_be_are_refused(bad: Tally) -> None:
    with pytest.raises(ValueError, match="expected 0 <= num_success <= num"):
        utility(bad, Tally())


def test_a_gain_beyond_all_success_is_refused() -> None:
    with pytest.raises(ValueError, match="expected -1 to 1"):
        worth(1.5)
