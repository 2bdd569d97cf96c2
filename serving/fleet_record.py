"""What a running fleet publishes about itself, so that other commands find it, trust it or clean up after it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from memory.ledger import publish_json, read_record
from memory.types import Record, content_hash
from mesh.engine import EngineError
from serving.config import EngineSpec, FleetConfig
from serving.processes import mark_of

State = Literal["starting", "ready", "stopping"]

RECORD_NAME = "fleet.json"
NAMESPACE = "evomesh"

_OF_THE_MEMBER = ("replicas", "node", "price_per_hour", "persona", "tiers", "skills")
"""Settings that do not change what an engine says: two configurations may differ in them and share it."""


class FleetError(EngineError):
    """A fleet that cannot be started, found or reached."""


class FleetRecord(Record):
    """A fleet that `evomesh fleet up` owns."""

    id: str = Field(description="drawn at the start; every process of the fleet has it in its environment")
    state: State = Field(description="only a ready fleet takes requests")
    address: str = Field(default="", description="Ray cluster, host:port; empty until there is one")
    with_token: bool = Field(default=False, description="the cluster lets in only who has its token")
    host: str = Field(description="machine of the owning process")
    pid: int = Field(description="process that owns the fleet; SIGTERM drains and ends it")
    process_mark: str = Field(description="tells that process from a later one with its number")
    engines: tuple[EngineSpec, ...] = Field(min_length=1)
    adapter_root: Path = Field(description="store that the engines load adapters from; on every node the same path")
    started_at: datetime

    @property
    def config_digest(self) -> str:
        """Content hash of the engines' settings."""
        return content_hash([spec.model_dump(mode="json") for spec in self.engines])[:16]

    @property
    def replicas(self) -> tuple[tuple[str, str], ...]:
        """(engine, actor name) of every replica."""
        return tuple(
            (spec.name, actor_name(spec.name, index)) for spec in self.engines for index in range(spec.replicas)
        )

    @property
    def is_here(self) -> bool:
        """The owning process is one of this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """The owning process lives. Of another machine's process nothing is known, and it counts as alive."""
        return not self.is_here or mark_of(self.pid) == self.process_mark


def actor_name(engine: str, replica: int) -> str:
    """Name of a replica's actor in its Ray namespace."""
    return f"evomesh/{engine}/{replica}"


def record_path(config: FleetConfig) -> Path:
    """Where a fleet of this configuration publishes its record."""
    return config.directory / RECORD_NAME


def read_fleet(config: FleetConfig) -> FleetRecord | None:
    """The published record, of a living fleet or of one that was killed; None: there is none.

    Raises FleetError if the file is not a record.
    """
    path = record_path(config)
    try:
        return read_record(path, FleetRecord)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FleetError(f"{path}: expected the record of a fleet: {error}; remove it if no fleet is up") from error


def publish_fleet(config: FleetConfig, record: FleetRecord) -> None:
    """Replaces the published record."""
    publish_json(record_path(config), record)


def differences(wanted: Sequence[EngineSpec], running: Sequence[EngineSpec]) -> tuple[str, ...]:
    """Why a fleet of the `running` engines cannot stand in for the `wanted` ones; empty: it can.

    It may have engines more, and other replicas, nodes, prices and personas.
    """
    by_name = {spec.name: spec for spec in running}
    found = []
    for spec in wanted:
        other = by_name.get(spec.name)
        if other is None:
            found.append(f"engine {spec.name!r} is not among {', '.join(by_name)}")
            continue
        ours, theirs = (one.model_dump(mode="json", exclude=set(_OF_THE_MEMBER)) for one in (spec, other))
        keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        found.extend(
            f"engine {spec.name!r}: {key} is {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in keys
        )
    return tuple(found)
