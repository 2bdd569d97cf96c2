"""What the tests of memory share: short ways to say what was observed, a clock, and embedders that misbehave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import apsw
import numpy as np

from memory.embed import HashedNgramEmbedder, Vectors
from memory.store import Memory
from memory.types import (
    Cue,
    Edge,
    Evidence,
    Experience,
    Kind,
    Namespace,
    Observation,
    Recollection,
    Relation,
    Use,
)

EMBEDDER = HashedNgramEmbedder()
HOME = Namespace()
HERE = (str(HOME),)

APPLES = "How many apples are left when two of seven apples are eaten?"
PEARS = "How many pears are left when three of nine pears are eaten?"

Verdict = Literal["passed", "failed", "unknown"]
Story = tuple[list[Observation], list[Edge]]


def evidence(verdict: Verdict = "passed", *, verifier: str = "exact", digest: str = "d") -> Evidence:
    return Evidence(verifier=verifier, verdict=verdict, digest=digest)


def thing(kind: Kind, text: str, *, task_type: str = "sum", split: str = "train", **where: Any) -> Experience:
    return Experience(kind=kind, text=text, task_type=task_type, split=split, **where)


def note(
    kind: Kind, text: str, verdict: Verdict | None = None, *, source: str = "ann", episode: str = "e1", **where: Any
) -> Observation:
    """An observation; by default in the task type 'sum' and the split 'train'."""
    checked = evidence(verdict) if verdict else None
    return Observation(experience=thing(kind, text, **where), source=source, episode=episode, evidence=checked)


def edge(source: Observation, relation: Relation, target: Observation) -> Edge:
    return Edge(source=source.experience.id, relation=relation, target=target.experience.id)


def solved(question: str, answer: str, **where: Any) -> Story:
    problem = note(Kind.PROBLEM, question, **where)
    solution = note(Kind.SOLUTION, f"Question: {question}\nAnswer: {answer}", "passed", **where)
    return [problem, solution], [edge(problem, Relation.RESOLVED_BY, solution)]


def failed(question: str, answer: str, **where: Any) -> Story:
    problem = note(Kind.PROBLEM, question, **where)
    attempt = note(Kind.ATTEMPT, f"{question}\nTried: {answer}", "failed", **where)
    error = note(Kind.ERROR, f"{question}\nWrong: {answer}", "failed", **where)
    return [problem, attempt, error], [
        edge(problem, Relation.ATTEMPTED, attempt),
        edge(attempt, Relation.FAILED_WITH, error),
    ]


def cue(text: str, namespaces: Sequence[str] = HERE, **changes: Any) -> Cue:
    return Cue(text=text, namespaces=tuple(namespaces), **changes)


def shown(memory: Memory, text: str, namespaces: Sequence[str] = HERE, **changes: Any) -> list[Recollection]:
    """What a recall shows."""
    return list(memory.recall(cue(text, namespaces, **changes)).shown)


def texts(found: Sequence[Recollection]) -> list[str]:
    return [one.text for one in found]


def use(id: str, *, success: bool, episode: str, **changes: Any) -> Use:
    """An episode in which one experience about the very problem was shown and followed."""
    fields = {"shown": (id,), "followed": (id,), "same": (id,), "verifier": "exact", **changes}
    return Use(episode=episode, success=success, **fields)


class Clock:
    """A clock that stands where it is put, in seconds."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Asleep(HashedNgramEmbedder):
    """Embeds until it is put to sleep; then it fails whoever asks."""

    def __init__(self) -> None:
        super().__init__()
        self.is_awake = True

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not self.is_awake:
            raise AssertionError(f"nothing should have been embedded, got {texts}")
        return super().embed(texts)


class Broken(HashedNgramEmbedder):
    """Gives NaN for any text that says so."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = super().embed(texts)
        vectors[["nan" in text for text in texts]] = np.nan
        return vectors


DERIVED = {
    "observations": "entry, source, episode, event, voided_by",
    "checks": "entry, verifier, verdict, digest, source, episode, event, voided_by",
    "uses": "entry, episode, shown, same, followed, success, verifier, event, voided_by",
    "marks": "entry, kind, other, reason, event, voided_by",
    "edges": "source, relation, target, author, event, voided_by",
    "artefacts": "id, kind, event",
    "artefact_parts": "artefact, part",
    "standings": "*",
    "gains": "*",
    "terms": "*",
}
"""The tables that follow from events and texts, without the row numbers of edges."""


def derived_tables(memory: Memory) -> dict[str, list[Any]]:
    """Rows of every derived table, sorted."""
    with memory.reading() as connection:
        return {
            table: sorted(connection.execute(f"SELECT {what} FROM {table}").fetchall(), key=repr)
            for table, what in DERIVED.items()
        }


def words_found(memory: Memory, words: Sequence[str]) -> dict[str, list[int]]:
    """Rows in which the full-text index finds each word."""
    sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid"
    with memory.reading() as connection:
        return {word: [row for (row,) in connection.execute(sql, (f'"{word}"',))] for word in words}


def files_with(directory: Path, needle: bytes) -> list[str]:
    """Files below a directory whose bytes hold `needle`."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path.relative_to(directory).as_posix() for path in files if needle in path.read_bytes())


def raw(path: Path) -> apsw.Connection:
    """A connection that knows nothing of memory."""
    return apsw.Connection(str(path))
