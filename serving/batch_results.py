"""What a batch leaves: the answers file, the traces file, and the summary of both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from memory.ledger import publish_bytes
from mesh.budget import cost_of
from mesh.config import ProtocolConfig
from mesh.inert import TalkSummary, summarise_talk
from mesh.types import Deliberation, Usage
from serving.batch_answers import Row, answer_row, row_of_undone, to_lines
from serving.batch_estimate import Taken
from serving.batch_journal import ANSWERS, TRACES, BatchJournal, Note
from serving.batch_ladder import label
from serving.batch_tasks import TaskFile
from serving.batch_types import BatchError, BatchSummary, ProtocolShare
from serving.traces import write_traces


@dataclass
class Results:
    """The results of the tasks that a journal holds, put together one trace after the other."""

    file: TaskFile
    journal: BatchJournal
    ladder: Sequence[ProtocolConfig]
    prices: Mapping[str, float]
    _rows: list[Row] = field(default_factory=list)
    _first: dict[int, tuple[str, str]] = field(default_factory=dict)
    _rungs: Counter[int] = field(default_factory=Counter)
    _rosters: Counter[str] = field(default_factory=Counter)
    _usage: Usage = field(default_factory=Usage)
    _talk: TalkSummary = field(default_factory=TalkSummary)
    _num_misshapen: int = 0
    _num_left: int = 0

    def publish(self, num_resumed: int, started: float) -> BatchSummary:
        """Publish answers and traces; with nothing left to do, write into the journal that they are complete.

        `started` is when this start began, by `time.perf_counter`.
        """
        digests = {TRACES: write_traces(self.journal.out_dir / TRACES, self._traces())}
        digests[ANSWERS] = publish_bytes(self.journal.out_dir / ANSWERS, to_lines(self._rows))
        summary = self._summary(num_resumed, time.perf_counter() - started)
        if not summary.num_waiting and not summary.num_left:
            self.journal.complete(digests, summary)
        return summary

    def _traces(self) -> Iterator[Deliberation]:
        for index, task in enumerate(self.file.tasks):
            kept = self.journal.part(index) or self.journal.paused(index)
            if kept is None and self.journal.knows(index):
                raise BatchError(f"the trace of task {task.id!r} was removed or changed meanwhile; run the batch again")
            if kept is None:
                self._rows.append(row_of_undone(task))
                self._num_left += 1
                continue
            self._count(*kept)
            yield kept[0]

    def _count(self, held: Deliberation, note: Note) -> None:
        self._rows.append(answer_row(held, note, self.ladder, self.prices))
        self._first.setdefault(note.rung, (held.task.id, note.reason))
        self._rungs[note.rung] += 1
        self._rosters[note.roster] += 1
        self._usage = self._usage + held.usage
        self._talk = self._talk + summarise_talk(part for _, part in held.walk())
        self._num_misshapen += note.shaped is not None and bool(note.shaped.problem)

    def _summary(self, num_resumed: int, seconds: float) -> BatchSummary:
        return BatchSummary(
            num_tasks=len(self.file.tasks),
            num_answered=sum(row["answer"] is not None for row in self._rows),
            num_waiting=sum(bool(row["waiting"]) for row in self._rows),
            num_cut=sum(bool(row["cut"]) for row in self._rows),
            num_left=self._num_left,
            num_review=sum(bool(row["needs_review"]) for row in self._rows),
            num_misshapen=self._num_misshapen,
            num_malformed=len(self.file.malformed),
            num_resumed=num_resumed,
            usage=self._usage,
            seconds=seconds,
            ignored_keys=self.file.ignored_keys,
            talk=self._talk,
            cost=sum(float(str(row["cost"])) for row in self._rows),
            protocols=tuple(
                ProtocolShare(
                    protocol=label(self.ladder, rung),
                    num_tasks=count,
                    first_task=self._first[rung][0],
                    reason=self._first[rung][1],
                )
                for rung, count in sorted(self._rungs.items())
            ),
            rosters=tuple(self._rosters.items()),
        )


def taken_by(held: Deliberation, note: Note, prices: Mapping[str, float]) -> Taken:
    """What a finished task took, for an estimate of the others."""
    usage = held.usage
    return Taken(
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        num_calls=usage.num_calls,
        seconds=note.seconds,
        cost=cost_of(held, prices),
    )
