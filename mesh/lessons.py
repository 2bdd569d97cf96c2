"""What is worth remembering of a judged deliberation: the problem, what was tried, what came of it, what recall did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from memory.types import (
    WRONG_ANSWER,
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
from mesh.equivalence import Equality, same_answer
from mesh.parse import parse_answer
from mesh.types import Deliberation, Outcome, Proposal, positions

MAX_QUESTION_CHARS = 1000
"""A longer question is remembered by its beginning: a memory is a note to be read again, not an archive."""

NO_ANSWER = "(no answer)"
_ANSWER_MARKS = {Kind.SOLUTION: "\nAnswer: ", Kind.ERROR: "\nWrong: ", Kind.ATTEMPT: "\nTried: "}
"""What stands between the question and the answer in a note of each kind."""


class Lessons(NamedTuple):
    """What one judged deliberation gives to memory; all empty where there is nothing to learn."""

    observations: tuple[Observation, ...] = ()
    edges: tuple[Edge, ...] = ()
    use: Use | None = None
    """What came of the recall; None: nothing was recalled, or the judged answer is not the verdict."""


def lessons(
    deliberation: Deliberation, outcome: Outcome, *, namespace: Namespace, split: str, also: Iterable[Outcome] = ()
) -> Lessons:
    """Observations, edges and use of one judged answer. The episode of all of them is the deliberation's id.

    Observed are the problem, the attempt, its outcome, and the solution or the error; the decision, where talking
    replaced the first verdict by the judged answer; and the step that a member called wrong when it changed its mind,
    where `outcome` shows that the change was right. Edges read: problem attempted attempt, problem resolved_by
    solution, attempt failed_with error, attempt and solution led_to outcome, decision led_to attempt, solution
    contradicts the warning that was recalled against it, error caused_by step, step resolved_by solution.

    Every observation carries the evidence of the check that was made of it. `also` is what was judged of other answers
    of the same deliberation: the answer a step led to is an error where it is among them; else nobody checked it, and
    the step is observed without evidence. No answer key is needed or written: a wrong answer leaves the problem open.

    Recalled text is not taken in again: an answer that repeats what was shown of the same problem, and of which the
    check says the same, or which it refutes, is no independent evidence; all that is learnt is in the use. An outcome
    that could not be checked (verdict 'unknown') teaches nothing.

    Raises:
        ValueError: the outcome belongs to another task.
    """
    task = deliberation.task
    if outcome.task_id != task.id:
        raise ValueError(f"expected an outcome of task {task.id!r}, got one of {outcome.task_id!r}: pair them by id")
    if outcome.evidence.verdict == "unknown":
        return Lessons()
    use = _use(deliberation, outcome)
    if repeats_what_was_shown(deliberation, outcome):
        return Lessons(use=use)
    story = _Story(deliberation, outcome, namespace, split)
    if outcome.correct:
        for before, after in _right_changes(deliberation, outcome):
            story.add_step(before, after, _evidence_against(before, also, deliberation.equality))
    return Lessons(tuple(story.observations), tuple(story.edges), use)


def told_answer(note: Recollection, kind: Equality) -> str | None:
    """The answer that a recalled solution, error or attempt tells; None if it tells none.

    A solution that was not written by `lessons` is read as a member's text is.
    """
    mark = _ANSWER_MARKS.get(note.kind)
    if mark is None:
        return None
    _, found, answer = note.text.rpartition(mark)
    if found:
        return None if answer == NO_ANSWER else answer
    if note.kind is not Kind.SOLUTION:
        return None
    return parse_answer(note.text, kind if isinstance(kind, str) else kind.kind)


class _Story:
    """The observations and edges of one judged answer, as they are put together."""

    def __init__(self, deliberation: Deliberation, outcome: Outcome, namespace: Namespace, split: str) -> None:
        self.deliberation, self.namespace, self.split = deliberation, namespace, split
        self.observations: list[Observation] = []
        self.edges: list[Edge] = []
        self._asked = deliberation.task.question[:MAX_QUESTION_CHARS]
        self._solution: Experience | None = None
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        checked, source = outcome.evidence, holders(self.deliberation, outcome.answer)
        answer = NO_ANSWER if outcome.answer is None else outcome.answer
        problem = self._note(Kind.PROBLEM, "", "", None)
        attempt = self._note(Kind.ATTEMPT, f"{_ANSWER_MARKS[Kind.ATTEMPT]}{answer}", source, checked)
        judged = "right" if outcome.correct else "wrong"
        result = self._note(Kind.OUTCOME, f"\n{answer} is {judged}", source, checked)
        self._join(problem, Relation.ATTEMPTED, attempt)
        self._join(attempt, Relation.LED_TO, result)
        if outcome.correct:
            solution = self._note(Kind.SOLUTION, f"{_ANSWER_MARKS[Kind.SOLUTION]}{answer}", source, checked)
            self._join(problem, Relation.RESOLVED_BY, solution)
            self._join(solution, Relation.LED_TO, result)
            for warning in _refuted_warnings(self.deliberation, outcome):
                self._contradict(warning, solution, source, checked)
            self._solution = solution
        else:
            error = self._note(Kind.ERROR, f"{_ANSWER_MARKS[Kind.ERROR]}{answer}", source, checked)
            self._join(attempt, Relation.FAILED_WITH, error)
        changed = _decision(self.deliberation, outcome)
        if changed:
            decision = self._note(Kind.DECISION, f"\n{changed}", source, checked)
            self._join(decision, Relation.LED_TO, attempt)

    def add_step(self, before: Proposal, after: Proposal, failed: Evidence | None) -> None:
        """The step that a member rightly called wrong, and the answer it had led to, if that was judged."""
        step = self._note(
            Kind.ERROR,
            f"\nWrong step: {after.quote}\nIt led to {before.answer or NO_ANSWER}, where {after.answer} is right",
            after.member,
            failed,
        )
        if self._solution is not None:
            self._join(step, Relation.RESOLVED_BY, self._solution)
        if failed is not None:
            error = self._note(Kind.ERROR, f"{_ANSWER_MARKS[Kind.ERROR]}{before.answer}", before.member, failed)
            self._join(error, Relation.CAUSED_BY, step)

    def _contradict(self, warning: Recollection, solution: Experience, source: str, checked: Evidence) -> None:
        """The check speaks against a warning, if it is one of this namespace: others' notes are read, not judged."""
        warned = self._experience(warning.kind, warning.text)
        if warned.id == warning.experience_id != solution.id:
            self._observe(warned, source, checked)
            self._join(solution, Relation.CONTRADICTS, warned)

    def _note(self, kind: Kind, said: str, source: str, evidence: Evidence | None) -> Experience:
        experience = self._experience(kind, f"{self._asked}{said}")
        self._observe(experience, source, evidence)
        return experience

    def _experience(self, kind: Kind, text: str) -> Experience:
        task_type = self.deliberation.task.type
        return Experience(
            kind=kind,
            text=text,
            namespace=self.namespace,
            task_type=task_type,
            split=self.split,
            error_code=WRONG_ANSWER if kind is Kind.ERROR else "",
        )

    def _observe(self, experience: Experience, source: str, evidence: Evidence | None) -> None:
        observation = Observation(experience=experience, source=source, episode=self.deliberation.id, evidence=evidence)
        if observation not in self.observations:
            self.observations.append(observation)

    def _join(self, source: Experience, relation: Relation, target: Experience) -> None:
        edge = Edge(source=source.id, relation=relation, target=target.id)
        if edge not in self.edges:
            self.edges.append(edge)


def holders(deliberation: Deliberation, answer: str | None) -> str:
    """Names of the members that hold `answer` at the end, in seat order, joined by ", "; empty: nobody does."""
    held, equality = deliberation.last_positions, deliberation.equality
    return ", ".join(
        member.name
        for member in deliberation.members
        if member.name in held and same_answer(held[member.name].answer, answer, equality)
    )


def repeats_what_was_shown(deliberation: Deliberation, outcome: Outcome) -> bool:
    """Whether the judged answer is that of a shown note of the same problem; a warning counts if it was right."""
    return any(
        _is_followed(note, deliberation, outcome)
        or (note.warning and not outcome.correct and _tells(note, deliberation, outcome))
        for note in deliberation.recalled
    )


def _use(deliberation: Deliberation, outcome: Outcome) -> Use | None:
    shown, withheld = deliberation.recalled, deliberation.withheld
    if not (shown or withheld):
        return None
    if not same_answer(deliberation.verdict.answer, outcome.answer, deliberation.equality):
        return None
    return Use(
        episode=deliberation.id,
        success=outcome.correct,
        verifier=outcome.evidence.verifier,
        shown=_ids(shown),
        withheld=_ids(withheld),
        followed=_ids(note for note in shown if _is_followed(note, deliberation, outcome)),
        same=_ids(note for note in (*shown, *withheld) if note.same),
    )


def _is_followed(note: Recollection, deliberation: Deliberation, outcome: Outcome) -> bool:
    return note.kind is Kind.SOLUTION and not note.warning and _tells(note, deliberation, outcome)


def _refuted_warnings(deliberation: Deliberation, outcome: Outcome) -> list[Recollection]:
    """Shown warnings of the same problem that call the right answer wrong."""
    return [note for note in deliberation.recalled if note.warning and _tells(note, deliberation, outcome)]


def _tells(note: Recollection, deliberation: Deliberation, outcome: Outcome) -> bool:
    if not note.same or outcome.answer is None:
        return False
    return same_answer(told_answer(note, deliberation.equality), outcome.answer, deliberation.equality)


def _decision(deliberation: Deliberation, outcome: Outcome) -> str:
    """How talking led to the judged answer; empty if it was the first verdict, or is not the verdict at all."""
    kind, first = deliberation.equality, deliberation.first_verdict.answer
    if not same_answer(deliberation.verdict.answer, outcome.answer, kind) or same_answer(first, outcome.answer, kind):
        return ""
    judged = "right" if outcome.correct else "wrong"
    return f"Talking replaced {first or 'no answer'} by {outcome.answer or 'no answer'}, which is {judged}"


def _right_changes(deliberation: Deliberation, outcome: Outcome) -> Iterator[tuple[Proposal, Proposal]]:
    """(before, after) wherever a member left another answer for the right one and named its wrong step."""
    kind = deliberation.equality
    latest = positions(deliberation.round_of(0), kind)
    for number in sorted({p.round for p in deliberation.proposals if p.round > 0}):
        for member, after in positions(deliberation.round_of(number), kind).items():
            before = latest.get(member)
            if (
                before is not None
                and after.quote
                and same_answer(after.answer, outcome.answer, kind)
                and not same_answer(before.answer, after.answer, kind)
            ):
                yield before, after
            latest[member] = after


def _evidence_against(before: Proposal, also: Iterable[Outcome], kind: Equality) -> Evidence | None:
    """The failed check of the answer that was given up; None: nobody checked it."""
    if before.answer is None:
        return None
    failed = (o.evidence for o in also if o.evidence.verdict == "failed" and same_answer(o.answer, before.answer, kind))
    return next(failed, None)


def _ids(notes: Iterable[Recollection]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note.experience_id for note in notes))
