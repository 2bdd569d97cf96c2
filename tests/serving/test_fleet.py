from __future__ import annotations

import asyncio

import pytest

from mesh.engine import EngineError
from mesh.propose import proposal_messages
from mesh.types import Member, Sampling, Task, Usage
from serving.config import ScriptedSpec
from serving.fleet import Fleet
from serving.scripted_engine import ScriptedEngine
from tests.contract.engine_contract import CONTRACT, Check, ask, ballot
from tests.serving.adapter_records import adapter_record

ADA = Member(name="ada", engine="alpha", family="one")
BOB = Member(name="bob", engine="beta", family="two")
QUESTION = proposal_messages(Task(id="t", question="What is 20 + 22?"))


def fleet() -> Fleet:
    specs = [ScriptedSpec(name="alpha", family="one"), ScriptedSpec(name="beta", family="two", max_model_len=128)]
    return Fleet({spec.name: ScriptedEngine(spec) for spec in specs})


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("member", [ADA, BOB], ids=lambda member: member.name)
def test_fleet_keeps_the_contract_for_members_of_every_engine(check: Check, member: Member) -> None:
    asyncio.run(check(fleet(), member))


def test_requests_go_to_the_engine_the_member_names() -> None:
    of = fleet()
    assert asyncio.run(of.profile(ADA)).engine == "alpha"
    assert asyncio.run(of.profile(BOB)).max_model_len == 128


def test_unknown_engine_is_named_with_the_nearest_one() -> None:
    stranger = ADA.model_copy(update={"engine": "alfa"})
    with pytest.raises(EngineError, match="'alfa'; did you mean 'alpha'"):
        asyncio.run(fleet().complete(stranger, QUESTION, Sampling()))


def test_adapter_is_loaded_into_one_engine_alone() -> None:
    async def run() -> None:
        of, adapter = fleet(), adapter_record("a")
        await of.load_adapter("alpha", adapter)
        changes = {"adapter": adapter.hash}
        await of.complete(ADA.model_copy(update=changes), QUESTION, Sampling())
        with pytest.raises(EngineError):
            await of.complete(BOB.model_copy(update=changes), QUESTION, Sampling())
        await of.retire_adapter("alpha", adapter.hash)
        with pytest.raises(EngineError):
            await of.complete(ADA.model_copy(update=changes), QUESTION, Sampling())

    asyncio.run(run())


def test_adapter_for_an_engine_that_takes_none_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="takes no adapters"):
        asyncio.run(Fleet({"alpha": BareEngine()}).load_adapter("alpha", adapter_record("a")))
    with pytest.raises(EngineError, match="no engine is named"):
        asyncio.run(fleet().load_adapter("gamma", adapter_record("a")))


def test_usage_adds_up_per_engine_and_failed_calls_are_not_in_it() -> None:
    async def run() -> Fleet:
        of = fleet()
        await asyncio.gather(*(of.complete(ADA, QUESTION, Sampling(num_samples=2)) for _ in range(3)))
        await of.choose(BOB, ballot("What is 1 + 1?", "2", "3"), ["A", "B"])
        with pytest.raises(EngineError):
            await of.complete(BOB, ask("word " * 200), Sampling())
        return of

    of = asyncio.run(run())
    assert (of.usage["alpha"].num_calls, of.usage["beta"].num_calls) == (3, 1)
    assert of.usage["alpha"].output_tokens > of.usage["beta"].output_tokens == 0
    assert of.total_usage == Usage.total(of.usage.values())


def test_fleet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one engine"):
        Fleet({})


class BareEngine:
    """An engine with the verbs of the protocol and no more."""

    def __init__(self) -> None:
        inner = ScriptedEngine(ScriptedSpec(name="alpha", family="one"))
        self.complete, self.choose, self.score = inner.complete, inner.choose, inner.score
        self.count_tokens, self.profile = inner.count_tokens, inner.profile
