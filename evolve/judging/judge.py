"""Is this answer right? The only place where an answer meets its key; and can the one who says so be fooled?"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType

from pydantic import Field

from evolve.judging.panel import Brief, PanelVerdict, is_settled
from evolve.judging.runner import Runner, open_runner
from evolve.judging.scorer import FormulaScorer, GymScorer, RuleScorer, Score
from evolve.judging.unit_tests import passes
from evolve.judging.verifiers import is_exact, is_full_score, is_numeric, says
from evolve.problems.config import BubblewrapRunner, ContainerRunner, ExactVerifier, MathVerifier, NumericVerifier
from evolve.problems.permits import Permit
from evolve.problems.sealed import SealedProblem, SealError, open_seal
from evolve.problems.types import PanelRule, Problem, ReasoningGymVerifier, RegexRule, SchemaRule, UnitTestsRule
from memory.types import Evidence, Record, content_hash
from mesh.equivalence import canonical
from mesh.parse import parse_answer
from mesh.symbolic import MAX_FORMULA_CHARS, comparable
from mesh.types import Outcome

MAX_ANSWER_CHARS = 4000
MAX_PROGRAM_CHARS = 40_000
CONSTANTS = ("0", "1", "2", "yes", "no")
MAX_AUDITED = 200  # items a type; enough to see one answer in twenty
TOLERATED_EMPTY = 0.0
TOLERATED_ECHO = 0.05
TOLERATED_CONSTANT = 0.3
TOLERATED_SHUFFLED = 0.05  # references that differ in spelling alone


class Incident(Record):
    """An answer that could not be checked; it counts as wrong, and its evidence says 'unknown'."""

    task_id: str
    answer: str
    reason: str


class NotHeard(RuntimeError):
    """Free text was to be judged that no panel has heard of: `Lab.consult` or `Lab.heard_out` asks it before."""


class Opening(Record):
    """How often a permit was used."""

    purpose: str
    split: str
    count: int = Field(description="answers judged against a sealed key, repeats included")


class Judge:
    """Judges answers, each distinct one once. A context manager: leaving it ends the scoring process.

    Safe to share between threads; calls take turns.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 2.0,
        scorer: GymScorer | None = None,
        runners: Mapping[BubblewrapRunner | ContainerRunner, Runner] | None = None,
    ) -> None:
        """`timeout_s` is the processor time a scorer may take over one answer.

        `scorer` stands in for the usual one, and so do `runners`, by configuration, for what programs are run by.
        """
        self._scorer = scorer or GymScorer(timeout_s=timeout_s)
        self._rules = RuleScorer(timeout_s=timeout_s)
        self._formulas = FormulaScorer(timeout_s=timeout_s)
        self._runners = dict(runners or {})
        self._panel: dict[tuple[str, str], PanelVerdict] = {}
        self._missing: dict[tuple[str, str], tuple[Problem, str]] | None = None
        self._known: dict[tuple[str, str, str | None], Outcome] = {}
        self._incidents: list[Incident] = []
        self._reasons: dict[tuple[str, str | None], str] = {}
        self._openings: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the scoring process; a later call starts a new one."""
        with self._lock:
            for child in (self._scorer, self._rules, self._formulas):
                child.close()

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Every answer that could not be checked so far, with the reason."""
        return tuple(self._incidents)

    def reason_of(self, outcome: Outcome) -> str:
        """Why an answer could not be checked; empty: it could."""
        return self._reasons.get((outcome.task_id, outcome.answer), "")

    def judge(self, problem: Problem, answer: str | None) -> Outcome:
        """The outcome of one answer; None (an abstention) is never correct.

        A scorer that hangs, dies or raises makes the answer wrong with the verdict 'unknown', and an incident.

        Raises:
            ScorerError: the scoring process cannot be started at all.
            IsolationError: programs are to be run, and there is nothing to run them in.
            NotHeard: free text that the panel was not asked about.
        """
        with self._lock:
            if self._missing is not None and answer is not None and self._waits(problem, answer):
                self._missing[problem.task.id, answer] = (problem, answer)
                return _outcome(problem, answer, False)
        return self._judge(problem, answer)

    def _judge(self, problem: Problem, answer: str | None) -> Outcome:
        with self._lock:
            known = (problem.task.id, problem.key, answer)
            if known not in self._known:
                self._known[known] = self._check(problem, answer)
            return self._known[known]

    def judge_many(self, items: Iterable[tuple[Problem, str | None]]) -> list[Outcome]:
        """Outcomes in the order of `items`."""
        return [self.judge(problem, answer) for problem, answer in items]

    def judge_sealed(self, problem: SealedProblem, answer: str | None, permit: Permit) -> Outcome:
        """The outcome of one answer to a GATE or AUDIT problem; the seal is opened for this call alone, and counted.

        Raises:
            SealError: the permit is for another split, or the seal is damaged.
            ScorerError, IsolationError, NotHeard: as `judge`.
        """
        return self._judge(self._opened(problem, permit), answer)

    @contextmanager
    def rehearsal(self) -> Iterator[Mapping[tuple[str, str], tuple[Problem, str]]]:
        """In the block, `judge` calls free text that waits for a panel wrong, and gathers it here instead of raising.

        Sealed problems are not gathered: they come with a permit, and who holds one knows what to ask.
        """
        gathered: dict[tuple[str, str], tuple[Problem, str]] = {}
        self._missing = gathered
        try:
            yield gathered
        finally:
            self._missing = None

    def take_panel(self, verdicts: Mapping[tuple[str, str], PanelVerdict]) -> None:
        """What a panel made of answers, by (task id, answer). Free text cannot be judged before."""
        with self._lock:
            self._panel.update(verdicts)
            for known in [known for known in self._known if (known[0], known[2]) in verdicts]:
                del self._known[known]

    def brief(self, problem: Problem | SealedProblem, permit: Permit | None = None) -> Brief:
        """What a panel must be told to judge answers to a problem. Raises SealError as `says_reference` does."""
        return _brief(self._opened(problem, permit))

    def says_reference(
        self, problem: Problem | SealedProblem, texts: Iterable[str], permit: Permit | None = None
    ) -> bool:
        """Whether one of `texts` holds the reference answer, word for word; for the contamination report.

        Raises:
            SealError: a sealed problem, and no permit for its split.
        """
        reference = self._opened(problem, permit).reference
        return any(says(text, reference) for text in texts)

    def _opened(self, problem: Problem | SealedProblem, permit: Permit | None) -> Problem:
        if isinstance(problem, Problem):
            return problem
        if permit is None:
            raise SealError(f"expected a permit for {problem.split.value} problems, got NoneType")
        opened = open_seal(problem, permit)
        self._openings[permit.purpose, problem.split.value] += 1
        return opened

    @property
    def openings(self) -> tuple[Opening, ...]:
        """How often sealed keys were used so far, by purpose."""
        counted = sorted(self._openings.items())
        return tuple(Opening(purpose=purpose, split=split, count=n) for (purpose, split), n in counted)

    def _check(self, problem: Problem, answer: str | None) -> Outcome:
        correct: bool | None = False
        if answer is not None:
            correct, reason = self._verify(problem, answer)
            if correct is None:
                self._incidents.append(Incident(task_id=problem.task.id, answer=answer[:200], reason=reason))
                self._reasons[problem.task.id, answer] = reason
        return _outcome(problem, answer, correct)

    def _waits(self, problem: Problem, answer: str) -> bool:
        """Whether a panel has to be asked first."""
        is_panel = isinstance(problem.verifier, PanelRule) and (problem.task.id, answer) not in self._panel
        return is_panel and is_settled(_brief(problem), answer) is None

    def _verify(self, problem: Problem, answer: str) -> tuple[bool | None, str]:
        """(correct, reason); None: nobody knows, for the reason."""
        verifier = problem.verifier
        if isinstance(verifier, PanelRule):
            return self._by_panel(problem, answer)
        if len(answer) > (MAX_PROGRAM_CHARS if isinstance(verifier, UnitTestsRule) else MAX_ANSWER_CHARS):
            return False, ""
        if isinstance(verifier, ExactVerifier):
            return is_exact(answer, problem.reference, verifier), ""
        if isinstance(verifier, NumericVerifier):
            return is_numeric(answer, problem.reference, verifier), ""
        if isinstance(verifier, MathVerifier):
            return self._same_formula(answer, problem.reference)
        if isinstance(verifier, RegexRule | SchemaRule):
            return _verdict(self._rules.score(verifier, answer))
        if isinstance(verifier, UnitTestsRule):
            right, reason = passes(verifier, answer, self._runner(verifier.verifier.runner))
            return right, reason if right is None else ""
        return _verdict(
            self._scorer.score(family=verifier.family, settings=verifier.settings, entry=verifier.entry, answer=answer)
        )

    def _by_panel(self, problem: Problem, answer: str) -> tuple[bool | None, str]:
        if self._waits(problem, answer):
            raise NotHeard(f"expected the panel's word on an answer to '{problem.task.id}'; ask it before judging")
        settled = is_settled(_brief(problem), answer)
        if settled is not None:
            return settled, ""
        right = self._panel[problem.task.id, answer].right
        return right, "" if right is not None else "nobody could judge it: all families wrote it, or the judges failed"

    def _same_formula(self, answer: str, reference: str) -> tuple[bool | None, str]:
        """By spelling where that settles it, else by math-verify, which reads no overlong formula."""
        first, second = canonical(answer, "math"), canonical(reference, "math")
        if first == second:
            return bool(first), ""
        if max(len(first), len(second)) > MAX_FORMULA_CHARS or not comparable(first, second):
            return False, ""
        return _verdict(self._formulas.score(first, second))

    def _runner(self, config: BubblewrapRunner | ContainerRunner) -> Runner:
        if config not in self._runners:
            self._runners[config] = open_runner(config)
        return self._runners[config]


def _outcome(problem: Problem, answer: str | None, correct: bool | None) -> Outcome:
    return Outcome(
        task_id=problem.task.id,
        task_type=problem.task.type,
        answer=answer,
        correct=bool(correct),
        evidence=Evidence(
            verifier=verifier_name(problem),
            verdict="unknown" if correct is None else "passed" if correct else "failed",
            # Without the reference: where few answers are possible, a hash of the key gives the key away.
            digest=content_hash({"task": problem.task.id, "answer": answer}),
        ),
    )


def _brief(problem: Problem) -> Brief:
    criteria = problem.verifier.criteria if isinstance(problem.verifier, PanelRule) else ""
    task = problem.task
    return Brief(task_id=task.id, question=task.question, reference=problem.reference, criteria=criteria)


def _verdict(said: Score) -> tuple[bool | None, str]:
    return (None, said.reason) if said.score is None else (is_full_score(said.score), "")


def verifier_name(problem: Problem) -> str:
    """Name of the check, as evidence carries it: 'exact', 'numeric' or 'reasoning_gym:FAMILY'."""
    if isinstance(problem.verifier, ReasoningGymVerifier):
        return f"reasoning_gym:{problem.verifier.family}"
    return problem.verifier.kind


class Probe(Record):
    """One kind of answer, tried on the items of one task type."""

    task_type: str
    probe: str = Field(description="'reference', 'empty', 'echo', 'echo, parsed', 'shuffled', or a constant in quotes")
    accepted: int
    n: int

    @property
    def rate(self) -> float:
        """Share of the items on which it was accepted."""
        return self.accepted / self.n if self.n else 0.0


class VerifierAudit(Record):
    """What the verifiers accept, and in plain sentences what is wrong with that."""

    probes: tuple[Probe, ...]
    problems: tuple[str, ...] = Field(description="one sentence for every finding; empty: nothing to complain about")


def verifier_audit(problems: Sequence[Problem], judge: Judge, *, shuffled: bool = False) -> VerifierAudit:
    """Try references, constants, the empty answer and the echoed question on up to 200 items of each type.

    `shuffled` also tries every item with the reference of the next one that has another.
    """
    probes: list[Probe] = []
    for task_type, items in _by_type(problems).items():
        probes.extend(_probe_type(task_type, items[:MAX_AUDITED], judge))
        if shuffled:
            probes.append(_probe_shuffled(task_type, items[:MAX_AUDITED], judge))
    return VerifierAudit(probes=tuple(probes), problems=tuple(filter(None, map(_complaint, probes))))


def best_constant(problems: Sequence[Problem], judge: Judge, *, num_candidates: int = 5) -> tuple[str, float]:
    """The single answer that is right most often, whatever is asked, and its accuracy in 0..1.

    Candidates are the most frequent references and some common words, judged like any answer. It is chosen on the
    very items it is scored on, so it flatters the constant and not the mesh. Give the problems of one task type.

    Raises:
        ValueError: no problems.
    """
    if not problems:
        raise ValueError("expected problems to find the best constant answer of, got none")
    candidates = dict.fromkeys([*_frequent(problems, num_candidates), *CONSTANTS])
    correct = {answer: sum(judge.judge(problem, answer).correct for problem in problems) for answer in candidates}
    best = max(candidates, key=lambda answer: correct[answer])
    return best, correct[best] / len(problems)


def _by_type(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    grouped: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        grouped[problem.task.type].append(problem)
    return dict(grouped)


def _frequent(items: Sequence[Problem], count: int) -> list[str]:
    known = Counter(problem.reference for problem in items if problem.reference)
    return [answer for answer, _ in known.most_common(count)]


def _probe_type(task_type: str, items: Sequence[Problem], judge: Judge) -> list[Probe]:
    with_reference = [problem for problem in items if problem.reference]
    accepted = [judge.judge(problem, problem.reference).correct for problem in with_reference]
    found = [Probe(task_type=task_type, probe="reference", accepted=sum(accepted), n=len(accepted))]
    answers: dict[str, list[str | None]] = {
        "empty": ["" for _ in items],
        "echo": [problem.task.question for problem in items],
        "echo, parsed": [parse_answer(p.task.question, p.task.answer_kind) for p in items],
    }
    for constant in dict.fromkeys([*CONSTANTS, *_frequent(items, 1)]):
        answers[f"'{constant}'"] = [constant for _ in items]
    return found + [
        Probe(
            task_type=task_type,
            probe=probe,
            accepted=sum(outcome.correct for outcome in judge.judge_many(zip(items, tried, strict=True))),
            n=len(items),
        )
        for probe, tried in answers.items()
    ]


def _probe_shuffled(task_type: str, items: Sequence[Problem], judge: Judge) -> Probe:
    accepted = n = 0
    for place, problem in enumerate(items):
        turned = [other.reference for other in (*items[place + 1 :], *items[:place])]
        other = next((reference for reference in turned if reference and reference != problem.reference), None)
        if other is not None:
            n += 1
            accepted += judge.judge(problem, other).correct
    return Probe(task_type=task_type, probe="shuffled", accepted=accepted, n=n)


def _complaint(probe: Probe) -> str | None:
    where, rate = f"in {probe.rate:.0%} of {probe.n} items", probe.rate
    if probe.probe == "reference":
        return (
            None if rate == 1.0 or probe.n == 0 else f"{probe.task_type} accepts its own reference answer only {where}"
        )
    if probe.probe == "empty":
        return f"{probe.task_type} accepts the empty answer {where}" if rate > TOLERATED_EMPTY else None
    if probe.probe == "shuffled":
        return f"{probe.task_type} accepts another item's answer {where}" if rate > TOLERATED_SHUFFLED else None
    if probe.probe.startswith("echo"):
        how = " (as it is parsed)" if probe.probe == "echo, parsed" else ""
        return f"{probe.task_type} accepts the echoed question{how} {where}" if rate > TOLERATED_ECHO else None
    return f"{probe.task_type} accepts the constant {probe.probe} {where}" if rate > TOLERATED_CONSTANT else None
