from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import (
    CouncilConfig,
    EscalateConfig,
    HierarchicalConfig,
    ParallelConfig,
    ProtocolConfig,
    ReviewConfig,
    SelfConsistencyConfig,
    SequentialConfig,
    SingleConfig,
    SwitchConfig,
    VoteConfig,
)
from mesh.oversight import OversightConfig
from mesh.patterns.step import Step
from mesh.types import Sampling
from serving.batch_ladder import SPARE, choose_rung, expect, label, ladder_of

SECONDS = st.floats(0.01, 100.0)


def kinds(protocol: ProtocolConfig) -> list[str]:
    return [rung.kind for rung in ladder_of(protocol)]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (SingleConfig(), ["single"]),
        (VoteConfig(), ["vote", "single"]),
        (VoteConfig(samples_per_member=5), ["vote", "vote", "single"]),
        (SwitchConfig(), ["switch", "single"]),
        (SelfConsistencyConfig(), ["self_consistency", "single"]),
        (CouncilConfig(), ["council", "vote", "single"]),
        (EscalateConfig(), ["escalate", "vote", "single"]),
    ],
)
def test_what_talks_becomes_a_vote_and_a_vote_becomes_one_member(protocol: ProtocolConfig, expected: list[str]) -> None:
    assert kinds(protocol) == expected


def test_cheaper_protocols_keep_the_limits_and_the_person_who_looks() -> None:
    council = CouncilConfig(
        sampling=Sampling(temperature=0.1, max_tokens=7), call_timeout_s=9.0, surprise=True,
        oversight=OversightConfig(on_tie=True),
    )  # fmt: skip
    for rung in ladder_of(council)[1:]:
        assert (rung.sampling, rung.call_timeout_s, rung.oversight) == (council.sampling, 9.0, council.oversight)
        assert not rung.surprise
    assert ladder_of(SelfConsistencyConfig(member="ada"))[1] == SingleConfig(member="ada")


def test_a_pattern_keeps_its_steps_and_each_of_them_comes_down() -> None:
    steps = (Step(name="draft", protocol=CouncilConfig()), Step(name="check", protocol=SingleConfig()))
    ladder = [rung for rung in ladder_of(SequentialConfig(steps=steps)) if isinstance(rung, SequentialConfig)]
    assert [[step.protocol.kind for step in rung.steps] for rung in ladder] == [
        ["council", "single"],
        ["vote", "single"],
        ["single", "single"],
    ]
    assert [label(ladder, rung) for rung in range(3)] == ["1. sequential", "2. sequential", "3. sequential"]
    assert kinds(ReviewConfig(produce=VoteConfig())) == ["review"] * 2
    assert kinds(HierarchicalConfig(worker=SingleConfig())) == ["hierarchical"]
    branches = ParallelConfig(branches=(Step(name="a", protocol=VoteConfig()), Step(name="b", protocol=VoteConfig())))
    assert kinds(branches) == ["parallel"] * 2


def test_without_a_deadline_and_while_nothing_is_measured_it_is_the_configured_protocol() -> None:
    assert choose_rung([9.0, 3.0, 1.0], num_left=1000, num_slots=1, seconds_left=None).rung == 0
    assert choose_rung([None, None, None], num_left=1000, num_slots=1, seconds_left=1.0).rung == 0


def test_the_cheapest_is_measured_once_it_is_clear_that_time_will_not_do() -> None:
    assert choose_rung([9.0, None, None], num_left=10, num_slots=1, seconds_left=1000.0).rung == 0
    choice = choose_rung([9.0, None, None], num_left=10, num_slots=1, seconds_left=50.0)
    assert (choice.rung, choice.reason) == (2, "to find out how long the cheapest protocol takes")


def test_protocols_come_down_as_time_runs_out_and_not_before() -> None:
    seconds = [10.0, 4.0, 1.0]
    rungs = [
        choose_rung(seconds, num_left=10, num_slots=1, seconds_left=left).rung for left in (200, 25, 15, 14, 11, 9, 1)
    ]
    assert rungs == [0, 0, 1, 2, 2, 2, 2]
    assert (
        "9 s before the deadline 10 tasks were left"
        in choose_rung(seconds, num_left=10, num_slots=1, seconds_left=9.0).reason
    )


def test_places_that_work_side_by_side_count() -> None:
    assert choose_rung([10.0, 1.0], num_left=8, num_slots=8, seconds_left=12.0).rung == 0
    assert choose_rung([10.0, 1.0], num_left=9, num_slots=8, seconds_left=11.0).rung == 1


@given(st.lists(st.none() | SECONDS, min_size=1, max_size=4))
def test_what_was_not_measured_is_guessed_from_what_was(seconds: list[float | None]) -> None:
    expected = expect(seconds)
    assert len(expected) == len(seconds)
    assert all(known is None or known == guess for known, guess in zip(seconds, expected, strict=True))
    assert all(guess > 0.0 for guess in expected) or set(seconds) == {None}


@given(st.lists(SECONDS, min_size=1, max_size=4), st.integers(1, 500), st.integers(1, 64), st.floats(-10.0, 5000.0))
def test_whoever_takes_a_dear_rung_leaves_time_for_the_rest(
    seconds: list[float], num_left: int, num_slots: int, seconds_left: float
) -> None:
    rung = choose_rung(seconds, num_left=num_left, num_slots=num_slots, seconds_left=seconds_left).rung
    rounds = -(-num_left // num_slots)
    after = seconds[rung] + (rounds - 1) * min(seconds)
    assert after <= SPARE * seconds_left + 1e-6 or seconds[rung] == min(seconds)


@given(st.lists(SECONDS, min_size=1, max_size=4), st.integers(1, 100), st.floats(0.0, 500.0), st.floats(0.0, 500.0))
def test_more_time_never_means_a_cheaper_protocol(
    seconds: list[float], num_left: int, left: float, more: float
) -> None:
    dearest_first = sorted(seconds, reverse=True)
    short = choose_rung(dearest_first, num_left=num_left, num_slots=1, seconds_left=left).rung
    assert choose_rung(dearest_first, num_left=num_left, num_slots=1, seconds_left=left + more).rung <= short
