"""Which answers are the same answer: two answers are one when their canonical spellings are equal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Literal

from pydantic import Field, model_validator

from memory.types import Record
from mesh.formula import one_spelling

AnswerKind = Literal["number", "text", "math", "free"]
"""number: one number; text: one line, compared by spelling; math: a formula; free: prose."""

Groups = tuple[tuple[str, ...], ...]
"""Disjoint groups of two and more canonical spellings that are one answer; the first of a group stands for it."""

MAX_KEPT_CHARS = 200
MAX_FRACTION_DIGITS = 30
"""A longer numerator or denominator is compared as written: reducing it could take for ever."""

_DECIMAL = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?")
_FRACTION = re.compile(rf"([+-]?[0-9]{{1,{MAX_FRACTION_DIGITS}}})/([0-9]{{1,{MAX_FRACTION_DIGITS}}})")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
_QUOTES = "\"'`“”‘’ "


class Sameness(Record):
    """Which answers of one deliberation are one: by spelling, and by what was found out beyond spelling."""

    kind: AnswerKind
    merged: Groups = Field(
        default=(), description="disjoint groups of canonical spellings that are one answer; the first stands for all"
    )

    @model_validator(mode="after")
    def _groups_are_disjoint_and_canonical(self) -> Sameness:
        seen: set[str] = set()
        for spelling in (spelling for group in self.merged for spelling in group):
            if spelling in seen:
                raise ValueError(f"expected disjoint groups, got {spelling!r} twice; join groups with merge_groups")
            if canonical(spelling, self.kind) != spelling:
                raise ValueError(f"expected canonical spellings, got {spelling!r}; put it through canonical() first")
            seen.add(spelling)
        return self

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
    """The spelling that stands for every equal answer; applying it twice changes nothing, in linear time.

    Numbers lose signs, zeros and thousands separators that mean nothing ("07.0" and "7" are one, so are "1/2" and
    "0.5"); what is no number is treated as text. Text and prose lose case, extra white space, a trailing period and
    surrounding quotes. Formulas are written in one notation (`mesh.formula`), numbers among them as numbers. Not
    covered here: symbolic equality ("2x" and "x+x": `mesh.symbolic`), synonyms (`mesh.sameness`), units.
    """
    if isinstance(kind, Sameness):
        return kind.key(answer)
    # A deliberation compares a handful of short answers hundreds of times; long ones are not worth keeping.
    return _canonical(answer, kind) if len(answer) > MAX_KEPT_CHARS else _kept_canonical(answer, kind)


def _canonical(answer: str, kind: AnswerKind) -> str:
    if kind == "math":
        answer = one_spelling(answer)
        number = _canonical_number(answer)
        return answer if number is None else number
    if kind == "number":
        number = _canonical_number(answer)
        if number is not None:
            return number
    words = " ".join(answer.casefold().split())
    return words.lstrip(_QUOTES).rstrip(_QUOTES + ".")


_kept_canonical = lru_cache(maxsize=4096)(_canonical)


def is_number(spelling: str) -> bool:
    """Whether a canonical spelling is that of one number; two numbers are equal only when spelled alike."""
    return _canonical_number(spelling) == spelling


def same_answer(first: str | None, second: str | None, kind: Equality) -> bool:
    """Whether two answers are one; an abstention (None) equals only an abstention."""
    if first is None or second is None:
        return first is second
    return canonical(first, kind) == canonical(second, kind)


def by_frequency(spellings: Iterable[str]) -> list[str]:
    """Distinct spellings, the most frequent first; of equally frequent ones the shorter, then by the alphabet."""
    counts = Counter(spellings)
    return sorted(counts, key=lambda spelling: (-counts[spelling], *_rank(spelling)))


def merge_groups(first: Iterable[Iterable[str]], second: Iterable[Iterable[str]]) -> Groups:
    """Both groupings in force at once: groups that share a spelling become one.

    Every group is sorted, its shortest spelling first, and so are the groups; groups of one are dropped. Hence
    merging is idempotent, commutative and associative.
    """
    group_of: dict[str, set[str]] = {}
    for group in (*first, *second):
        joined = set(group).union(*(group_of.get(spelling, ()) for spelling in group))
        group_of.update(dict.fromkeys(joined, joined))
    groups = {id(group): tuple(sorted(group, key=_rank)) for group in group_of.values() if len(group) > 1}
    return tuple(sorted(groups.values(), key=lambda group: _rank(group[0])))


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


def _rank(spelling: str) -> tuple[int, str]:
    return len(spelling), spelling
