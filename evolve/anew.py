"""A run begun anew where an earlier one lay: what that one decided is kept apart, and nothing of it is inherited."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from evolve.governance.approvals import APPROVALS
from evolve.governance.audit_log import AUDIT_LOG
from evolve.governance.demoting import LIVE
from evolve.run_files import EARLIER, GENERATIONS
from memory.ledger import sync_directory

DECIDED = (GENERATIONS, AUDIT_LOG, APPROVALS, LIVE)
"""Who was seated, what was decided about whom, what people said of it, and what came of it in use."""


def set_aside(directory: Path) -> Path | None:
    """Move the lineage and decisions of an earlier run in `directory` into one of its own; None: there are none.

    Left where they are, its generations would pass for this run's, and a word for its proposals would count again.
    """
    found = [name for name in DECIDED if (directory / name).exists()]
    if not found:
        return None
    aside = next(path for number in count(1) if not (path := directory / EARLIER / str(number)).exists())
    aside.mkdir(parents=True)
    for name in found:
        (directory / name).rename(aside / name)
    sync_directory(aside)
    sync_directory(directory)
    return aside
