from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mesh.engine import EngineError
from mesh.propose import proposal_messages
from mesh.types import Completion, Member, Message, Sampling, Task, Usage
from serving.adapters import Adapter
from serving.config import ScriptedSpec
from serving.fleet import Fleet
from serving.hosting import EngineDied
from serving.scripted_engine import ScriptedEngine
from serving.ticket import Ticket
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


class Recording(ScriptedEngine):
    """Notes with what rank it was asked, and how often."""

    def __init__(self, spec: ScriptedSpec) -> None:
        super().__init__(spec)
        self.ranks: list[int] = []

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        self.ranks.append(rank)
        return await super().complete(member, messages, sampling, rank=rank)


def recordings(number: int) -> list[Recording]:
    return [Recording(ScriptedSpec(name="alpha", family="one", latency_s=0.001)) for _ in range(number)]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_replicas_together_keep_the_contract_too(check: Check) -> None:
    asyncio.run(check(Fleet({"alpha": recordings(3)}).for_ticket(Ticket(priority="batch", affinity="t")), ADA))


def test_adapter_contract_is_kept_on_every_replica() -> None:
    async def run() -> None:
        engines, adapter = recordings(3), adapter_record("a")
        of = Fleet({"alpha": engines})
        await of.load_adapter("alpha", adapter)
        assert all(adapter.hash in engine.adapters for engine in engines)
        await of.retire_adapter("alpha", adapter.hash)
        assert not any(engine.adapters for engine in engines)

    asyncio.run(run())


def test_a_replica_that_does_not_take_an_adapter_is_an_error_after_the_others_have_it() -> None:
    async def run() -> None:
        small = ScriptedEngine(ScriptedSpec(name="alpha", family="one", max_lora_rank=1))
        others = recordings(2)
        adapter = adapter_record("a")
        with pytest.raises(EngineError, match="rank at most 1"):
            await Fleet({"alpha": [others[0], small, others[1]]}).load_adapter("alpha", adapter)
        assert all(adapter.hash in engine.adapters for engine in others)

    asyncio.run(run())


def test_a_replica_that_is_dead_for_good_keeps_no_adapter_from_the_others() -> None:
    async def run() -> None:
        dead, (alive,) = DeadHost(ScriptedSpec(name="alpha", family="one")), recordings(1)
        adapter = adapter_record("a")
        of = Fleet({"alpha": [dead, alive]})
        await of.load_adapter("alpha", adapter)
        assert adapter.hash in alive.adapters
        await of.retire_adapter("alpha", adapter.hash)
        with pytest.raises(EngineError):
            await of.retire_adapter("alpha", adapter.hash)
        with pytest.raises(EngineDied):
            await Fleet({"alpha": [dead, dead]}).load_adapter("alpha", adapter)

    asyncio.run(run())


class DeadHost(ScriptedEngine):
    """Does not come back."""

    async def load_adapter(self, adapter: Adapter) -> float:
        raise EngineDied("gone for good")

    async def retire_adapter(self, adapter_hash: str) -> None:
        raise EngineDied("gone for good")


def test_a_ticket_carries_its_rank_and_keeps_a_task_on_one_replica() -> None:
    async def run() -> None:
        engines = recordings(4)
        of = Fleet({"alpha": engines})
        for order in range(8):
            ticket = Ticket(priority="evolve", order=order, affinity=f"task {order}")
            one = of.for_ticket(ticket)
            before = [len(engine.ranks) for engine in engines]
            for _ in range(5):
                await one.complete(ADA, ask("What is 1 + 1?"), Sampling())
            grown = [len(engine.ranks) - count for engine, count in zip(engines, before, strict=True)]
            assert sorted(grown) == [0, 0, 0, 5]
            assert {rank for engine in engines for rank in engine.ranks[-5:]} >= {ticket.rank}
        assert sum(len(engine.ranks) > 0 for engine in engines) > 1

    asyncio.run(run())


def test_load_says_how_many_requests_each_replica_has() -> None:
    async def run() -> None:
        of = Fleet({"alpha": recordings(2), "beta": ScriptedEngine(ScriptedSpec(name="beta", family="two"))})
        idle = of.load()
        assert [len(idle[name]) for name in ("alpha", "beta")] == [2, 1]
        asked = [asyncio.create_task(of.complete(ADA, ask(f"What is {size} + 1?"), Sampling())) for size in range(20)]
        await asyncio.sleep(0)
        assert sum(replica.pending for replica in of.load()["alpha"]) == 20
        assert of.load()["beta"][0].pending == 0
        await asyncio.gather(*asked)
        loads = (await of.ask_load())["alpha"]
        assert [load.replica for load in loads] == [0, 1]
        assert (sum(load.served for load in loads), sum(load.pending for load in loads)) == (20, 0)
        assert all(load.alive for load in loads)

    asyncio.run(run())


def test_replicas_that_sleep_refuse_and_serve_again_when_woken() -> None:
    async def run() -> None:
        of = Fleet({"alpha": recordings(2)})
        await of.sleep("alpha")
        with pytest.raises(EngineError):
            await of.complete(ADA, QUESTION, Sampling())
        await of.wake("alpha")
        await of.complete(ADA, QUESTION, Sampling())
        with pytest.raises(EngineError, match="cannot sleep"):
            await Fleet({"alpha": BareEngine()}).sleep("alpha")

    asyncio.run(run())


def test_an_engine_without_replicas_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one replica of every engine, got none of beta"):
        Fleet({"alpha": recordings(1), "beta": []})
