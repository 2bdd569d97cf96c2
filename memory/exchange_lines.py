"""The lines of an exported memory: each a record that says what it is, in the order of the events behind them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from memory.types import Artefact, Edge, Evidence, Experience, Record, Use

FORMAT = 1

MAX_LINE_BYTES = 16_000_000
"""A text has at most a million characters; JSON may need twelve bytes for one of them."""

MAX_REASON_CHARS = 200


class BadLine(ValueError):
    """A line that is refused; the message says why, without naming the line."""


class Header(Record):
    """The first line. What a later format adds to it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    record: Literal["header"] = "header"
    format: int = Field(ge=1)
    head: str = Field(default="", description="hash of the last event of the memory that was exported")
    namespaces: tuple[str, ...] = Field(default=(), description="what was exported; empty: all of it")


class _Line(Record):
    """What every line but the header has."""

    event: int = Field(default=0, ge=0, description="lines in a row with one number happened as one; 0: by itself")
    at: float | None = Field(default=None, ge=0, description="seconds since the epoch; None: now")


class ExperienceLine(_Line):
    """An experience, and the first report of it that still stands."""

    record: Literal["experience"] = "experience"
    id: str = Field(description="content hash of `experience`; checked when it is read")
    source: str = ""
    episode: str = ""
    experience: Experience


class ObservationLine(_Line):
    """A further report of an experience."""

    record: Literal["observation"] = "observation"
    id: str
    source: str = ""
    episode: str = ""


class CheckLine(_Line):
    """What a check said of an experience."""

    record: Literal["check"] = "check"
    id: str
    source: str = ""
    episode: str = ""
    evidence: Evidence


class UseLine(_Line):
    """What came of an episode in which memory was asked."""

    record: Literal["use"] = "use"
    use: Use


class MarkLine(_Line):
    """An experience was set aside, brought back, or merged into another."""

    record: Literal["mark"] = "mark"
    kind: Literal["retired", "restored", "merged", "unmerged"]
    id: str
    into: str = Field(default="", description="what it was merged into; empty for the other kinds")
    reason: str = ""


class EdgeLine(_Line):
    """An edge, and who drew it."""

    record: Literal["edge"] = "edge"
    edge: Edge
    author: str = ""


class ArtefactLine(_Line):
    """A dataset or adapter that was made from episodes."""

    record: Literal["artefact"] = "artefact"
    artefact: Artefact


Event = ExperienceLine | ObservationLine | CheckLine | UseLine | MarkLine | EdgeLine | ArtefactLine

_ANY: TypeAdapter[Header | Event] = TypeAdapter(Annotated[Header | Event, Field(discriminator="record")])


def parse_line(line: bytes) -> Header | Event:
    """The record in one line. Raises BadLine for anything else, and for a header of a later format."""
    try:
        found = _ANY.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise BadLine(reason[:MAX_REASON_CHARS]) from None
    if isinstance(found, Header) and found.format > FORMAT:
        raise BadLine(f"expected format {FORMAT} or earlier, got {found.format}; use a newer evomesh")
    if isinstance(found, ExperienceLine) and found.experience.id != found.id:
        raise BadLine(f"expected the hash of its content as id ({found.experience.id}), got {found.id[:64]!r}")
    return found
