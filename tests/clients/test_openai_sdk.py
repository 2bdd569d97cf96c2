from __future__ import annotations

import json
import subprocess
import uuid

import openai
import pytest

QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]


@pytest.fixture(scope="module")
def client(door_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{door_url}/v1", api_key="none needed", max_retries=0, timeout=30)


def test_the_models_are_the_mesh_its_protocols_and_its_members(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"mesh", "mesh:vote", "mesh:council", "ada", "ben", "cid"} <= names


def test_a_question_is_answered_with_what_the_mesh_thinks_of_its_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="mesh", messages=QUESTION, seed=3)
    assert "42" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    said = answer.model_extra["mesh"]
    assert 0.0 < said["confidence"] <= 1.0
    assert {"support", "dissent", "diagnosis", "missing", "deliberation"} <= set(said)


def test_a_stream_adds_up_to_an_answer_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="mesh:council", messages=QUESTION, seed=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "42" in text
    assert chunks[-1].usage.total_tokens > 0
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def test_a_member_answers_for_itself(client: openai.OpenAI) -> None:
    assert "42" in client.chat.completions.create(model="ada", messages=QUESTION).choices[0].message.content


@pytest.mark.parametrize(
    ("changed", "kind", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"n": 3}, openai.BadRequestError, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
    ],
    ids=["model", "messages", "temperature", "n", "tools"],
)
def test_what_cannot_be_served_is_refused_by_the_name_of_its_field(client, changed, kind, param) -> None:
    with pytest.raises(kind) as refused:
        client.chat.completions.create(**{"model": "mesh", "messages": QUESTION, **changed})
    assert refused.value.param == param


def test_a_retry_with_the_same_key_gets_the_same_deliberation(client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first, second = (
        client.chat.completions.create(model="mesh", messages=QUESTION, extra_headers=headers) for _ in range(2)
    )
    assert first.id == second.id
    assert first.model_extra["mesh"]["deliberation"] == second.model_extra["mesh"]["deliberation"]


def test_curl_gets_the_same_answer(door_url: str) -> None:
    body = json.dumps({"model": "mesh", "messages": QUESTION})
    command = ["curl", "-sS", "-H", "content-type: application/json", "-d", body, f"{door_url}/v1/chat/completions"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert "42" in answer["choices"][0]["message"]["content"]
