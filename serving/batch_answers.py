"""One line of the answers file, and what a person should look at. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from mesh.budget import cost_of
from mesh.config import ProtocolConfig
from mesh.table import OUT_OF_BUDGET
from mesh.types import Deliberation, Task
from serving.batch_journal import Note
from serving.batch_ladder import label

Row = dict[str, object]

DEADLINE_PASSED = "not begun: the deadline had passed; the same command goes on with it"


def answer_row(held: Deliberation, note: Note, ladder: Sequence[ProtocolConfig], prices: Mapping[str, float]) -> Row:
    """A task that was deliberated: its answer, how sure, what it cost, who decided, and why a person should look.

    With a schema `answer` is the value that follows it, or null, and `said` the answer in the mesh's own words.
    """
    verdict, why = held.verdict, review_reasons(held, note)
    row: Row = {
        "id": held.task.id,
        "answer": verdict.answer if note.shaped is None else note.shaped.value,
        "confidence": verdict.confidence,
        "calibrated": verdict.calibrated,
        "waiting": held.is_waiting,
        "cut": is_cut(held),
        "needs_review": bool(why),
        "review_reason": "; ".join(why),
        "method": verdict.method,
        "support": [list(pair) for pair in verdict.support],
        "tokens": held.usage.output_tokens,
        "cost": cost_of(held, prices),
        "protocol": label(ladder, note.rung),
        "fallback": note.reason,
        "roster": note.roster,
        "deliberation": held.id,
    }
    return row if note.shaped is None else {**row, "said": verdict.answer}


def row_of_undone(task: Task) -> Row:
    """A task that the deadline left undone; it has the columns of every other."""
    return {
        "id": task.id, "answer": None, "confidence": 0.0, "calibrated": False, "waiting": False, "cut": False,
        "needs_review": True, "review_reason": DEADLINE_PASSED, "method": "", "support": [], "tokens": 0, "cost": 0.0,
        "protocol": "", "fallback": "", "roster": "", "deliberation": "",
    }  # fmt: skip


def review_reasons(held: Deliberation, note: Note) -> list[str]:
    """Why a person should look at an answer, in words; empty: nobody needs to."""
    reasons = []
    if held.is_waiting:
        reasons.append("it waits for a person")
    elif held.verdict.answer is None:
        reasons.append("no member gave an answer")
    elif note.shaped is not None and note.shaped.problem:
        reasons.append(f"it does not follow the schema: {note.shaped.problem}")
    if is_cut(held):
        reasons.append("the budget ended before everything was done")
    return reasons


def is_cut(held: Deliberation) -> bool:
    """Whether a budget left something undone."""
    return any(failure.kind == OUT_OF_BUDGET for _, part in held.walk() for failure in part.failures)


def to_lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    """Rows as JSONL. Raises ValueError for NaN."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
