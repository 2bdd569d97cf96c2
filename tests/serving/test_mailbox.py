"""Both ends of the post in one event loop, with a carrier between them that loses, dies and falls silent on demand."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.engine import EngineError
from mesh.types import Member, Score
from serving.hosting import EngineBusy, EngineDied, EngineLost
from serving.mailbox import STOOD_STILL_S, Mailbox, Parcel
from serving.mailroom import Mailroom
from serving.pool import Pool
from serving.replica import ReplicaLoad, State
from serving.requests import Answer, Request, Requests
from serving.wire import Report, answer_of, decode_reply, encode_request

ADA = Member(name="ada", engine="alpha", family="one")
SILENCE_S, BRIEF_S, WAIT_S = 0.25, 0.05, 0.2


class Engine:
    """Counts what it is asked; answers a score's text with its length after a moment."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.served: Counter[str] = Counter()
        self.cancelled: list[str] = []

    async def serve(self, request: Request) -> Answer:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled.append(str(request.argument))
            raise
        if request.argument == "refuse":
            raise EngineError("refused")
        if request.argument == "fail":
            raise ZeroDivisionError("a bug")
        self.served[request.id] += 1
        return Score(log_prob=-1.0, num_tokens=1, num_bytes=len(str(request.argument)) + 1)


class Loopback:
    """Carries post to a mailroom that can die, be out of reach, or answer into the void."""

    def __init__(self, engine: Engine, *, refusal: EngineBusy | None = None) -> None:
        self.engine = engine
        self.refusal = refusal
        self.sacks: list[int] = []
        self.num_collects = 0
        self.lose_next: list[str] = []
        """Methods whose next reply is lost on the way back, after the work is done."""
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.is_gone_for_good = False
        self.room = self._new_room()
        self._calls: set[asyncio.Task[Any]] = set()

    def _new_room(self) -> Mailroom:
        return Mailroom(self.engine.serve, lambda rank, pending: self.refusal, silent_s=60.0)

    def die(self, *, for_good: bool = False) -> None:
        """As a process dies: what it knew is gone, and calls that wait in it end."""
        self.room = self._new_room()
        self.is_gone_for_good = for_good
        for call in self._calls:
            call.cancel("died")

    async def post(self, client: str, box: str, num_had: int, letters: list[bytes], cancelled: list[str]) -> str:
        if letters:
            self.sacks.append(len(letters))

        async def post() -> str:
            return self.room.post(client, box, num_had, letters, cancelled)

        return await self._carry("post", post())

    async def collect(self, client: str, box: str, num_had: int, wait_s: float) -> Parcel:
        self.num_collects += 1
        room = self.room
        box, last, replies = await self._carry("collect", room.collect(client, box, num_had, wait_s))
        return box, last, replies, (await self.report()).model_dump_json().encode()

    async def start(self) -> Report:
        async def start() -> Report:
            return await self.report()

        return await self._carry("start", start())

    async def report(self) -> Report:
        return Report(pid=1, pending=self.room.num_pending)

    async def _carry(self, method: str, work: Coroutine[Any, Any, Any]) -> Any:
        if self.is_gone_for_good:
            work.close()
            raise EngineDied("gone for good")
        call = asyncio.create_task(work)
        self._calls.add(call)
        try:
            await asyncio.sleep(0)
            await self.speaks.wait()
            result = await call
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                call.cancel()
                raise
            if self.is_gone_for_good:
                raise EngineDied("gone for good") from None
            raise EngineLost("socket closed", died=True) from None
        finally:
            self._calls.discard(call)
        if method in self.lose_next:
            self.lose_next.remove(method)
            raise EngineLost("lost on the way", died=False)
        return result


class Client:
    """A replica over a mailbox, as `RayEngine` is."""

    timeout_s = 20.0

    def __init__(self, carrier: Loopback, silence_s: float) -> None:
        self.mailbox = Mailbox("alpha", carrier, start_timeout_s=5.0, silence_s=silence_s, wait_s=WAIT_S)

    @property
    def state(self) -> State:
        return self.mailbox.state

    @property
    def pending(self) -> int:
        return self.mailbox.num_asked

    def load(self) -> ReplicaLoad:
        return ReplicaLoad(engine="alpha", state=self.state)

    async def ask(self, request: Request) -> Answer:
        """The length of the text to score."""
        score = answer_of(request, await self.mailbox.ask(request.id, encode_request(request)))
        assert isinstance(score, Score)
        return score.num_bytes - 1

    async def wait_up(self) -> None:
        await self.mailbox.wait_up()


def post_office(seconds: float = 0.0, *, silence_s: float = 10.0, **options: Any) -> tuple[Loopback, Client]:
    carrier = Loopback(Engine(seconds), **options)
    return carrier, Client(carrier, silence_s)


REQUESTS = Requests()


def request(text: str = "word") -> Request:
    return REQUESTS.new("score", ADA, (), text)


async def settle() -> None:
    """Lets everything happen that can happen without waiting."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_requests_of_one_turn_travel_together_and_everybody_gets_its_own_answer() -> None:
    async def run() -> None:
        carrier, client = post_office()
        answers = await asyncio.gather(*(client.ask(request("x" * size)) for size in range(300)))
        assert answers == list(range(300))
        assert carrier.sacks == [300]
        assert carrier.num_collects < 10

    asyncio.run(run())


def test_a_great_many_travel_in_several_sacks() -> None:
    async def run() -> None:
        carrier, client = post_office()
        answers = await asyncio.gather(*(client.ask(request("x" * (size % 7))) for size in range(1500)))
        assert answers == [size % 7 for size in range(1500)]
        assert sum(carrier.sacks) == 1500
        assert max(carrier.sacks) <= 512

    asyncio.run(run())


def test_idle_it_sends_nothing() -> None:
    async def run() -> None:
        carrier, client = post_office()
        await client.ask(request())
        before = carrier.num_collects, list(carrier.sacks)
        await asyncio.sleep(0.05)
        assert (carrier.num_collects, carrier.sacks) == before
        assert client.mailbox._tasks == set()

    asyncio.run(run())


def test_what_the_engine_refuses_and_where_it_fails_is_an_engine_error_of_that_request_alone() -> None:
    async def run() -> None:
        _, client = post_office()
        results = await asyncio.gather(
            *(client.ask(request(text)) for text in ("refuse", "fine", "fail")), return_exceptions=True
        )
        assert isinstance(results[0], EngineError)
        assert results[1] == 4
        assert isinstance(results[2], EngineError)
        assert "failed in score: ZeroDivisionError('a bug')" in str(results[2])

    asyncio.run(run())


def test_a_busy_replica_says_so_without_taking_anything_in() -> None:
    async def run() -> None:
        carrier, client = post_office(refusal=EngineBusy("full", retry_after_s=3.0))
        with pytest.raises(EngineBusy, match="full") as refused:
            await client.ask(request())
        assert refused.value.retry_after_s == 3.0
        assert carrier.room.num_pending == 0
        assert not carrier.engine.served

    asyncio.run(run())


def test_what_was_refused_for_want_of_room_is_served_when_it_is_asked_again() -> None:
    async def run() -> None:
        carrier, client = post_office(refusal=EngineBusy("full", retry_after_s=3.0))
        asked = request("again")
        for _ in range(2):
            with pytest.raises(EngineBusy):
                await client.ask(asked)
        carrier.refusal = None
        assert await client.ask(asked) == 5

    asyncio.run(run())


@pytest.mark.parametrize("method", ["post", "collect"])
def test_what_is_lost_on_the_way_back_is_not_computed_again(method: str) -> None:
    async def run() -> None:
        carrier, client = post_office()
        carrier.lose_next.append(method)
        asked = request("lost once")
        assert await Pool("alpha", [client]).ask(asked, "", may_wait=True) == 9
        assert carrier.engine.served == {asked.id: 1}

    asyncio.run(run())


def test_a_retry_joins_the_request_that_still_runs() -> None:
    async def run() -> None:
        carrier, client = post_office(seconds=4 * SILENCE_S, silence_s=SILENCE_S)
        asked = request("slow")
        answer = asyncio.create_task(Pool("alpha", [client]).ask(asked, "", may_wait=True))
        await settle()
        carrier.lose_next.append("collect")
        assert await answer == 4
        assert carrier.engine.served == {asked.id: 1}
        assert carrier.engine.cancelled == []

    asyncio.run(run())


def test_silence_is_an_absence_and_what_was_asked_is_given_up_when_it_is_back() -> None:
    async def run() -> None:
        carrier, client = post_office(seconds=60.0, silence_s=SILENCE_S)
        asking = asyncio.create_task(client.ask(request("slow")))
        await settle()
        carrier.speaks.clear()
        with pytest.raises(EngineLost, match=f"nothing for {SILENCE_S:g} s") as lost:
            await client.ask(request("other"))
        assert not lost.value.died
        assert client.state == "away"
        with pytest.raises(EngineLost):
            await asking
        carrier.speaks.set()
        await client.wait_up()
        assert client.state == "up"
        carrier.engine.seconds = 0.0
        assert await client.ask(request("next")) == 4
        await settle()
        assert "slow" in carrier.engine.cancelled

    asyncio.run(run())


def test_a_driver_that_stood_still_itself_blames_nobody() -> None:
    async def run() -> None:
        carrier, client = post_office(seconds=0.02, silence_s=SILENCE_S)
        asked = [asyncio.create_task(client.ask(request("x" * size))) for size in range(5)]
        await settle()
        time.sleep(STOOD_STILL_S + WAIT_S + SILENCE_S + 0.1)  # noqa: ASYNC251
        assert await asyncio.gather(*asked) == list(range(5))
        assert sum(carrier.engine.served.values()) == 5

    asyncio.run(run())


def test_death_is_told_to_those_it_took_and_known_from_absence_of_the_others() -> None:
    async def run() -> None:
        carrier, client = post_office(seconds=60.0)
        taken = asyncio.create_task(client.ask(request("taken")))
        await settle()
        late = asyncio.create_task(client.ask(request("late")))
        carrier.die()
        results = await asyncio.gather(taken, late, return_exceptions=True)
        assert [isinstance(result, EngineLost) and result.died for result in results] == [True, False]
        assert client.state == "away"
        with pytest.raises(EngineLost, match="is away"):
            await client.ask(request())
        carrier.engine.seconds = 0.0
        await client.wait_up()
        assert await client.ask(request("back")) == 4

    asyncio.run(run())


def test_a_process_that_was_replaced_unnoticed_is_noticed_by_its_box() -> None:
    async def run() -> None:
        carrier, client = post_office(seconds=60.0)
        taken = asyncio.create_task(client.ask(request("taken")))
        await settle()
        carrier.room = carrier._new_room()
        client.mailbox._collector.cancel()  # type: ignore[union-attr]
        await settle()
        carrier.engine.seconds = 0.0
        new = asyncio.create_task(client.ask(request("new")))
        results = await asyncio.gather(taken, new, return_exceptions=True)
        assert all("started again meanwhile" in str(result) for result in results)
        assert [isinstance(result, EngineLost) and result.died for result in results] == [True, False]
        assert not carrier.engine.served
        await client.wait_up()
        assert await client.ask(request("newer")) == 5

    asyncio.run(run())


def test_death_for_good_is_dead() -> None:
    async def run() -> None:
        carrier, client = post_office(seconds=60.0)
        taken = asyncio.create_task(client.ask(request("taken")))
        await settle()
        carrier.die(for_good=True)
        with pytest.raises(EngineLost, match="gone for good"):
            await taken
        assert client.state == "dead"
        await client.wait_up()
        assert client.state == "dead"

    asyncio.run(run())


def test_who_gives_up_frees_the_engine() -> None:
    async def run() -> None:
        carrier, client = post_office(seconds=60.0)
        asking = [asyncio.create_task(client.ask(request(f"r{number}"))) for number in range(3)]
        await settle()
        asking[1].cancel()
        await settle()
        assert carrier.engine.cancelled == ["r1"]
        assert carrier.room.num_pending == 2
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await settle()
        assert carrier.room.num_pending == 0

    asyncio.run(run())


def test_what_a_vanished_client_asked_for_is_given_up_and_forgotten() -> None:
    async def run() -> None:
        engine = Engine(60.0)
        room = Mailroom(engine.serve, lambda rank, pending: None, silent_s=0.05)
        box = room.post("client", "", 0, [encode_request(request("orphan"))], [])
        assert room.num_pending == 1
        await asyncio.sleep(0.2)
        assert (room.num_pending, engine.cancelled) == (0, ["orphan"])
        new_box, last, replies = await room.collect("client", box, 0, 0.0)
        assert new_box != box
        assert new_box.partition(".")[0] == box.partition(".")[0]
        assert (last, replies) == (0, [])

    asyncio.run(run())


def test_replies_are_kept_until_they_are_acknowledged() -> None:
    async def run() -> None:
        room = Mailroom(Engine().serve, lambda rank, pending: None)
        box = room.post("client", "", 0, [encode_request(request("a")), encode_request(request("bb"))], [])
        await settle()
        first = await room.collect("client", box, 0, 1.0)
        assert first[1] == 2
        assert await room.collect("client", box, 0, 1.0) == first
        assert await room.collect("client", "another box", 2, 1.0) == first
        assert await room.collect("client", box, 2, 0.01) == (box, 2, [])

    asyncio.run(run())


def test_what_was_given_up_and_asked_again_at_once_is_served() -> None:
    async def run() -> None:
        engine = Engine(0.01)
        room = Mailroom(engine.serve, lambda rank, pending: None)
        asked = request("again")
        letter = encode_request(asked)
        box = room.post("client", "", 0, [letter], [])
        await settle()
        # The first one has not ended yet when the second one begins.
        room.post("client", box, 0, [letter], [asked.id])
        _, _, (reply,) = await room.collect("client", box, 0, 1.0)
        score = answer_of(asked, decode_reply(reply))
        assert isinstance(score, Score)
        assert engine.cancelled == ["again"]

    asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_happens_on_the_way_every_request_gets_its_own_answer(seed: int) -> None:
    async def run() -> None:
        chance = random.Random(seed)
        offices = [post_office(seconds=0.002, silence_s=BRIEF_S) for _ in range(2)]
        pool = Pool("alpha", [client for _, client in offices])

        async def ask(size: int) -> None:
            await asyncio.sleep(chance.random() * 0.05)
            assert await pool.ask(request("x" * size), f"{size % 5}", may_wait=True) == size

        async def trouble() -> None:
            for _ in range(6):
                await asyncio.sleep(chance.random() * 0.01)
                carrier = chance.choice(offices)[0]
                await chance.choice([dies, loses_post, loses_parcel, falls_silent])(carrier)

        async def dies(carrier: Loopback) -> None:
            carrier.die()

        async def loses_post(carrier: Loopback) -> None:
            carrier.lose_next.append("post")

        async def loses_parcel(carrier: Loopback) -> None:
            carrier.lose_next.append("collect")

        async def falls_silent(carrier: Loopback) -> None:
            carrier.speaks.clear()
            asyncio.get_running_loop().call_later(chance.random() * 2 * BRIEF_S, carrier.speaks.set)

        await asyncio.gather(trouble(), *(ask(size) for size in range(60)))

    asyncio.run(run())
