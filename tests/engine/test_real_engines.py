"""The real engines: the contract, adapters loaded while they run, isolation of base rows, and a killed engine."""

from __future__ import annotations

import asyncio
import json
import time

import psutil
import pytest

from mesh.engine import EngineError
from mesh.types import Choice, JsonSchema, Member, Message, Part, Regex, Sampling, Structure
from serving.actor import RayEngine
from serving.adapters import Adapter
from serving.cluster import RayFleet
from tests.contract.engine_contract import (
    ADAPTER_CONTRACT,
    CONTRACT,
    RANKED_CONTRACT,
    AdapterCheck,
    Check,
    RankedCheck,
)

pytestmark = pytest.mark.engine


NAMES = ("smol", "gemma")
LABEL_TOLERANCE = 0.02
Adapters = dict[str, tuple[Adapter, ...]]


def member(name: str, adapter: Adapter | None = None) -> Member:
    return Member(name=name, engine=name, family=name, adapter=None if adapter is None else adapter.hash)


def ask(text: str) -> tuple[Message, ...]:
    return (Message(role="user", parts=(Part(text=text, trusted=False),)),)


def distance(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Largest difference of a label's probability."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


LABELS = ("A", "B", "C", "D", "E", "F")
BALLOT = ask("Is seven a prime number?\nA: yes\nB: no\nReply with the letter alone.")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_engine_keeps_the_contract(fleet: RayFleet, name: str, check: Check) -> None:
    asyncio.run(check(fleet.engines[name], member(name)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", RANKED_CONTRACT, ids=lambda check: check.__name__)
def test_engine_keeps_the_contract_of_ranks(fleet: RayFleet, name: str, check: RankedCheck) -> None:
    engine = fleet.engines[name]
    assert isinstance(engine, RayEngine)
    asyncio.run(check(engine, member(name)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", ADAPTER_CONTRACT, ids=lambda check: check.__name__)
def test_engine_keeps_the_adapter_contract(
    fleet: RayFleet,
    adapters: Adapters,
    name: str,
    check: AdapterCheck,
) -> None:
    asyncio.run(check(fleet.engines[name], member(name), adapters[name][0]))


def test_families_differ_in_template_and_both_put_bos_first(fleet: RayFleet) -> None:
    smol, gemma = (asyncio.run(fleet.profile(member(name))) for name in NAMES)
    assert (smol.has_chat_template, gemma.has_chat_template) == (True, False)
    assert smol.adds_bos
    assert gemma.adds_bos
    assert smol.token_exact
    assert gemma.token_exact
    # A base model's turns are plain text, in which two questions in a row would leave the first without an answer.
    assert (smol.needs_alternation, gemma.needs_alternation) == (False, True)
    assert smol.can_score
    assert gemma.can_score
    assert (smol.takes_tools, gemma.takes_tools) == (False, False)
    assert (smol.thinking, gemma.thinking) == (None, None)


@pytest.mark.parametrize("name", NAMES)
def test_score_of_a_text_is_that_of_its_beginning_and_of_the_rest_after_it(fleet: RayFleet, name: str) -> None:
    """The chain rule, which holds only if exactly the text's own tokens are counted, and in their place."""
    asked = ask("What is 3 + 4?")
    begun = (*asked, Message(role="assistant", parts=(Part(text="The answer"),)))

    async def scenario() -> None:
        whole, head, tail = await asyncio.gather(
            fleet.score(member(name), asked, "The answer is seven."),
            fleet.score(member(name), asked, "The answer"),
            fleet.score(member(name), begun, " is seven."),
        )
        assert whole.num_tokens == head.num_tokens + tail.num_tokens
        assert whole.log_prob == pytest.approx(head.log_prob + tail.log_prob, rel=0.02)
        # In a prompt that says it, the text is no surprise.
        told = await fleet.score(member(name), ask('Say: "The answer is seven." ' * 4), "The answer is seven.")
        assert told.bits_per_byte < whole.bits_per_byte

    asyncio.run(scenario())


@pytest.mark.parametrize("name", NAMES)
def test_scores_beside_lora_neighbours_are_those_of_each_alone(fleet: RayFleet, adapters: Adapters, name: str) -> None:
    async def scenario() -> None:
        adapter = adapters[name][0]
        await fleet.load_adapter(name, adapter)
        seats = (member(name), member(name, adapter))
        alone = [(await fleet.score(one, BALLOT, "A: yes")).bits_per_byte for one in seats]
        assert abs(alone[0] - alone[1]) > 0.5
        mixed = await asyncio.gather(*(fleet.score(one, BALLOT, "A: yes") for one in seats * 3))
        for place, score in enumerate(mixed):
            assert score.bits_per_byte == pytest.approx(alone[place % 2], rel=0.02)
        await fleet.retire_adapter(name, adapter.hash)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", NAMES)
def test_base_rows_keep_their_probabilities_beside_lora_neighbours(
    fleet: RayFleet, adapters: Adapters, name: str
) -> None:
    """The stock CPU ops give base rows the weights of the last adapter slot."""

    async def scenario() -> None:
        for adapter in adapters[name]:
            await fleet.load_adapter(name, adapter)
        base, specialists = member(name), [member(name, adapter) for adapter in adapters[name]]
        alone = await fleet.choose(base, BALLOT, LABELS)
        apart = [await fleet.choose(one, BALLOT, LABELS) for one in specialists]
        # The adapters are strong: a contaminated base row could not pass for a clean one.
        assert min(distance(alone, weights) for weights in apart) > 5 * LABEL_TOLERANCE
        mixed = await asyncio.gather(*(fleet.choose(one, BALLOT, LABELS) for one in [base, *specialists] * 4))
        for place, weights in enumerate(mixed):
            assert distance(weights, [alone, *apart][place % 3]) < LABEL_TOLERANCE
        for adapter in adapters[name]:
            await fleet.retire_adapter(name, adapter.hash)

    asyncio.run(scenario())


def test_adapter_of_another_base_is_refused_and_the_engine_lives(fleet: RayFleet, adapters: Adapters) -> None:
    async def scenario() -> None:
        with pytest.raises(EngineError, match="expected an adapter for smollm2-135m-instruct"):
            await fleet.load_adapter("smol", adapters["gemma"][0])
        assert await fleet.choose(member("smol"), BALLOT, "AB")

    asyncio.run(scenario())


def test_adapter_is_loaded_into_a_running_engine_in_seconds(fleet: RayFleet, adapters: Adapters) -> None:
    async def scenario() -> float:
        seconds = await fleet.load_adapter("smol", adapters["smol"][1])
        await fleet.retire_adapter("smol", adapters["smol"][1].hash)
        return seconds

    assert asyncio.run(scenario()) < 10.0


def test_more_adapters_than_fit_take_turns_in_memory(fleet: RayFleet, many: tuple[Adapter, ...]) -> None:
    """Six adapters where four fit, all asked at once and again: each answers as it did alone, none is refused."""

    async def scenario() -> None:
        for adapter in many:
            await fleet.load_adapter("smol", adapter)
        specialists = [member("smol", adapter) for adapter in many]
        alone = [await fleet.choose(one, BALLOT, LABELS) for one in specialists]
        assert distance(alone[0], alone[1]) > 5 * LABEL_TOLERANCE
        asked = await asyncio.gather(*(fleet.choose(one, BALLOT, LABELS) for one in [member("smol"), *specialists] * 8))
        for place, weights in enumerate(asked):
            turn = place % (len(many) + 1)
            assert turn == 0 or distance(weights, alone[turn - 1]) < LABEL_TOLERANCE
        for adapter in many:
            await fleet.retire_adapter("smol", adapter.hash)
        with pytest.raises(EngineError, match="has no adapter"):
            await fleet.choose(specialists[0], BALLOT, LABELS)

    asyncio.run(scenario())


def test_adapter_of_absurd_weights_is_refused_or_spoils_its_own_rows_only(fleet: RayFleet, absurd: Adapter) -> None:
    """Every weight is finite, so admission lets it pass; nobody knows what its products come to."""

    async def scenario() -> None:
        base, broken = member("smol"), member("smol", absurd)
        before = await fleet.choose(base, BALLOT, LABELS)
        (loaded,) = await asyncio.gather(fleet.load_adapter("smol", absurd), return_exceptions=True)
        if isinstance(loaded, EngineError):
            assert "is not used" in str(loaded)
        else:
            asked = (fleet.choose(who, BALLOT, LABELS) for who in (base, broken) * 4)
            answered = await asyncio.gather(*asked, return_exceptions=True)
            for weights in answered[::2]:
                assert not isinstance(weights, BaseException)
                assert distance(weights, before) < LABEL_TOLERANCE
            await fleet.retire_adapter("smol", absurd.hash)
        assert distance(await fleet.choose(base, BALLOT, LABELS), before) < LABEL_TOLERANCE

    asyncio.run(scenario())


def test_forms_without_end_are_refused_or_served_and_the_engine_lives(fleet: RayFleet) -> None:
    """What callers might send to tie an engine up: the engine answers or refuses, and serves others afterwards."""
    deep: dict[str, object] = {"type": "integer"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    forms: list[Structure] = [
        Regex(pattern="(a{1,900}){1,900}"),
        Regex(pattern="(?=a)b"),
        Regex(pattern=r"(\w+) \1"),
        JsonSchema(json_schema=json.dumps(deep)),
        JsonSchema(json_schema='{"$ref": "#"}'),
        JsonSchema(json_schema='{"type": "string", "pattern": "(x+x+)+y"}'),
        Choice(choices=tuple(f"option {number}" for number in range(2000))),
        Choice(choices=("", "  ", "\n", '"quoted" \\d <|im_end|>')),
    ]

    async def scenario() -> None:
        for form in forms:
            sampling = Sampling(max_tokens=8, structure=form)
            async with asyncio.timeout(120):
                (ended,) = await asyncio.gather(
                    fleet.complete(member("smol"), BALLOT, sampling), return_exceptions=True
                )
            assert isinstance(ended, EngineError | tuple), ended
        completions, _ = await fleet.complete(member("smol"), BALLOT, Sampling(max_tokens=4))
        assert completions

    asyncio.run(scenario())


def test_killed_engine_comes_back_with_its_adapters(fleet: RayFleet, adapters: Adapters) -> None:
    """kill -9 of vLLM's own process: the actor leaves, Ray starts it again, and it reads from disk what it held."""
    adapter = adapters["smol"][0]
    specialist, sampling = member("smol", adapter), Sampling(temperature=0.0, max_tokens=8)

    async def ask_patiently() -> str:
        deadline = time.monotonic() + 900
        while True:
            try:
                completions, _ = await fleet.complete(specialist, ask("What is 3 + 4?"), sampling)
                return completions[0].text
            except EngineError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(2)

    async def scenario() -> None:
        await fleet.load_adapter("smol", adapter)
        before = await ask_patiently()
        victims = engine_processes(await pid_of(fleet, "smol"))
        assert victims
        victims[0].kill()
        assert await ask_patiently() == before
        gone, left = psutil.wait_procs(victims, timeout=30)
        assert left == [], f"orphans of the killed engine: {left}; gone: {gone}"
        await fleet.retire_adapter("smol", adapter.hash)

    asyncio.run(scenario())


async def pid_of(fleet: RayFleet, name: str) -> int:
    engine = fleet.engines[name]
    assert isinstance(engine, RayEngine)
    return await engine.start()


def engine_processes(actor_pid: int) -> list[psutil.Process]:
    """vLLM's core and workers below an actor, core first."""
    children = psutil.Process(actor_pid).children(recursive=True)
    return sorted(children, key=lambda process: (process.name() != "VLLM::EngineCore", process.pid))
