from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

HISTORY = [
    SystemMessage("You are asked for sums."),
    HumanMessage("What is 3 + 4?"),
    AIMessage("Answer: 7"),
    HumanMessage("What is 17 + 25?"),
]


@pytest.fixture
def chat(door_url: str, monkeypatch: pytest.MonkeyPatch) -> ChatOpenAI:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    return ChatOpenAI(base_url=f"{door_url}/v1", api_key="none", model="mesh:vote", max_retries=0)


def test_a_conversation_of_langchain_is_answered(chat: ChatOpenAI) -> None:
    answer = chat.invoke(HISTORY)
    assert "42" in answer.content
    assert answer.usage_metadata["total_tokens"] > 0


def test_langchain_reads_the_stream(chat: ChatOpenAI) -> None:
    assert "42" in "".join(chunk.content for chunk in chat.stream(HISTORY))


def test_a_batch_of_langchain_is_answered_in_order(chat: ChatOpenAI) -> None:
    answers = chat.batch([f"What is {number} + 1?" for number in range(10, 14)])
    assert [str(number + 1) in answer.content for number, answer in zip(range(10, 14), answers, strict=True)] == [
        True
    ] * 4
