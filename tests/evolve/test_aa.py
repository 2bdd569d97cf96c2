"""The gate tested on itself: how many A/A arms may pass before it is not trusted."""

from __future__ import annotations

from math import comb

import pytest

from evolve.gates.aa import AARecord, aa_is_due, aa_record
from evolve.gates.conjunction import ConjunctionRecord, Contest, Rival, hold


def gate(kind: str, wins: int, alpha: float = 0.05) -> ConjunctionRecord:
    """A gate of one arrangement that wins so many of 40 problems and loses none."""
    before, after = (False,) * 40, (True,) * wins + (False,) * (40 - wins)
    now = Rival(kind="incumbent", name="now", right=before)
    one = Contest(name="new", kind=kind, right=after, rivals=(now,), task_types=("a",) * 40)  # type: ignore[arg-type]
    return hold([one], alpha, seed=0)


def arms(num_would_pass: int, num_arms: int, level: float = 0.05) -> AARecord:
    return AARecord(levels=(level,) * num_arms, num_would_pass=num_would_pass)


def test_aa_arms_are_counted_with_the_level_of_their_gate_and_candidates_are_not() -> None:
    found = aa_record([gate("aa", 40), gate("candidate", 40), gate("aa", 0, alpha=0.01)])
    assert (found.levels, found.num_arms, found.num_would_pass) == ((0.05, 0.01), 2, 1)
    assert aa_record([]).sentence == "no A/A arm was held"


@pytest.mark.parametrize(("passes", "held"), [(1, 1), (1, 2), (2, 7), (3, 16)])
def test_at_one_level_the_chance_of_so_many_is_the_binomial_tail(passes: int, held: int) -> None:
    tail = sum(comb(held, k) * 0.05**k * 0.95 ** (held - k) for k in range(passes, held + 1))
    assert arms(passes, held).p_exceeds == pytest.approx(tail)


def test_the_one_arm_of_a_short_run_can_raise_the_alarm() -> None:
    fewest = {held: next(k for k in range(held + 2) if arms(k, held).is_alarm) for held in (1, 2, 7, 8, 16)}
    assert fewest == {1: 1, 2: 2, 7: 2, 8: 3, 16: 3}
    assert not any(arms(0, held).is_alarm for held in range(40))


def test_each_arm_counts_at_the_level_of_its_own_gate() -> None:
    assert AARecord(levels=(0.05, 0.05), num_would_pass=1).is_alarm is False
    worn = AARecord(levels=(0.03, 0.0076), num_would_pass=1)
    assert worn.p_exceeds == pytest.approx(1 - 0.97 * 0.9924)
    assert worn.is_alarm, "two gates at these levels promote anything in fewer than one case of twenty"


def test_a_gate_that_keeps_its_level_raises_the_alarm_as_seldom_as_is_told() -> None:
    """`AARecord.is_alarm` says 5.0% of runs by the first arm and 8.3% by the tenth; 1.5% and 1.8% at a rate of 1.5%."""

    def ever(rate: float, num_arms: int) -> float:
        quiet, fired = {0: 1.0}, 0.0
        for held in range(1, num_arms + 1):
            after: dict[int, float] = {}
            for passed, chance in quiet.items():
                after[passed] = after.get(passed, 0.0) + chance * (1.0 - rate)
                after[passed + 1] = after.get(passed + 1, 0.0) + chance * rate
            fired += sum(chance for passed, chance in after.items() if arms(passed, held).is_alarm)
            quiet = {passed: chance for passed, chance in after.items() if not arms(passed, held).is_alarm}
        return fired

    assert [round(ever(0.05, count), 3) for count in (1, 10)] == [0.05, 0.083]
    assert [round(ever(0.015, count), 3) for count in (1, 10)] == [0.015, 0.018]


def test_the_sentence_says_how_many_arms_there_were_and_that_so_few_say_little() -> None:
    quiet = arms(0, 1)
    assert quiet.sentence == (
        "0 of 1 A/A arms would have been promoted (95% interval 0.0% to 79.3%; the gate promises at most 5%); so few "
        "arms say little: a gate that promotes 20% of what is no better raises no alarm in 80% of such runs"
    )
    assert quiet.silence == pytest.approx(0.8)
    assert "so few arms" not in arms(0, 16).sentence
    assert quiet.objection == ""


def test_an_alarm_says_what_follows_and_how_often_it_is_false() -> None:
    loud = arms(3, 5)
    assert "a sound gate promotes so many in 0.1% of runs at most" in loud.sentence
    assert loud.sentence.endswith("it is not trusted, and what passes it is not seated")
    assert loud.objection.startswith(loud.sentence)
    assert "every gate has an A/A arm until this is over" in loud.objection
    assert "in 5.0% of runs at most" in arms(1, 1).sentence


def test_an_aa_arm_rides_along_first_and_regularly() -> None:
    assert [number for number in range(8) if aa_is_due(number, 3)] == [0, 3, 6]
    assert [number for number in range(8) if aa_is_due(number, 0)] == [0]
