"""A frozen pool: whoever asks the same gets the same, so that protocols are compared on the same draws."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.ledger import LedgerError
from mesh.config import (
    CouncilConfig,
    DebateConfig,
    EscalateConfig,
    MixtureConfig,
    SelfConsistencyConfig,
    SelfMixtureConfig,
    SingleConfig,
    SwitchConfig,
    VoteConfig,
)
from mesh.engine import Engine, EngineError
from mesh.frozen import FrozenEngine
from mesh.propose import proposal_messages
from mesh.types import Completion, Member, Message, Part, Sampling, Task
from mesh.vote import vote_messages
from tests.mesh.doubles import Double, hold

T = TypeVar("T")

TASK = Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number")
ASKED = proposal_messages(TASK)
MEMBERS = tuple(
    Member(name=name, engine=f"e{n}", family=family)
    for n, (name, family) in enumerate([("ana", "fox"), ("bo", "owl"), ("cy", "ant")])
)
ANA = MEMBERS[0]
FREE = Sampling(max_tokens=10)


class Counting(Double):
    """Every sample it draws is another text, numbered through; a seed it has seen before is a mistake."""

    def __init__(self, **of_double: Any) -> None:
        super().__init__({m.name: {"vote": "7", "account": "none"} for m in MEMBERS}, can_score=True, **of_double)
        self.drawn = 0
        self.seeds: set[tuple[str, int]] = set()

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        await asyncio.sleep(0)
        assert (member.name, sampling.seed) not in self.seeds
        self.seeds.add((member.name, sampling.seed))
        numbers = range(self.drawn, self.drawn + sampling.num_samples)
        self.drawn += sampling.num_samples
        return tuple(Completion(text=f"It is {n}", output_tokens=2) for n in numbers), 6


def texts(pool: FrozenEngine, count: int, member: Member = ANA, asked: Any = ASKED, **changes: Any) -> list[str]:
    sampling = FREE.model_copy(update={"num_samples": count, **changes})
    completions, prompt_tokens = asyncio.run(pool.complete(member, asked, sampling))
    assert prompt_tokens == 6
    return [completion.text for completion in completions]


def test_a_pool_is_an_engine() -> None:
    assert isinstance(FrozenEngine(Counting(), seed=1), Engine)
    assert asyncio.run(FrozenEngine(Counting(), seed=1).profile(ANA)).model == "double"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_whoever_asks_for_k_gets_the_first_k_and_only_what_is_missing_is_drawn(counts: list[int]) -> None:
    engine = Counting()
    pool = FrozenEngine(engine, seed=1)
    said = [texts(pool, count) for count in counts]
    longest = max(said, key=len)
    assert all(own == longest[: len(own)] for own in said)
    assert engine.drawn == max(counts)
    assert pool.drawn_tokens == 2 * max(counts)


def test_another_member_adapter_prompt_or_way_of_sampling_has_samples_of_its_own() -> None:
    pool = FrozenEngine(Counting(), seed=1)
    again = texts(pool, 1)
    assert texts(pool, 1, seed=99) == again
    others = [
        texts(pool, 1, MEMBERS[1]),
        texts(pool, 1, ANA.model_copy(update={"adapter": "a" * 64})),
        texts(pool, 1, temperature=0.1),
        texts(pool, 1, top_p=0.5),
        texts(pool, 1, max_tokens=11),
        texts(pool, 1, stop=("\n",)),
        texts(pool, 1, asked=[Message(role="user", parts=(Part(text="What is 3 + 4?"),))]),
        texts(pool, 1, asked=[Message(role="user", parts=(Part(text="What is 3 + 5?", trusted=False),))]),
    ]
    assert len({again[0], *(own[0] for own in others)}) == 1 + len(others)


def test_two_pools_of_one_seed_draw_with_the_same_seeds_and_of_another_with_others() -> None:
    def seeds(seed: int) -> set[tuple[str, int]]:
        engine = Counting()
        texts(FrozenEngine(engine, seed=seed), 3)
        return engine.seeds

    assert seeds(1) == seeds(1)
    assert seeds(1) != seeds(2)


def test_those_who_ask_at_the_same_time_wait_for_one_draw() -> None:
    async def ten(ask: Callable[[FrozenEngine], Awaitable[T]], engine: Counting) -> list[T]:
        pool = FrozenEngine(engine, seed=1)
        return await asyncio.gather(*(ask(pool) for _ in range(10)))

    engine = Counting()
    said = asyncio.run(ten(lambda pool: pool.complete(ANA, ASKED, FREE.model_copy(update={"num_samples": 2})), engine))
    assert (engine.drawn, len({completions for completions, _ in said})) == (2, 1)
    engine = Counting()
    asyncio.run(ten(lambda pool: pool.choose(ANA, vote_messages(TASK, ["7", "8"]), ["A", "B"]), engine))
    asyncio.run(ten(lambda pool: pool.score(ANA, ASKED, "It is 7"), engine))
    assert engine.phases() == ["vote", "score"]


def test_choices_scores_and_lengths_are_asked_for_once() -> None:
    engine = Counting(length=len)
    pool = FrozenEngine(engine, seed=1)

    async def both() -> None:
        first = [
            await pool.choose(ANA, vote_messages(TASK, ["7", "8"]), ["A", "B"]),
            await pool.score(ANA, ASKED, "It is 7"),
            await pool.count_tokens(ANA, ASKED),
        ]
        engine.choice = lambda member, messages, labels: (1.0, 0.0)
        engine.length = lambda text: 0
        assert first == [
            await pool.choose(ANA, vote_messages(TASK, ["7", "8"]), ["A", "B"]),
            await pool.score(ANA, ASKED, "It is 7"),
            await pool.count_tokens(ANA, ASKED),
        ]
        assert await pool.choose(ANA, vote_messages(TASK, ["7", "9"]), ["A", "B"]) == (1.0, 0.0)

    asyncio.run(both())


def test_what_failed_is_asked_for_again() -> None:
    class Flaky(Counting):
        is_up = False

        async def complete(self, *args: Any) -> tuple[tuple[Completion, ...], int]:
            if not self.is_up:
                raise EngineError("down")
            return await super().complete(*args)

    engine = Flaky()
    pool = FrozenEngine(engine, seed=1)
    with pytest.raises(EngineError, match="down"):
        texts(pool, 1)
    engine.is_up = True
    assert texts(pool, 1) == ["It is 0"]


def test_a_pool_on_disk_outlives_its_process_to_the_last_digit(tmp_path: Path) -> None:
    path, engine = tmp_path / "pool.jsonl", Counting()
    engine.choice = lambda member, messages, labels: (1 / 3, 2 / 3)
    pool = FrozenEngine(engine, seed=1, path=path)
    said = texts(pool, 3)
    ballot = vote_messages(TASK, ["7", "8"])
    weights = asyncio.run(pool.choose(ANA, ballot, ["A", "B"]))
    score = asyncio.run(pool.score(ANA, ASKED, "It is 7"))
    later = Counting()
    again = FrozenEngine(later, seed=1, path=path)
    assert texts(again, 3) == said
    assert asyncio.run(again.choose(ANA, ballot, ["A", "B"])) == weights
    assert asyncio.run(again.score(ANA, ASKED, "It is 7")) == score
    assert (later.drawn, later.calls, again.drawn_tokens) == (0, [], 0)
    later.drawn = 50
    assert texts(again, 5) == [*said, "It is 50", "It is 51"]
    assert not later.seeds & engine.seeds
    assert texts(FrozenEngine(Counting(), seed=1, path=path), 5) == [*said, "It is 50", "It is 51"]


def test_a_damaged_pool_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    texts(FrozenEngine(Counting(), seed=1, path=path), 2)
    path.write_bytes(path.read_bytes().replace(b"It is 0", b"It is 7"))
    with pytest.raises(LedgerError):
        FrozenEngine(Counting(), seed=1, path=path)


# What it is for


def test_single_vote_switch_and_self_consistency_are_prefixes_of_one_pool() -> None:
    engine = Counting()
    pool = FrozenEngine(engine, seed=1)
    whole = hold(TASK, MEMBERS, pool, VoteConfig(sampling=FREE, samples_per_member=8))
    drawn = {m.name: [p.text for p in whole.proposals if p.member == m.name] for m in MEMBERS}
    spent = pool.drawn_tokens
    for config in (
        SingleConfig(sampling=FREE),
        VoteConfig(sampling=FREE, samples_per_member=3),
        SwitchConfig(sampling=FREE, samples_per_member=4),
        SelfConsistencyConfig(sampling=FREE, samples=8, member="bo"),
    ):
        for seed in (1, 2):
            trace = hold(TASK, MEMBERS, pool, config, seed)
            for member in MEMBERS:
                own = [p.text for p in trace.proposals if p.member == member.name]
                assert own == drawn[member.name][: len(own)]
            assert trace.usage.output_tokens == 2 * len(trace.proposals)
    assert pool.drawn_tokens == spent


def test_escalate_replays_the_council_at_no_further_draw() -> None:
    engine = Counting()
    pool = FrozenEngine(engine, seed=1)
    council = hold(TASK, MEMBERS, pool, CouncilConfig(sampling=FREE))
    spent = pool.drawn_tokens
    escalated = hold(TASK, MEMBERS, pool, EscalateConfig(sampling=FREE))
    assert (pool.drawn_tokens, escalated.verdict) == (spent, council.verdict)
    assert sorted(p.text for p in escalated.proposals) == sorted(p.text for p in council.proposals)
    assert escalated.usage.output_tokens == council.usage.output_tokens > 0


def test_rivals_that_begin_alike_are_paired_on_their_first_answers() -> None:
    pool = FrozenEngine(Counting(), seed=1)
    first = {p.member: p.text for p in hold(TASK, MEMBERS, pool, VoteConfig(sampling=FREE)).proposals}
    for config in (
        DebateConfig(sampling=FREE),
        MixtureConfig(sampling=FREE),
        SelfMixtureConfig(sampling=FREE, samples=2),
    ):
        trace = hold(TASK, MEMBERS, pool, config)
        assert {p.member: p.text for p in trace.round_of(0) if p.sample == 0}.items() <= first.items()
