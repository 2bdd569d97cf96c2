"""One notation for a formula: the same LaTeX or plain line, however it was spaced, wrapped and spelled."""

from __future__ import annotations

import re

MAX_DIGITS = 30
"""A longer whole, numerator or denominator of a mixed number is left as written."""

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\*\*|[A-Za-z]+|[0-9]+|\s+|.", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_SPACING = {"$", r"\$", r"\(", r"\)", r"\[", r"\]", r"\,", r"\;", r"\:", r"\ ", "~", "\\\n"} | {
    rf"\{name}" for name in ("left", "right", "displaystyle", "quad", "qquad")
}
_NOTHING = r"\!"  # a negative space, as in 1,\!000
_WRAPPERS = {rf"\{name}" for name in ("boxed", "fbox", "text", "textbf", "mathrm", "mathbf")}
_NAMES = ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "exp", "ln")
_ONE_SPELLING = {name: rf"\{name}" for name in (*_NAMES, "log", "pi", "theta")} | {
    "**": "^",
    "−": "-",
    "×": r"\times",
    "·": r"\cdot",
    "π": r"\pi",
    "θ": r"\theta",
    "∞": r"\infty",
    "≤": r"\le",
    "≥": r"\ge",
    "≠": r"\ne",
    r"\leq": r"\le",
    r"\geq": r"\ge",
    r"\neq": r"\ne",
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\%": "%",
}
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '-][^\W\d_]+)*")
_DIGITS = rf"([0-9]{{1,{MAX_DIGITS}}})"
_FRAC = re.compile(rf"([+-]?)\\frac\{{(-?){_DIGITS}\}}\{{{_DIGITS}\}}")
_MIXED = re.compile(rf"([+-]?){_DIGITS}(?: {_DIGITS}/{_DIGITS}|\\frac\{{{_DIGITS}\}}\{{{_DIGITS}\}})")


def one_spelling(formula: str) -> str:
    r"""`formula` in one notation; applying it twice changes nothing. Never raises; linear time.

    Dropped: "$", \( and \[, spacing that means nothing, \left and \right, one final period, braces around the whole
    and \boxed or \text before them. Spelled in one way: "**" and "^", "pi", "π" and \pi, \dfrac and \frac, and so on.
    A fraction or mixed number (\frac{1}{2}, "2 1/2", 2\frac{1}{2}) becomes "1/2", "5/2". Case is kept (x and X may
    differ), except where all of it is words ("No solution").
    """
    text = _renamed(_written(_unwrapped(_tokens(formula))))
    if _WORDS.fullmatch(text):
        text = _renamed(text.casefold())
    return _as_quotient(text) or text


def _renamed(text: str) -> str:
    return _written([_ONE_SPELLING.get(piece, piece) for piece in _tokens(text)])


def _tokens(text: str) -> list[str]:
    """Commands, words, digits and single characters; what only makes space is " "."""
    pieces = [piece for piece in _TOKEN.findall(text) if piece != _NOTHING]
    return [" " if piece.isspace() or piece in _SPACING else piece for piece in pieces]


def _unwrapped(tokens: list[str]) -> list[str]:
    """Without outer spaces, final period and braces around the whole, with the command before them."""
    closing = _closing_braces(tokens)
    start, end = 0, len(tokens)
    while start < end:
        opening = start + 1 if tokens[start] in _WRAPPERS else start
        if tokens[start] == " ":
            start += 1
        elif tokens[end - 1] == " " or (tokens[end - 1] == "." and (end - 1 == start or tokens[end - 2] != ".")):
            end -= 1
        elif closing.get(opening) == end - 1:
            start, end = opening + 1, end - 1
        else:
            break
    return tokens[start:end]


def _closing_braces(tokens: list[str]) -> dict[int, int]:
    """Index of every opening brace that is closed, to the index of the brace that closes it."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for index, piece in enumerate(tokens):
        if piece == "{":
            opened.append(index)
        elif piece == "}" and opened:
            found[opened.pop()] = index
    return found


def _written(tokens: list[str]) -> str:
    """Tokens as text, with a space only where one means something."""
    written: list[str] = []
    before, spaced = "", False
    for piece in tokens:
        if piece == " ":
            spaced = True
            continue
        if before and (_would_join(before, piece) or (spaced and _may_be_apart(before, piece))):
            written.append(" ")
        written.append(piece)
        before, spaced = piece, False
    return "".join(written)


def _would_join(before: str, after: str) -> bool:
    """Whether the two, written together, would be read as one: pi and r, * and *."""
    is_letter = after[0].isascii() and after[0].isalpha()
    return before == after == "*" or (is_letter and _COMMAND.fullmatch(before) is not None)


def _may_be_apart(before: str, after: str) -> bool:
    """Whether a space between the two says something: "2 1/2", "1, 200", words."""
    return before == "," or (before[-1].isalnum() and after[0].isalnum())


def _as_quotient(text: str) -> str | None:
    """A whole that is one LaTeX fraction or mixed number, as "numerator/denominator"; None for anything else."""
    fraction = _FRAC.fullmatch(text)
    if fraction:
        sign = "-" if (fraction[1] == "-") != (fraction[2] == "-") else ""
        return f"{sign}{fraction[3]}/{fraction[4]}"
    mixed = _MIXED.fullmatch(text)
    if not mixed:
        return None
    whole, above, below = int(mixed[2]), int(mixed[3] or mixed[5]), int(mixed[4] or mixed[6])
    return f"{mixed[1].strip('+')}{whole * below + above}/{below}"
