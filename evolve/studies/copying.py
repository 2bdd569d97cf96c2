"""What can be copied out of a question without understanding it: a guess that every way of asking has to beat. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from evolve.problems.types import Problem
from evolve.studies.assess import Arm
from mesh.parse import parse_answer

_NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?")  # in "17-4" a minus stands between two numbers
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
PLACES = {"first": 0, "second": 1, "last but one": -2, "last": -1}


def readings(problem: Problem) -> dict[str, str | None]:
    """Ways to copy an answer, by name: what a parser reads out of the question; numbers or words at fixed places."""
    question, kind = problem.task.question, problem.task.answer_kind
    found: dict[str, str | None] = {"parsed": parse_answer(question, kind)}
    if kind in ("number", "text"):
        parts = (_NUMBER if kind == "number" else _WORD).findall(question)
        for name, place in PLACES.items():
            found[name] = parts[place] if -len(parts) <= place < len(parts) else None
    return found


def copied(items: Sequence[Problem], is_right: Callable[[Problem, str | None], bool], *, one_way: bool = False) -> Arm:
    """Item by item, whether the best way to copy is right.

    It is chosen for each task type on one half of its items and scored on the other, both ways round, so that the best
    of several does not look better than it is. `one_way`: the parser's reading alone, where judging is dear.
    """
    right = []
    for problem in items:
        ways = readings(problem)
        right.append({name: is_right(problem, ways[name]) for name in (["parsed"] if one_way else ways)})
    halves: dict[tuple[str, int], list[int]] = {}
    seen: dict[str, int] = {}
    for place, problem in enumerate(items):
        number = seen[problem.task.type] = seen.get(problem.task.type, -1) + 1
        halves.setdefault((problem.task.type, number % 2), []).append(place)
    scores = [0.0] * len(items)
    for (task_type, half), places in halves.items():
        others = halves.get((task_type, 1 - half), [])
        best = max(right[places[0]], key=lambda name: sum(right[other][name] for other in others))
        for place in places:
            scores[place] = float(right[place][best])
    return Arm(name="copied from the question", scores=tuple(scores))
