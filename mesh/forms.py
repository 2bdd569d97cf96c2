"""What answers look like, and in which way a wrong one differs from a right one; pure, in words a member can read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from mesh.equivalence import is_number

MAX_ANSWER_CHARS = 200
"""A longer answer is prose: it has no form that a sentence could tell."""

_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_DIGIT = re.compile(r"[0-9]")
_TOKEN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?|\w+")
_SEPARATORS = ((", ", "a comma and a space"), (",", "commas"), ("; ", "a semicolon and a space"), (" ", "spaces"))
_CLASSES: tuple[tuple[Callable[[str], bool], str, str], ...] = (
    (lambda p: _WHOLE.fullmatch(p) is not None, "whole number", "whole numbers"),
    (lambda p: _NUMBER.fullmatch(p) is not None, "number", "numbers"),
    (lambda p: len(p) == 1 and p.isalpha(), "letter", "letters"),
    (lambda p: p.isalpha() and p.islower(), "lower-case word", "lower-case words"),
    (lambda p: p.isalpha() and p.isupper(), "word in capitals", "words in capitals"),
    (lambda p: p.isalpha() and p.istitle(), "capitalised word", "capitalised words"),
    (str.isalpha, "word", "words"),
)
"""From the narrowest to the widest: the first that fits every piece is the form."""


def form_of(answers: Sequence[str]) -> str | None:
    """The narrowest form that all of `answers` have, e.g. "a list of numbers joined by spaces"; None: none in common.

    The form is told without any of the answers, so that more answers of the same form give the same sentence.
    """
    texts = [answer.strip() for answer in answers]
    if not texts or any(not text or len(text) > MAX_ANSWER_CHARS for text in texts):
        return None
    single = _class_of(texts)
    if single:
        return f"one {single[0]}"
    return _digits_form(texts) or _bracket_form(texts) or _list_form(texts)


def difference(wrong: str, right: str, question: str) -> str | None:
    """How `wrong` differs from the right answer of its problem, in words; None: in no way known here."""
    if wrong == right or max(len(wrong), len(right)) > MAX_ANSWER_CHARS:
        return None
    return next((name for name, holds in _DIFFERENCES if holds(wrong.strip(), right.strip(), question)), None)


def _class_of(pieces: Sequence[str]) -> tuple[str, str] | None:
    """(one of them, several of them) for the narrowest class that holds all pieces."""
    return next(((one, many) for fits, one, many in _CLASSES if all(fits(piece) for piece in pieces)), None)


def _digits_form(texts: Sequence[str]) -> str | None:
    shapes = {_DIGIT.sub("0", text) for text in texts}
    shape = shapes.pop()
    # Of letters only the shape of numbers between signs is meant, such as 00:00 or 0000-00-00.
    return None if shapes or "0" not in shape or any(c.isalpha() for c in shape) else f"digits written as {shape}"


def _bracket_form(texts: Sequence[str]) -> str | None:
    if not all(text.startswith("[") and text.endswith("]") for text in texts):
        return None
    items = [item.strip() for text in texts for item in text[1:-1].split(",") if item.strip()]
    for mark, name in (("'", "single quotes"), ('"', "double quotes")):
        if items and all(len(item) > 1 and item[0] == item[-1] == mark for item in items):
            return f"a list in square brackets with each item in {name}"
    return "a list in square brackets"


def _list_form(texts: Sequence[str]) -> str | None:
    for separator, name in _SEPARATORS:
        if all(separator in text for text in texts):
            pieces = [piece for text in texts for piece in text.split(separator)]
            kind = _class_of(pieces)
            if kind:
                return f"a list of {kind[1]} joined by {name}"
    return None


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


def _is_within(inner: list[str], outer: list[str]) -> bool:
    return any(outer[at : at + len(inner)] == inner for at in range(len(outer) - len(inner) + 1))


def _differs_in_signs_alone(wrong: str, right: str, _: str) -> bool:
    said = _TOKEN.findall(wrong)
    return bool(said) and said == _TOKEN.findall(right)


def _is_rearranged(wrong: str, right: str, _: str) -> bool:
    return len(_tokens(right)) > 1 and Counter(_tokens(wrong)) == Counter(_tokens(right))


def _is_anagram(wrong: str, right: str, _: str) -> bool:
    return right.isalpha() and Counter(wrong.casefold()) == Counter(right.casefold())


def _lacks_items(wrong: str, right: str, _: str) -> bool:
    said, told = Counter(_tokens(wrong)), Counter(_tokens(right))
    return bool(said) and told.total() > 1 and said < told


def _has_items_too_many(wrong: str, right: str, _: str) -> bool:
    said, told = Counter(_tokens(wrong)), Counter(_tokens(right))
    return told.total() > 1 and said > told


def _has_words_around(wrong: str, right: str, _: str) -> bool:
    said, told = _tokens(wrong), _tokens(right)
    return bool(told) and len(said) > len(told) and _is_within(told, said)


def _is_other_sign(wrong: str, right: str, _: str) -> bool:
    return is_number(wrong) and is_number(right) and wrong.lstrip("-") == right.lstrip("-")


def _is_off_by_one(wrong: str, right: str, _: str) -> bool:
    both = wrong, right
    return all(len(text) < 30 and _WHOLE.fullmatch(text) for text in both) and abs(int(wrong) - int(right)) == 1


def _copies_the_question(wrong: str, right: str, question: str) -> bool:
    said, asked = _tokens(wrong), _tokens(question)
    return bool(said) and _is_within(said, asked) and not _is_within(_tokens(right), asked)


_DIFFERENCES: tuple[tuple[str, Callable[[str, str, str], bool]], ...] = (
    ("other letter case alone", lambda w, r, _: w.casefold() == r.casefold()),
    ("other spaces or punctuation alone", _differs_in_signs_alone),
    ("the wrong sign", _is_other_sign),
    ("off by one", _is_off_by_one),
    ("the right items in another order", _is_rearranged),
    ("the right letters in another order", _is_anagram),
    ("words around the answer", _has_words_around),
    ("right items left out", _lacks_items),
    ("items too many", _has_items_too_many),
    ("copied from the question", _copies_the_question),
)
"""The first that holds is the difference; what is wrong in form alone comes before what is wrong in substance."""
