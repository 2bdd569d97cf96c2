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


_NAME = r"^\w[\w .@+:-]*$"

WRONG_ANSWER = "wrong_answer"
"""Error code of an answer that was judged wrong: its numbers are what it says, unlike those of a tool's error."""


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


class Namespace(Record):
    """Whose an experience is. Recall reads the namespaces it is given and no other."""

    team: str = Field(default="default", pattern=_NAME)
    project: str = Field(default="default", pattern=_NAME)
    run: str = Field(default="default", pattern=_NAME)

    def __str__(self) -> str:
        return f"{self.team}/{self.project}/{self.run}"

    @staticmethod
    def parse(text: str) -> Namespace:
        """The namespace written as "team/project/run". Raises ValueError."""
        parts = text.split("/")
        if len(parts) != 3:
            raise ValueError(f"namespace: expected team/project/run, got {text!r}")
        return Namespace(team=parts[0], project=parts[1], run=parts[2])


class Evidence(Record):
    """What one check said of an experience."""

    verifier: str = Field(description="name of the check that was executed, e.g. 'exact' or 'reasoning_gym:chain_sum'")
    verdict: Literal["passed", "failed", "unknown"]
    digest: str = Field(description="content hash of what was checked")


class Experience(Record):
    """One node of the experience graph. Its id is the hash of its content, so the same content is one entry.

    Who said it, in which episode, and what checks made of it are events about it, not part of it.
    """

    kind: Kind
    text: str
    namespace: Namespace = Namespace()
    task_type: str = ""
    split: str = Field(default="", description="problem split it came from; recall can be restricted by it")
    error_code: str = Field(default="", description="what a tool or system called the error, e.g. 'E501' or 'OOM'")
    environment: tuple[tuple[str, str], ...] = Field(
        default=(), description="what it was true of, e.g. (('vllm', '0.32'),); recall refuses another value of a key"
    )

    @property
    def id(self) -> str:
        """Content hash over every field."""
        return content_hash(self)


class Observation(Record):
    """An experience as somebody reported it: who, in which episode, and what a check said at the time."""

    experience: Experience
    source: str = Field(default="", description="who proposed it: a member's name, a tool, a person")
    episode: str = Field(default="", description="the deliberation or job it came out of, by id")
    evidence: Evidence | None = Field(default=None, description="None: nobody checked it")


class Edge(Record):
    """A directed, typed link between two experiences, by id."""

    source: str
    relation: Relation
    target: str


class Level(StrEnum):
    """How far an experience may be trusted."""

    OBSERVED = "observed"
    CANDIDATE = "candidate"
    VERIFIED = "verified"
    RETIRED = "retired"


class Standing(Record):
    """What the events about one experience come to; derived, so a rollback derives it anew."""

    level: Level
    warns: bool = Field(default=False, description="True: checks say that this fails, so it is shown as a warning")
    num_passed: int = Field(default=0, description="independent checks that passed")
    num_failed: int = Field(default=0, description="independent checks that failed, reuses that failed included")
    num_episodes: int = Field(default=0, description="distinct episodes in which it was seen")
    trust: float = Field(default=0.0, description="lower quantile of the Beta posterior of its being right, 0 to 1")
    gain: float = Field(default=0.0, description="success with it minus without it, shrunk; -1 to 1")
    num_uses: int = Field(default=0, description="times it was shown and the outcome became known")
    reason: str = Field(default="", description="why it is retired, or was demoted; empty otherwise")
    merged_into: str = Field(default="", description="id of the entry this is a duplicate of; empty: none")


class Cue(Record):
    """A question put to memory: what is being worked on, and where memory may look."""

    text: str
    namespaces: tuple[str, ...] = Field(
        description="where to look: 'team/project/run'; '*' stands for any project or run"
    )
    task_type: str | None = Field(default=None, description="None: any")
    splits: tuple[str, ...] | None = Field(default=None, description="None: any; (): nothing")
    error: str = Field(default="", description="the error that was met, if the question is how to get past one")
    error_code: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    episode: str = Field(
        default="", description="the deliberation that asks; decides what is held out. Empty: nothing is"
    )
    limit: int = Field(default=3, ge=0, le=16)


class Recollection(Record):
    """An experience that recall chose, with its score and the lane that found it."""

    experience_id: str
    kind: Kind
    text: str
    task_type: str
    score: float
    lane: str = Field(description="'fingerprint', 'text', 'vector', 'both' or 'graph'")
    why: str = Field(description="one sentence: why it was chosen")
    warning: bool = Field(default=False, description="True: this was tried and failed")
    same: bool = Field(default=False, description="True: it is about this very problem or error, not a similar one")
    level: Level = Level.OBSERVED
    trust: float = Field(default=0.0, description="lower quantile of the posterior of its being right")


class Recall(Record):
    """What a recall gave. What is withheld was chosen too, and is held out so that its worth can be measured."""

    shown: tuple[Recollection, ...] = ()
    withheld: tuple[Recollection, ...] = ()


class Use(Record):
    """What came of one episode in which memory was asked: the ground of with-minus-without."""

    episode: str = Field(min_length=1)
    success: bool
    verifier: str = Field(description="who judged the outcome")
    shown: tuple[str, ...] = Field(default=(), description="ids of experiences that the members read")
    withheld: tuple[str, ...] = Field(default=(), description="ids of experiences that were held out")
    followed: tuple[str, ...] = Field(
        default=(), description="those of `shown` whose content the judged answer repeats: a failure refutes them"
    )
    same: tuple[str, ...] = Field(default=(), description="those that were about the very problem")


class Artefact(Record):
    """A dataset or adapter that was made from episodes, or from other artefacts."""

    id: str = Field(min_length=1)
    kind: Literal["dataset", "adapter"]
    made_from: tuple[str, ...] = Field(description="ids of episodes or artefacts")


class Erasure(Record):
    """What an erase removed, and what was made from it elsewhere and may have to go too."""

    experience_id: str
    episodes: tuple[str, ...]
    artefacts: tuple[Artefact, ...]
    is_scrubbed: bool = Field(
        default=True, description="False: a reader still holds the pages of before; close it, and call `scrub`"
    )
