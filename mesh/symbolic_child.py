"""The child process that compares untrusted formulas with math-verify: JSON lines in, JSON lines out, nothing else.

Run as a script by `mesh.symbolic`, so it imports nothing of this project. LaTeX is read by a grammar; math-verify's
other reader, which hands plain expressions to Python's `eval`, is left out. Whatever a formula does to this process
(an endless simplification, all of its memory), its parent survives. Not covered: this is a process, not a sandbox.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify
from sympy import Eq, solve

MEMORY_HEADROOM_BYTES = 1024**3
RELATIVE_TOLERANCE = 1e-5
"""On top of math-verify's six decimals, by which 0.0000001 and 0.0000002 would be one number."""
SOLVER_ERRORS = (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError)
# Units stay: without them "5 cm" and "5 m" would both be 5.
READ_AS = LatexExtractionConfig(
    boxed_match_priority=-1,
    normalization_config=LatexNormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    ),
)


def main() -> None:
    """Answer requests until the input ends."""
    # Libraries may print: the real standard output is kept for answers alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)  # math-verify warns that nobody limits the time; the kernel and the parent do
    _limit_memory()
    are_equal(r"\frac{x^2-1}{x-1}", "x+1")  # sympy and the grammar load much at first use: no formula's own time
    _answer(answers, {"ready": True})
    # A formula may make sympy raise; the traceback that ends this process would be noise on the user's terminal.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request["cpu_s"], request["wall_s"])
        reply = {"equal": are_equal(request["first"], request["second"])}
        _limit_time(0.0, 0.0)
        _answer(answers, reply)


def are_equal(first: str, second: str) -> bool:
    """Whether math-verify takes each of the two formulas for the other; False where one cannot be read.

    Both directions, because math-verify accepts for a reference what it would not accept the other way round. What it
    raises ends this process, which its parent counts as different.
    """
    one, other = _read(first), _read(second)
    return (
        one is not None
        and other is not None
        and _accepts(one, other)
        and _accepts(other, one)
        and _about_equal(one, other)
        and not _says_nothing(one)
        and not _says_nothing(other)
    )


def _read(formula: str) -> Any:
    """The formula as sympy sees it; None where math-verify cannot read it."""
    # No time limit of math-verify's own: that would be an alarm signal, which is taken by `_limit_time`.
    found = parse(f"${formula}$", [READ_AS], fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


def _accepts(reference: Any, answer: Any) -> bool:
    return bool(verify(reference, answer, allow_set_relation_comp=True, timeout_seconds=None))


def _about_equal(first: Any, second: Any) -> bool:
    """Whether two numbers, or the numbers that two equations end in, differ by little for their size."""
    one, other = getattr(first, "rhs", first), getattr(second, "rhs", second)
    are_numbers = getattr(one, "is_number", False) and getattr(other, "is_number", False)
    if not are_numbers or one == other:
        return True
    size = max(abs(one.evalf()), abs(other.evalf()))
    return bool(abs((one - other).evalf()) <= RELATIVE_TOLERANCE * size)


def _says_nothing(formula: Any) -> bool:
    """Whether an equation in it has no unknown or no solution: math-verify takes any two such equations for one."""
    equations = formula.atoms(Eq) if hasattr(formula, "atoms") else ()
    return not all(equation.free_symbols and _may_be_solved(equation) for equation in equations)


def _may_be_solved(equation: Any) -> bool:
    try:
        return bool(solve(equation, equation.free_symbols))
    except SOLVER_ERRORS:
        return True  # nor could math-verify solve it: it has found the two equal term by term


def _answer(answers: Any, reply: dict[str, bool]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


def _limit_time(cpu_s: float, wall_s: float) -> None:
    """Let the kernel end this process after so long, in the middle of C code and without a parent too; 0: no limit."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _limit_memory() -> None:
    """Let 9^{9^{9^{9}}} end in a MemoryError here and not in the machine's last page."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return  # not Linux: the time limit alone has to do
    used = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + MEMORY_HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
