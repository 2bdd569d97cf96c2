"""The seam to whatever answers for one member alone, with all that its own server gives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from mesh.types import Member, Usage


@dataclass
class ProxyAnswer:
    """What a member's server answered, handed on as it is. Exactly one of `body` and `stream` is set."""

    status: int
    body: bytes | None = None
    stream: AsyncIterator[bytes] | None = None
    """Server-sent events as they come, `data: [DONE]` included; whoever stops reading calls its `aclose`."""
    media_type: str = "application/json"
    retry_after_s: float | None = None
    """Set with 429 and 503."""
    usage: Usage = field(default_factory=Usage)
    """Tokens it took; of a stream, complete once the stream has ended."""


class MemberProxy(Protocol):
    """Answers a chat completion request as one member, outside any deliberation."""

    async def chat(self, member: Member, body: bytes, *, stream: bool) -> ProxyAnswer:
        """`body` is the client's JSON object, its `model` not yet replaced; `stream` is what it says of itself.

        What the member's engine does not support is a ProxyAnswer with status 400 that names the field. When the
        caller leaves, this is cancelled.

        Raises:
            EngineError: the engine is gone or did not answer in time.
        """
        ...
