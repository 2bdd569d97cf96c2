"""The child process that scores untrusted answers with reasoning-gym: JSON lines in, JSON lines out, nothing else.

Run as a script by `evolve.judging.scorer`, so it imports nothing of this project. Some scorers evaluate the answer with
sympy: what they do to this process, its parent survives. Not covered: a scorer that touches files or the network; the
answer never reaches a shell or `exec`, but this is a process, not a sandbox.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import reasoning_gym

MEMORY_HEADROOM_BYTES = 2 * 1024**3
# What a scorer throws at text it did not expect. Anything else kills the child, and its parent starts another.
SCORER_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NameError, RuntimeError)
INPUT_ERRORS = (SyntaxError, TypeError, ValueError)


def main() -> None:
    """Answer requests until the input ends."""
    # Scorers and their libraries may print: the real standard output is kept for answers alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit_memory()
    datasets: dict[tuple[str, str], Any] = {}
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request["cpu_s"], request["wall_s"])
        key = (request["family"], request["settings"])
        if key not in datasets:
            settings = json.loads(request["settings"])
            datasets[key] = reasoning_gym.create_dataset(request["family"], seed=0, size=1, **settings)
        reply = _score(datasets[key], request["answer"], json.loads(request["entry"]))
        _limit_time(0.0, 0.0)
        _answer(answers, reply)


def _score(dataset: Any, answer: str, entry: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"score": float(dataset.score_answer(answer, entry))}
    except (*SCORER_ERRORS, *INPUT_ERRORS) as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def _answer(answers: Any, reply: dict[str, Any]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


def _limit_time(cpu_s: float, wall_s: float) -> None:
    """Let the kernel end this process after so long, in the middle of C code and without a parent too; 0: no limit."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _limit_memory() -> None:
    """Let an answer like 9**9**9 end in a MemoryError here and not in the machine's last page."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return  # not Linux: the time limit alone has to do
    used = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + MEMORY_HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
