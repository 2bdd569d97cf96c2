"""Processes of this machine: which one a number stood for, and which ones carry a fleet's mark."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

FLEET_VARIABLE = "EVOMESH_FLEET"
"""Stands in the environment of every process below a fleet, however often it was started again."""

_PROC = Path("/proc")


def mark_of(pid: int) -> str | None:
    """Tells a process from every other that had or will have its number; None: there is none, or it only awaits burial.

    Made of the machine's start and the process's tick, which no change of the clock moves.
    """
    try:
        # The name in parentheses may contain anything; the fields after the last one are plain.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def marked_processes(fleet_id: str) -> list[psutil.Process]:
    """Living processes of this user that a fleet of this id left or still has, and what is below them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile
            if _is_marked(process.pid, fleet_id) and process.status() != psutil.STATUS_ZOMBIE:
                found += [process, *process.children(recursive=True)]
    return list(dict.fromkeys(found))


def end_processes(processes: list[psutil.Process], *, patience_s: float = 5.0) -> int:
    """Ends processes: asked first, killed after `patience_s`; returns how many there were."""
    for process in processes:
        _signal(process.terminate)
    _, left = psutil.wait_procs(processes, timeout=patience_s)
    for process in left:
        _signal(process.kill)
    psutil.wait_procs(left, timeout=patience_s)
    return len(processes)


def end_marked(fleet_id: str, *, patience_s: float = 5.0) -> int:
    """Ends every process with a fleet's mark, those that start meanwhile too; returns how many there were."""
    num_ended = 0
    # A raylet that dies starts nothing more, but a worker may have been on its way.
    for _ in range(5):
        processes = marked_processes(fleet_id)
        if not processes:
            break
        num_ended += end_processes(processes, patience_s=patience_s)
    return num_ended


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        send()


def _is_marked(pid: int, fleet_id: str) -> bool:
    try:
        # Not by psutil: a process that gave itself a title may have overwritten where its environment begins.
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        # Gone meanwhile, or another user's, which is never ours to end.
        return False
    return f"{FLEET_VARIABLE}={fleet_id}".encode() in environment.split(b"\0")
