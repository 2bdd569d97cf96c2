from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.engine import EngineError
from mesh.types import Choice, Completion, JsonSchema, Member, Message, Part, Profile, Regex, Sampling, Score
from serving.hosting import EngineBusy
from serving.requests import Answer, Request, Requests, Verb
from serving.wire import (
    answer_of,
    decode_reply,
    decode_request,
    encode_answer,
    encode_refusal,
    encode_request,
)

ADA = Member(name="ada", engine="alpha", family="one", adapter="a" * 64, tiers=("deep",), skills=("sum",))
TEXT = st.text(max_size=20)
MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant"]),
        parts=st.lists(st.builds(Part, text=TEXT, trusted=st.booleans()), max_size=3).map(tuple),
    ),
    max_size=3,
).map(tuple)
STRUCTURES = st.one_of(
    st.none(),
    st.builds(Choice, choices=st.lists(TEXT, min_size=1, max_size=3).map(tuple)),
    st.builds(Regex, pattern=st.just(r"\d+")),
    st.builds(JsonSchema, json_schema=st.just('{"type": "object"}')),
)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.0, 5.0),
    seed=st.integers(-(2**63), 2**63),
    stop=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=2).map(tuple),
    structure=STRUCTURES,
)
WHOLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ARGUMENTS = st.one_of(
    SAMPLINGS.map(lambda sampling: ("complete", sampling)),
    st.lists(st.sampled_from("ABCD"), unique=True).map(lambda labels: ("choose", tuple(labels))),
    WHOLE.map(lambda text: ("score", text)),
    st.sampled_from([("count_tokens", None), ("profile", None)]),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ANSWERS = st.one_of(
    st.tuples(
        st.lists(st.builds(Completion, text=TEXT, output_tokens=st.integers(0, 99)), max_size=3).map(tuple),
        st.integers(0, 10**6),
    ).map(lambda answer: ("complete", answer)),
    st.lists(FLOATS, max_size=4).map(lambda weights: ("choose", tuple(weights))),
    st.builds(Score, log_prob=FLOATS, num_tokens=st.integers(1, 99), num_bytes=st.integers(1, 99)).map(
        lambda score: ("score", score)
    ),
    st.integers(0, 10**9).map(lambda number: ("count_tokens", number)),
    st.just(
        (
            "profile",
            Profile(
                engine="alpha",
                model="m",
                max_model_len=64,
                has_chat_template=True,
                accepts_system_role=False,
                adds_bos=True,
                token_exact=True,
                thinking=("<think>", "</think>"),
            ),
        )
    ),
)


@given(ARGUMENTS, MESSAGES, st.integers(0, 2**34))
def test_a_request_arrives_as_it_was_sent(
    argument: tuple[Verb, object], messages: tuple[Message, ...], rank: int
) -> None:
    request = Requests().new(argument[0], ADA, messages, argument[1], rank)  # type: ignore[arg-type]
    assert decode_request(encode_request(request)) == request


@given(ANSWERS)
def test_an_answer_arrives_as_it_was_given(answer: tuple[Verb, Answer]) -> None:
    request = Request("id", answer[0], ADA)
    reply = decode_reply(encode_answer(request, answer[1]))
    assert reply.id == "id"
    assert answer_of(request, reply) == answer[1]


def test_half_a_character_is_replaced_in_a_text_to_score_and_refused_elsewhere() -> None:
    scored = Requests().new("score", ADA, (), "7 \ud800")
    assert decode_request(encode_request(scored)).argument == "7 ?"
    with pytest.raises(EngineError, match="lone surrogate"):
        encode_request(Requests().new("complete", ADA, (), Sampling(stop=("\ud800",))))


def test_a_refusal_is_the_error_it_was() -> None:
    request = Request("id", "complete", ADA)
    with pytest.raises(EngineError, match="too long") as refused:
        answer_of(request, decode_reply(encode_refusal("id", EngineError("too long \ud800"))))
    assert not isinstance(refused.value, EngineBusy)
    with pytest.raises(EngineBusy, match="full") as busy:
        answer_of(request, decode_reply(encode_refusal("id", EngineBusy("full", retry_after_s=1.5))))
    assert busy.value.retry_after_s == 1.5


def test_what_is_no_reply_of_this_version_is_an_engine_error() -> None:
    for letter in (b"", b"{}", b'{"id": "x", "colour": "red"}', b"\xff"):
        with pytest.raises(EngineError, match="reply of this version"):
            decode_reply(letter)
    with pytest.raises(EngineError, match="expected an answer to choose"):
        answer_of(Request("id", "choose", ADA), decode_reply(encode_answer(Request("id", "count_tokens", ADA), 3)))


def test_ids_are_never_given_twice() -> None:
    makers = [Requests() for _ in range(3)]
    ids = [maker.new("profile", ADA).id for maker in makers for _ in range(100)]
    assert len(set(ids)) == 300
