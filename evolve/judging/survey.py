"""A look at the problems before anything is spent: can the verifier be fooled, and what would a constant score?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from evolve.judging.judge import CONSTANTS, Judge, VerifierAudit, best_constant, verifier_audit
from evolve.judging.panel import PanelStandings
from evolve.judging.panel_asking import gate_refusal, panel_standings
from evolve.lab import Lab
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split
from evolve.problems.types import PanelRule, Problem, ProblemsError
from evolve.report.data import ConstantAnswer
from evolve.report.measure import Accuracy
from memory.types import Record

MAX_AUDITED_PER_TYPE = 60
"""Problems of one type the verifier is tried on; constants, empty and echoed answers each cost a call."""
MAX_PANEL_PER_TYPE = 10
"""The same where a panel judges: each of a dozen answers to each of them costs two calls a judge."""

TRIED_FIRST = 3
"""Reference answers of a type that are judged before any other: a verifier that is dead costs its time limit a call."""


class Survey(Record):
    """What the problems are like."""

    verifier: VerifierAudit
    constants: dict[str, ConstantAnswer] = Field(description="by task type; '' over all types, each with its own best")
    panel: PanelStandings | None = Field(default=None, description="how it agrees with people; None: no panel judges")


async def survey(lab: Lab, problems: SplitProblems) -> Survey:
    """Try the verifier on TRAIN and DEV items, and find the best constant answer of every task type on them.

    Raises:
        ProblemsError: a verifier accepts whatever is said, or none judges its own reference answers, or the panel may
            not gate. Nothing is spent.
    """
    items = [*problems.of(Split.TRAIN), *problems.of(Split.DEV)]
    most = MAX_AUDITED_PER_TYPE if lab.panel is None else MAX_PANEL_PER_TYPE

    async def work() -> Survey:
        by_type: dict[str, list[Problem]] = {}
        for problem in items:
            by_type.setdefault(problem.task.type, []).append(problem)
        sample = [problem for group in by_type.values() for problem in group[:most]]
        standings = await _panel(lab, problems)
        lab.observer.stage("check verifiers", 1)
        await lab.heard_out("survey alive", lambda: _refuse_dead(by_type, lab.judge))
        if lab.panel is not None:
            by_type = {task_type: group[:most] for task_type, group in by_type.items()}
        constants = await lab.heard_out("survey constants", lambda: _constants(by_type, lab.judge))
        found = await lab.heard_out("survey", lambda: verifier_audit(sample, lab.judge))
        _refuse_blind(found)
        return Survey(verifier=found, constants=constants, panel=standings)

    result = await lab.journal.record("survey", [problem.key for problem in items], Survey, work)
    for sentence in result.verifier.problems:
        lab.observer.say(f"verifier: {sentence}")
    return result


async def _panel(lab: Lab, problems: SplitProblems) -> PanelStandings | None:
    """How the panel stands; None: none judges. Raises ProblemsError where no gate could ever be held on its word."""
    if lab.panel is None:
        return None
    refusal = await gate_refusal(lab) if problems.of(Split.GATE) else ""
    if refusal:
        raise ProblemsError(
            f"{refusal} Nothing could be promoted, so nothing was spent; with more labels the same command goes on."
        )
    return await panel_standings(lab)


def _constants(by_type: Mapping[str, Sequence[Problem]], judge: Judge) -> dict[str, ConstantAnswer]:
    constants = {}
    for task_type, group in by_type.items():
        answer, share = best_constant(group, judge)
        constants[task_type] = ConstantAnswer(
            answer=answer, accuracy=Accuracy(correct=share * len(group), n=len(group))
        )
    right = sum(constant.accuracy.correct for constant in constants.values())
    constants[""] = ConstantAnswer(
        answer="each type's own", accuracy=Accuracy(correct=right, n=sum(len(g) for g in by_type.values()))
    )
    return constants


def _refuse_dead(by_type: Mapping[str, Sequence[Problem]], judge: Judge) -> None:
    """Raises ProblemsError where a type's verifier cannot judge what it must accept; a panel, what it must look at."""
    for task_type, group in by_type.items():
        tried = [
            (problem, CONSTANTS[0] if isinstance(problem.verifier, PanelRule) else problem.reference)
            for problem in [p for p in group if p.reference][:TRIED_FIRST]
        ]
        outcomes = judge.judge_many(tried)
        unknown = [outcome for outcome in outcomes if outcome.evidence and outcome.evidence.verdict == "unknown"]
        if tried and len(unknown) == len(tried):
            raise ProblemsError(
                f"problems.verifier: expected verifiers that judge their own reference answers, but none of "
                f"{len(tried)} of {task_type} could be judged: {judge.incidents[-1].reason}; nothing was "
                "spent; mend the verifier, or leave that type out"
            )


def _refuse_blind(audit: VerifierAudit) -> None:
    """Raises ProblemsError where a verifier takes every constant for every item: all it teaches is wrong."""
    constants = {repr(answer) for answer in CONSTANTS}
    accepted: dict[str, set[str]] = {}
    for probe in audit.probes:
        if probe.n and probe.accepted == probe.n:
            accepted.setdefault(probe.task_type, set()).add(probe.probe)
    blind = sorted(task_type for task_type, probes in accepted.items() if constants <= probes)
    if blind:
        raise ProblemsError(
            f"problems.verifier: the verifier of {', '.join(blind)} accepts whatever is said "
            f"({', '.join(sorted(constants))} for every item); nothing was spent; mend it, and give "
            "another run_dir, since this one keeps its configuration"
        )
