"""Batches in tests: seats that stay, and the few settings that a test cares about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.config import ProtocolConfig
from mesh.engine import Engine
from mesh.types import Member
from serving.batch_types import BatchMesh, BatchPlan
from serving.endpoint.seats import FixedSeats
from serving.roster import Roster


def roster_of(members: Sequence[Member], **more: Any) -> Roster:
    safe = next(member.name for member in members if member.adapter is None)
    return Roster(**{"channel": "local", "seats": tuple(members), "safe": safe, "source": "a test", **more})


def mesh_of(engine: Engine, members: Sequence[Member], **more: Any) -> BatchMesh:
    return BatchMesh(**{"engine": engine, "seats": FixedSeats(roster_of(members)), **more})


def plan_of(protocol: ProtocolConfig, **more: Any) -> BatchPlan:
    return BatchPlan(protocol=protocol, **more)
