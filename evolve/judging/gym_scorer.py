"""The child process that scores untrusted answers with reasoning-gym: JSON lines in, JSON lines out, nothing else.

Run as a script by `evolve.judging.scorer`, so it imports nothing of this project. Nine families hand the answer to
Python's `eval`, or to sympy, which ends in `eval` too: four read literals alone here (`LITERAL_ONLY`), five nothing but
arithmetic or formulas (`ARITHMETIC_ONLY`, `is_formula`). What an answer does to this process, its parent survives. Not
covered: this is a process with limits on time and memory, not a sandbox, so another family with such a scorer would
run what a model writes, as this user; a test looks for one in the installed package.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import keyword
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import reasoning_gym
import sympy
from sympy.parsing import sympy_parser

MEMORY_HEADROOM_BYTES = 2 * 1024**3
# What a scorer throws at text it did not expect. Anything else kills the child, and its parent starts another.
SCORER_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NameError, RuntimeError)
INPUT_ERRORS = (SyntaxError, TypeError, ValueError)
LITERAL_ONLY = (
    "algorithmic.binary_matrix",
    "algorithmic.spiral_matrix",
    "algorithmic.string_insertion",
    "games.n_queens",
)
"""Modules of reasoning_gym that call `eval(answer)`, to give a list written as Python part of the score."""
ARITHMETIC_ONLY = ("games.countdown", "games.puzzle24")
"""Modules that read sums with `parse_expr`. They count the numbers used by their digits, and `0x64` escapes them."""
FUNCTIONS = frozenset(
    (
        *("Abs", "E", "I", "erf", "erfi", "exp", "ln", "log", "pi", "sqrt"),
        *("acos", "acot", "acsc", "asec", "asin", "atan", "cos", "cot", "csc", "sec", "sin", "tan"),
        *("acosh", "acoth", "asinh", "atanh", "cosh", "coth", "csch", "sech", "sinh", "tanh"),
    )
)
"""What a formula may call or name. No Integral: one that is merely written down would have the full score."""
_ARITHMETIC = re.compile(r"(?:[0-9()+-]|\s|\*(?!\*)|/(?!/))*", re.ASCII)
_FORMULA_TOKEN = re.compile(
    r"\s+|[-+*/(),]|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.])"
    r"|(?P<name>[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*)",
    re.ASCII,
)


def main() -> None:
    """Answer requests until the input ends."""
    # Scorers and their libraries may print: the real standard output is kept for answers alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    ours: set[str] = set()
    forbid_code(ours)
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
        entry = json.loads(request["entry"])
        ours.clear()
        ours.update((entry["answer"], entry["metadata"].get("integrand", "")))
        reply = _score(datasets[key], request["answer"], entry)
        _limit_time(0.0, 0.0)
        _answer(answers, reply)


def forbid_code(ours: Collection[str] = ()) -> None:
    """Replace what would run an answer as Python: the scorers then find a wrong answer in place of a program.

    `ours`: texts that sympy may read whatever they say, such as the reference of the problem in hand.
    """
    for name in LITERAL_ONLY:
        vars(importlib.import_module(f"reasoning_gym.{name}"))["eval"] = ast.literal_eval
    for name in ARITHMETIC_ONLY:
        module = vars(importlib.import_module(f"reasoning_gym.{name}"))
        module["parse_expr"] = _checked(module["parse_expr"], lambda text, _: is_arithmetic(text), ours)
    # under both names: sympify, too, looks for it in the parser's module
    for module in (vars(sympy), vars(sympy_parser)):
        module["parse_expr"] = _checked(module["parse_expr"], is_formula, ours)


def is_arithmetic(text: str) -> bool:
    """Whether `text` is made of whole numbers, the four operators and brackets alone."""
    return _ARITHMETIC.fullmatch(text) is not None


def is_formula(text: str, variables: Collection[str] = ()) -> bool:
    """Whether `text` is made of numbers, operators, brackets, `FUNCTIONS`, and names that mean nothing but a variable.

    A name that Python or sympy knows is no variable unless it is one of `variables`. No quotes, no attributes.
    """
    at = 0
    while at < len(text):
        token = _FORMULA_TOKEN.match(text, at)
        if token is None or not _is_harmless(token["name"], variables):
            return False
        at = token.end()
    return True


def _is_harmless(name: str | None, variables: Collection[str]) -> bool:
    if name is None or name in FUNCTIONS or name in variables:
        return True
    return not (keyword.iskeyword(name) or name in vars(sympy) or name in vars(builtins))


def _checked(
    parse: Callable[..., Any], allows: Callable[[str, Collection[str]], bool], ours: Collection[str]
) -> Callable[..., Any]:
    def parse_checked(text: str, local_dict: dict[str, Any] | None = None, *args: Any, **more: Any) -> Any:
        if text not in ours and not allows(text, local_dict or {}):
            raise ValueError("expected arithmetic or a formula, got other text, which is not evaluated")
        return parse(text, local_dict, *args, **more)

    return parse_checked


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
