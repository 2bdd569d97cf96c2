"""Checks that need no child process: is this answer the reference, as text or as a number? Pure."""

from __future__ import annotations

import math
import re
import unicodedata
from fractions import Fraction

from evolve.problems.config import ExactVerifier, NumericVerifier

_OUTER = " .,;:?\"'`*"  # not "!": 5! is not 5
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_FRACTION = re.compile(r"([+-]?\d{1,300})\s*/\s*(\d{1,300})", re.ASCII)
_MAX_CHARS = 400  # a number longer than this is no answer, and Python's exact arithmetic on it is not free


def is_exact(answer: str, reference: str, verifier: ExactVerifier) -> bool:
    """Equal after Unicode normalisation, with white space collapsed and outer punctuation dropped."""
    return _plain(answer, verifier) == _plain(reference, verifier)


def is_numeric(answer: str, reference: str, verifier: NumericVerifier) -> bool:
    """Both are numbers and differ by at most max(tolerance, relative_tolerance * |reference|); exact arithmetic."""
    value, expected = read_number(answer), read_number(reference)
    if value is None or expected is None:
        return False
    # repr: the tolerance that was written, 0.3, and not the binary number just below it
    allowed = max(Fraction(repr(verifier.tolerance)), Fraction(repr(verifier.relative_tolerance)) * abs(expected))
    return abs(value - expected) <= allowed


def says(text: str, reference: str) -> bool:
    """Whether `text` holds the reference as words of their own, apart from case and spacing: "12" is not in "312"."""
    wanted = " ".join(unicodedata.normalize("NFC", reference).casefold().split()).strip(_OUTER)
    if not wanted:
        return False
    held = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return re.search(rf"(?<![\w.]){re.escape(wanted)}(?![\w]|[.,]\d)", held) is not None


def read_number(text: str) -> Fraction | None:
    """The number that `text` is: integer, decimal, exponent, a/b, 1,234.5; with $ or % dropped. None: it is none.

    Text around a number is not forgiven here; reading answers out of sentences is the parser's work.
    """
    plain = text.replace("−", "-").strip().strip("$€%").rstrip(". ").strip()
    if len(plain) > _MAX_CHARS:
        return None
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    if _NUMBER.fullmatch(plain):
        return Fraction(plain)
    fraction = _FRACTION.fullmatch(plain)
    if fraction and int(fraction.group(2)) != 0:
        return Fraction(int(fraction.group(1)), int(fraction.group(2)))
    return None


def is_full_score(score: object) -> bool:
    """True for a score of 1 alone: partial credit is wrong, and so is a score that is no number."""
    return isinstance(score, int | float) and not isinstance(score, bool) and math.isclose(score, 1.0, abs_tol=1e-12)


def _plain(text: str, verifier: ExactVerifier) -> str:
    collapsed = " ".join(unicodedata.normalize("NFC", text).split()).strip(_OUTER)
    return collapsed if verifier.case_sensitive else collapsed.casefold()
