"""The seams to metrics and spans: what the door tells them, and stand-ins for doors that have neither."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from mesh.types import Deliberation, Exchange, Usage
from serving.roster import Roster


@dataclass(frozen=True)
class Served:
    """One request that has ended."""

    model: str
    """A model that is served here, or '' where the request named none; never a client's own text."""
    code: int
    """HTTP status; 499: the client left before there was one."""
    seconds: float
    first_byte_s: float | None = None
    """Seconds until the first byte of the body; None: there was none."""
    usage: Usage = field(default_factory=Usage)
    engine: str = ""
    """Engine of the member that answered; empty: the mesh did, and `deliberated` knows more."""


class DoorMetrics(Protocol):
    """Told of what happens at the door, on its event loop; must not raise and must not block."""

    def waiting(self, num_queued: int, num_running: int) -> None:
        """The queue has changed."""
        ...

    def served(self, request: Served) -> None:
        """A request to `/v1/chat/completions` has ended, however it did."""
        ...

    def deliberated(self, deliberation: Deliberation) -> None:
        """A deliberation has ended; once, however many clients waited for it."""
        ...

    def roster(self, roster: Roster) -> None:
        """A request is served by these seats."""
        ...

    def render(self) -> bytes:
        """Everything, in the text format of Prometheus."""
        ...


class RequestSpan(Protocol):
    """One request as it is traced."""

    def called(self, path: str, exchange: Exchange) -> None:
        """A call inside a deliberation has ended (`mesh.calls.Watch`)."""
        ...

    def ended(self, served: Served) -> None:
        """The request has ended."""
        ...


class Spans(Protocol):
    """Traces requests for whoever collects spans."""

    def start(self, request_id: str, model: str, traceparent: str | None) -> RequestSpan:
        """A request begins. `traceparent`: the client's W3C header, as it was sent; None: there was none."""
        ...

    def close(self) -> None:
        """Sends what is left."""
        ...


class NoMetrics:
    """`DoorMetrics` that count nothing."""

    def waiting(self, num_queued: int, num_running: int) -> None:
        """Nothing."""

    def served(self, request: Served) -> None:
        """Nothing."""

    def deliberated(self, deliberation: Deliberation) -> None:
        """Nothing."""

    def roster(self, roster: Roster) -> None:
        """Nothing."""

    def render(self) -> bytes:
        """Nothing."""
        return b""


class NoSpans:
    """`Spans` that go nowhere; it is its own `RequestSpan`."""

    def start(self, request_id: str, model: str, traceparent: str | None) -> NoSpans:
        """Nothing."""
        return self

    def called(self, path: str, exchange: Exchange) -> None:
        """Nothing."""

    def ended(self, served: Served) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
