"""A member whose engine is in a Ray actor, and has no server of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from mesh.types import Member
from serving.adapters import AdapterStore
from serving.cluster import start_fleet, stop_fleet
from serving.config import RayConfig, ScriptedSpec, ServingConfig
from serving.endpoint.proxy import FleetMembers

ASK = {"model": "ann", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}


def test_it_answers_by_itself(tmp_path: Path) -> None:
    async def act() -> None:
        spec = ScriptedSpec(name="a", family="a", skill=1.0)
        config = ServingConfig(engines=(spec,), ray=RayConfig(num_cpus=1))
        fleet = await start_fleet(config, AdapterStore(tmp_path / "adapters"))
        members = FleetMembers(fleet, timeout_s=30.0)
        try:
            member = Member(name="ann", engine="a", family="a")
            answer = await members.chat(member, json.dumps(ASK).encode(), stream=False)
            assert answer.status == 200
            assert "42" in json.loads(answer.body or b"")["choices"][0]["message"]["content"]
        finally:
            await members.close()
            await stop_fleet(fleet)

    asyncio.run(act())
