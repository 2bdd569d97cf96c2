from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.evaluate import Pool
from evolve.gates.aa_gates import AAGates, hold_aa_gates, samples_needed
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
from evolve.ties import cross_fitted
from mesh.types import Deliberation, Member, Proposal, Task, Verdict

SEATS = [Member(name=name, engine=name, family=name) for name in ("ada", "ben")]
NOTHING = Verdict(answer=None, method="none")


def problems(count: int) -> list[Problem]:
    return [
        Problem(
            task=Task(id=f"t{n}", question="?", type=("sums", "products")[n % 2]),
            reference="7",
            verifier=ExactVerifier(),
            key=str(n),
        )
        for n in range(count)
    ]


def pool(items: list[Problem], num_samples: int, seed: int = 0) -> Pool:
    """Every member is right half of the time on every problem, by nothing but chance."""
    rng = random.Random(seed)
    return pool_of(items, lambda *_: "7" if rng.random() < 0.5 else "8", num_samples)


def all_unlike(items: list[Problem], num_samples: int) -> Pool:
    """No two samples of a problem say the same, so that every vote is tied and its answer tells whose it is."""
    return pool_of(items, lambda member, sample: f"{member.name} {sample}", num_samples)


def pool_of(items: list[Problem], answer: Callable[[Member, int], str], num_samples: int) -> Pool:
    traces = []
    for problem in items:
        for member in SEATS:
            said = tuple(
                Proposal(
                    member=member.name,
                    family=member.family,
                    text="x",
                    answer=answer(member, sample),
                    round=0,
                    sample=sample,
                )
                for sample in range(num_samples)
            )
            traces.append(
                Deliberation(
                    id=f"{problem.task.id}/{member.name}",
                    task=problem.task,
                    protocol="vote",
                    seed=0,
                    members=(member,),
                    proposals=said,
                    first_verdict=NOTHING,
                    verdict=NOTHING,
                )
            )
    return Pool(traces)


def right(items: list[Problem]) -> dict[tuple[str, str], bool]:
    return {(p.task.id, answer): answer == "7" for p in items for answer in ("7", "8")}


def gates(num_samples: int, **more: object) -> AAGates:
    items = problems(60)
    settings: dict[str, object] = {"samples_per_member": 2, "alpha": 0.05, "seed": 1}
    return hold_aa_gates(pool(items, num_samples), SEATS, items, right(items), **(settings | more))  # type: ignore[arg-type]


def test_incumbents_anew_pass_no_more_often_than_the_gate_promises() -> None:
    found = gates(samples_needed(2, 1, 60))
    assert found.num_gates == 60
    assert found.interval.low <= 0.05
    assert 0.3 < found.discordance < 0.7


def test_incumbents_anew_at_gates_of_several_pass_no_more_often_than_promised() -> None:
    found = gates(samples_needed(2, 3, 25), num_finalists=3)
    assert (found.num_gates, found.num_finalists) == (25, 3)
    assert found.interval.low <= 0.05


class LookedUp(Mapping[tuple[str, str], bool]):
    """Which answers are right, and every answer that was asked about, in order."""

    def __init__(self, right: frozenset[tuple[str, str]] = frozenset()) -> None:
        self._right = right
        self.asked: list[tuple[str, str]] = []

    def __getitem__(self, key: tuple[str, str]) -> bool:
        self.asked.append(key)
        return key in self._right

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._right)

    def __len__(self) -> int:
        return len(self._right)


def votes_of(right: LookedUp, items: list[Problem], samples: Pool, seats: list[Member]) -> list[tuple[str, str]]:
    """What was looked up for the votes alone: the members' reliability is measured before anything is dealt."""
    measured = LookedUp()
    cross_fitted(samples, seats, items, measured)
    assert right.asked[: len(measured.asked)] == measured.asked
    return right.asked[len(measured.asked) :]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_no_sample_votes_at_two_gates_or_on_two_sides(samples: int, num_finalists: int, num_gates: int) -> None:
    items, right = problems(6), LookedUp()
    dealt = all_unlike(items, samples_needed(samples, num_finalists, num_gates))
    found = hold_aa_gates(
        dealt, SEATS, items, right, samples_per_member=samples, num_finalists=num_finalists, alpha=0.05, seed=1
    )
    votes = Counter(votes_of(right, items, dealt, SEATS))
    assert found.num_gates == num_gates
    assert votes.total() == len(items) * num_gates * (1 + num_finalists)
    assert set(votes.values()) == {1}


def test_a_gate_of_several_shares_one_level_among_them() -> None:
    items, ada = problems(12), SEATS[:1]
    dealt, told = all_unlike(items, 4), LookedUp()
    shared = {"samples_per_member": 1, "alpha": 0.05, "seed": 1}
    hold_aa_gates(dealt, ada, items, told, num_finalists=3, **shared)  # type: ignore[arg-type]
    by_problem = [votes_of(told, items, dealt, ada)[start : start + 4] for start in range(0, 4 * len(items), 4)]
    # The second of each four is the first arrangement's: it wins five problems and loses none, p = 1/32.
    right = LookedUp(frozenset(sides[1] for sides in by_problem[:5]))
    alone = hold_aa_gates(dealt, ada, items, right, num_finalists=1, **shared)  # type: ignore[arg-type]
    of_three = hold_aa_gates(dealt, ada, items, right, num_finalists=3, **shared)  # type: ignore[arg-type]
    assert (alone.num_gates, alone.num_passed) == (2, 1)
    assert (of_three.num_gates, of_three.num_passed) == (1, 0), "p = 1/32 is above a third of 0.05"


def test_gates_that_are_dealt_again_are_counted_apart() -> None:
    found = gates(samples_needed(2, 1, 3) + 1, num_dealt_again=20)
    assert (found.num_gates, found.num_dealt_again) == (3, 20)
    assert "dealt again 20 times" in found.sentence


def test_the_same_pool_and_seed_give_the_same_gates() -> None:
    assert gates(16, num_dealt_again=5) == gates(16, num_dealt_again=5)


def test_too_few_samples_for_one_gate_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 samples"):
        gates(3)


def test_a_rate_that_is_shown_to_be_too_high_is_seen_in_the_interval() -> None:
    found = AAGates(alpha=0.05, num_finalists=1, num_problems=60, num_gates=4, num_passed=4, discordance=1.0)
    assert found.interval.low > found.alpha
    assert "100.0%" in found.sentence
