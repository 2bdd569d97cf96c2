from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.asks import proposal_asks_in_parts
from evolve.evaluate import Pool
from evolve.gates.aa_gates import AAGates, failed_calls, fully_drawn, hold_aa_gates, samples_needed
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
from evolve.progress import Silent
from evolve.ties import cross_fitted
from mesh.config import VoteConfig
from mesh.types import Deliberation, Failure, Member, Proposal, Task, Verdict
from scripts import gate_aa
from serving.traces import read_traces
from tests.evolve.quick_run import ENGINES, quick_config

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


def votes_of(
    right: LookedUp, items: list[Problem], samples: Pool, seats: list[Member], clusters: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """What was looked up for the votes alone: the members' reliability is measured before anything is dealt."""
    measured = LookedUp()
    cross_fitted(samples, seats, items, measured, clusters)
    assert right.asked[: len(measured.asked)] == measured.asked
    return right.asked[len(measured.asked) :]


def test_a_tie_at_these_gates_does_not_fall_to_whoever_is_right_about_a_near_duplicate() -> None:
    items = [
        one.model_copy(update={"task": one.task.model_copy(update={"type": f"pair {n // 2}"})})
        for n, one in enumerate(problems(200))
    ]
    pairs, rng = [one.task.type for one in items], random.Random(7)
    lucky = {pair: rng.choice(SEATS) for pair in pairs}
    good = {(one.task.id, lucky[one.task.type].name) for one in items}
    said = pool_of(items, lambda member, _: member.name, 4)

    def share(clusters: list[str]) -> float:
        right = LookedUp(frozenset(good))
        hold_aa_gates(said, SEATS, items, right, samples_per_member=2, alpha=0.05, clusters=clusters, seed=1)
        votes = votes_of(right, items, said, SEATS, clusters)
        return sum(vote in good for vote in votes) / len(votes)

    assert 0.4 < share(pairs) < 0.6
    assert share([]) > 0.75  # what it would look like


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
    assert "left out" not in found.sentence
    left = found.model_copy(update={"num_left_out": 3})
    assert left.sentence.endswith("; 3 problems were left out, since calls about them failed.")


def test_no_call_asks_for_more_than_it_may_and_the_parts_are_all_that_is_needed(tmp_path: Path) -> None:
    items, config = problems(2), quick_config(tmp_path)
    asks = proposal_asks_in_parts(config, "aa gates", items, SEATS, 10, 4)
    assert len({ask.key for ask in asks}) == len(asks) == 3 * 2 * 2
    drawn: Counter[tuple[str, str]] = Counter()
    for ask in asks:
        assert isinstance(ask.protocol, VoteConfig)
        assert ask.protocol.samples_per_member <= 4
        drawn[ask.task.id, ask.members[0].name] += ask.protocol.samples_per_member
    assert set(drawn.values()) == {10}
    assert len({ask.seed for ask in asks if ask.task.id == "t0" and ask.members[0].name == "ada"}) == 3


def failed(problem: Problem, message: str) -> Deliberation:
    failure = Failure(member="ada", phase="propose", kind="EngineError", message=message)
    return Deliberation(
        id=problem.task.id, task=problem.task, protocol="vote", seed=0, members=(SEATS[0],), failures=(failure,),
        first_verdict=NOTHING, verdict=NOTHING,
    )  # fmt: skip


def test_problems_about_which_a_call_failed_are_told_apart_and_the_reasons_are_counted() -> None:
    items = problems(4)
    whole = pool(items, 4)
    assert fully_drawn(whole, SEATS, items, 4) == items
    assert fully_drawn(whole, SEATS, items, 5) == []
    absent = Member(name="cy", engine="cy", family="cy")
    assert fully_drawn(whole, [*SEATS, absent], items, 1) == []
    drawn = [failed(items[0], "no answer within 120 s"), failed(items[1], "no answer within 120 s")]
    assert failed_calls([*drawn, failed(items[2], "died")]) == (
        "3 of 3 calls failed (2 times EngineError: no answer within 120 s; 1 times EngineError: died)"
    )
    assert failed_calls([]) == ""


def aa_options(items: int = 6, gates: int = 3) -> argparse.Namespace:
    return argparse.Namespace(items=items, gates=gates, finalists=1, deals=0)


def test_the_script_holds_its_gates_on_parts_put_together(tmp_path: Path) -> None:
    found = asyncio.run(gate_aa.hold(quick_config(tmp_path), aa_options(), Silent()))
    assert (found.num_gates, found.num_problems, found.num_left_out) == (3, 6, 0)


def test_the_script_takes_as_many_problems_as_asked_for_and_task_types_as_evenly_as_they_go(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    tasks = tmp_path / "tasks.jsonl"
    rows = [json.loads(line) for line in tasks.read_text().splitlines()]
    tasks.write_text("".join(json.dumps(row | {"type": "abcd"[n % 4]}) + "\n" for n, row in enumerate(rows)))
    asyncio.run(gate_aa.hold(config, aa_options(), Silent()))
    asked = {(trace.task.id, trace.task.type) for trace in read_traces(tmp_path / "run" / "aa.parquet")}
    assert sorted(Counter(kind for _, kind in asked).values()) == [1, 1, 2, 2]


def test_the_script_says_how_many_calls_failed_and_why_where_nothing_is_left(tmp_path: Path) -> None:
    engines = [engine | {"latency_s": 0.5} for engine in ENGINES]
    slow = quick_config(
        tmp_path, serving={"in_process": True, "engines": engines}, deliberation={"call_timeout_s": 0.01}
    )
    with pytest.raises(SystemExit, match=r"got them for none: 36 of 36 calls failed \(.*within 0.01 s") as ended:
        asyncio.run(gate_aa.hold(slow, aa_options(), Silent()))
    assert "raise deliberation.call_timeout_s" in str(ended.value)
