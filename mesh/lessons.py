"""What is worth remembering of a judged deliberation: the problem, what was tried, and what came of it."""

from __future__ import annotations

from memory.types import Edge, Evidence, Experience, Kind, Relation
from mesh.equivalence import same_answer
from mesh.types import Deliberation, Outcome

MAX_QUESTION_CHARS = 1000
"""A longer question is remembered by its beginning: a memory is a note to be read again, not an archive."""


def lessons(
    deliberation: Deliberation, outcome: Outcome, *, run: str, split: str
) -> tuple[list[Experience], list[Edge]]:
    """Experiences and edges of one judged answer: problem, attempt, solution or error, outcome, and the decision.

    Only what `outcome` judged is written, with its evidence; answers that nobody checked teach nothing. A decision is
    added where talking replaced the first verdict by the judged answer. Edges read: problem attempted attempt,
    problem resolved_by solution, attempt failed_with error, attempt and solution led_to outcome, decision led_to
    attempt. No answer key is needed or written: a wrong answer leaves the problem open.

    Raises:
        ValueError: the outcome belongs to another task.
    """
    task = deliberation.task
    if outcome.task_id != task.id:
        raise ValueError(f"expected an outcome of task {task.id!r}, got one of {outcome.task_id!r}: pair them by id")
    held = deliberation.last_positions
    source = ", ".join(
        member.name
        for member in deliberation.members
        if member.name in held and same_answer(held[member.name].answer, outcome.answer, task.answer_kind)
    )
    asked, answer = task.question[:MAX_QUESTION_CHARS], outcome.answer or "(no answer)"

    def note(kind: Kind, text: str, evidence: Evidence | None, source: str = source) -> Experience:
        return Experience(
            kind=kind, text=text, task_type=task.type, source=source, run=run, split=split, evidence=evidence
        )

    checked = outcome.evidence
    problem = note(Kind.PROBLEM, asked, None, source="")
    attempt = note(Kind.ATTEMPT, f"{asked}\nTried: {answer}", checked)
    result = note(Kind.OUTCOME, f"{asked}\n{answer} is {'right' if outcome.correct else 'wrong'}", checked)
    experiences = [problem, attempt, result]
    edges = [_edge(problem, Relation.ATTEMPTED, attempt), _edge(attempt, Relation.LED_TO, result)]
    if outcome.correct:
        solution = note(Kind.SOLUTION, f"{asked}\nAnswer: {answer}", checked)
        experiences.append(solution)
        edges += [_edge(problem, Relation.RESOLVED_BY, solution), _edge(solution, Relation.LED_TO, result)]
    else:
        error = note(Kind.ERROR, f"{asked}\nWrong: {answer}", checked)
        experiences.append(error)
        edges.append(_edge(attempt, Relation.FAILED_WITH, error))
    changed = _decision(deliberation, outcome)
    if changed:
        decision = note(Kind.DECISION, f"{asked}\n{changed}", checked)
        experiences.append(decision)
        edges.append(_edge(decision, Relation.LED_TO, attempt))
    return experiences, edges


def _decision(deliberation: Deliberation, outcome: Outcome) -> str:
    """How talking led to the judged answer; empty if it was the first verdict, or is not the verdict at all."""
    kind, first = deliberation.task.answer_kind, deliberation.first_verdict.answer
    if not same_answer(deliberation.verdict.answer, outcome.answer, kind) or same_answer(first, outcome.answer, kind):
        return ""
    judged = "right" if outcome.correct else "wrong"
    return f"Talking replaced {first or 'no answer'} by {outcome.answer or 'no answer'}, which is {judged}"


def _edge(source: Experience, relation: Relation, target: Experience) -> Edge:
    return Edge(source=source.id, relation=relation, target=target.id)
