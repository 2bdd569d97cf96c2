"""One request on its way through the door, and what metrics, spans and the log are told at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mesh.types import Usage
from serving.endpoint.door import Door
from serving.endpoint.errors import Refused
from serving.endpoint.keys import Caller
from serving.endpoint.observing import NoSpans, RequestSpan, Served
from serving.endpoint.requestlog import RequestLine

CLIENT_LEFT = 499


@dataclass
class Passage:
    """What is known of a request so far; filled in as it goes."""

    door: Door
    id: str
    started: float = field(default_factory=time.perf_counter)
    started_at: float = field(default_factory=time.time)
    caller: Caller | None = None
    model: str = ""
    """One that is served here; '' until it is known to be."""
    engine: str = ""
    """Of the member that is asked alone."""
    usage: Usage = field(default_factory=Usage)
    deliberation: str | None = None
    roster: str | None = None
    joined: bool = False
    first_byte_s: float | None = None
    span: RequestSpan = field(default_factory=NoSpans)
    refused: Refused | None = None
    """Why an answer that had begun ended early."""
    is_told: bool = False

    def first_byte(self) -> None:
        """The answer begins."""
        if self.first_byte_s is None:
            self.first_byte_s = time.perf_counter() - self.started

    def stream_ended(self, left: bool, code: int = 200) -> None:
        """A stream has ended; `left`: because its client had."""
        if left:
            self.ended(CLIENT_LEFT)
        elif self.refused is not None:
            self.ended(self.refused.status, self.refused.code)
        else:
            self.ended(code)

    def ended(self, code: int, error: str | None = None) -> None:
        """Tell everybody, once."""
        if self.is_told:
            return
        self.is_told = True
        served = Served(
            model=self.model,
            code=code,
            seconds=time.perf_counter() - self.started,
            first_byte_s=self.first_byte_s,
            usage=self.usage,
            engine=self.engine,
        )
        self.door.metrics.served(served)
        self.span.ended(served)
        self.door.log.write(self._line(code, error))

    def _line(self, code: int, error: str | None) -> RequestLine:
        return RequestLine(
            id=self.id,
            key_id="" if self.caller is None else self.caller.key_id,
            team="" if self.caller is None else self.caller.team,
            model=self.model,
            started_at=self.started_at,
            ended_at=time.time(),
            code=code,
            deliberation=self.deliberation,
            roster=self.roster,
            tokens=self.usage.prompt_tokens + self.usage.output_tokens,
            joined=self.joined,
            error=error,
        )
