"""What a new session should know: the summary of a memory, most useful lines first, within a number of tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apsw

from memory.database import fetch

MAX_LINES = 5
"""Most lines of one sort: patterns, errors, decisions, solutions."""

_LINE_WORDS = 40


def estimated_tokens(text: str) -> int:
    """Tokens of English text, on the high side: one for each word or each four characters, whichever is more."""
    return max(len(text.split()), math.ceil(len(text) / 4))


def write_brief(
    connection: apsw.Connection,
    max_tokens: int,
    namespaces: Sequence[int],
    count_tokens: Callable[[str], int] = estimated_tokens,
) -> str:
    """A summary of at most `max_tokens` tokens over these namespaces; it ends before the first line that does not fit.

    Raises ValueError if `max_tokens` is negative.
    """
    if max_tokens < 0:
        raise ValueError(f"max_tokens: expected 0 or more, got {max_tokens}")
    lines: list[str] = []
    for line in _lines(connection, json.dumps(list(namespaces))):
        if count_tokens("\n".join([*lines, line])) > max_tokens:
            break
        lines.append(line)
    return "\n".join(lines)


def _lines(connection: apsw.Connection, namespaces: str) -> Iterator[str]:
    def rows(sql: str) -> list[Any]:
        return fetch(connection, sql, (namespaces,))

    ((problems, solved, failures, types),) = rows(_TOTALS)
    if not types:
        yield "Memory is empty."
        return
    yield f"Memory of {problems} problems of {types} types: {solved} solved and checked, {failures} known failures."
    yield from _worth(rows(_WORTH))
    for text, num_episodes, resolution in rows(_ERRORS):
        end = f"Resolved by: {_short(resolution)}" if resolution else "Not resolved."
        yield f"Error met in {num_episodes} episodes: {_short(text)} {end}"
    for (text,) in rows(_PATTERNS):
        yield f"Pattern: {_short(text)}"
    for (text,) in rows(_DECISIONS):
        yield f"Decided: {_short(text)}"
    for task_type, count, right, wrong in rows(_TYPES):
        yield f"{task_type or '(no type)'}: {count} problems, {right} solutions, {wrong} failures."
    for (text,) in rows(_SOLUTIONS):
        yield f"Solved: {_short(text)}"


def _worth(found: list[Any]) -> Iterator[str]:
    """What held-out recalls say of memory as a whole; nothing until there are some on both sides."""
    arms = {shown: (right, trials) for shown, right, trials in found}
    if set(arms) == {0, 1}:
        (right, shown), (right_without, withheld) = arms[1], arms[0]
        yield f"Right with notes: {right} of {shown}; with notes held out: {right_without} of {withheld}."


def _short(text: str) -> str:
    words = text.split()
    return " ".join(words[:_LINE_WORDS]) + (" ..." if len(words) > _LINE_WORDS else "")


_IN_SCOPE = "standings.namespace IN (SELECT value FROM json_each(?1))"
_JOINED = "FROM standings JOIN entries ON entries.seq = entry WHERE " + _IN_SCOPE

_TOTALS = (
    "SELECT coalesce(sum(kind = 'problem' AND level <> 'retired'), 0), coalesce(sum(works AND kind = 'solution'), 0),"
    f" coalesce(sum(fails), 0), count(DISTINCT standings.task_type) {_JOINED}"
)
_TYPES = (
    "SELECT standings.task_type, sum(kind = 'problem' AND level <> 'retired'), sum(works AND kind = 'solution'),"
    f" sum(fails) {_JOINED} GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 12"
)
_WORTH = (
    "SELECT shown, sum(success), count(*) FROM (SELECT DISTINCT episode, shown, success FROM uses JOIN standings"
    f" ON standings.entry = uses.entry WHERE voided_by IS NULL AND {_IN_SCOPE}) GROUP BY shown"
)
_ERRORS = (
    "SELECT text, json_extract(standing, '$.num_episodes') AS episodes, (SELECT solution.text FROM edges"
    " JOIN entries AS solution ON solution.id = edges.target JOIN standings AS good ON good.entry = solution.seq"
    " WHERE edges.source = entries.id AND relation = 'resolved_by' AND voided_by IS NULL AND good.works"
    f" ORDER BY good.trust DESC LIMIT 1) {_JOINED} AND kind = 'error' AND level <> 'retired' AND episodes > 1"
    f" ORDER BY episodes DESC, entry LIMIT {MAX_LINES}"
)
_PATTERNS = f"SELECT text {_JOINED} AND works AND kind = 'pattern' ORDER BY trust DESC, entry DESC LIMIT {MAX_LINES}"
_DECISIONS = f"SELECT text {_JOINED} AND kind = 'decision' AND level <> 'retired' ORDER BY entry DESC LIMIT {MAX_LINES}"
_SOLUTIONS = (
    f"SELECT text {_JOINED} AND works AND kind = 'solution' GROUP BY text ORDER BY max(entry) DESC LIMIT {MAX_LINES}"
)
