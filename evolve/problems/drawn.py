"""The problems that a run drew, read back from its directory."""

from __future__ import annotations

import re
from pathlib import Path

from evolve.problems.sealed import SplitProblems
from memory.ledger import read_record

_STEP = re.compile(r"problems(?:-generation-(\d+))?-[0-9a-f]{12}\.json")


def problems_by_generation(run: Path) -> tuple[SplitProblems, ...]:
    """Problems of each generation that the run in `run` began, oldest first; AUDIT is with generation 0's.

    A run on a user's file has one set for all generations. Empty where nothing was drawn.
    """
    found: dict[int, SplitProblems] = {}
    for path in sorted((run / "steps").glob("problems-*.json")):
        match = _STEP.fullmatch(path.name)
        if match:
            found[int(match[1] or 0)] = read_record(path, SplitProblems)
    return tuple(found[number] for number in sorted(found))
