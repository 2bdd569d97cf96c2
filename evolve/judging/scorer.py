"""Scorers that may hang or die over an answer, each in a child process: reasoning-gym, patterns, schemas, formulas."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from evolve.judging.child import START_TIMEOUT_S, WALL_FACTOR, Child, ScorerError
from evolve.problems.types import RegexRule, SchemaRule
from memory.types import Record
from mesh.symbolic import CHILD as FORMULA_CHILD

__all__ = [
    "CHILD",
    "RAISED",
    "START_TIMEOUT_S",
    "WALL_FACTOR",
    "FormulaScorer",
    "GymScorer",
    "RuleScorer",
    "Score",
    "ScorerError",
]

CHILD = (sys.executable, "-I", "-W", "ignore", str(Path(__file__).with_name("gym_scorer.py")))
RAISED = "the scorer raised"
"""How a reason begins where an answer made the check raise, and the verifier itself is sound."""
RULE_CHILD = (sys.executable, "-I", "-W", "ignore", str(Path(__file__).with_name("rule_scorer.py")))


class Score(Record):
    """What a scorer said. `score` None: it said nothing, for `reason`."""

    score: float | None
    reason: str = ""


class GymScorer(Child):
    """Scores answers with reasoning-gym in a child process. Not thread-safe. The child is started at the first use."""

    def __init__(self, *, timeout_s: float = 2.0, command: Sequence[str] = CHILD) -> None:
        super().__init__(command, timeout_s=timeout_s, environment=_bare_environment())

    def score(self, *, family: str, settings: str, entry: str, answer: str) -> Score:
        """The family's score of `answer`; a child that hangs or dies is replaced at the next call.

        Raises:
            ScorerError: the child cannot be started.
        """
        reply = self.ask({"family": family, "settings": settings, "entry": entry, "answer": answer})
        if isinstance(reply, str):
            return Score(score=None, reason=reply)
        if "score" in reply:
            return Score(score=reply["score"])
        return Score(score=None, reason=f"{RAISED} {reply['error']}")


class RuleScorer(Child):
    """Holds answers against patterns and schemas in a child: a pattern may take for ever over the wrong text."""

    def __init__(self, *, timeout_s: float = 2.0, command: Sequence[str] = RULE_CHILD) -> None:
        super().__init__(command, timeout_s=timeout_s)

    def score(self, rule: RegexRule | SchemaRule, answer: str) -> Score:
        """1 where the answer follows the rule, else 0. Raises ScorerError as `GymScorer.score` does."""
        reply = self.ask({"rule": rule.model_dump(mode="json"), "answer": answer})
        if isinstance(reply, str):
            return Score(score=None, reason=reply)
        if "right" in reply:
            return Score(score=float(bool(reply["right"])))
        return Score(score=None, reason=f"{RAISED} {reply['error']}")


class FormulaScorer(Child):
    """Whether two formulas are equal, by math-verify in the same child program that deliberations use."""

    def __init__(self, *, timeout_s: float = 2.0, command: Sequence[str] = FORMULA_CHILD) -> None:
        super().__init__(command, timeout_s=timeout_s, environment={**_bare_environment(), "PYTHONHASHSEED": "0"})

    def score(self, first: str, second: str) -> Score:
        """1 where each is accepted for the other, else 0. Raises ScorerError as `GymScorer.score` does."""
        reply = self.ask({"first": first, "second": second})
        return Score(score=None, reason=reply) if isinstance(reply, str) else Score(score=float(reply["equal"]))


def _bare_environment() -> dict[str, str]:
    """No token and no key for a child that reads what models wrote."""
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
