"""Tasks that are new to a run: neither the same as one it learned from or chose by, nor nearly the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import Field

from evolve.problems.config import NearDuplicatesConfig
from evolve.problems.drawn import problems_by_generation
from evolve.problems.near_duplicates import cluster
from evolve.problems.splits import Split
from evolve.problems.taskfile import key_of
from evolve.problems.types import Problem
from memory.types import Record

STEERED = (Split.TRAIN, Split.DEV, Split.GATE)
"""What a run learned from, chose by and decided by; AUDIT steered nothing."""


class LeftOut(Record):
    """Tasks that are no measure of a run any more, and why."""

    num_same: int = Field(default=0, description="whose very question a run had, in a split or a demonstration")
    num_near: int | None = Field(default=0, description="near duplicates of such questions; None: not looked for")

    @property
    def num_tasks(self) -> int:
        """All of them."""
        return self.num_same + (self.num_near or 0)


def fresh_tasks(
    problems: Sequence[Problem], seen: Sequence[str], near: NearDuplicatesConfig | None
) -> tuple[list[Problem], LeftOut]:
    """(problems that say neither the same as a question in `seen` nor nearly the same, in order; what was left out).

    Near is what would put two tasks of one file into one split: what chains through others is one cluster.

    Args:
        problems: what could be measured on.
        seen: questions that a run had, in any order.
        near: what near is; None: it is not looked for.
    """
    known = {key_of(question) for question in seen}
    others = [problem for problem in problems if key_of(problem.task.question) not in known]
    num_same = len(problems) - len(others)
    if near is None:
        return others, LeftOut(num_same=num_same, num_near=None)
    roots = cluster([*seen, *(problem.task.question for problem in others)], near)
    taken = set(roots[: len(seen)])
    fresh = [problem for problem, root in zip(others, roots[len(seen) :], strict=True) if root not in taken]
    return fresh, LeftOut(num_same=num_same, num_near=len(others) - len(fresh))


def questions_seen(runs: Iterable[Path]) -> list[str]:
    """Every question that these runs learned from, chose or decided by, or showed as a demonstration, each once.

    Empty where a run left no record of its problems.
    """
    return list(dict.fromkeys(question for run in runs for question in _questions(run)))


def _questions(run: Path) -> Iterator[str]:
    for drawn in problems_by_generation(run):
        yield from (problem.task.question for split in STEERED for problem in drawn.of(split))
        yield from (shown.question for group in drawn.demonstrations.values() for shown in group)
