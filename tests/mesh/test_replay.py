"""A deliberation that is started again goes on where it was: the same trace, and no call that was made before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.budget import Budget
from mesh.config import ProtocolConfig, SequentialConfig, VoteConfig
from mesh.deliberate import deliberate
from mesh.engine import EngineError
from mesh.job import Job
from mesh.oversight import OversightConfig
from mesh.patterns.step import Step
from mesh.replay import Replay
from mesh.types import Completion, Deliberation, Member, Message, Profile, Sampling, Score
from tests.mesh.doubles import Desk, Double, hold
from tests.mesh.test_budget import CONFIGS, COUNCIL, MEMBERS, SHORT, TASK, name_of, quarrelling


class Dead(Double):
    """Has nothing but its tokenizer left."""

    def __init__(self) -> None:
        super().__init__({})

    async def profile(self, member: Member) -> Profile:
        raise AssertionError(f"the engine of {member.name} was probed again")

    async def _asked(self, member: Member, phase: str, messages: Sequence[Message], sampling: Sampling | None) -> Any:
        raise AssertionError(f"{member.name} was asked again, in {phase}")


class EngineDied(EngineError):
    """One of the failures that engines have names of their own for."""


def replayed(config: ProtocolConfig, trace: Deliberation, **options: Any) -> Deliberation:
    return hold(TASK, MEMBERS, Dead(), config, earlier=trace, **options)


def in_full(trace: Deliberation) -> dict[str, Any]:
    """All of it, the times of the calls included: they are given back too."""
    return trace.model_dump(mode="json")


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_replaying_a_finished_trace_asks_nothing_and_gives_the_same_trace(config: ProtocolConfig) -> None:
    config = config.model_copy(update={"surprise": True})
    trace = hold(TASK, MEMBERS, quarrelling(can_score=True), config)
    assert in_full(replayed(config, trace)) == in_full(trace)


@settings(max_examples=60)
@given(
    st.sampled_from(CONFIGS),
    st.fixed_dictionaries(
        {
            "output_tokens": st.one_of(st.none(), st.integers(1, 200)),
            "calls": st.one_of(st.none(), st.integers(1, 30)),
            "engine_seconds": st.one_of(st.none(), st.sampled_from([1e-9, 1e-4, 1e-3])),
        }
    ),
    st.dictionaries(
        st.sampled_from([member.name for member in MEMBERS]),
        st.tuples(
            st.sampled_from(
                ["propose", "critique", "revise", "vote", "account", "approve", "rank", "synthesise", "plan"]
            ),
            st.sampled_from([EngineError("gone"), EngineDied("dead"), TimeoutError()]),
        ),
        max_size=2,
    ),
)
def test_a_replay_leaves_undone_what_was_and_repeats_every_failure(
    config: ProtocolConfig, budget: dict[str, Any], failing: dict[str, tuple[str, Exception]]
) -> None:
    engine = quarrelling()
    engine.say = {name: {**own, **dict([failing[name]] if name in failing else [])} for name, own in engine.say.items()}
    config = config.model_copy(update={"budget": Budget(**budget)})
    trace = hold(TASK, MEMBERS, engine, config)
    assert in_full(replayed(config, trace)) == in_full(trace)


def test_time_that_ran_out_once_is_not_found_again() -> None:
    async def slow(member: Member) -> None:
        await asyncio.sleep(60 if member.name == "cy" else 0)

    config = COUNCIL.model_copy(update={"budget": Budget(seconds=0.25)})
    trace = hold(TASK, MEMBERS, quarrelling(before=slow), config)
    assert any(failure.message == "no seconds left" for failure in trace.failures)
    assert in_full(replayed(config, trace)) == in_full(trace)


def test_what_was_paid_before_is_charged_to_the_deliberation_and_not_to_the_job() -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), COUNCIL)

    async def again() -> Job:
        job = Job(budget=Budget(output_tokens=1, calls=1), prices={"e0": 3600.0})
        assert in_full(await deliberate(TASK, MEMBERS, Dead(), COUNCIL, seed=1, job=job, earlier=trace)) == in_full(
            trace
        )
        return job

    job = asyncio.run(again())
    assert (job.purse.spent.output_tokens, job.purse.cost, job.purse.reserved_calls) == (0, 0.0, 0)


def test_what_a_timeout_may_have_cost_is_still_gone_from_the_patterns_budget_after_a_pause() -> None:
    async def hang(member: Member) -> None:
        await asyncio.sleep(60 if member.name == "cy" else 0)

    first = VoteConfig(sampling=SHORT, call_timeout_s=0.25, oversight=OversightConfig(always=True))
    steps = (Step(name="one", protocol=first), Step(name="two", protocol=VoteConfig(sampling=SHORT)))
    config = SequentialConfig(steps=steps, budget=Budget(output_tokens=50))
    waiting = hold(TASK, MEMBERS, quarrelling(before=hang), config, desk=Desk())
    done = hold(TASK, MEMBERS, quarrelling(), config, desk=Desk(lambda question: 0), earlier=waiting)
    assert [len(child.proposals) for child in done.children] == [2, 2]
    assert done.usage.output_tokens == 40


def test_a_member_whose_engine_could_not_be_probed_is_not_asked_by_a_replay_either() -> None:
    class Unknown(Double):
        async def profile(self, member: Member) -> Profile:
            if member.name == "bo":
                raise EngineDied("no such engine")
            return await super().profile(member)

    engine = Unknown(quarrelling().say)
    trace = hold(TASK, MEMBERS, engine, VoteConfig(sampling=SHORT))
    assert [(f.member, f.kind) for f in trace.failures] == [("bo", "EngineDied")]
    assert in_full(replayed(VoteConfig(sampling=SHORT), trace)) == in_full(trace)


def test_a_probe_that_hangs_is_cut_off_like_any_call() -> None:
    class Hanging(Double):
        async def profile(self, member: Member) -> Profile:
            await asyncio.sleep(60 if member.name == "bo" else 0)
            return await super().profile(member)

        async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
            await asyncio.sleep(60 if member.name == "cy" else 0)
            return await super().count_tokens(member, messages)

    engine = Hanging(quarrelling().say, windows={"e2": 300}, length=len)
    trace = hold(TASK, MEMBERS, engine, COUNCIL.model_copy(update={"call_timeout_s": 0.25}))
    assert [(f.member, f.phase, f.kind, f.message) for f in trace.failures] == [
        ("bo", "propose", "TimeoutError", "no answer within 0.25 s"),
        ("cy", "revise", "TimeoutError", "no answer within 0.25 s"),
    ]
    assert trace.verdict.answer == "0"


def test_the_same_question_asked_several_times_is_answered_in_the_order_of_then() -> None:
    trace = hold(TASK, MEMBERS, quarrelling(), CONFIGS[1])
    replay = Replay(trace)
    asked = trace.exchanges[0]
    key = ("", asked.member, asked.phase, asked.round, asked.messages)
    assert replay.take(*key) == asked
    assert replay.take(*key) is None
    assert Replay(None).take(*key) is None
    assert (Replay(None).ended(""), Replay(trace).ended("nowhere")) == (None, None)


def test_scores_are_given_back_with_every_digit() -> None:
    class Odd(Double):
        async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
            return Score(log_prob=-1 / 3, num_tokens=3, num_bytes=7)

    config = VoteConfig(surprise=True)
    say = {m.name: {"*": Completion(text=f"It is {n // 2}", output_tokens=1)} for n, m in enumerate(MEMBERS)}
    trace = hold(TASK, MEMBERS, Odd(say, can_score=True), config)
    assert trace.verdict.diagnosis.surprise is not None
    assert in_full(replayed(config, trace)) == in_full(trace)
