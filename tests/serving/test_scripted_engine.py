from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mesh.engine import EngineError
from mesh.parse import parse_answer
from mesh.propose import proposal_messages
from mesh.types import (
    Choice,
    Completion,
    JsonSchema,
    Member,
    Message,
    Part,
    Regex,
    Sampling,
    Structure,
    Task,
)
from mesh.vote import vote_messages
from serving.adapters import Adapter, BaseModelShape
from serving.config import ScriptedSkill, ScriptedSpec
from serving.scripted_engine import ScriptedEngine
from tests.contract.engine_contract import (
    ADAPTER_CONTRACT,
    CONTRACT,
    RANKED_CONTRACT,
    AdapterCheck,
    Check,
    RankedCheck,
)
from tests.serving.adapter_records import adapter_record

MEMBER = Member(name="ada", engine="alpha", family="script")
FREE = Sampling(temperature=1.0)


def engine(**changes: object) -> ScriptedEngine:
    return ScriptedEngine(ScriptedSpec.model_validate({"name": "alpha", "family": "script", **changes}))


def task(question: str) -> Task:
    return Task(id="t", question=question, answer_kind="number")


def samples(
    of: ScriptedEngine, question: str = "What is 20 + 22?", *, count: int = 400, member: Member = MEMBER
) -> list[str | None]:
    sampling = FREE.model_copy(update={"num_samples": count})
    completions, _ = asyncio.run(of.complete(member, proposal_messages(task(question)), sampling))
    return [parse_answer(completion.text, "number") for completion in completions]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_scripted_engine_keeps_the_contract(check: Check) -> None:
    asyncio.run(check(engine(max_model_len=256), MEMBER))


@pytest.mark.parametrize("check", RANKED_CONTRACT, ids=lambda check: check.__name__)
def test_scripted_engine_keeps_the_contract_of_ranks(check: RankedCheck) -> None:
    asyncio.run(check(engine(max_model_len=256), MEMBER))


@pytest.mark.parametrize("check", ADAPTER_CONTRACT, ids=lambda check: check.__name__)
def test_scripted_engine_keeps_the_adapter_contract(check: AdapterCheck) -> None:
    asyncio.run(check(engine(), MEMBER, adapter_record("a")))


@pytest.mark.parametrize("skill", [0.0, 0.3, 1.0])
def test_share_of_right_samples_is_the_skill(skill: float) -> None:
    answers = samples(engine(skill=skill))
    assert None not in answers
    assert answers.count("42") / len(answers) == pytest.approx(skill, abs=0.06)


def test_each_kind_of_question_can_have_its_own_skill() -> None:
    mixed = engine(skill=1.0, operations=[ScriptedSkill(operation="gcd", skill=0.0)])
    assert set(samples(mixed)) == {"42"}
    assert "2" not in samples(mixed, "What is the gcd of 26 and 760?")


def test_adapter_turns_wrong_samples_right_and_never_back() -> None:
    learned = engine(skill=0.4, adapter_gain=0.3)
    adapter = adapter_record("a")
    before = samples(learned)
    asyncio.run(learned.load_adapter(adapter))
    after = samples(learned, member=MEMBER.model_copy(update={"adapter": adapter.hash}))
    assert all(late == "42" for early, late in zip(before, after, strict=True) if early == "42")
    assert after.count("42") - before.count("42") > 80


def test_adapter_of_too_large_a_rank_is_refused() -> None:
    adapter: Adapter = adapter_record("a", rank=64)
    with pytest.raises(EngineError, match="rank at most 16, got 64"):
        asyncio.run(engine().load_adapter(adapter))


def test_adapter_of_another_base_is_refused_where_a_base_is_named(tmp_path: Path) -> None:
    save_file({"layer.weight": np.zeros((4, 2), np.float32)}, tmp_path / "model.safetensors")
    strict = engine(base_shape=tmp_path)
    fitting = adapter_record("a").model_copy(update={"base": BaseModelShape.from_directory(tmp_path).fingerprint})
    asyncio.run(strict.load_adapter(fitting))
    with pytest.raises(EngineError, match="expected an adapter for base"):
        asyncio.run(strict.load_adapter(adapter_record("b")))


def test_loading_is_recorded_and_a_restart_forgets_it() -> None:
    served, adapter = engine(), adapter_record("a")
    asyncio.run(served.load_adapter(adapter))
    assert list(served.adapters) == [adapter.hash]
    asyncio.run(served.shutdown())
    assert not served.adapters


def test_order_of_calls_and_other_calls_change_nothing() -> None:
    async def texts(questions: list[str]) -> dict[str, str]:
        of = engine()
        said = {}
        for question in questions:
            completions, _ = await of.complete(MEMBER, proposal_messages(task(question)), FREE)
            said[question] = completions[0].text
        return said

    questions = [f"What is {number} + 5?" for number in range(20)]
    assert asyncio.run(texts(questions)) == asyncio.run(texts(questions[::-1]))


def test_members_and_seeds_draw_apart() -> None:
    of = engine()
    assert samples(of) != samples(of, member=MEMBER.model_copy(update={"name": "bob"}))


def test_vote_follows_the_right_answer_to_whatever_letter_it_was_dealt() -> None:
    of = engine(skill=1.0)
    for options in (["41", "42", "43"], ["43", "41", "42"], ["42", "43", "41"]):
        messages = vote_messages(task("What is 20 + 22?"), options)
        weights = asyncio.run(of.choose(MEMBER, messages, ["A", "B", "C"]))
        assert options[weights.index(max(weights))] == "42"


def test_vote_of_the_unskilled_falls_on_one_wrong_answer_however_dealt() -> None:
    of = engine(skill=0.0)
    chosen = set()
    for options in (["41", "44", "43"], ["43", "41", "44"]):
        messages = vote_messages(task("What is 20 + 22?"), options)
        weights = asyncio.run(of.choose(MEMBER, messages, ["A", "B", "C"]))
        chosen.add(options[weights.index(max(weights))])
    assert len(chosen) == 1


def test_question_is_read_from_a_flattened_prompt_too() -> None:
    flat = Message(role="user", parts=(Part(text="Notes:\nit was 1 + 1\nThe question now:\nWhat is 20 + 22?\n"),))
    completions, _ = asyncio.run(engine(skill=1.0).complete(MEMBER, [flat], FREE))
    assert parse_answer(completions[0].text, "number") == "42"


def test_stop_string_and_budget_cut_the_text() -> None:
    async def said(**changes: object) -> Completion:
        messages = proposal_messages(task("What is 20 + 22?"))
        completions, _ = await engine(skill=1.0).complete(MEMBER, messages, FREE.model_copy(update=changes))
        return completions[0]

    stopped = asyncio.run(said(stop=(" Answer",)))
    assert stopped.finish_reason == "stop"
    assert "Answer" not in stopped.text
    cut = asyncio.run(said(max_tokens=2))
    assert (cut.finish_reason, cut.output_tokens, len(cut.text.split())) == ("length", 2, 2)
    assert parse_answer(asyncio.run(said(stop=("\n",))).text, "number") == "42"


def test_score_is_highest_for_what_the_member_would_answer_greedily() -> None:
    async def run(of: ScriptedEngine, member: Member) -> None:
        messages = proposal_messages(task("What is 20 + 22?"))
        (greedy,), _ = await of.complete(member, messages, FREE.model_copy(update={"temperature": 0.0}))
        held = parse_answer(greedy.text, "number")
        texts = [f"Answer: {answer}" for answer in ("32", "40", "41", "42", "43", "44", "52", "??")]
        surprise = {text: (await of.score(member, messages, text)).bits_per_byte for text in texts}
        assert min(surprise, key=lambda text: surprise[text]) == f"Answer: {held}"
        assert max(surprise, key=lambda text: surprise[text]) == "Answer: ??"

    adapter, of = adapter_record("a"), engine(skill=0.0, adapter_gain=1.0)
    asyncio.run(of.load_adapter(adapter))
    for member in (MEMBER, MEMBER.model_copy(update={"adapter": adapter.hash})):
        asyncio.run(run(of, member))


def test_latency_is_waited_for_and_calls_overlap() -> None:
    async def ten() -> None:
        of = engine(latency_s=0.05)
        messages = proposal_messages(task("What is 20 + 22?"))
        await asyncio.gather(*(of.complete(MEMBER, messages, FREE) for _ in range(10)))

    started = time.perf_counter()
    asyncio.run(ten())
    assert 0.05 <= time.perf_counter() - started < 0.4


def test_longer_answers_take_longer_and_samples_are_drawn_together() -> None:
    async def seconds(of: ScriptedEngine, sampling: Sampling) -> float:
        started = time.perf_counter()
        await of.complete(MEMBER, proposal_messages(task("What is 20 + 22?")), sampling)
        return time.perf_counter() - started

    slow = engine(latency_s=0.01, latency_per_token_s=0.02)
    assert 0.03 <= asyncio.run(seconds(slow, FREE.model_copy(update={"max_tokens": 1}))) < 0.1
    assert 0.1 <= asyncio.run(seconds(slow, FREE.model_copy(update={"num_samples": 8}))) < 0.7


def test_calls_beyond_the_slots_wait_in_every_event_loop() -> None:
    async def seconds(of: ScriptedEngine) -> float:
        started = time.perf_counter()
        messages = proposal_messages(task("What is 20 + 22?"))
        await asyncio.gather(*(of.complete(MEMBER, messages, FREE) for _ in range(6)))
        return time.perf_counter() - started

    of = engine(latency_s=0.03, num_slots=2)
    for _ in range(2):
        assert asyncio.run(seconds(of)) >= 0.09


def test_slots_go_to_the_smallest_rank_first() -> None:
    async def order() -> list[int]:
        of, ended = engine(latency_s=0.002, num_slots=1), list[int]()

        async def one(rank: int) -> None:
            await of.complete(MEMBER, proposal_messages(task("What is 20 + 22?")), FREE, rank=rank)
            ended.append(rank)

        await asyncio.gather(*(one(rank) for rank in (5, 9, 2, 7)))
        return ended

    # The first one found its slot free.
    assert asyncio.run(order()) == [5, 2, 7, 9]


def test_sleeping_engine_refuses_requests_until_it_wakes() -> None:
    async def scenario() -> int:
        of = engine()
        await of.sleep()
        with pytest.raises(EngineError, match="sleeps while a specialist is trained"):
            await of.complete(MEMBER, proposal_messages(task("What is 20 + 22?")), FREE)
        await of.wake()
        completions, _ = await of.complete(MEMBER, proposal_messages(task("What is 20 + 22?")), FREE)
        return len(completions)

    assert asyncio.run(scenario()) == 1


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        (Choice(choices=("41", "42")), "42"),
        (Choice(choices=("It is 41.", "It is 42.")), "It is 42."),
        (Regex(pattern="[0-9]+"), "42"),
        (Regex(pattern="Answer: .*"), "Answer: 42"),
        (JsonSchema(json_schema='{"type": "integer", "maximum": 40}'), "40"),
        (
            JsonSchema(
                json_schema="""{"$defs": {"n": {"type": "number"}}, "type": "object", "required": ["sum", "why"],
                "properties": {"sum": {"$ref": "#/$defs/n"}, "why": {"type": "string"}}}"""
            ),
            '{"sum": 42, "why": "42"}',
        ),
    ],
)
def test_answer_stands_in_the_form_it_was_asked_for_in(structure: Structure, said: str) -> None:
    sampling = FREE.model_copy(update={"structure": structure})
    asked = engine(skill=1.0).complete(MEMBER, proposal_messages(task("What is 20 + 22?")), sampling)
    assert asyncio.run(asked)[0][0].text == said


def test_form_it_cannot_fill_is_refused_and_not_ignored() -> None:
    sampling = FREE.model_copy(update={"structure": Regex(pattern="[xyz]{7}")})
    with pytest.raises(EngineError, match="nothing to say in this form"):
        asyncio.run(engine().complete(MEMBER, proposal_messages(task("What is 20 + 22?")), sampling))
