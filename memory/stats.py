"""Counts over a memory, and the summary that a new session reads."""

from __future__ import annotations

from typing import Any

import apsw
from pydantic import Field

from memory.rows import head_event
from memory.types import Record

NUM_EXAMPLES = 5
"""Most verified solutions, and most repeated failures, that a brief quotes."""

_EXAMPLE_WORDS = 40


class MemoryStats(Record):
    """How much a memory holds. Equal `head`: equal content, written in the same order."""

    num_experiences: int
    num_edges: int
    num_events: int
    num_verified: int = Field(description="solutions and patterns that a check passed")
    num_failed: int = Field(description="experiences that a check failed")
    num_vectors: int = Field(description="vectors of the embedder in use")
    embedder: str
    by_kind: dict[str, int]
    by_task_type: dict[str, int]
    head: str = Field(description="hash of the last event; 64 zeros while empty")
    sqlite_version: str


def read_stats(connection: apsw.Connection, embedder: str, num_vectors: int) -> MemoryStats:
    """Count everything."""
    num_events, head = head_event(connection)
    return MemoryStats(
        num_experiences=_one(connection, "SELECT count(*) FROM entries"),
        num_edges=_one(connection, "SELECT count(*) FROM edges"),
        num_events=num_events,
        num_verified=_one(
            connection, "SELECT count(*) FROM entries WHERE verdict = 'passed' AND kind IN ('solution', 'pattern')"
        ),
        num_failed=_one(connection, "SELECT count(*) FROM entries WHERE verdict = 'failed'"),
        num_vectors=num_vectors,
        embedder=embedder,
        by_kind=dict(_all(connection, "SELECT kind, count(*) FROM entries GROUP BY kind ORDER BY kind")),
        by_task_type=dict(
            _all(connection, "SELECT task_type, count(*) FROM entries GROUP BY task_type ORDER BY task_type")
        ),
        head=head,
        sqlite_version=apsw.sqlite_lib_version(),
    )


def write_brief(connection: apsw.Connection, max_words: int) -> str:
    """A summary of at most `max_words` words, most important lines first; it ends before the first that does not fit.

    Raises ValueError if `max_words` is negative.
    """
    if max_words < 0:
        raise ValueError(f"max_words: expected 0 or more, got {max_words}")
    lines: list[str] = []
    room = max_words
    for line in _brief_lines(connection):
        num_words = len(line.split())
        if num_words > room:
            break
        lines.append(line)
        room -= num_words
    return "\n".join(lines)


def _brief_lines(connection: apsw.Connection) -> list[str]:
    per_type = _all(
        connection,
        "SELECT task_type, sum(kind = 'problem'), sum(kind = 'solution' AND verdict = 'passed'),"
        " sum(kind = 'error' OR (kind = 'solution' AND verdict = 'failed'))"
        " FROM entries GROUP BY task_type ORDER BY count(*) DESC, task_type",
    )
    if not per_type:
        return ["Memory is empty."]
    lines = [f"Memory of {sum(row[1] for row in per_type)} problems."]
    lines += [
        f"{task_type or '(no type)'}: {problems} problems, {solutions} verified solutions, {failures} failures."
        for task_type, problems, solutions, failures in per_type
    ]
    for title, examples in (("Verified:", _verified(connection)), ("Failed:", _frequent_failures(connection))):
        lines += [f"{title} {example}" for example in examples]
    return lines


def _verified(connection: apsw.Connection) -> list[str]:
    newest = _all(
        connection,
        "SELECT text FROM entries WHERE verdict = 'passed' AND kind IN ('pattern', 'solution')"
        " GROUP BY text ORDER BY min(kind), max(seq) DESC LIMIT ?",
        NUM_EXAMPLES,
    )
    return [_short(text) for (text,) in newest]


def _frequent_failures(connection: apsw.Connection) -> list[str]:
    repeated = _all(
        connection,
        "SELECT text, count(*) FROM entries WHERE verdict = 'failed' AND kind IN ('error', 'solution', 'pattern')"
        " GROUP BY text ORDER BY count(*) DESC, max(seq) DESC LIMIT ?",
        NUM_EXAMPLES,
    )
    return [f"{_short(text)} ({count} times)" if count > 1 else _short(text) for text, count in repeated]


def _short(text: str) -> str:
    words = text.split()
    return " ".join(words[:_EXAMPLE_WORDS]) + (" ..." if len(words) > _EXAMPLE_WORDS else "")


def _one(connection: apsw.Connection, sql: str) -> int:
    return int(connection.execute(sql).get)


def _all(connection: apsw.Connection, sql: str, *bindings: int) -> list[Any]:
    return connection.execute(sql, bindings).fetchall()
