"""Following a channel on a real fleet of scripted engines: switching, failing, falling back, unloading, sharing."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh.engine import EngineError
from mesh.propose import proposal_messages
from mesh.types import Completion, Member, Message, Sampling, Task
from serving.adapter_share import SharedAdapters
from serving.adapters import Adapter, AdapterStore
from serving.channels import Channel, ChannelError
from serving.config import ScriptedSpec
from serving.fleet import Fleet
from serving.follow import RosterFollower
from serving.follow_state import FollowState, followers
from serving.hosting import EngineDied
from serving.replica import ReplicaLoad
from serving.roster import Roster
from serving.scripted_engine import ScriptedEngine
from tests.serving.lora_files import admitted

QUESTION = proposal_messages(Task(id="t", question="What is 20 + 22?"))
ADA = Member(name="ada", engine="ada", family="alpha")


class Garbling(ScriptedEngine):
    """Answers as another adapter would, or with one character over and over, for the adapters it is told."""

    def __init__(self, spec: ScriptedSpec) -> None:
        super().__init__(spec)
        self.stuck: set[str] = set()
        self.swapped: set[str] = set()
        self.broken = False
        self.is_dead = False

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        if self.is_dead:
            raise EngineDied("engine 'ada' died")
        if self.broken:
            raise EngineError("engine 'ada' is gone")
        said, prompt_tokens = await super().complete(member, messages, sampling)
        if member.adapter in self.stuck:
            said = tuple(one.model_copy(update={"text": "!" * 12}) for one in said)
        if member.adapter in self.swapped:
            said = tuple(one.model_copy(update={"adapter": None}) for one in said)
        return said, prompt_tokens


@dataclass
class World:
    """A shared store, what a run admitted, a channel, and a fleet of one engine in two replicas."""

    root: Path
    engines: tuple[Garbling, ...]
    fleet: Fleet
    channel: Channel
    run: AdapterStore

    @property
    def share(self) -> str:
        return str(self.root / "share")

    def adapter(self, value: float) -> Adapter:
        return admitted(self.run, self.root / "scratch", value)

    def roster(self, *adapters: Adapter, channel: str = "prod") -> Roster:
        seats = tuple(
            Member(name=f"g-{one.hash[:6]}", engine="ada", family="alpha", adapter=one.hash) for one in adapters
        )
        return Roster(
            channel=channel, seats=seats or (ADA,), bases=(ADA,) if seats else (), safe="ada", source=f"{len(seats)}"
        )

    def promote(self, *adapters: Adapter, share: bool = True) -> Roster:
        store = SharedAdapters(self.root / "reading", self.share)
        for one in adapters if share else ():
            store.publish(one.hash, self.run)
        roster = self.roster(*adapters)
        self.channel.promote(roster, by="eve")
        return roster

    def follower(self, **options: Any) -> RosterFollower:
        node = SharedAdapters(self.root / "node", self.share)
        return RosterFollower(self.channel.directory, self.fleet, node, poll_s=0.005, first_retry_s=0.05, **options)

    def loaded(self) -> list[set[str]]:
        return [set(engine.adapters) for engine in self.engines]


@pytest.fixture
def world(tmp_path: Path) -> World:
    spec = ScriptedSpec(name="ada", family="alpha", replicas=2)
    engines = (Garbling(spec), Garbling(spec))
    return World(tmp_path, engines, Fleet({"ada": engines}), Channel(tmp_path, "prod"), AdapterStore(tmp_path / "run"))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not is_so():  # noqa: ASYNC110 - what is waited for says nothing
            await asyncio.sleep(0.005)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_promoted_specialist_is_loaded_on_every_replica_before_it_answers(world: World) -> None:
    async def work() -> None:
        first = world.adapter(1.0)
        roster = world.promote(first)
        async with world.follower() as follower, follower.held() as held:
            assert held == roster
            assert world.loaded() == [{first.hash}, {first.hash}]
            completions, _ = await world.fleet.complete(held.seats[0], QUESTION, Sampling())
            assert completions[0].adapter == first.hash
        assert follower.state.roster == roster.id

    run(work())


def test_an_adapter_for_one_phase_is_loaded_and_tried_before_its_seat_comes_into_force(world: World) -> None:
    async def work() -> None:
        critic = world.adapter(1.0)
        seat = ADA.model_copy(update={"phase_adapters": (("critique", critic.hash),)})
        SharedAdapters(world.root / "reading", world.share).publish(critic.hash, world.run)
        world.channel.promote(Roster(channel="prod", seats=(seat,), safe="ada", source="1"), by="eve")
        async with world.follower() as follower, follower.held() as held:
            assert held.seats == (seat,)
            assert world.loaded() == [{critic.hash}, {critic.hash}]
        world.engines[1].stuck.add(critic.hash)
        with pytest.raises(ChannelError, match="over and over"):
            async with world.follower():
                pass

    run(work())


def test_no_request_is_dropped_while_seats_change_under_load(world: World) -> None:
    async def work() -> None:
        adapters = [world.adapter(float(value)) for value in range(1, 4)]
        world.promote(adapters[0])
        seen: set[str] = set()
        async with world.follower() as follower:

            async def ask() -> int:
                count = 0
                while follower.state.num_switches < 6:
                    async with follower.held() as held:
                        for _ in range(3):
                            completions, _ = await world.fleet.complete(held.seats[0], QUESTION, Sampling())
                            assert completions[0].adapter == held.seats[0].adapter
                            await asyncio.sleep(0.001)
                            count += 1
                        seen.add(held.id)
                return count

            askers = [asyncio.create_task(ask()) for _ in range(20)]
            for number in range(1, 7):
                world.promote(adapters[number % 3])
                await until(lambda number=number: follower.state.num_switches == number)  # type: ignore[misc]
            assert sum(await asyncio.gather(*askers)) > 100
            assert len(seen) == 3
            await until(lambda: world.loaded() == [{adapters[0].hash}] * 2)

    run(work())


def test_an_adapter_is_unloaded_once_the_last_task_that_holds_it_has_ended(world: World) -> None:
    async def work() -> None:
        old, new = world.adapter(1.0), world.adapter(2.0)
        world.promote(old)
        async with world.follower() as follower:
            async with follower.held() as held:
                roster = world.promote(new)
                await until(lambda: follower.state.roster == roster.id)
                await asyncio.sleep(0.05)
                assert world.loaded() == [{old.hash, new.hash}] * 2
                await world.fleet.complete(held.seats[0], QUESTION, Sampling())
            await until(lambda: world.loaded() == [{new.hash}] * 2)

    run(work())


def test_an_adapter_that_both_rosters_seat_stays_loaded(world: World) -> None:
    async def work() -> None:
        both, old = world.adapter(1.0), world.adapter(2.0)
        world.promote(both, old)
        async with world.follower() as follower:
            roster = world.promote(both)
            await until(lambda: follower.state.roster == roster.id and world.loaded() == [{both.hash}] * 2)

    run(work())


def test_what_cannot_be_fetched_leaves_the_old_seats_in_force_and_says_so_until_it_can(world: World) -> None:
    async def work() -> None:
        old, new = world.adapter(1.0), world.adapter(2.0)
        before = world.promote(old)
        told: list[FollowState] = []
        async with world.follower(told=told.append) as follower:
            after = world.promote(new, share=False)
            await until(lambda: bool(follower.state.error))
            assert f"expected adapter {new.hash}, found none" in follower.state.error
            assert (follower.state.roster, follower.state.wanted) == (before.id, after.id)
            assert follower.state.is_ready
            async with follower.held() as held:
                assert held == before
            SharedAdapters(world.root / "reading", world.share).publish(new.hash, world.run)
            await until(lambda: follower.state.roster == after.id)
            assert follower.state.error == ""
            assert [state.roster for state in told if state.error == ""][-1] == after.id

    run(work())


@pytest.mark.parametrize(("how", "reason"), [("stuck", "over and over"), ("swapped", "expected answers of adapter")])
def test_a_specialist_that_garbles_on_one_replica_never_comes_into_force(world: World, how: str, reason: str) -> None:
    async def work() -> None:
        old, new = world.adapter(1.0), world.adapter(2.0)
        before = world.promote(old)
        getattr(world.engines[1], how).add(new.hash)
        async with world.follower() as follower:
            world.promote(new)
            await until(lambda: reason in follower.state.error)
            async with follower.held() as held:
                assert held == before
            await until(lambda: world.loaded() == [{old.hash}] * 2)
            world.channel.rollback()
            await until(lambda: follower.state.error == "")
            assert (follower.state.roster, follower.state.num_switches) == (before.id, 0)

    run(work())


def test_a_changed_file_in_the_shared_store_is_not_served(world: World) -> None:
    async def work() -> None:
        world.promote()
        new = world.adapter(2.0)
        async with world.follower() as follower:
            SharedAdapters(world.root / "reading", world.share).publish(new.hash, world.run)
            weights = world.root / "share" / new.hash / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
            world.channel.promote(world.roster(new))
            await until(lambda: "its content has the hash" in follower.state.error)
            assert world.loaded() == [set(), set()]

    run(work())


def test_a_start_on_seats_that_cannot_be_used_falls_back_to_the_ones_before(world: World) -> None:
    async def work() -> None:
        before = world.promote(world.adapter(1.0))
        after = world.promote(world.adapter(2.0), share=False)
        async with world.follower() as follower, follower.held() as held:
            assert held == before
            assert (follower.state.roster, follower.state.wanted) == (before.id, after.id)
            assert "found none" in follower.state.error

    run(work())


def test_a_start_fails_when_nothing_can_be_used(world: World) -> None:
    async def work() -> None:
        with pytest.raises(ChannelError, match="expected a channel"):
            await world.follower().start()
        world.promote(world.adapter(1.0), share=False)
        follower = world.follower()
        with pytest.raises(ChannelError, match=r"expected a roster that can be used:\n- [0-9a-f]{16}: .*found none"):
            await follower.start()
        with pytest.raises(ChannelError, match="there is none yet"):
            async with follower.held():
                pass

    run(work())


def test_an_engine_that_is_gone_during_a_switch_delays_it(world: World) -> None:
    async def work() -> None:
        world.promote()
        async with world.follower() as follower:
            world.engines[0].broken = True
            roster = world.promote(world.adapter(1.0))
            await until(lambda: "is gone" in follower.state.error)
            world.engines[0].broken = False
            await until(lambda: follower.state.roster == roster.id)

    run(work())


def test_a_replica_that_does_not_come_back_does_not_hold_up_a_switch(world: World) -> None:
    async def work() -> None:
        world.promote()
        async with world.follower() as follower:
            world.engines[1].is_dead = True
            for number in range(8):  # a prompt has a favourite among the replicas
                asked = proposal_messages(Task(id="t", question=f"What is {number} + 22?"))
                await world.fleet.complete(ADA, asked, Sampling())
            assert [known.state for known in world.fleet.load()["ada"]] == ["up", "dead"]
            adapter = world.adapter(1.0)
            roster = world.promote(adapter)
            await until(lambda: follower.state.roster == roster.id)
            assert world.loaded() == [{adapter.hash}, set()]

    run(work())


def test_seats_on_an_engine_that_is_not_there_are_refused_by_name(world: World) -> None:
    async def work() -> None:
        world.promote()
        stranger = Member(name="zoe", engine="zoe", family="zeta")
        async with world.follower() as follower:
            world.channel.promote(Roster(channel="prod", seats=(ADA, stranger), safe="ada", source="r@1"))
            await until(lambda: "expected engines zoe; running: ada" in follower.state.error)

    run(work())


def test_a_damaged_channel_keeps_what_is_in_force(world: World) -> None:
    async def work() -> None:
        before = world.promote()
        async with world.follower() as follower:
            world.channel.current_file.write_text("{")
            await until(lambda: "expected JSON" in follower.state.error)
            shutil.rmtree(world.channel.directory)
            await until(lambda: "expected a channel" in follower.state.error)
            async with follower.held() as held:
                assert held == before

    run(work())


def test_freezing_is_seen_and_switches_nothing(world: World) -> None:
    async def work() -> None:
        roster = world.promote()
        async with world.follower() as follower:
            world.channel.freeze()
            await until(lambda: follower.state.is_frozen)
            assert (follower.state.roster, follower.state.num_switches) == (roster.id, 0)

    run(work())


def test_the_safe_member_alone_needs_no_adapter(world: World) -> None:
    async def work() -> None:
        world.promote(world.adapter(1.0), share=False)
        async with world.follower(alone=True) as follower, follower.held() as held:
            assert held.seats == (ADA,)
            assert world.loaded() == [set(), set()]
            second = world.promote(world.adapter(2.0), share=False)
            await until(lambda: follower.state.roster == second.id)

    run(work())


def test_one_follower_never_unloads_what_another_one_answers_with(world: World) -> None:
    async def work() -> None:
        old, new = world.adapter(1.0), world.adapter(2.0)
        world.promote(old)
        other = Channel(world.root, "nightly")
        other.promote(world.roster(old, channel="nightly"))
        node = SharedAdapters(world.root / "node", world.share)
        async with world.follower() as serving:
            nightly = RosterFollower(other.directory, world.fleet, node, poll_s=0.005)
            await nightly.start()
            roster = world.promote(new)
            await until(lambda: serving.state.roster == roster.id)
            await asyncio.sleep(0.05)
            assert world.loaded() == [{old.hash, new.hash}] * 2
            await nightly.stop()
            await until(lambda: world.loaded() == [{new.hash}] * 2)

    run(work())


def test_others_see_who_follows_and_why_one_is_behind(world: World) -> None:
    async def work() -> None:
        before = world.promote()
        assert followers(world.root) == ()
        async with world.follower() as follower:
            after = world.promote(world.adapter(1.0), share=False)
            await until(lambda: bool(follower.state.error))
            (seen,) = followers(world.root)
            assert (seen.pid, seen.state.roster, seen.state.wanted) == (os.getpid(), before.id, after.id)
            assert "found none" in seen.state.error
        assert followers(world.root) == ()

    run(work())


class MovingFleet(Fleet):
    """A fleet whose replicas say that they are new processes when they are told to."""

    restarts = 0

    def load(self) -> dict[str, tuple[ReplicaLoad, ...]]:
        return {
            name: tuple(one.model_copy(update={"restarts": self.restarts}) for one in known)
            for name, known in super().load().items()
        }


def test_a_replica_that_came_back_with_empty_hands_gets_the_adapters_again(world: World) -> None:
    async def work() -> None:
        adapter = world.adapter(1.0)
        fleet = MovingFleet({"ada": world.engines})
        world.fleet = fleet
        world.promote(adapter)
        async with world.follower() as follower:
            await world.engines[1].shutdown()
            assert world.loaded() == [{adapter.hash}, set()]
            fleet.restarts = 1
            await until(lambda: world.loaded() == [{adapter.hash}] * 2)
            assert follower.state.error == ""

    run(work())
