"""Keys, quotas, memory and members at the door: what one team gets, and that no other gets it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory.config import MemoryConfig
from memory.embed import embedder_named
from memory.ledger import Ledger
from memory.store import Memory
from memory.trust import TrustRules
from memory.types import Level
from mesh.engine import EngineError
from mesh.types import Member, Usage
from serving.endpoint.keys import Quota
from serving.endpoint.members import ProxyAnswer
from serving.endpoint.metrics import Metrics
from serving.endpoint.remembering import TeamMemory
from tests.serving.endpoint.doors import Held, Says, ask, opened
from tests.serving.endpoint.test_door import CHAT, bearer, events, until

KEYED = {"require_key": True}
EASY = MemoryConfig(embedder="hashed", shown_from=Level.CANDIDATE)
"""Shows what was checked once."""
TO_ADA = {"model": "ada", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass
class Recorded:
    """A member's server that answers as told, and records what it was sent."""

    answers: list[ProxyAnswer | Exception] = field(default_factory=list)
    sent: list[tuple[Member, dict[str, Any], bool]] = field(default_factory=list)
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.free.set()

    async def chat(self, member: Member, body: bytes, *, stream: bool) -> ProxyAnswer:
        self.sent.append((member, json.loads(body), stream))
        await self.free.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def whole(text: str, tokens: int = 5, status: int = 200) -> ProxyAnswer:
    return ProxyAnswer(status, body=json.dumps({"said": text}).encode(), usage=Usage(output_tokens=tokens))


def streamed(chunks: Sequence[str], fails: Exception | None = None) -> ProxyAnswer:
    async def pieces() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield f"data: {chunk}\n\n".encode()
        if fails is not None:
            raise fails
        answer.usage = Usage(prompt_tokens=2, output_tokens=3)

    answer = ProxyAnswer(200, stream=pieces(), media_type="text/event-stream")
    return answer


def log_of(state: Path) -> list[dict[str, Any]]:
    return [line.payload for line in Ledger(state / "requests.jsonl", readonly=True).entries()]


def test_a_members_answer_is_handed_on_as_it_is(tmp_path: Path) -> None:
    async def work() -> tuple[list[httpx.Response], Recorded]:
        refused = ProxyAnswer(429, body=b'{"error": {"message": "later"}}', retry_after_s=3.0)
        members = Recorded([whole("hi"), refused, streamed(['{"a": 1}', "[DONE]"])])
        async with opened(tmp_path, members=members) as door, door.client() as client:
            bodies = ({**TO_ADA, "tools": [{"x": 1}]}, TO_ADA, {**TO_ADA, "stream": True})
            return [await client.post(CHAT, json=body) for body in bodies], members

    (first, later, stream), members = asyncio.run(work())
    assert first.json() == {"said": "hi"}
    assert (later.status_code, later.headers["retry-after"]) == (429, "3")
    assert stream.text == 'data: {"a": 1}\n\ndata: [DONE]\n\n'
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert [(member.name, stream) for member, _, stream in members.sent] == [("ada", False)] * 2 + [("ada", True)]
    assert members.sent[0][1]["tools"] == [{"x": 1}]
    assert [(line["code"], line["tokens"]) for line in log_of(tmp_path)] == [(200, 5), (429, 0), (200, 5)]


def test_a_member_without_its_engine_is_a_503_or_an_error_in_its_stream(tmp_path: Path) -> None:
    async def work() -> list[httpx.Response]:
        members = Recorded([EngineError("gone"), streamed(['{"a": 1}'], EngineError("gone"))])
        async with opened(tmp_path, members=members) as door, door.client() as client:
            return [await client.post(CHAT, json={**TO_ADA, "stream": stream}) for stream in (False, True)]

    refused, stream = asyncio.run(work())
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "member_unavailable")
    assert events(stream)[-1]["error"]["code"] == "member_unavailable"
    assert [line["code"] for line in log_of(tmp_path)] == [503, 503]


def test_a_retry_to_a_member_joins_and_is_answered_again_and_not_when_it_had_failed(tmp_path: Path) -> None:
    async def work() -> tuple[list[Any], int, list[int]]:
        members = Recorded([whole("once"), whole("no", status=400), whole("yes")])
        members.free.clear()
        async with opened(tmp_path, members=members) as door, door.client() as client:
            one, two = {"idempotency-key": "1"}, {"idempotency-key": "2"}
            asking = [asyncio.create_task(client.post(CHAT, json=TO_ADA, headers=one)) for _ in range(3)]
            await until(lambda: members.sent)
            members.free.set()
            said = [(await task).json() for task in asking]
            said.append((await client.post(CHAT, json=TO_ADA, headers=one)).json())
            num_sent = len(members.sent)
            codes = [(await client.post(CHAT, json=TO_ADA, headers=two)).status_code for _ in range(2)]
            codes.append((await client.post(CHAT, json={**TO_ADA, "n": 2}, headers=one)).status_code)
            return said, num_sent, codes

    said, num_sent, codes = asyncio.run(work())
    assert said == [{"said": "once"}] * 4
    assert num_sent == 1
    assert codes == [400, 200, 422]


def test_a_client_that_leaves_a_member_ends_its_request(tmp_path: Path) -> None:
    async def work() -> int:
        members = Recorded([whole("never")])
        members.free.clear()
        async with opened(tmp_path, members=members) as door, door.client() as client:
            asking = asyncio.create_task(client.post(CHAT, json=TO_ADA))
            await until(lambda: members.sent)
            asking.cancel()
            await until(lambda: door.door.gate.num_running == 0)
            return len(members.answers)

    assert asyncio.run(work()) == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [({"stream": 1}, "stream"), ({"mesh": {"progress": True}}, "mesh")],
)
def test_what_the_door_itself_needs_of_a_members_request_is_checked(tmp_path: Path, change: Any, param: str) -> None:
    async def work() -> httpx.Response:
        async with opened(tmp_path, members=Recorded()) as door, door.client() as client:
            return await client.post(CHAT, json={**TO_ADA, **change})

    refused = asyncio.run(work())
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_a_spent_quota_is_refused_until_its_period_is_over(tmp_path: Path) -> None:
    async def work() -> list[httpx.Response]:
        members = Recorded([whole("a", 60), whole("b", 60), whole("c", 60)])
        async with opened(tmp_path, members=members, settings=KEYED) as door, door.client() as client:
            _, secret = door.door.keys.create("billing", Quota(tokens=100, per="hour"))
            return [await client.post(CHAT, json=TO_ADA, headers=bearer(secret)) for _ in range(3)]

    *taken, refused = asyncio.run(work())
    assert [one.status_code for one in taken] == [200, 200]
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "insufficient_quota")
    assert 1 <= int(refused.headers["retry-after"]) <= 3600


def test_what_was_written_for_a_client_that_left_is_charged_too(tmp_path: Path) -> None:
    async def work() -> int | None:
        engine = Held()
        async with opened(tmp_path, engine=engine, settings=KEYED) as door, door.client() as client:
            record, secret = door.door.keys.create("billing", Quota(tokens=10_000))
            body = ask(stream=True, model="mesh")
            body["mesh"]["progress"] = True
            engine.free.set()
            async with client.stream("POST", CHAT, json=body, headers=bearer(secret)) as answer:
                async for line in answer.aiter_lines():
                    if "reasoning_content" in line:
                        break
            await until(lambda: door.door.gate.num_running == 0)
            return door.door.quota.left(record.caller)

    left = asyncio.run(work())
    assert left is not None
    assert left < 10_000


def test_a_revoked_key_opens_nothing_from_the_next_request_on(tmp_path: Path) -> None:
    async def work() -> list[int]:
        async with opened(tmp_path, engine=Says(), settings=KEYED) as door, door.client() as client:
            record, secret = door.door.keys.create("billing")
            codes = [(await client.post(CHAT, json=ask(), headers=bearer(secret))).status_code]
            door.door.keys.revoke(record.id)
            answer = await client.post(CHAT, json=ask(), headers=bearer(secret))
            assert secret not in answer.text
            return [*codes, answer.status_code, (await client.get("/healthz")).status_code]

    assert asyncio.run(work()) == [200, 401, 200]
    assert "em_" not in (tmp_path / "requests.jsonl").read_text()


def test_the_same_idempotency_key_of_two_teams_names_two_deliberations(tmp_path: Path) -> None:
    async def work() -> list[str]:
        async with opened(tmp_path, engine=Says(), settings=KEYED) as door, door.client() as client:
            keys = [door.door.keys.create(team)[1] for team in ("billing", "search")]
            said = [
                await client.post(CHAT, json=ask(), headers={**bearer(key), "idempotency-key": "1"}) for key in keys
            ]
            return [one.json()["mesh"]["deliberation"] for one in said]

    first, second = asyncio.run(work())
    assert first != second


def test_what_one_team_reported_reaches_its_own_prompts_and_no_others(tmp_path: Path) -> None:
    async def work() -> dict[str, list[str]]:
        engine = Says()
        memory = TeamMemory(Memory.open(tmp_path / "memory", embedder_named("hashed"), config=EASY), "serve", 3)
        prompts: dict[str, list[str]] = {}
        async with opened(tmp_path, engine=engine, settings=KEYED, memory=memory) as door, door.client() as client:
            keys = {team: door.door.keys.create(team)[1] for team in ("billing", "search")}
            said = await client.post(CHAT, json=ask(), headers=bearer(keys["billing"]))
            report = {"deliberation": said.json()["id"], "answer": "42"}
            receipt = await client.post("/v1/outcomes", json=report, headers=bearer(keys["billing"]))
            assert receipt.json() == {
                "object": "outcome", "deliberation": said.json()["mesh"]["deliberation"], "correct": True,
                "is_new": True, "remembered": True,
            }  # fmt: skip
            stolen = await client.post("/v1/outcomes", json=report, headers=bearer(keys["search"]))
            assert stolen.status_code == 404
            for team, key in keys.items():
                engine.prompts.clear()
                await client.post(CHAT, json=ask(), headers=bearer(key))
                prompts[team] = [prompt for _, prompt in engine.prompts]
        memory.close()
        return prompts

    prompts = asyncio.run(work())
    assert all("Recalled from memory" in prompt for prompt in prompts["billing"])
    assert not any("Recalled from memory" in prompt for prompt in prompts["search"])


@pytest.mark.parametrize(
    ("trusted", "is_recalled"),
    [(TrustRules().trusted_verifiers, False), (("team:test: unit tests",), True), (("team:test: lint",), False)],
    ids=["by default", "named", "another"],
)
def test_a_teams_report_is_believed_where_the_operator_names_it_and_not_for_the_teams_name(
    tmp_path: Path, trusted: tuple[str, ...], is_recalled: bool
) -> None:
    async def work() -> str:
        engine = Says()
        rules = MemoryConfig(embedder="hashed", holdout_share=0.0, trust=TrustRules(trusted_verifiers=trusted))
        memory = TeamMemory(Memory.open(tmp_path / "memory", embedder_named("hashed"), config=rules), "serve", 3)
        async with opened(tmp_path, engine=engine, settings=KEYED, memory=memory) as door, door.client() as client:
            key = bearer(door.door.keys.create("test")[1])
            said = await client.post(CHAT, json=ask(), headers=key)
            report = {"deliberation": said.json()["id"], "correct": True, "verifier": "unit tests"}
            await client.post("/v1/outcomes", json=report, headers=key)
            await client.post(CHAT, json=ask(), headers=key)
        memory.close()
        return engine.prompts[-1][1]

    assert ("42" in asyncio.run(work())) == is_recalled


def test_metrics_tell_of_the_door_and_hold_no_text(tmp_path: Path) -> None:
    async def work() -> tuple[str, int]:
        settings = {**KEYED}
        async with (
            opened(tmp_path, engine=Says(), settings=settings, metrics=Metrics()) as door,
            door.client() as client,
        ):
            _, secret = door.door.keys.create("billing")
            await client.post(CHAT, json=ask(), headers=bearer(secret))
            await client.post(CHAT, json=ask(model="secret-model"), headers=bearer(secret))
            metrics = await client.get("/metrics", headers=bearer(secret))
            return metrics.text, (await client.get("/metrics")).status_code

    text, keyless = asyncio.run(work())
    assert 'evomesh_requests_total{code="200",model="mesh"} 1.0' in text
    assert 'evomesh_requests_total{code="404",model="unknown"} 1.0' in text
    assert "evomesh_requests_running 0.0" in text
    assert not any(word in text for word in ("billing", "12 + 30", "secret-model"))
    assert keyless == 401
