"""Free text to answer: what a member meant to say, or None when nobody could tell."""

from __future__ import annotations

import re

from mesh.equivalence import AnswerKind, canonical
from mesh.text import well_formed

MAX_ANSWER_CHARS = 500
"""A longer "answer" is an essay: it can be neither compared nor shown to a peer, so it counts as none."""

# Every repetition below is bounded or anchored: 200,000 characters of anything are read in linear time.
_MARKER = re.compile(r"\banswer(?: is)?[ \t*_]{0,4}:|\bthe (?:final |correct )?answer is\b|####", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"\n[ \t]{0,8}Question:")
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])[-+−]?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?"
)
_FRAC = re.compile(r"\\[dt]?frac\{([^{}]{1,30})\}\{([^{}]{1,30})\}")
_CURRENCY = str.maketrans("", "", "$€£¥\\")
_MARKUP = "*_` \t"


def parse_answer(text: str, kind: AnswerKind) -> str | None:
    r"""The answer in a member's text; None if nothing can be read (an abstention). Never raises.

    It is looked for after the last marker ("Answer:", "the answer is", "####", "\\boxed{...}"), else in the first
    line that is not empty. For numbers, a line with "=" is read on the side of its last "=" that is one number;
    otherwise the first number after a marker counts, and without a marker the last one of the line ("3 and 4 make
    7"). A number comes back without thousands separators or plus sign ("1,000" as "1000"), a text answer as one
    line in its own spelling.
    """
    marked, line = _answer_line(own_words(well_formed(text)))
    answer = _number_in(line, first=marked) if kind == "number" else " ".join(line.split())
    if answer is None or len(answer) > MAX_ANSWER_CHARS or not canonical(answer, kind):
        return None
    return answer


def own_words(text: str) -> str:
    """`text` up to where a base model goes on to make up the next "Question:" by itself."""
    invented = _NEXT_QUESTION.search(text)
    return text[: invented.start()] if invented and text[: invented.start()].strip() else text


def _answer_line(text: str) -> tuple[bool, str]:
    """Whether a marker was found, and the one line that should hold the answer (markup stripped)."""
    end = max((match.end() for match in _MARKER.finditer(text)), default=-1)
    box = text.rfind("\\boxed{")
    if box >= end and box >= 0:
        return True, _first_line(_braced(text[box + len("\\boxed{") :]))
    return end >= 0, _first_line(text[max(end, 0) :])


def _first_line(text: str) -> str:
    return next((line for line in (raw.strip().strip(_MARKUP) for raw in text.splitlines()) if line), "")


def _braced(text: str) -> str:
    """`text` up to the brace that closes the one before it; all of it if none does."""
    depth = 1
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[: match.start()]
    return text


def _number_in(line: str, *, first: bool) -> str | None:
    before, equals, after = (side.strip() for side in _FRAC.sub(r"\1/\2", line).translate(_CURRENCY).rpartition("="))
    if equals and after.startswith(("- ", "− ")):
        after = "-" + after[1:].lstrip()
    found = [match[0] for match in _NUMBER.finditer(after)]
    if equals and len(found) != 1:
        # "7 = 3 + 4" is read from its left; an echoed "3 + 4 = ?" is no answer.
        left = [match[0] for match in _NUMBER.finditer(before)]
        found = left if len(left) == 1 else found
    if not found:
        return None
    number = found[0] if first or equals else found[-1]
    return number.replace(",", "").replace("−", "-").removeprefix("+")
