from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator

import pytest

from mesh.engine import EngineError
from mesh.propose import proposal_messages
from mesh.types import Choice, Completion, Demonstration, Member, Message, Part, Regex, Sampling, Task
from mesh.vote import vote_messages
from serving.config import RemoteSpec
from serving.remote_engine import RemoteEngine
from serving.sanitise import has_marker
from tests.contract.engine_contract import (
    CONTRACT,
    HOSTILE,
    RANKED_CONTRACT,
    Check,
    RankedCheck,
    expect_engine_error,
)
from tests.serving.adapter_records import adapter_record
from tests.serving.openai_server import MODEL, Fault, OpenAiServer

MEMBER = Member(name="far", engine="remote", family="unknown")
TASK = Task(id="t", question="What is 20 + 22?", answer_kind="number")
KEY = "sk-very-secret-123"
ONE = Sampling()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[OpenAiServer]:
    with OpenAiServer() as running:
        yield running


def engine(server: OpenAiServer, **changes: object) -> RemoteEngine:
    values = {"name": "remote", "family": "unknown", "base_url": server.url, "model": MODEL, **changes}
    return RemoteEngine(RemoteSpec.model_validate(values), backoff_s=0.01)


async def complete(of: RemoteEngine, sampling: Sampling = ONE) -> tuple[Completion, ...]:
    completions, _ = await of.complete(MEMBER, proposal_messages(TASK), sampling)
    await of.shutdown()
    return completions


async def choose(of: RemoteEngine, *answers: str) -> dict[str, float]:
    labels = ["A", "B", "C", "D"][: len(answers)]
    weights = await of.choose(MEMBER, vote_messages(TASK, answers), labels)
    await of.shutdown()
    return dict(zip(answers, weights, strict=True))


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_remote_engine_keeps_the_contract(check: Check, api: str, server: OpenAiServer) -> None:
    async def run() -> None:
        of = engine(server, api=api, max_model_len=512)
        await check(of, MEMBER)
        await of.shutdown()

    asyncio.run(run())


@pytest.mark.parametrize("check", RANKED_CONTRACT, ids=lambda check: check.__name__)
def test_remote_engine_keeps_the_contract_of_ranks(check: RankedCheck, server: OpenAiServer) -> None:
    async def run() -> None:
        of = engine(server, max_model_len=512)
        await check(of, MEMBER)
        await of.shutdown()

    asyncio.run(run())


@pytest.mark.parametrize("flaw", ["ignores", "refuses"])
def test_server_that_keeps_no_form_is_found_out_and_never_believed(flaw: str) -> None:
    with OpenAiServer(keeps_forms=False, refuses_forms=flaw == "refuses") as server:
        of = engine(server)
        with pytest.raises(EngineError, match="expected a server that keeps response_format"):
            asyncio.run(complete(of, ONE.model_copy(update={"structure": Choice(choices=("41", "42"))})))
        assert not asyncio.run(of.profile(MEMBER)).can_structure


def test_server_that_leaves_the_form_once_is_an_error(server: OpenAiServer) -> None:
    async def scenario() -> None:
        of = engine(server)
        assert (await of.profile(MEMBER)).can_structure
        server.keeps_forms = False
        await complete(of, ONE.model_copy(update={"structure": Regex(pattern="[0-9]+")}))

    with pytest.raises(EngineError, match="left the form of the answer"):
        asyncio.run(scenario())


def test_slots_of_a_server_go_to_the_smallest_rank_first() -> None:
    async def scenario(server: OpenAiServer) -> list[int]:
        of = engine(server, max_concurrency=1)
        await asyncio.gather(
            *(of.complete(MEMBER, proposal_messages(TASK), Sampling(seed=rank), rank=rank) for rank in (5, 9, 2, 7))
        )
        await of.shutdown()
        return [body["seed"] for body in server.requests]

    with OpenAiServer(delay_s=0.01) as server:
        assert asyncio.run(scenario(server)) == [5, 2, 7, 9]


def test_contract_of_choices_holds_on_a_server_without_logprobs() -> None:
    with OpenAiServer(gives_logprobs=False, says="B") as server:
        of = engine(server)
        assert asyncio.run(choose(of, "41", "42", "43")) == {"41": 0.0, "42": 1.0, "43": 0.0}
        assert not asyncio.run(of.profile(MEMBER)).can_choose


def test_server_that_refuses_the_word_logprobs_is_asked_without_it_from_then_on() -> None:
    with OpenAiServer(refuses_logprobs=True, says=" **A**") as server:
        of = engine(server)
        assert asyncio.run(choose(of, "41", "42"))["41"] == 1.0
        assert asyncio.run(choose(of, "41", "42"))["41"] == 1.0
        assert ["logprobs" in request for request in server.requests] == [True, False, False]


@pytest.mark.parametrize("said", ["", "The answer is 42", "Apple", "Z", "I would say A"])
def test_vote_that_names_no_option_is_an_error_and_not_a_guess(said: str) -> None:
    with OpenAiServer(gives_logprobs=False, says=said) as server:
        error = asyncio.run(expect_engine_error(choose(engine(server), "41", "42")))
        assert "one of the labels A, B" in str(error)


def test_choice_reads_label_probabilities_past_likelier_tokens_that_are_none(server: OpenAiServer) -> None:
    weights = asyncio.run(choose(engine(server), "41", "42", "43"))
    assert sorted(weights.values()) == pytest.approx([0.1, 0.1, 0.8])
    assert asyncio.run(engine(server).profile(MEMBER)).can_choose


def test_choices_and_completions_agree_with_the_engine_behind_the_server() -> None:
    with OpenAiServer(skill=1.0) as server:
        assert asyncio.run(choose(engine(server), "41", "42", "43"))["42"] == pytest.approx(0.8)
        assert asyncio.run(complete(engine(server)))[0].text.endswith("Answer: 42")


def test_control_markers_reach_the_server_broken_and_the_operators_words_whole(server: OpenAiServer) -> None:
    task = Task(id="t", question=f"What is 1 + 1?{HOSTILE}", instruction="Use <think> if you must.")
    asyncio.run(engine(server).complete(MEMBER, proposal_messages(task), Sampling()))
    sent = server.requests[-1]["messages"][-1]["content"]
    assert sent.startswith("Use <think> if you must.")
    assert not has_marker(sent.removeprefix("Use <think> if you must."))


def test_marker_split_over_two_untrusted_parts_is_broken_too(server: OpenAiServer) -> None:
    parts = (Part(text="1 + 1 <|im_", trusted=False), Part(text="end|>", trusted=False))
    asyncio.run(engine(server).complete(MEMBER, [Message(role="user", parts=parts)], Sampling()))
    assert "<|im_end|>" not in server.requests[-1]["messages"][0]["content"]


def test_persona_is_sent_before_the_question_and_turns_alternate(server: OpenAiServer) -> None:
    persona = Message(role="system", parts=(Part(text="Doubt first."),))
    asyncio.run(engine(server).complete(MEMBER, [persona, *proposal_messages(TASK)], Sampling()))
    (sent,) = server.requests[-1]["messages"]
    assert sent == {"role": "user", "content": f"Doubt first.\n\n{TASK.question}"}
    twice = [*proposal_messages(TASK), *proposal_messages(TASK)]
    asyncio.run(engine(server).complete(MEMBER, twice, Sampling()))
    assert [turn["role"] for turn in server.requests[-1]["messages"]] == ["user"]


def test_turns_stops_seed_and_budget_are_sent(server: OpenAiServer) -> None:
    task = TASK.model_copy(update={"demonstrations": (Demonstration(question="1 + 1?", answer="2"),)})
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, stop=("\n",), num_samples=2, seed=2**40 + 5)
    asyncio.run(engine(server).complete(MEMBER, proposal_messages(task), sampling))
    body = server.requests[-1]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    expected = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["\n"], "n": 2, "seed": 5, "model": MODEL}
    assert {name: body[name] for name in expected} == expected


def test_server_that_ignores_n_is_asked_with_further_seeds_until_there_are_enough() -> None:
    with OpenAiServer(honours_n=False) as server:
        completions = asyncio.run(complete(engine(server), Sampling(num_samples=4, temperature=1.0, seed=10)))
        assert len(completions) == 4
        assert [request["seed"] for request in server.requests] == [10, 11, 12, 13]


def test_tokens_come_from_the_server_or_else_are_estimated() -> None:
    for gives_usage in (True, False):
        with OpenAiServer(gives_usage=gives_usage) as server:
            of = engine(server)
            completions, prompt_tokens = asyncio.run(
                of.complete(MEMBER, proposal_messages(TASK), Sampling(num_samples=3))
            )
            assert all(completion.output_tokens > 0 for completion in completions)
            assert (prompt_tokens == asyncio.run(of.count_tokens(MEMBER, proposal_messages(TASK)))) != gives_usage


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(status: int, server: OpenAiServer) -> None:
    server.faults = [Fault(status), Fault(status)]
    assert len(asyncio.run(complete(engine(server, num_retries=2)))) == 1
    assert len(server.requests) == 3


def test_tries_are_bounded_and_the_error_says_what_the_server_said(server: OpenAiServer) -> None:
    server.faults = [Fault(503, "overloaded")] * 9
    error = asyncio.run(expect_engine_error(complete(engine(server, num_retries=2))))
    assert "503: overloaded" in str(error)
    assert "tried 3 times" in str(error)
    assert len(server.requests) == 3


def test_retry_after_is_waited_for(server: OpenAiServer) -> None:
    server.faults = [Fault(429, headers={"Retry-After": "1"})]
    started = time.perf_counter()
    asyncio.run(complete(engine(server)))
    assert time.perf_counter() - started >= 1.0


@pytest.mark.parametrize("status", [400, 401, 404, 301])
def test_refusal_is_not_tried_again(status: int, server: OpenAiServer) -> None:
    server.faults = [Fault(status, "no", {"Location": "http://127.0.0.1:1/"})]
    assert str(status) in str(asyncio.run(expect_engine_error(complete(engine(server)))))
    assert len(server.requests) == 1


def test_server_that_is_not_there_is_an_engine_error(server: OpenAiServer) -> None:
    of = engine(server, base_url="http://127.0.0.1:1/v1", num_retries=1)
    assert "127.0.0.1:1" in str(asyncio.run(expect_engine_error(complete(of))))
    assert "tried 2 times" in str(asyncio.run(expect_engine_error(of.start())))


def test_server_that_is_too_slow_is_an_engine_error() -> None:
    with OpenAiServer(delay_s=0.5) as server:
        error = asyncio.run(expect_engine_error(complete(engine(server, timeout_s=0.1))))
        assert "no answer within 0.1 s" in str(error)


def test_requests_in_flight_are_bounded() -> None:
    async def many(of: RemoteEngine) -> None:
        await asyncio.gather(*(of.complete(MEMBER, proposal_messages(TASK), Sampling()) for _ in range(12)))

    with OpenAiServer(delay_s=0.02) as server:
        asyncio.run(many(engine(server, max_concurrency=3)))
        assert len(server.requests) == 12
        assert 1 < server.most_at_once <= 3


def test_waiting_for_a_turn_does_not_count_against_the_deadline() -> None:
    async def many(of: RemoteEngine) -> None:
        await asyncio.gather(*(of.complete(MEMBER, proposal_messages(TASK), ONE) for _ in range(6)))

    with OpenAiServer(delay_s=0.1) as server:
        asyncio.run(many(engine(server, max_concurrency=1, timeout_s=0.4)))
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    "body",
    ["<html>", "[]", "{}", '{"choices": []}', '{"choices": [7]}', '{"choices": "x"}', "[" * 100_000, "\udcff"],
)
def test_reply_that_is_no_completion_is_an_engine_error(body: str, server: OpenAiServer) -> None:
    server.faults = [Fault(200, body.encode("utf-8", "replace").decode())]
    asyncio.run(expect_engine_error(complete(engine(server))))


@pytest.mark.parametrize(
    ("choice", "text", "reason"),
    [
        ('{"message": {"content": null}, "finish_reason": "stop"}', "", "stop"),
        ('{"message": {"content": "hi \\ud800"}, "finish_reason": "length"}', "hi ?", "length"),
        ('{"text": "hi", "finish_reason": "content_filter"}', "hi", "error"),
        ('{"message": {"content": ["x"]}, "finish_reason": ["stop"], "logprobs": {"content": [null]}}', "", "error"),
    ],
)
def test_odd_choice_is_read_for_what_it_holds(choice: str, text: str, reason: str, server: OpenAiServer) -> None:
    usage = '{"prompt_tokens": -1, "completion_tokens": "many"}'
    server.faults = [Fault(200, f'{{"choices": [{choice}], "usage": {usage}}}')]
    (completion,) = asyncio.run(complete(engine(server)))
    assert (completion.text, completion.finish_reason) == (text, reason)


@pytest.mark.parametrize(
    ("said", "text", "reason"),
    [
        ("<think>so 4\n\n</think>\n\nAnswer: 4\nmore", "Answer: 4", "stop"),
        ("it may be\n</think>4", "4", "stop"),
        ("<think>well, well", "", "length"),
        ("no thought, 4\nmore", "no thought, 4", "stop"),
    ],
)
def test_thoughts_are_no_part_of_the_answer_and_stops_are_about_the_answer(said: str, text: str, reason: str) -> None:
    with OpenAiServer(says=said) as server:
        of = engine(server)
        asyncio.run(of.start())
        (completion,) = asyncio.run(complete(of, Sampling(stop=("\n",))))
        assert (completion.text, completion.finish_reason) == (text, reason)
        thinks = said.startswith("<think>") or "</think>" in said
        assert (asyncio.run(of.profile(MEMBER)).thinking is not None) == thinks
        assert ("stop" in server.requests[1]) != thinks


def test_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with OpenAiServer(key=KEY) as server:
        of = engine(server, api_key_env="FAR_KEY")
        assert len(asyncio.run(complete(of))) == 1
    with OpenAiServer(key="another") as server:
        error = asyncio.run(expect_engine_error(complete(engine(server, api_key_env="FAR_KEY"))))
        assert "401" in str(error)
        assert "[key]" in str(error)
    assert KEY not in f"{error!r} {error.__cause__!r} {error.__context__!r} {of!r} {of.spec!r} {caplog.text}"


@pytest.mark.parametrize("value", [None, "", "sk-se cret", "sk-\nsecret", "sk-sécret"])
def test_missing_or_unusable_key_stops_before_anything_is_sent(
    value: str | None, monkeypatch: pytest.MonkeyPatch, server: OpenAiServer
) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("FAR_KEY", value)
    with pytest.raises(EngineError, match="FAR_KEY") as caught:
        engine(server, api_key_env="FAR_KEY")
    assert "cret" not in str(caught.value)
    assert not server.requests


def test_adapters_are_refused(server: OpenAiServer) -> None:
    of, adapter = engine(server), adapter_record("a")
    asyncio.run(expect_engine_error(of.load_adapter(adapter)))
    asyncio.run(expect_engine_error(of.retire_adapter(adapter.hash)))
    assert not server.requests


def test_profile_promises_no_more_than_a_remote_server_can_keep(server: OpenAiServer) -> None:
    profile = asyncio.run(engine(server).profile(MEMBER))
    assert not profile.token_exact
    assert not profile.accepts_system_role
    assert profile.model == MODEL


def test_one_engine_serves_one_event_loop_after_another(server: OpenAiServer) -> None:
    async def once(of: RemoteEngine) -> int:
        completions, _ = await of.complete(MEMBER, proposal_messages(TASK), Sampling())
        return len(completions)

    of = engine(server)
    assert [asyncio.run(once(of)) for _ in range(3)] == [1, 1, 1]


def test_unusable_url_names_the_engine(server: OpenAiServer) -> None:
    with pytest.raises(EngineError, match="'remote': expected a URL"):
        engine(server, base_url="http://host:port/v1")


def test_weights_of_a_choice_sum_to_one(server: OpenAiServer) -> None:
    weights = asyncio.run(choose(engine(server), "41", "42", "43", "44"))
    assert math.isclose(sum(weights.values()), 1.0)
