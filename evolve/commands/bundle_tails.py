"""What of a journal, a request log or a list of bad lines goes into a support archive: fields that hold no text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolve.commands.bundle_redact import Pseudonyms, digest, message
from serving.batch_journal import Note
from serving.batch_types import BatchSummary
from serving.endpoint.requestlog import RequestLine

_HEAD_BYTES, _TAIL_BYTES = 2**18, 2**20
_HEX = re.compile(r"[0-9a-f]{16,64}")
_DRAWN_ID = re.compile(r"[0-9a-f]{32}")
_STEP = re.compile(r"[A-Za-z0-9][\w .:@/-]{0,80}")
_PINNED = ("task file", "members", "protocol", "seed", "reliability", "memory", "schema")

Shown = Callable[[str, dict[str, Any]], dict[str, Any]]
"""What is shown of an entry of this kind with this payload; ValueError, KeyError or TypeError for another one."""


def lines_of(path: Path, shown: Shown, *, num_first: int, num_last: int) -> tuple[list[object], str]:
    """The first and last lines of a JSONL file as `shown` shows them, and a sentence on what is missing.

    Reads a bounded part of the file. Lines that are no entry are counted, not shown. Raises OSError.
    """
    first, last, num_between = _ends(path, num_first, num_last)
    rows: list[object] = []
    num_bad = 0
    for raw in (*first, None, *last):
        if raw is None:
            rows += [{"left out": num_between}] if num_between else []
            continue
        try:
            rows.append(_entry(raw, shown))
        except (ValueError, LookupError, TypeError, RecursionError):
            num_bad += 1
    notes = [
        f"{num_between} in between" if num_between else "",
        f"{num_bad} lines that cannot be read" if num_bad else "",
    ]
    return rows, ", ".join(note for note in (*notes, "texts") if note)


def batch_entry(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """An entry of a batch's journal."""
    if kind == "start":
        plan = payload["plan"]
        known = {name: _fingerprint(str(plan[name])) for name in _PINNED if name in plan}
        return {"plan": known, "models": len(plan) - len(known)}
    if kind == "roster":
        seats = payload["roster"]["seats"]
        return {"id": _fingerprint(str(payload["id"])), "num_seats": len(seats)}
    if kind in ("finished", "waiting"):
        note = Note.model_validate(payload)
        shaped = None if note.shaped is None else not note.shaped.problem
        return {
            "index": note.index, "digest": _fingerprint(note.digest), "roster": _fingerprint(note.roster),
            "rung": note.rung, "reason": message(note.reason), "seconds": note.seconds, "follows_schema": shaped,
        }  # fmt: skip
    if kind == "complete":
        summary = BatchSummary.model_validate(payload["summary"])
        data = summary.model_dump(mode="json", exclude={"ignored_keys", "protocols", "rosters", "talk"})
        return {"summary": data, "protocols": [[one.protocol, one.num_tasks] for one in summary.protocols]}
    raise ValueError(f"expected an entry of a batch, got {kind!r}")


def run_entry(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """An entry of a run's journal."""
    if kind != "step":
        raise ValueError(f"expected a step of a run, got {kind!r}")
    step = str(payload["step"])
    return {
        "step": step if _STEP.fullmatch(step) else digest(step),
        "id": _fingerprint(str(payload["id"])),
        "digest": _fingerprint(str(payload["digest"])),
    }


def request_line(kind: str, payload: dict[str, Any], names: Pseudonyms) -> dict[str, Any]:
    """One request. An id that the client chose may say anything: by its hash the client finds it again."""
    if kind != "request":
        raise ValueError(f"expected a request, got {kind!r}")
    line = RequestLine.model_validate(payload)
    return {
        **line.model_dump(mode="json"),
        "id": line.id if _DRAWN_ID.fullmatch(line.id) else f"sha256:{digest(line.id)}",
        "key_id": names.of("key", line.key_id),
        "team": names.of("team", line.team),
    }


def error_line(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """A line of a file of tasks that gave no task."""
    return {"line": int(payload["line"]), "problem": message(str(payload["problem"])), "text": "[removed]"}


def _entry(raw: bytes, shown: Shown) -> dict[str, Any]:
    """A line of a ledger, with its place in the chain; or of a plain JSONL file."""
    value = json.loads(raw)
    if "hash" not in value:
        return shown("", value)
    kind = str(value["kind"])
    return {
        "seq": int(value["seq"]),
        "hash": _fingerprint(str(value["hash"])),
        "kind": kind,
        **shown(kind, value["payload"]),
    }


def _fingerprint(text: str) -> str:
    """A hash or a number as it is; of anything else its hash."""
    if _HEX.fullmatch(text) or text in ("", "none") or (text.isascii() and text.isdigit() and len(text) <= 10):
        return text
    return f"sha256:{digest(text)}"


def _ends(path: Path, num_first: int, num_last: int) -> tuple[list[bytes], list[bytes], int]:
    """First lines, last lines, and how many lie between."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _HEAD_BYTES + _TAIL_BYTES:
            lines = file.read().splitlines()
            first = lines[:num_first]
            last = lines[max(len(first), len(lines) - num_last) :] if num_last else []
            return first, last, len(lines) - len(first) - len(last)
        first = file.read(_HEAD_BYTES).splitlines()[:-1][:num_first]
        file.seek(size - _TAIL_BYTES)
        tail = file.read().splitlines()[1:]
        last = tail[-num_last:] if num_last else []
        file.seek(0)
        total = sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    return first, last, max(0, total - len(first) - len(last))
