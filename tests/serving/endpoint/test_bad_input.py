"""What the door does with what it should never be sent: the right 4xx, with the field named, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from serving.endpoint.app import create_app
from tests.serving.endpoint.asgi import Reply, request
from tests.serving.endpoint.doors import QUESTION, ask, make_door

CHAT = "/v1/chat/completions"
NUM_MALFORMED = 10_000


def sent(state: Path, *bodies: bytes, **options: Any) -> list[Reply]:
    """The answers to these bodies."""

    async def work() -> list[Reply]:
        door = make_door(state, **options)
        app = create_app(door)
        replies = [await request(app, CHAT, body) for body in bodies]
        await door.close()
        return replies

    return asyncio.run(work())


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": QUESTION, **fields}]}


WRONG: list[tuple[Any, str]] = [
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"model": "m" * 5000}, "model"),
    ({"model": ""}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    (message(role="tool"), "messages[0].role"),
    (message(role="assistant"), "messages[0].role"),
    (message(content=7), "messages[0].content"),
    (message(content="  "), "messages[0].content"),
    (message(content=[{"type": "image_url", "image_url": {"url": "http://x"}}]), "messages[0].content[0].type"),
    (message(name="bob"), "messages[0].name"),
    (message(tool_calls=[{}]), "messages[0].tool_calls"),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, *message()["messages"]]},
        "messages[1].role",
    ),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
    ({"stop": 3}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [""]}, "stop[0]"),
    ({"seed": "1"}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"n": 2}, "n"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"tools": []}, "tools"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"logit_bias": {}}, "logit_bias"),
    ({"temprature": 1}, "temprature"),
    ({"top_k": 5}, "top_k"),
    ({"store": False}, "store"),
    ({"user": 5}, "user"),
    ({"mesh": {"answer": "poem"}}, "mesh.answer"),
    ({"mesh": {"progres": True}}, "mesh.progres"),
    ({"mesh": {"task_type": "../x"}}, "mesh.task_type"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strin"}}}},
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://a/b"}}}},
        "response_format.json_schema.schema",
    ),
]


@pytest.mark.parametrize(("change", "param"), WRONG, ids=lambda value: value if isinstance(value, str) else None)
def test_a_wrong_field_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any], param: str) -> None:
    (reply,) = sent(tmp_path, json.dumps(ask(**change)).encode())
    assert reply.status == 400
    assert reply.error["param"] == param
    assert reply.error["type"] == "invalid_request_error"
    assert param in reply.error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"model": "mesh", "messages": [}',
        b'{"model": "me\xff\xfesh"}',
        b'{"model": "\xed\xa0\x80"}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' * 90 + b"1" + b"}" * 90,
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"\x00" * 100,
        b"\x1f\x8b\x08\x00gzip",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, body: bytes) -> None:
    (reply,) = sent(tmp_path, body)
    assert reply.status == 400
    assert reply.error["message"]


@pytest.mark.parametrize("model", ["../../etc/passwd", "mesh/../ada", "mesh:", "mesh:../x", "ada\n", "MESH", "\u0000"])
def test_a_name_that_looks_like_a_path_is_no_model(tmp_path: Path, model: str) -> None:
    (reply,) = sent(tmp_path, json.dumps(ask(model=model)).encode())
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("field", "said"),
    [("temprature", "Did you mean 'temperature'?"), ("top_k", "ask a member"), ("store", "leave it out.")],
)
def test_a_field_that_is_not_known_is_refused_with_what_to_do_instead(tmp_path: Path, field: str, said: str) -> None:
    (reply,) = sent(tmp_path, json.dumps(ask(**{field: 1})).encode())
    assert said in reply.error["message"]
    assert ("Did you mean" in reply.error["message"]) == ("Did you mean" in said)


def test_a_report_that_says_nothing_is_told_so_in_plain_words(tmp_path: Path) -> None:
    async def work() -> Reply:
        return await request(create_app(make_door(tmp_path)), "/v1/outcomes", b'{"deliberation": "%s"}' % (b"0" * 32))

    reply = asyncio.run(work())
    assert reply.error["message"] == "body: expected `correct`, or `answer`, got neither"


def test_the_nearest_model_is_named(tmp_path: Path) -> None:
    (reply,) = sent(tmp_path, json.dumps(ask(model="mesh:vot")).encode())
    assert "did you mean 'mesh:vote'" in reply.error["message"]


def test_a_body_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    pieces = [b" " * 1024] * 1000

    async def work() -> tuple[Reply, Reply]:
        app = create_app(make_door(tmp_path, settings={"max_body_bytes": 2048}))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"9" * 40)]
        return await request(app, CHAT, b"{}", headers=headers), await request(app, CHAT, pieces)

    announced, unannounced = asyncio.run(work())
    assert [announced.status, unannounced.status] == [413, 413]
    assert announced.headers["connection"] == "close"


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data", b""])
def test_what_a_foreign_page_could_send_is_refused(tmp_path: Path, kind: bytes) -> None:
    async def work() -> Reply:
        app = create_app(make_door(tmp_path))
        return await request(app, CHAT, json.dumps(ask()).encode(), headers=[(b"content-type", kind)])

    reply = asyncio.run(work())
    assert (reply.status, reply.error["param"]) == (415, "Content-Type")
    assert "--json" in reply.error["message"]  # curl -d says that it sends a form


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example:8700", b"", b"127.0.0.1.nip.io", b"[::2]"])
def test_without_keys_a_name_pointed_at_this_machine_is_not_served(tmp_path: Path, host: bytes) -> None:
    async def work() -> list[Reply]:
        app = create_app(make_door(tmp_path))
        return [
            await request(app, CHAT, json.dumps(ask()).encode(), host=host),
            await request(app, "/v1/models", method="GET", host=host),
        ]

    assert [reply.status for reply in asyncio.run(work())] == [403, 403]


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:1", b"127.0.0.1:8700", b"[::1]:8700"])
def test_this_machine_is_served_by_any_of_its_names(tmp_path: Path, host: bytes) -> None:
    async def work() -> Reply:
        return await request(create_app(make_door(tmp_path)), "/v1/models", method="GET", host=host)

    assert asyncio.run(work()).status == 200


@pytest.mark.parametrize("key", [b"", b"a b", b"\xff", b"k" * 256])
def test_an_odd_idempotency_key_is_refused(tmp_path: Path, key: bytes) -> None:
    async def work() -> Reply:
        headers = [(b"content-type", b"application/json"), (b"idempotency-key", key)]
        return await request(create_app(make_door(tmp_path)), CHAT, json.dumps(ask()).encode(), headers=headers)

    reply = asyncio.run(work())
    assert (reply.status, reply.error["param"]) == (400, "Idempotency-Key")


def test_half_characters_and_odd_request_ids_come_back_as_plain_text(tmp_path: Path) -> None:
    async def work() -> tuple[Reply, Reply]:
        app = create_app(make_door(tmp_path))
        ids = [(b"content-type", b"application/json"), (b"x-request-id", b"a\xffb <script>")]
        half = b'{"model": "mesh", "messages": [{"role": "user", "content": "\\ud800 What is 1 + 1?"}]}'
        return (
            await request(app, CHAT, json.dumps(ask(model="\U0001f600")).encode(), headers=ids),
            await request(app, CHAT, half),
        )

    emoji, half = asyncio.run(work())
    assert emoji.body.isascii()
    assert "script" not in emoji.headers["x-request-id"]
    assert half.status == 400


def test_unknown_paths_and_methods_are_told_in_the_same_form(tmp_path: Path) -> None:
    async def work() -> list[Reply]:
        app = create_app(make_door(tmp_path))
        return [
            await request(app, "/v1/embeddings"),
            await request(app, "/v1/models/"),
            await request(app, "//etc/passwd", method="GET"),
            await request(app, CHAT, method="GET"),
            await request(app, CHAT, method="BREW"),
        ]

    replies = asyncio.run(work())
    assert [reply.status for reply in replies] == [404, 404, 404, 405, 405]
    assert all(reply.error["code"] for reply in replies)
    assert replies[3].headers["allow"] == "POST"


def test_ten_thousand_malformed_requests_are_refused_and_leave_nothing_behind(tmp_path: Path) -> None:
    async def work() -> tuple[list[Reply], int, int]:
        door = make_door(tmp_path)
        app, draw = create_app(door), random.Random(5)
        replies = [await request(app, CHAT, malformed(draw)) for _ in range(NUM_MALFORMED)]
        left = len(door._running), door.gate.num_running + door.gate.num_queued
        await door.close()
        return replies, *left

    replies, running, placed = asyncio.run(work())
    odd = [reply for reply in replies if not 400 <= reply.status < 500 or not reply.error["code"]]
    assert odd == []
    assert (running, placed) == (0, 0)


def malformed(draw: random.Random) -> bytes:
    """A request with at least one thing wrong with it."""
    body = ask()
    odd: list[Any] = [None, True, -1, 1e308, 10**25, "", "x" * 3000, [], [[]], {}, {"a": {}}, ["\x00"], "\ud83d"]
    kind = draw.randrange(4)
    if kind == 0:
        raw = json.dumps(body).encode()
        cut = draw.randrange(len(raw))
        return raw[:cut] + b"\xff" + raw[cut:]
    if kind == 1:
        return json.dumps(body).encode()[: draw.randrange(1, 60)]
    if kind == 2:
        body["".join(draw.choices("abcdefgh_", k=8))] = draw.choice([value for value in odd if value is not None])
        return json.dumps(body).encode()
    body["messages"][0][draw.choice(["role", "content"])] = draw.choice([one for one in odd if one != "x" * 3000])
    if body["messages"][0]["role"] == "user" and body["messages"][0]["content"] in ("\ud83d",):
        return b"\xff"
    return json.dumps(body).encode()
