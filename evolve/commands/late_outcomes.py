"""What late labels teach: outcomes of a batch's answers, experiences in memory, and a measured reliability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field

from evolve.judging.labels import BadRow, Label, LabelFile
from memory.ledger import publish_json
from memory.store import Memory
from memory.types import Evidence, Namespace, Record, content_hash
from mesh.equivalence import Equality, Sameness, merge_groups, same_answer
from mesh.lessons import lessons
from mesh.measuring import measure_traces
from mesh.reliability import Reliability
from mesh.symbolic import SymbolicJudge
from mesh.types import Deliberation, Outcome
from serving.batch_journal import TRACES
from serving.export import asked_alone
from serving.outcomes import LateOutcome, OutcomeLedger, judged_right
from serving.traces import read_traces


class Imported(Record):
    """What became of a file of labels."""

    num_labels: int = Field(description="rows that could be read")
    num_tasks: int = Field(description="tasks of the batch that they are about")
    num_right: int = Field(description="of these, tasks whose verdict is right")
    num_wrong: int
    num_new: int = Field(description="judged answers that were not known before, members' own answers among them")
    num_remembered: int = Field(default=0, description="tasks whose outcome memory was told; 0 without a memory")
    num_judged: int = Field(default=0, description="judged first answers that the reliability rests on, of all imports")
    unknown: tuple[BadRow, ...] = Field(default=(), description="rows about tasks that are not in the batch")
    bad: tuple[BadRow, ...] = Field(default=(), description="rows that say nothing, or contradict what is known")


class Judged(Record):
    """One labelled task: its trace, and what the label says of the answers in it."""

    held: Deliberation
    row: int
    outcomes: tuple[Outcome, ...] = Field(description="the verdict's first")

    @property
    def verdict(self) -> Outcome:
        """What the label says of the mesh's answer."""
        return self.outcomes[0]


async def judge_labels(batch: Path, file: LabelFile, *, by: str, replace: bool) -> tuple[list[Judged], Imported]:
    """The labelled tasks of the batch in `batch`, written to its ledger of outcomes; and what became of each row.

    A label that contradicts an earlier one is a bad row, unless it is to `replace` it.

    Raises:
        TraceError: there are no traces.
        AlreadyLocked: another import is at work.
    """
    ledger, symbolic = OutcomeLedger(batch), SymbolicJudge()
    known = judged_right(ledger.all())
    labels = {label.id: label for label in file.labels}
    judged: list[Judged] = []
    bad: list[BadRow] = list(file.bad)
    try:
        for held in read_traces(batch / TRACES):
            label = labels.pop(held.task.id, None)
            if label is None:
                continue
            found = judge(held, label, by, await _equality(held, label, symbolic))
            clash = None if isinstance(found, str) or replace else _clash(found, known)
            if isinstance(found, Judged) and clash is None:
                judged.append(found)
            else:
                bad.append(BadRow(row=label.row, problem=found if isinstance(found, str) else clash or ""))
    finally:
        await symbolic.close()
    late = [_late(one, outcome, file.digest) for one in judged for outcome in one.outcomes]
    num_right = sum(one.verdict.correct for one in judged)
    return judged, Imported(
        num_labels=len(file.labels), num_tasks=len(judged), num_right=num_right, num_wrong=len(judged) - num_right,
        num_new=ledger.add(late), bad=tuple(sorted(bad, key=lambda one: one.row)),
        unknown=tuple(BadRow(row=left.row, problem=f"no task {left.id!r} in {batch}") for left in labels.values()),
    )  # fmt: skip


def judge(held: Deliberation, label: Label, by: str, equality: Equality) -> Judged | str:
    """What `label` says of the verdict and of every first answer in a trace; a text: why it says nothing.

    A right answer judges all of them. Whether the verdict is right judges those that equal it; where it is right, the
    others are wrong, and where it is wrong, nobody knows about the others. `equality` is how answers are compared.
    """
    answer = held.verdict.answer
    if held.is_waiting:
        return "the task still waits for a person; import it when it is finished"
    if answer is None and label.correct:
        return "'correct' says that the mesh was right, but it gave no answer"
    if label.answer is not None and held.task.answer_kind == "free":
        return "prose cannot be compared with a right answer; say under 'correct' whether it was right"
    is_right = label.correct if label.answer is None else same_answer(answer, label.answer, equality)
    if label.correct is not None and label.correct != is_right:
        return f"'correct' says {label.correct} of an answer that 'answer' makes {is_right}"
    said = [answer, *(own.answer for own in (*asked_alone(held), *held.proposals) if own.answer is not None)]
    outcomes = []
    for one in dict.fromkeys(said):
        same = same_answer(one, answer, equality)
        right = same_answer(one, label.answer, equality) if label.answer is not None else is_right if same else None
        if right is None and is_right and held.task.answer_kind != "free":
            right = False
        if right is not None:
            outcomes.append(_outcome(held, one, right, by))
    return Judged(held=held, row=label.row, outcomes=tuple(outcomes))


def remember(memory: Memory, namespace: Namespace, judged: Iterable[Judged]) -> int:
    """Tell memory what came of each labelled task; returns how many there were. Telling it again changes nothing.

    What is remembered carries the label as evidence, and no split: an evolution run does not recall it.
    """
    count = 0
    for one in judged:
        learnt = lessons(one.held, one.verdict, namespace=namespace, split="", also=one.outcomes)
        memory.remember(learnt.observations, learnt.edges)
        if learnt.use is not None:
            memory.used(learnt.use)
        count += 1
    return count


def measure_batch(batch: Path) -> Reliability:
    """What all labels imported so far say of the members of the batch in `batch`."""
    outcomes = OutcomeLedger(batch).all()
    tasks = {one.outcome.task_id for one in outcomes}
    traces = [lean(held) for held in read_traces(batch / TRACES) if held.task.id in tasks]
    return measure_traces(traces, judged_right(outcomes), councils=traces)


def publish_measured(path: Path, measured: Reliability, earlier: Reliability | None) -> Reliability:
    """Write what is measured to `path`, added to what was measured elsewhere before."""
    together = measured if earlier is None else earlier.merge(measured)
    publish_json(path, together)
    return together


async def _equality(held: Deliberation, label: Label, symbolic: SymbolicJudge) -> Equality:
    """How the answers of a trace are compared with the right one: formulas by what they mean, not by spelling."""
    if held.task.answer_kind != "math" or label.answer is None:
        return held.equality
    said = [held.verdict.answer, *(own.answer for own in (*asked_alone(held), *held.proposals))]
    groups = await symbolic.groups([label.answer, *(one for one in said if one is not None)])
    return Sameness(kind="math", merged=merge_groups(held.merged, groups))


def _outcome(held: Deliberation, answer: str | None, right: bool, by: str) -> Outcome:
    return Outcome(
        task_id=held.task.id,
        task_type=held.task.type,
        answer=answer,
        correct=right,
        evidence=Evidence(
            verifier=f"label:{by}",
            verdict="passed" if right else "failed",
            # Without the label: where few answers are possible, a hash of it gives it away.
            digest=content_hash({"task": held.task.id, "answer": answer}),
        ),
    )


def _late(judged: Judged, outcome: Outcome, digest: str) -> LateOutcome:
    return LateOutcome(deliberation=judged.held.id, outcome=outcome, file=digest, row=judged.row)


def _clash(judged: Judged, known: Mapping[tuple[str, str], bool]) -> str | None:
    for outcome in judged.outcomes:
        before = known.get((outcome.task_id, outcome.answer or ""))
        if before is not None and before != outcome.correct:
            word = {True: "right", False: "wrong"}
            return (
                f"{(outcome.answer or '')[:40]!r} was imported as {word[before]} before and is {word[outcome.correct]} "
                "now; --replace takes the new word"
            )
    return None


def lean(held: Deliberation) -> Deliberation:
    """A trace without what was said word for word: thousands of them are in memory together."""
    children = tuple(lean(child) for child in held.children)
    return held.model_copy(update={"exchanges": (), "children": children})
