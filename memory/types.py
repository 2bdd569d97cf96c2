"""The records of memory: what was tried before, what came of it, and what shows it."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """A frozen, serialisable record; unknown fields and NaN are refused when it is read back."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def content_hash(value: object) -> str:
    """sha256 (hex) of the canonical JSON of `value`: sorted keys, no spaces, UTF-8.

    A `Record` is dumped in JSON mode first. Two equal values have equal hashes in every process.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Kind(StrEnum):
    """What an experience is about."""

    PROBLEM = "problem"
    ATTEMPT = "attempt"
    ERROR = "error"
    SOLUTION = "solution"
    OUTCOME = "outcome"
    DECISION = "decision"
    PATTERN = "pattern"


class Relation(StrEnum):
    """How one experience stands to another; read as "source RELATION target"."""

    ATTEMPTED = "attempted"
    CAUSED_BY = "caused_by"
    RESOLVED_BY = "resolved_by"
    FAILED_WITH = "failed_with"
    LED_TO = "led_to"
    CONTRADICTS = "contradicts"
    SUPERSEDES = "supersedes"


class Evidence(Record):
    """Why an experience may be believed: who checked it, and what the check said."""

    verifier: str = Field(description="name of the check that was executed, e.g. 'exact' or 'reasoning_gym:chain_sum'")
    verdict: Literal["passed", "failed", "unknown"]
    digest: str = Field(description="content hash of what was checked")


class Experience(Record):
    """One node of the experience graph. Its id is the hash of its content, so the same content is one entry."""

    kind: Kind
    text: str
    task_type: str = ""
    source: str = Field(default="", description="who produced it: a member's name, a verifier, a person")
    run: str = Field(default="", description="namespace: the run that wrote it")
    split: str = Field(default="", description="problem split it came from; recall can be restricted by it")
    evidence: Evidence | None = Field(default=None, description="None: nobody checked it")

    @property
    def id(self) -> str:
        """Content hash over every field."""
        return content_hash(self)


class Edge(Record):
    """A directed, typed link between two experiences, by id."""

    source: str
    relation: Relation
    target: str


class Recollection(Record):
    """An experience that recall chose, with its score and the lane that found it."""

    experience_id: str
    kind: Kind
    text: str
    task_type: str
    score: float
    lane: str = Field(description="'text', 'vector', 'both' or 'graph'")
    why: str = Field(description="one sentence: why it was chosen")
    warning: bool = Field(default=False, description="True: this was tried and failed")
