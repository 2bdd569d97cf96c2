"""Which answers are the same answer: two answers are one when their canonical spellings are equal."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cached_property
from typing import Literal

from pydantic import Field

from memory.types import Record

AnswerKind = Literal["number", "text", "math", "free"]
"""number: one number; text: one line, compared by spelling; math: a formula; free: prose."""

MAX_FRACTION_DIGITS = 30
"""A longer numerator or denominator is compared as written: reducing it could take for ever."""

_DECIMAL = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?")
_FRACTION = re.compile(rf"([+-]?[0-9]{{1,{MAX_FRACTION_DIGITS}}})/([0-9]{{1,{MAX_FRACTION_DIGITS}}})")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
_QUOTES = "\"'`“”‘’ "


class Sameness(Record):
    """Which answers of one deliberation are one: by spelling, and by what was found out beyond spelling."""

    kind: AnswerKind
    merged: tuple[tuple[str, ...], ...] = Field(
        default=(), description="disjoint groups of canonical spellings that are one answer; the first stands for all"
    )

    @cached_property
    def _stands_for(self) -> dict[str, str]:
        return {spelling: group[0] for group in self.merged for spelling in group}

    def key(self, answer: str) -> str:
        """The spelling that stands for every answer equal to this one."""
        spelling = canonical(answer, self.kind)
        return self._stands_for.get(spelling, spelling)


Equality = AnswerKind | Sameness
"""How answers are compared: by spelling alone, or with what a deliberation found out about them."""


def canonical(answer: str, kind: Equality) -> str:
    """The spelling that stands for every equal answer; applying it twice changes nothing.

    Numbers lose signs, zeros and thousands separators that mean nothing ("07.0" and "7" are one, so are "1/2" and
    "0.5"); what is no number is treated as text. Text loses case, extra white space, a trailing period and
    surrounding quotes. Not covered: symbolic equality ("2x" and "x+x"), units, synonyms.
    """
    if isinstance(kind, Sameness):
        return kind.key(answer)
    if kind == "number":
        number = _canonical_number(answer)
        if number is not None:
            return number
    words = " ".join(answer.casefold().split())
    return words.lstrip(_QUOTES).rstrip(_QUOTES + ".")


def same_answer(first: str | None, second: str | None, kind: Equality) -> bool:
    """Whether two answers are one; an abstention (None) equals only an abstention."""
    if first is None or second is None:
        return first is second
    return canonical(first, kind) == canonical(second, kind)


def _canonical_number(answer: str) -> str | None:
    text = answer.strip().replace("−", "-")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        return _canonical_fraction(fraction[1], fraction[2])
    decimal = _DECIMAL.fullmatch(text)
    if not decimal or not (decimal[2] or decimal[3]):
        return None
    # Strings all the way: `int` refuses more than 4,300 digits and `Decimal` rounds to 28.
    whole, part = decimal[2].lstrip("0") or "0", (decimal[3] or "").rstrip("0")
    digits = f"{whole}.{part}" if part else whole
    return f"-{digits}" if decimal[1] == "-" and digits != "0" else digits


def _canonical_fraction(numerator: str, denominator: str) -> str | None:
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    rest, num_decimals = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        num_decimals = max(num_decimals, power)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    if num_decimals == 0:
        return str(value.numerator)
    digits = str(abs(value.numerator) * 10**num_decimals // value.denominator).rjust(num_decimals + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-num_decimals]}.{digits[-num_decimals:]}"
