"""When a person is asked, and what: conditions over a verdict, and the question that comes of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from pydantic import Field, model_validator

from memory.types import Record
from mesh.equivalence import Equality, canonical, same_answer
from mesh.types import Diagnosis, Failure, PersonAnswer, Question, Task, Verdict

MAX_CHOICES = 26
"""More answers than this no person weighs; the best supported are shown, and the reason says how many there were."""

NO_ANSWER = "no answer"
_BUDGET_KIND = "BudgetExhausted"


class Waiting(Exception):
    """A part of this deliberation waits for a person; nothing is wrong, and the rest comes after the answer."""


class OversightConfig(Record):
    """Conditions under which a person has the last word; the first that holds becomes the reason."""

    always: bool = Field(default=False, description="this step is shown to a person whatever comes of it")
    task_tags: tuple[str, ...] = Field(default=(), description="a task that carries one of these tags is always shown")
    below_confidence: float | None = Field(
        default=None, gt=0.0, le=1.0, description="a verdict with less confidence than this is shown; null: no limit"
    )
    on_family_split: bool = Field(
        default=False, description="shown when every family agrees with itself and the families differ"
    )
    on_instability: bool = Field(
        default=False, description="shown when leaving out one family would change the verdict"
    )
    on_budget: bool = Field(default=False, description="shown when something was left undone because the budget ended")
    on_tie: bool = Field(default=False, description="shown when the tie rule had to decide")

    @model_validator(mode="after")
    def _refuse_to_watch_nothing(self) -> OversightConfig:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError(
                f"expected at least one condition of {', '.join(type(self).model_fields)}, got none: set one, "
                "or leave oversight out so that no person is asked"
            )
        return self


class Desk(Protocol):
    """Where a deliberation leaves a question for a person and finds the answer."""

    def put(self, question: Question) -> PersonAnswer | None:
        """Record `question` durably, once however often it is put; the person's answer, or None while there is none."""


def reason_to_ask(
    config: OversightConfig, task: Task, verdict: Verdict, failures: Sequence[Failure], equality: Equality
) -> str | None:
    """The first condition of `config` that holds, in words with numbers; None if none does.

    A verdict without an answer is always shown. Words that a model wrote are never part of a reason.

    Raises:
        ValueError: `config` looks at families and the verdict carries no diagnosis.
    """
    if verdict.answer is None:
        return NO_ANSWER
    if config.always:
        return "this step is always shown"
    for tag in config.task_tags:
        if tag in task.tags:
            return f"the task is tagged {tag!r}"
    if config.below_confidence is not None and verdict.confidence < config.below_confidence:
        return _low_confidence(verdict, config.below_confidence)
    if config.on_family_split and _diagnosis(verdict).shape == "split by family":
        return _family_split(_diagnosis(verdict))
    if config.on_instability:
        turning = [f for f, other in _diagnosis(verdict).without_family if not _same(other, verdict, equality)]
        if turning:
            num_families = len(_diagnosis(verdict).without_family)
            return f"without one of {num_families} families the verdict differs: {', '.join(turning)}"
    undone = [failure.phase for failure in failures if failure.kind == _BUDGET_KIND]
    if config.on_budget and undone:
        return f"budget: {len(undone)} calls were left undone ({', '.join(dict.fromkeys(undone))})"
    if config.on_tie and verdict.tied:
        return _tie(verdict)
    return None


def question_for(
    task: Task, verdict: Verdict, reason: str, equality: Equality, *, deliberation: str, step: str = ""
) -> Question:
    """The question that a person gets: the verdict's answer first, then every other distinct answer, strongest first.

    Answers and arguments come from the verdict's diagnosis, without one from its support (and then no argument is
    known: ""). Above `MAX_CHOICES` distinct answers the rest is left out, and the reason says so. A verdict without
    any answer gives no choices: the person can only write one.
    """
    clusters = verdict.diagnosis.clusters if verdict.diagnosis is not None else ()
    argued = [(cluster.answer, cluster.argument) for cluster in clusters] or [(a, "") for a, _ in verdict.support]
    if verdict.answer is not None:
        argued.insert(0, (verdict.answer, ""))
    choices: dict[str, str] = {}
    arguments: dict[str, str] = {}
    for answer, argument in argued:
        key = canonical(answer, equality)
        choices.setdefault(key, answer)
        arguments[key] = arguments.get(key) or argument
    shown = list(choices)[:MAX_CHOICES]
    if len(shown) < len(choices):
        reason = f"{reason}; the first {len(shown)} of {len(choices)} distinct answers are shown"
    return Question(
        deliberation=deliberation,
        task_id=task.id,
        step=step,
        reason=reason,
        question=task.question,
        choices=tuple(choices[key] for key in shown),
        arguments=tuple(arguments[key] for key in shown),
    )


def _low_confidence(verdict: Verdict, limit: float) -> str:
    digits = next((d for d in (2, 4, 8) if f"{verdict.confidence:.{d}f}" != f"{limit:.{d}f}"), 17)
    fitted = "" if verdict.calibrated else " (not calibrated)"
    return f"confidence {verdict.confidence:.{digits}f} is below {limit:.{digits}f}{fitted}"


def _diagnosis(verdict: Verdict) -> Diagnosis:
    if verdict.diagnosis is None:
        raise ValueError(
            "expected a verdict with a diagnosis, got one without: diagnose it before asking on_family_split "
            "or on_instability"
        )
    return verdict.diagnosis


def _family_split(diagnosis: Diagnosis) -> str:
    held = [cluster for cluster in diagnosis.clusters if cluster.members]
    sides = (f"{' and '.join(cluster.families)} ({len(cluster.members)})" for cluster in held)
    return f"split by family: {' against '.join(sides)}"


def _same(other: str | None, verdict: Verdict, equality: Equality) -> bool:
    return same_answer(other, verdict.answer, equality)


def _tie(verdict: Verdict) -> str:
    if not verdict.support:
        return "a tie"
    most = verdict.support[0][1]
    num_tied = sum(math.isclose(weight, most, abs_tol=1e-9) for _, weight in verdict.support)
    return f"a tie: {num_tied} answers with {most:g} each"
