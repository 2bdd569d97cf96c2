"""What a batch has done, on disk: a hash-chained journal, and the whole trace of every finished task beside it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from memory.ledger import Ledger, publish_bytes
from memory.types import Record
from mesh.types import Deliberation
from serving.batch_types import BatchError, BatchSummary
from serving.roster import Roster
from serving.shaping import Shaped

ANSWERS, TRACES, ERRORS, JOURNAL, PARTS = "answers.jsonl", "traces.parquet", "errors.jsonl", "journal.jsonl", "parts"

_KINDS = ("finished", "waiting")


class Note(Record):
    """What the journal says of one task beside its trace."""

    index: int = Field(description="place of the task among the good lines of the file")
    digest: str = Field(description="sha256 of the trace's file")
    roster: str = Field(default="", description="id of the roster whose seats decided")
    rung: int = Field(default=0, description="0: the protocol as configured; more: so many steps cheaper")
    reason: str = Field(default="", description="why it was a cheaper protocol; empty: it was not")
    seconds: float = Field(default=0.0, description="wall seconds from its beginning to its end")
    shaped: Shaped | None = Field(default=None, description="the answer by the schema; null: there is no schema")


class BatchJournal:
    """The journal of the batch in a directory. Hold the directory's lock while you have one.

    Raises LedgerError, from every method, if the journal was damaged or written by somebody else.
    """

    def __init__(self, out_dir: Path) -> None:
        self.out_dir = out_dir
        self._ledger = Ledger(out_dir / JOURNAL)
        self._entries = self._ledger.entries()
        self._finished: dict[int, Note] = {}
        self._waiting: dict[int, Note] = {}
        self._rosters: set[str] = set()
        for entry in self._entries:
            if entry.kind in _KINDS:
                self._take(entry.kind, Note.model_validate(entry.payload))
            elif entry.kind == "roster":
                self._rosters.add(str(entry.payload["id"]))

    def check_plan(self, plan: Mapping[str, str]) -> None:
        """Raises BatchError if the directory holds work done under another plan; `plan` may be a part of it."""
        if not self._entries and ((self.out_dir / ANSWERS).exists() or (self.out_dir / TRACES).exists()):
            raise BatchError(f"{self.out_dir} holds results but no journal; give an empty directory")
        if all(entry.kind in ("start", "roster") for entry in self._entries):
            return  # nothing was done yet: a first start that was stopped by its settings may be corrected
        before = [entry.payload["plan"] for entry in self._entries if entry.kind == "start"][-1]
        changed = [name for name in plan if before.get(name, "none") != plan[name]]
        if changed:
            name = changed[0]
            raise BatchError(
                f"{self.out_dir} was started with another {', '.join(changed)} (expected "
                f"{str(before.get(name, 'none'))[:60]}, got {plan[name][:60]}); start again with the same, or give an "
                "empty directory"
            )

    def start(self, plan: Mapping[str, str]) -> None:
        """Write down that the batch is started, once more maybe, under `plan`."""
        self._append("start", {"plan": dict(plan)})

    def seat(self, roster: Roster) -> None:
        """Write down who sits in `roster`, once."""
        if roster.id not in self._rosters:
            self._rosters.add(roster.id)
            self._append("roster", {"id": roster.id, "roster": roster.model_dump(mode="json")})

    def keep(self, index: int, held: Deliberation, note: Note) -> None:
        """Publish the trace of a task, then say in the journal that it is there; `note.digest` is filled in."""
        digest = publish_bytes(self._part_path(index), held.model_dump_json().encode())
        note = note.model_copy(update={"index": index, "digest": digest})
        kind = "waiting" if held.is_waiting else "finished"
        self._take(kind, note)
        self._append(kind, note.model_dump(mode="json"))

    def part(self, index: int) -> tuple[Deliberation, Note] | None:
        """A finished task; None if it is not finished, or its trace is not what the journal says."""
        return self._read(index, self._finished.get(index))

    def paused(self, index: int) -> tuple[Deliberation, Note] | None:
        """A task that waits for a person; None if it does not."""
        return self._read(index, self._waiting.get(index))

    def knows(self, index: int) -> bool:
        """Whether the journal says that a task is finished or waits, whatever became of its trace."""
        return index in self._finished or index in self._waiting

    def notes(self) -> list[Note]:
        """What is known of every finished task, in the order of the journal."""
        return list(self._finished.values())

    def complete(self, files: Mapping[str, str], summary: BatchSummary) -> None:
        """Write down that nothing is left to do, and what was published; `files` maps names to their sha256."""
        self._append("complete", {"files": dict(files), "summary": summary.model_dump(mode="json")})

    def summary(self) -> BatchSummary | None:
        """The summary of a batch that is complete, with its files checked; None if there is something left to do."""
        if not self._entries or self._entries[-1].kind != "complete":
            return None
        for name, digest in self._entries[-1].payload["files"].items():
            path = self.out_dir / name
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
            if found != digest:
                raise BatchError(
                    f"{path}: expected sha256 {digest[:12]}, got {found[:12]}; restore it, or run in an empty directory"
                )
        summary = BatchSummary.model_validate(self._entries[-1].payload["summary"])
        return summary.model_copy(update={"num_resumed": summary.num_tasks})

    def clean(self) -> None:
        """Remove the traces of single tasks; call it when they stand in the published file."""
        shutil.rmtree(self.out_dir / PARTS, ignore_errors=True)

    def _take(self, kind: str, note: Note) -> None:
        (self._waiting if kind == "waiting" else self._finished)[note.index] = note

    def _read(self, index: int, note: Note | None) -> tuple[Deliberation, Note] | None:
        path = self._part_path(index)
        if note is None or not path.exists():
            return None
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != note.digest:
            return None
        return Deliberation.model_validate_json(data), note

    def _append(self, kind: str, payload: dict[str, Any]) -> None:
        self._entries.append(self._ledger.append(kind, payload))

    def _part_path(self, index: int) -> Path:
        return self.out_dir / PARTS / f"{index:08d}.json"
