from __future__ import annotations

import random

import pytest

from evolve.evaluate import Pool
from evolve.gates.aa_gates import AAGates, hold_aa_gates, samples_needed
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
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
    traces = []
    for problem in items:
        for member in SEATS:
            said = tuple(
                Proposal(
                    member=member.name,
                    family=member.family,
                    text="x",
                    answer="7" if rng.random() < 0.5 else "8",
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


def test_a_gate_of_several_shares_one_level_among_them() -> None:
    found = gates(samples_needed(2, 3, 25), num_finalists=3)
    assert (found.num_gates, found.num_finalists) == (25, 3)
    assert found.interval.low <= 0.05


def test_gates_share_no_sample_and_those_that_do_are_counted_apart() -> None:
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
