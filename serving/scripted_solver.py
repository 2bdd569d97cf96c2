"""What the scripted engine knows: integer sums, gcd and lcm; anything else has one stable stand-in answer."""

from __future__ import annotations

import ast
import hashlib
import math
import re
from typing import Literal

Operation = Literal["sum", "product", "gcd", "lcm", "other"]

MAX_EXPRESSION_CHARS = 200
"""Longer expressions are not read: `ast` recurses, and a model that small would not solve them either."""
MAX_DIGITS = 18
MAX_NUMBERS = 16

_RUN = re.compile(r"[\d\s+\-*()./×−]+")
_NUMBER = re.compile(r"\d+")
_LEADING_ZEROS = re.compile(r"\b0+(?=\d)")
_DIVISOR = re.compile(r"\b(gcd|greatest common divisor|greatest common factor)\b", re.IGNORECASE)
_MULTIPLE = re.compile(r"\b(lcm|least common multiple)\b", re.IGNORECASE)
_NEAR = (1, -1, 2, -2, 10, -10)


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone, in every process."""
    return _bits(*parts) / 2**64


def pick(count: int, *parts: object) -> int:
    """An index below `count` that depends on `parts` alone."""
    return _bits(*parts) % count


def solve(question: str) -> tuple[Operation, str]:
    """What kind of question this is and the answer the engine holds to be right; "other" answers are stand-ins."""
    numbers = [int(number) for number in _NUMBER.findall(question) if len(number) <= MAX_DIGITS][:MAX_NUMBERS]
    if len(numbers) > 1 and _DIVISOR.search(question):
        return "gcd", str(math.gcd(*numbers))
    if len(numbers) > 1 and _MULTIPLE.search(question):
        return "lcm", str(math.lcm(*numbers))
    expression = _expression(question)
    if expression is None:
        return "other", str(pick(100, "stand-in", " ".join(question.split()).lower()))
    text, value = expression
    return ("product" if "*" in text else "sum"), str(value)


def near_miss(answer: str, *parts: object) -> str:
    """A wrong answer close to `answer` (an integer), chosen by `parts`."""
    return str(int(answer) + _NEAR[pick(len(_NEAR), "near", *parts)])


def _bits(*parts: object) -> int:
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _expression(question: str) -> tuple[str, int] | None:
    """The longest expression of at least two integers and its value; None if there is none to read."""
    runs = (run.strip(" \n\t.+*") for run in _RUN.findall(question.replace("×", "*").replace("−", "-")))
    for run in sorted(runs, key=len, reverse=True):
        if len(_NUMBER.findall(run)) < 2 or len(run) > MAX_EXPRESSION_CHARS:
            continue
        text = _LEADING_ZEROS.sub("", " ".join(run.split()))
        try:
            value = _value(ast.parse(text, mode="eval").body)
        except SyntaxError:
            continue
        if value is not None:
            return text, value
    return None


def _value(node: ast.expr) -> int | None:
    """Value of a tree of integers, +, - and *; None for anything else (fractions, calls, two numbers side by side)."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _value(node.operand)
        return None if inner is None else (-inner if isinstance(node.op, ast.USub) else inner)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
        left, right = _value(node.left), _value(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Add):
            return left + right
        return left - right if isinstance(node.op, ast.Sub) else left * right
    return None
