"""Patterns over many judged deliberations: what right answers look like, and which mistakes come again; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memory.types import Evidence, Experience, Kind, Namespace, Observation
from mesh.equivalence import canonical, same_answer
from mesh.forms import difference, form_of
from mesh.lessons import repeats_what_was_shown
from mesh.types import Deliberation, Outcome, positions

MIN_PROBLEMS = 2
"""Never a pattern from one problem, however often it was tried."""
MAX_CHOICES = 3
MIN_PROBLEMS_PER_CHOICE = 2
"""Right answers are "always one of these" when they are few and each was right for several problems."""
MAX_STEM_CHARS = 160
MAX_ANSWER_CHARS = 60


class Case(NamedTuple):
    """One judged answer and the deliberation it came out of."""

    deliberation: Deliberation
    outcome: Outcome

    @property
    def problem(self) -> str:
        """What makes two tasks one problem: the question, whatever its id, case and spacing."""
        return " ".join(self.deliberation.task.question.casefold().split())

    @property
    def key(self) -> str | None:
        """The spelling that stands for the judged answer; None: there was none."""
        answer = self.outcome.answer
        return None if answer is None else canonical(answer, self.deliberation.task.answer_kind)

    @property
    def authors(self) -> str:
        """Names of the members that gave the judged answer at any time, in seat order, joined by ", "."""
        kind, judged = self.deliberation.equality, self.outcome.answer
        names = {p.member for p in self.deliberation.proposals if same_answer(p.answer, judged, kind)}
        return ", ".join(member.name for member in self.deliberation.members if member.name in names)


class Finding(NamedTuple):
    """A sentence, and the cases that bear it out."""

    sentence: str
    support: tuple[Case, ...]


def patterns(
    judged: Sequence[tuple[Deliberation, Outcome]],
    *,
    namespace: Namespace,
    split: str,
    min_problems: int = MIN_PROBLEMS,
) -> tuple[Observation, ...]:
    """What holds over several problems of one task type, as patterns; types are looked at one by one.

    A deliberation may come with several outcomes, one for each of its answers; passed over are those that were not
    checked, and those that repeat what was recalled. Each pattern comes once for every problem that bears it out, with
    the deliberation as its episode and the check that was made there as its evidence, so that memory can count. The
    verdict of that evidence is 'passed' where the check says what the pattern says, also where that is of a wrong
    answer. Patterns hold no counts and no names: found again, the same pattern is the same experience, and members
    stay anonymous.

    Found are the form that all right answers share; the few answers that are ever right; mistakes of one kind (a form
    that is not accepted among them) and wrong answers that come again; and that the most frequent first answer was
    right more often than those against it. No answer key is needed.

    Raises:
        ValueError: `min_problems` below 2, or an outcome that belongs to another task than its deliberation.
    """
    if min_problems < 2:
        raise ValueError(f"expected patterns from at least 2 problems, got {min_problems}: one shows nothing general")
    by_type: dict[str, list[Case]] = defaultdict(list)
    for deliberation, outcome in judged:
        if outcome.task_id != deliberation.task.id:
            raise ValueError(f"expected an outcome of task {deliberation.task.id!r}, got one of {outcome.task_id!r}")
        # What was recalled and repeated shows nothing that the recalled episode had not shown.
        if outcome.evidence.verdict != "unknown" and not repeats_what_was_shown(deliberation, outcome):
            by_type[deliberation.task.type].append(Case(deliberation, outcome))
    return tuple(
        observation
        for task_type in sorted(by_type)
        for finding in _findings(by_type[task_type])
        for observation in _observed(finding, by_type[task_type], task_type, namespace, split, min_problems)
    )


def _findings(cases: Sequence[Case]) -> Iterator[Finding]:
    yield from _right_forms(cases)
    yield from _few_right_answers(cases)
    yield from _mistakes(cases)
    yield from _wrong_again(cases)
    yield from _vote_was_right(cases)


def _observed(
    finding: Finding, cases: Sequence[Case], task_type: str, namespace: Namespace, split: str, min_problems: int
) -> list[Observation]:
    by_problem: dict[str, Case] = {}
    for case in finding.support:
        by_problem.setdefault(case.problem, case)
    if len(by_problem) < min_problems:
        return []
    pattern = Experience(
        kind=Kind.PATTERN,
        text=f"{stem_of(cases, task_type)}\n{finding.sentence}",
        namespace=namespace,
        task_type=task_type,
        split=split,
    )
    return [
        Observation(
            experience=pattern,
            source=case.authors,
            episode=case.deliberation.id,
            evidence=Evidence(
                verifier=case.outcome.evidence.verifier, verdict="passed", digest=case.outcome.evidence.digest
            ),
        )
        for case in by_problem.values()
    ]


def stem_of(cases: Sequence[Case], task_type: str) -> str:
    """How all questions of the type begin, so that a new one is seen to be alike; else the name of the type."""
    questions = [case.deliberation.task.question.split() for case in cases]
    shared: list[str] = []
    for words in zip(*questions, strict=False):
        if len(set(words)) > 1 or len(" ".join([*shared, words[0]])) > MAX_STEM_CHARS:
            break
        shared.append(words[0])
    return f"Questions of the kind: {' '.join(shared)} ..." if shared else f"Questions of the kind {task_type}"


def _right(cases: Iterable[Case]) -> list[Case]:
    return [case for case in cases if case.outcome.correct and case.outcome.answer]


def _wrong(cases: Iterable[Case]) -> list[Case]:
    return [case for case in cases if not case.outcome.correct]


def _right_forms(cases: Sequence[Case]) -> Iterator[Finding]:
    right = _right(cases)
    form = form_of([case.outcome.answer or "" for case in right])
    if form:
        yield Finding(f"The right answer is {form}.", tuple(right))


def _few_right_answers(cases: Sequence[Case]) -> Iterator[Finding]:
    problems: dict[str, set[str]] = defaultdict(set)
    right = _right(cases)
    for case in right:
        problems[case.key or ""].add(case.problem)
    settled = all(len(found) >= MIN_PROBLEMS_PER_CHOICE for found in problems.values())
    # A few small numbers that came twice are luck, not a choice.
    worded = all(len(key) <= MAX_ANSWER_CHARS and not any(c.isdigit() for c in key) for key in problems)
    if 2 <= len(problems) <= MAX_CHOICES and settled and worded:
        yield Finding(f"The right answer was always one of these: {', '.join(sorted(problems))}.", tuple(right))


def _mistakes(cases: Sequence[Case]) -> Iterator[Finding]:
    """Ways in which wrong answers differ from the right answer of the same problem, where somebody found that."""
    right: dict[str, str] = {}
    for case in _right(cases):
        right.setdefault(case.problem, case.outcome.answer or "")
    found: dict[str, list[Case]] = defaultdict(list)
    for case in _wrong(cases):
        if case.outcome.answer is not None and case.problem in right:
            name = difference(case.outcome.answer, right[case.problem], case.deliberation.task.question)
            if name:
                found[name].append(case)
    for name in sorted(found):
        yield Finding(f"A mistake that was made again and again: {name}.", tuple(found[name]))


def _wrong_again(cases: Sequence[Case]) -> Iterator[Finding]:
    ever_right = {case.key for case in _right(cases)}
    found: dict[str | None, list[Case]] = defaultdict(list)
    for case in _wrong(cases):
        found[case.key].append(case)
    for key in sorted(found, key=lambda key: key or ""):
        if key is None:
            yield Finding("Often no answer could be read: write the answer alone.", tuple(found[key]))
        elif key not in ever_right and len(key) <= MAX_ANSWER_CHARS:
            yield Finding(f"This answer was given again and again, and never right: {key}", tuple(found[key]))


def _vote_was_right(cases: Sequence[Case]) -> Iterator[Finding]:
    """Where first answers differed: was the most frequent one right, or one that stood against it?"""
    support, against = [], set()
    for case in cases:
        deliberation, answer = case.deliberation, case.outcome.answer
        first = deliberation.first_verdict
        if not case.outcome.correct or answer is None or first.tied:
            continue
        held = positions(deliberation.round_of(0), deliberation.equality).values()
        kind = deliberation.equality
        readable = [proposal.answer for proposal in held if proposal.answer is not None]
        if len({canonical(said, kind) for said in readable}) < 2:
            continue
        if same_answer(first.answer, answer, kind):
            support.append(case)
        elif any(same_answer(said, answer, kind) for said in readable):
            against.add(case.problem)
    if len({case.problem for case in support}) > len(against):
        yield Finding("Where first answers differed, the most frequent one was mostly right.", tuple(support))
