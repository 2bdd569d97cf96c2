"""The official OpenAI client against the door where things go wrong: retries, timeouts, errors, broken streams."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.serving.endpoint.doors import QUESTION, Held, Opened, Says, opened

ASKED: dict[str, Any] = {
    "model": "mesh",
    "messages": [{"role": "user", "content": QUESTION}],
    "extra_body": {"mesh": {"answer": "number"}},
}


def sdk(door: Opened, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{door.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 10, **options}
    )


def test_the_client_waits_as_long_as_it_is_told_and_then_is_answered(tmp_path: Path) -> None:
    async def work() -> tuple[str | None, float]:
        engine = Held()
        settings = {"max_concurrent": 1, "max_queued": 0}
        async with opened(tmp_path, engine=engine, settings=settings) as door, sdk(door, max_retries=3) as client:
            blocking = asyncio.create_task(client.chat.completions.create(**ASKED))
            await engine.asked.wait()
            started = time.perf_counter()
            second = asyncio.create_task(client.chat.completions.create(**ASKED))
            await asyncio.sleep(0.2)
            engine.free.set()
            await blocking
            return (await second).choices[0].message.content, time.perf_counter() - started

    content, seconds = asyncio.run(work())
    assert content == "42"
    assert seconds >= 1.0  # Retry-After is at least a second


def test_a_retry_after_a_timeout_finds_the_work_it_had_begun(tmp_path: Path) -> None:
    async def work() -> tuple[str | None, int]:
        engine = Held()
        headers = {"Idempotency-Key": "order-7"}
        async with opened(tmp_path, engine=engine) as door, sdk(door, default_headers=headers) as client:
            patient = asyncio.create_task(client.chat.completions.create(**ASKED))
            await engine.asked.wait()
            with pytest.raises(openai.APITimeoutError):
                await client.with_options(timeout=0.1).chat.completions.create(**ASKED)
            engine.free.set()
            again = await client.chat.completions.create(**ASKED)
            assert again.id == (await patient).id
            return again.choices[0].message.content, engine.num_asked

    content, num_asked = asyncio.run(work())
    assert content == "42"
    assert num_asked == 2


def test_a_timeout_of_the_only_client_ends_the_deliberation(tmp_path: Path) -> None:
    async def work() -> tuple[int, int]:
        engine = Held()
        async with opened(tmp_path, engine=engine) as door, sdk(door, timeout=0.2) as client:
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(**ASKED)
            async with asyncio.timeout(5.0):
                while door.door.gate.num_running:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        return engine.num_asked, engine.num_cancelled

    assert asyncio.run(work()) == (2, 2)


def test_an_error_inside_a_stream_is_raised_by_the_client(tmp_path: Path) -> None:
    async def work() -> str:
        engine = Says(fails=frozenset({"ada", "ben"}))
        async with opened(tmp_path, engine=engine) as door, sdk(door) as client:
            stream = await client.chat.completions.create(**ASKED, stream=True)
            with pytest.raises(openai.APIError) as raised:
                async for _ in stream:
                    pass
            return str(raised.value)

    assert "no member answered" in asyncio.run(work())


def test_errors_are_of_the_kinds_that_the_client_knows(tmp_path: Path) -> None:
    async def work() -> list[tuple[str, str | None, str | None]]:
        found = []
        engine = Says(fails=frozenset({"ada", "ben"}))
        async with opened(tmp_path, engine=engine, settings={"require_key": True}) as door:
            _, secret = door.door.keys.create("billing")
            async with sdk(door, api_key=secret) as client, sdk(door, api_key="wrong") as stranger:
                for who, change in (
                    (stranger, {}),
                    (client, {"model": "gpt-4"}),
                    (client, {"temperature": 3.0}),
                    (client, {"logprobs": True}),
                    (client, {}),
                ):
                    try:
                        await who.chat.completions.create(**{**ASKED, **change})
                    except openai.APIStatusError as error:
                        found.append((type(error).__name__, error.code, error.param))
        return found

    assert asyncio.run(work()) == [
        ("AuthenticationError", "invalid_api_key", None),
        ("NotFoundError", "model_not_found", "model"),
        ("BadRequestError", "invalid_value", "temperature"),
        ("BadRequestError", "unsupported_parameter", "logprobs"),
        ("InternalServerError", "no_member_answered", None),
    ]


def test_a_conversation_goes_on_with_the_answer_as_the_client_holds_it(tmp_path: Path) -> None:
    async def work() -> str:
        engine = Says()
        async with opened(tmp_path, engine=engine) as door, sdk(door) as client:
            first = await client.chat.completions.create(**ASKED)
            messages = [*ASKED["messages"], first.choices[0].message, {"role": "user", "content": "And 1 more?"}]
            await client.chat.completions.create(**{**ASKED, "messages": messages})
        return engine.prompts[-1][1]

    prompt = asyncio.run(work())
    assert prompt.index(QUESTION) < prompt.index("assistant: 42") < prompt.index("And 1 more?")


def test_progress_comes_as_thoughts_through_keep_alives(tmp_path: Path) -> None:
    async def work() -> tuple[str, str]:
        engine = Held()
        async with opened(tmp_path, engine=engine) as door, sdk(door) as client:
            body = {"mesh": {"answer": "number", "progress": True}}
            stream = await client.chat.completions.create(**{**ASKED, "extra_body": body}, stream=True)
            asyncio.get_running_loop().call_later(0.2, engine.free.set)
            thoughts, content = "", ""
            async for chunk in stream:
                delta = chunk.choices[0].delta
                thoughts += (delta.model_extra or {}).get("reasoning_content", "")
                content += delta.content or ""
            return thoughts, content

    thoughts, content = asyncio.run(work())
    assert "ada [propose]" in thoughts
    assert "ben [propose]" in thoughts
    assert content == "42"
