"""Nothing costs more than it may: per deliberation, part and job, with many at once; and who is charged for what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.budget import Budget, EngineClock, Purse
from mesh.config import (
    CouncilConfig,
    DebateConfig,
    EscalateConfig,
    HierarchicalConfig,
    MixtureConfig,
    ParallelConfig,
    ProtocolConfig,
    RankConfig,
    ReviewConfig,
    SelfConsistencyConfig,
    SelfMixtureConfig,
    SequentialConfig,
    SingleConfig,
    SwitchConfig,
    VoteConfig,
)
from mesh.deliberate import deliberate
from mesh.job import Job
from mesh.patterns.step import Step
from mesh.table import OUT_OF_BUDGET
from mesh.types import Deliberation, Member, Sampling, Task, Usage
from tests.mesh.doubles import Double, hold

TASK = Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number")
MEMBERS = tuple(
    Member(name=name, engine=f"e{n}", family=family)
    for n, (name, family) in enumerate([("ana", "fox"), ("bo", "owl"), ("cy", "ant")])
)
SHORT = Sampling(max_tokens=10)
TALK = {"sampling": SHORT, "talk_max_tokens": 8, "extract_max_tokens": 4}
COUNCIL = CouncilConfig(**TALK)

CONFIGS: list[ProtocolConfig] = [
    SingleConfig(sampling=SHORT),
    VoteConfig(sampling=SHORT, samples_per_member=3, extract_max_tokens=4),
    SwitchConfig(sampling=SHORT, samples_per_member=3),
    COUNCIL,
    CouncilConfig(**TALK, rounds=3, peer_max_chars=20),
    EscalateConfig(**TALK),
    RankConfig(sampling=SHORT),
    RankConfig(sampling=SHORT, method="approval"),
    RankConfig(sampling=SHORT, method="borda"),
    SelfConsistencyConfig(sampling=SHORT),
    SelfMixtureConfig(sampling=SHORT, samples=3),
    MixtureConfig(sampling=SHORT, layers=2),
    DebateConfig(sampling=SHORT),
    SequentialConfig(steps=(Step(name="one", protocol=VoteConfig(sampling=SHORT)), Step(name="two", protocol=COUNCIL))),
    ParallelConfig(
        sampling=SHORT,
        join="synthesise",
        branches=(Step(name="one", protocol=COUNCIL), Step(name="two", protocol=DebateConfig(sampling=SHORT))),
    ),
    HierarchicalConfig(sampling=SHORT, plan_max_tokens=9, worker=VoteConfig(sampling=SHORT)),
    ReviewConfig(sampling=SHORT, talk_max_tokens=8, produce=SingleConfig(sampling=SHORT), max_drafts=4),
]


def name_of(config: ProtocolConfig) -> str:
    return f"{config.kind}-{CONFIGS.index(config)}" if config in CONFIGS else config.kind


def quarrelling(**of_double: Any) -> Double:
    """Nobody agrees with anybody, long texts, an answer that only a second pass finds; all tokens allowed are used."""
    say = {
        name: {
            "*": f"I go step by step. So it is {n}",
            "propose": [f"I go step by step. So it is {n}", "Hard to say.\nPerhaps 5", f"{n}"],
            "extract": "5",
            "plan": "one part\nanother part",
            "critique": f"{name} finds that one apple was counted twice",
            "approve": (),
            "account": "none",
            "vote": str(n),
        }
        for n, name in enumerate(member.name for member in MEMBERS)
    }
    return Double(say, **{"output_tokens": 10**6, **of_double})


def undone(trace: Deliberation) -> list[str]:
    return [f.phase for _, part in trace.walk() for f in part.failures if f.kind == OUT_OF_BUDGET]


# A deliberation


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_tokens_and_calls_are_never_exceeded_and_what_is_left_undone_is_in_the_trace(config: ProtocolConfig) -> None:
    whole = hold(TASK, MEMBERS, quarrelling(), config)
    assert undone(whole) == []
    for limit in sorted({1, 10, 31, 76, whole.usage.output_tokens - 1, whole.usage.output_tokens}):
        limited = config.model_copy(update={"budget": Budget(output_tokens=limit)})
        trace = hold(TASK, MEMBERS, quarrelling(), limited)
        assert trace.usage.output_tokens <= limit
        if limit < whole.usage.output_tokens:
            assert undone(trace)
        else:
            assert trace.verdict == whole.verdict
    for limit in sorted({1, 3, 8, whole.usage.num_calls - 1, whole.usage.num_calls} - {0}):
        limited = config.model_copy(update={"budget": Budget(calls=limit)})
        engine = quarrelling()
        trace = hold(TASK, MEMBERS, engine, limited)
        assert trace.usage.num_calls == len(engine.calls) <= limit
        assert (undone(trace) == []) == (limit >= whole.usage.num_calls)


def test_a_member_that_hangs_costs_all_that_it_might_have_written() -> None:
    async def hang(member: Member) -> None:
        await asyncio.sleep(60 if member.name == "bo" else 0)

    config = COUNCIL.model_copy(update={"call_timeout_s": 0.25, "budget": Budget(output_tokens=40)})
    trace = hold(TASK, MEMBERS, quarrelling(before=hang), config)
    assert trace.usage.output_tokens == 20 + len(trace.votes)
    assert undone(trace) == ["critique", "critique", "revise", "revise"]


def test_seconds_cut_off_the_call_that_is_under_way_and_leave_the_rest_undone() -> None:
    async def slow(member: Member) -> None:
        await asyncio.sleep(60 if member.name == "cy" else 0)

    config = COUNCIL.model_copy(update={"budget": Budget(seconds=0.25)})
    trace = hold(TASK, MEMBERS, quarrelling(before=slow), config)
    first = trace.failures[0]
    assert (first.member, first.kind) == ("cy", "TimeoutError")
    assert 0.0 < float(first.message.removeprefix("no answer within ").removesuffix(" s")) <= 0.25
    assert {f.message for f in trace.failures[1:]} == {"no seconds left"}
    assert (trace.verdict.answer, len(trace.round_of(0)), trace.votes) == ("0", 2, ())


@pytest.mark.parametrize("budget", [Budget(engine_seconds=1e-6), Budget(cost=1e-6)])
def test_engine_time_and_money_stop_what_has_not_begun(budget: Budget) -> None:
    config = COUNCIL.model_copy(update={"budget": budget})
    trace = hold(TASK, MEMBERS, quarrelling(), config, prices={"e0": 3600.0})
    assert {exchange.phase for exchange in trace.exchanges} == {"propose"}
    assert undone(trace)[:3] == ["revise"] * 3
    word = "engine seconds" if budget.cost is None else "money"
    assert all(f"{word} spent" in failure.message for failure in trace.failures)
    assert trace.usage.engine_seconds > 0.0


def test_an_engine_without_a_price_is_free() -> None:
    config = COUNCIL.model_copy(update={"budget": Budget(cost=1e-9)})
    trace = hold(TASK, MEMBERS, quarrelling(), config, prices={"another": 9.0})
    assert undone(trace) == []


# Parts of a pattern


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_parts_share_the_patterns_budget(kind: str) -> None:
    steps = tuple(Step(name=f"s{n}", protocol=VoteConfig(sampling=SHORT)) for n in range(3))
    budget = Budget(output_tokens=70)
    config = (
        SequentialConfig(steps=steps, budget=budget)
        if kind == "sequential"
        else ParallelConfig(branches=steps, budget=budget)
    )
    trace = hold(TASK, MEMBERS, quarrelling(), config)
    assert [len(child.proposals) for child in trace.children] == [3, 3, 1]
    assert trace.usage.output_tokens == 70
    assert undone(trace) == ["propose", "propose"]


def test_a_part_has_a_budget_of_its_own_within_the_patterns() -> None:
    tight = VoteConfig(sampling=SHORT, budget=Budget(calls=3, output_tokens=10))
    steps = (Step(name="tight", protocol=tight), Step(name="wide", protocol=VoteConfig(sampling=SHORT)))
    trace = hold(TASK, MEMBERS, quarrelling(), SequentialConfig(steps=steps, budget=Budget(output_tokens=30)))
    assert [len(child.proposals) for child in trace.children] == [1, 2]


def test_a_review_makes_no_further_draft_where_no_review_of_it_could_be_paid() -> None:
    config = ReviewConfig(
        sampling=SHORT, produce=SingleConfig(sampling=SHORT), max_drafts=16, talk_max_tokens=8, budget=Budget(calls=6)
    )
    trace = hold(TASK, MEMBERS, quarrelling(), config)
    assert (trace.usage.num_calls, len(trace.children)) == (5, 1)
    assert undone(trace) == ["critique", "critique", "review", "review"]


# A job


def many(count: int, config: ProtocolConfig, budget: Budget, engine: Double) -> list[Deliberation]:
    async def all_at_once() -> list[Deliberation]:
        job = Job(budget=budget)
        tasks = [TASK.model_copy(update={"id": f"t{n}"}) for n in range(count)]
        try:
            return await asyncio.gather(*(deliberate(t, MEMBERS, engine, config, seed=1, job=job) for t in tasks))
        finally:
            await job.close()

    return asyncio.run(all_at_once())


@pytest.mark.parametrize("config", [COUNCIL, CONFIGS[14], RankConfig(sampling=SHORT)], ids=name_of)
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_job_of_many_at_once_never_exceeds_its_budget(config: ProtocolConfig, share: float) -> None:
    async def uneven(member: Member) -> None:
        for _ in range(ord(member.name[0]) % 5):
            await asyncio.sleep(0)

    whole = Usage.total(trace.usage for trace in many(6, config, Budget(), quarrelling()))
    limit = int(share * whole.output_tokens)
    traces = many(6, config, Budget(output_tokens=limit), quarrelling(before=uneven))
    assert 0.7 * limit <= sum(trace.usage.output_tokens for trace in traces) <= limit
    assert any(undone(trace) for trace in traces)
    limit, engine = int(share * whole.num_calls), quarrelling(before=uneven)
    traces = many(6, config, Budget(calls=limit), engine)
    assert len(engine.calls) == sum(trace.usage.num_calls for trace in traces) <= limit
    assert any(undone(trace) for trace in traces)


def test_what_a_member_has_not_used_is_free_for_the_others_at_once() -> None:
    """With ana done and cy under way, exactly one more vote can be paid, whoever else still holds room."""

    async def story() -> Deliberation:
        go_on = asyncio.Event()

        async def wait_for_it(member: Member) -> None:
            if member.name == "cy" and not go_on.is_set():
                await go_on.wait()

        job = Job(budget=Budget(output_tokens=60))
        engine, config = quarrelling(before=wait_for_it), VoteConfig(sampling=SHORT)
        first = asyncio.create_task(deliberate(TASK, MEMBERS, engine, config, seed=1, job=job))
        while job.purse.spent.num_calls < 2:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        assert job.purse.tokens_left == 30
        second = asyncio.create_task(
            deliberate(TASK.model_copy(update={"id": "t2"}), MEMBERS, engine, config, seed=1, job=job)
        )
        await asyncio.sleep(0)
        go_on.set()
        await first
        return await second

    trace = asyncio.run(story())
    assert (len(trace.proposals), undone(trace)) == (3, [])


def test_nothing_stays_reserved_whatever_fails() -> None:
    async def fail(member: Member) -> None:
        if member.name == "bo":
            raise TimeoutError

    async def story() -> Job:
        job = Job(budget=Budget(output_tokens=10_000, calls=1000))
        for config in CONFIGS:
            await deliberate(TASK, MEMBERS, quarrelling(before=fail), config, seed=1, job=job)
        await job.close()
        return job

    job = asyncio.run(story())
    assert (job.purse.reserved_tokens, job.purse.reserved_calls) == (0, 0)
    assert job.purse.spent.num_calls == 1000 - (job.purse.calls_left or 0)


# The purse itself


AMOUNTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=8)


@given(AMOUNTS, st.integers(1, 90), st.integers(1, 90), st.integers(1, 20))
def test_what_a_purse_reserves_and_spends_is_gone_from_every_purse_above_it(
    amounts: list[tuple[int, int]], own: int, above: int, calls: int
) -> None:
    job = Purse(Budget(output_tokens=above, calls=calls))
    purse = Purse(Budget(output_tokens=own), parent=job)
    spent_tokens = spent_calls = 0
    for tokens, num_calls in amounts:
        if purse.shortage(tokens, num_calls):
            assert spent_tokens + tokens > min(own, above) or spent_calls + num_calls > calls
            continue
        purse.reserve(tokens, num_calls)
        assert (purse.tokens_left, job.tokens_left) == (
            min(own, above) - spent_tokens - tokens,
            above - spent_tokens - tokens,
        )
        purse.release(tokens, num_calls)
        purse.spend("e", Usage(output_tokens=tokens, num_calls=num_calls))
        spent_tokens, spent_calls = spent_tokens + tokens, spent_calls + num_calls
    assert spent_tokens <= min(own, above)
    assert spent_calls <= calls
    assert job.spent == purse.spent == Usage(output_tokens=spent_tokens, num_calls=spent_calls)


def test_seconds_run_for_all_and_money_by_the_engine() -> None:
    now = [0.0]
    job = Purse(Budget(seconds=10.0, cost=2.0), {"dear": 3600.0}, now=lambda: now[0])
    now[0] = 4.0
    purse = Purse(Budget(seconds=7.0), job.prices, parent=job, now=lambda: now[0])
    assert purse.seconds_left == 6.0
    purse.spend("dear", Usage(engine_seconds=1.5))
    purse.spend("cheap", Usage(engine_seconds=100.0))
    assert (purse.cost, job.cost, purse.shortage(1, 1)) == (1.5, 1.5, "")
    purse.spend("dear", Usage(engine_seconds=0.5))
    assert purse.shortage(0, 0) == "2.0000 of 2 money spent"
    now[0] = 99.0
    assert (purse.seconds_left, purse.shortage(0, 0)) == (0.0, "no seconds left")
    assert Purse(Budget()).shortage(10**9, 10**9) == ""


# The clock


class Now:
    def __init__(self) -> None:
        self.value = 0.0

    def __call__(self) -> float:
        return self.value


CALLS = st.lists(st.tuples(st.sampled_from(["e0", "e1"]), st.integers(0, 40), st.integers(0, 20)), max_size=12)


def shares_of(calls: Sequence[tuple[str, int, int]]) -> list[float]:
    """What each call (engine, begin, length) is charged."""
    now = Now()
    clock, marks, shares = EngineClock(now), {}, [0.0] * len(calls)
    events = [(begin, 0, n) for n, (_, begin, _) in enumerate(calls)]
    events += [(begin + length, 1, n) for n, (_, begin, length) in enumerate(calls)]
    for at, is_end, n in sorted(events):
        now.value = float(at)
        if is_end:
            shares[n] = clock.stop(calls[n][0], marks[n])
        else:
            marks[n] = clock.start(calls[n][0])
    return shares


@settings(max_examples=200)
@given(CALLS)
def test_the_shares_of_an_engines_calls_add_up_to_its_busy_time(calls: list[tuple[str, int, int]]) -> None:
    shares = shares_of(calls)
    for engine in ("e0", "e1"):
        own = [(begin, begin + length) for name, begin, length in calls if name == engine]
        busy = sum(any(begin <= second < end for begin, end in own) for second in range(70))
        charged = sum(share for share, call in zip(shares, calls, strict=True) if call[0] == engine)
        assert charged == pytest.approx(busy)


@given(CALLS)
def test_no_call_is_charged_more_than_it_took_and_alone_it_is_charged_all(calls: list[tuple[str, int, int]]) -> None:
    for share, (engine, begin, length) in zip(shares_of(calls), calls, strict=True):
        assert -1e-9 <= share <= length + 1e-9
        others = [c for c in calls if c[0] == engine and c[1] < begin + length and begin < c[1] + c[2]]
        if len(others) == 1:
            assert share == pytest.approx(length)


@pytest.mark.parametrize("count", [1, 8])
def test_calls_of_all_deliberations_of_a_job_share_the_second(count: int) -> None:
    now = Now()

    async def story() -> list[Deliberation]:
        all_are_asked = asyncio.Event()

        async def a_second(member: Member) -> None:
            if engine.running == count * len(MEMBERS):
                now.value += 1.0
                all_are_asked.set()
            await all_are_asked.wait()

        job, engine, config = Job(), quarrelling(before=a_second), VoteConfig(sampling=SHORT)
        job.clock = EngineClock(now)
        tasks = [TASK.model_copy(update={"id": f"t{n}"}) for n in range(count)]
        return await asyncio.gather(*(deliberate(t, MEMBERS, engine, config, seed=1, job=job) for t in tasks))

    charged = [exchange.usage.engine_seconds for trace in asyncio.run(story()) for exchange in trace.exchanges]
    assert charged == pytest.approx([1.0 / count] * (count * len(MEMBERS)))
