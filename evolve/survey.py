"""A look at the problems before anything is spent: can the verifier be fooled, and what would a constant score?"""

from __future__ import annotations

from pydantic import Field

from evolve.judge import VerifierAudit, best_constant, verifier_audit
from evolve.lab import Lab
from evolve.problem_types import Problem
from evolve.report.data import ConstantAnswer
from evolve.report.measure import Accuracy
from evolve.sealed import SplitProblems
from evolve.splits import Split
from memory.types import Record

MAX_AUDITED_PER_TYPE = 60
"""Problems of one type the verifier is tried on; constants, empty and echoed answers each cost a call."""


class Survey(Record):
    """What the problems are like."""

    verifier: VerifierAudit
    constants: dict[str, ConstantAnswer] = Field(description="by task type; '' over all types, each with its own best")


async def survey(lab: Lab, problems: SplitProblems) -> Survey:
    """Try the verifier on TRAIN and DEV items, and find the best constant answer of every task type on them."""
    items = [*problems.of(Split.TRAIN), *problems.of(Split.DEV)]

    async def work() -> Survey:
        by_type: dict[str, list[Problem]] = {}
        for problem in items:
            by_type.setdefault(problem.task.type, []).append(problem)
        sample = [problem for group in by_type.values() for problem in group[:MAX_AUDITED_PER_TYPE]]
        lab.observer.stage("check verifiers", 1)
        constants = {}
        for task_type, group in by_type.items():
            answer, share = best_constant(group, lab.judge)
            constants[task_type] = ConstantAnswer(
                answer=answer, accuracy=Accuracy(correct=share * len(group), n=len(group))
            )
        right = sum(constant.accuracy.correct for constant in constants.values())
        constants[""] = ConstantAnswer(
            answer="each type's own", accuracy=Accuracy(correct=right, n=sum(len(g) for g in by_type.values()))
        )
        return Survey(verifier=verifier_audit(sample, lab.judge), constants=constants)

    result = await lab.journal.record("survey", [problem.key for problem in items], Survey, work)
    for sentence in result.verifier.problems:
        lab.observer.say(f"verifier: {sentence}")
    return result
