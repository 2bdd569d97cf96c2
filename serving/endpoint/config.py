"""How the mesh is reached from outside: where the door listens, who may enter, and how much it takes in."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from memory.types import Record
from mesh.config import ProtocolConfig

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class EndpointConfig(Record):
    """The OpenAI-compatible door, `evomesh serve`."""

    host: str = Field(default="127.0.0.1", description="address to listen on; beyond loopback a key is mandatory")
    port: int = Field(default=8700, ge=0, le=65535, description="port to listen on; 0: any free one")
    state: Path = Field(
        default=Path("runs/serve"), description="directory of keys, deliberations, outcomes and the log of requests"
    )
    require_key: bool | None = Field(
        default=None, description="whether a request needs a key; null: it does unless the door is on loopback"
    )
    channel: str | None = Field(
        default=None, pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="channel to follow; null: seats of this file"
    )
    protocols: dict[str, ProtocolConfig] = Field(
        default={}, description="protocols of your own, served as mesh:NAME beside the ten that come along"
    )
    max_body_bytes: int = Field(default=2**20, ge=1024, description="largest request body")
    max_queued: int = Field(default=64, ge=0, description="requests that may wait for a place before 429 is answered")
    max_concurrent: int = Field(default=32, ge=1, description="deliberations and completions under way at once")
    max_per_key: int = Field(default=16, ge=1, description="requests of one key under way at once")
    request_timeout_s: float = Field(default=600.0, gt=0.0, description="seconds one request may take")
    read_timeout_s: float = Field(default=30.0, gt=0.0, description="seconds a client may take to send its request")
    keep_alive_s: float = Field(default=10.0, gt=0.0, description="seconds between comments on a silent stream")
    drain_s: float = Field(default=60.0, ge=0.0, description="seconds that requests under way get to end on SIGTERM")
    keep_traces: int = Field(default=10_000, ge=0, description="deliberations kept for GET /v1/deliberations/{id}")
    remember: bool = Field(
        default=False, description="whether served traffic may be remembered, within the caller's namespace"
    )
    train_on: bool = Field(default=False, description="whether served traffic may become training data")
    otlp_endpoint: str | None = Field(
        default=None, pattern=r"^https?://", description="OpenTelemetry collector for spans; null: none are sent"
    )

    @model_validator(mode="after")
    def _a_key_beyond_loopback(self) -> EndpointConfig:
        if self.require_key is False and self.host not in LOOPBACK:
            raise ValueError(f"require_key: false is only allowed on loopback, got host {self.host!r}; leave it out")
        if self.train_on and not self.remember:
            raise ValueError("train_on needs remember: true; what is not kept cannot be learned from")
        return self

    @property
    def needs_key(self) -> bool:
        """Whether a request without a key is refused."""
        return self.host not in LOOPBACK if self.require_key is None else self.require_key
