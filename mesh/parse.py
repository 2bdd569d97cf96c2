"""Free text to answer: what a member meant to say, or None when nobody could tell."""

from __future__ import annotations

import re
from typing import Literal

from mesh.equivalence import AnswerKind, canonical, is_number
from mesh.text import well_formed

MAX_ANSWER_CHARS = 500
"""A longer "answer" is an essay: it can be neither compared nor shown to a peer, so it counts as none."""
MAX_FREE_CHARS = 16_000
"""The same for prose: about four thousand tokens. Nothing is cut: half an answer may say the opposite of the whole."""

# Every repetition below is bounded or anchored: 200,000 characters of anything are read in linear time.
_MARKER = re.compile(r"\banswer(?: is)?[ \t*_]{0,4}:|\bthe (?:final |correct )?answer is\b|####", re.IGNORECASE)
_ECHOED_FENCE = re.compile(r"^[ \t]{0,8}\[/?[0-9a-f]{5,8}\][ \t]{0,8}(?:\n|$)", re.MULTILINE)
_NEXT_QUESTION = re.compile(r"\n[ \t]{0,8}Question:")
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])[-+−]?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?"
)
_FRAC = re.compile(r"\\[dt]?frac\{([^{}]{1,30})\}\{([^{}]{1,30})\}")
_DISPLAY = ((r"\[", r"\]"), ("$$", "$$"))
_INLINE = re.compile(r"\$([^$]{1,500})\$|\\\((.{1,500}?)\\\)")
_FORMULA_SIGNS = re.compile(r"[0-9+\-=<>^/\\]")
_CURRENCY = str.maketrans("", "", "$€£¥\\")
_MARKUP = "*_` \t"
_CONTROLS = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0))}


def parse_answer(text: str, kind: AnswerKind) -> str | None:
    r"""The answer in a member's text; None if nothing can be read (an abstention). Never raises.

    A number, a line of text or a formula is looked for after the last marker ("Answer:", "the answer is", "####",
    "\\boxed{...}"), else in the first line that is not empty. For numbers, a line with "=" is read on the side of its
    last "=" that is one number; otherwise the first number after a marker counts, and without a marker the last one
    of the line ("3 and 4 make 7"). A number comes back without thousands separators or plus sign ("1,000" as "1000"),
    a text answer as one line in its own spelling, a formula as one line of LaTeX (a whole box or display, which may
    span lines, or the only formula in a line of words), and as a number where it is one.

    Free: all of the member's own words, white space folded. Control characters in formulas and prose become spaces.
    """
    own = own_words(well_formed(text))
    if kind == "free":
        return _acceptable(_one_line(own), kind, MAX_FREE_CHARS)
    found, place = _answer_place(own)
    if kind == "math":
        return _acceptable(_formula_in(place, whole=found == "box"), kind, MAX_ANSWER_CHARS)
    line = _first_line(place)
    answer = _number_in(line, first=found != "nothing") if kind == "number" else " ".join(line.split())
    return _acceptable(answer, kind, MAX_ANSWER_CHARS)


def own_words(text: str) -> str:
    """`text` up to where a base model goes on to make up the next "Question:" by itself, without echoed fences.

    Small models repeat the mark of a fence, right or garbled; it is nobody's words and no answer.
    """
    text = _ECHOED_FENCE.sub("", text)
    invented = _NEXT_QUESTION.search(text)
    return text[: invented.start()] if invented and text[: invented.start()].strip() else text


def _acceptable(answer: str | None, kind: AnswerKind, max_chars: int) -> str | None:
    return answer if answer is not None and len(answer) <= max_chars and canonical(answer, kind) else None


def _answer_place(text: str) -> tuple[Literal["box", "marker", "nothing"], str]:
    """What the answer was found by, and the text in the box, after the marker, or all of it."""
    end = max((match.end() for match in _MARKER.finditer(text)), default=-1)
    box = text.rfind("\\boxed{")
    if box >= end and box >= 0:
        return "box", _braced(text[box + len("\\boxed{") :])
    return "marker" if end >= 0 else "nothing", text[max(end, 0) :]


def _first_line(text: str) -> str:
    return next((line for line in (raw.strip().strip(_MARKUP) for raw in text.splitlines()) if line), "")


def _braced(text: str) -> str:
    """`text` up to the brace that closes the one before it; its first line if none does."""
    depth = 1
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[: match.start()]
    return _first_line(text)


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


def _formula_in(place: str, *, whole: bool) -> str:
    """The formula in `place` as one line: all of it, the display it opens with, or what its first line holds."""
    if not whole:
        place = _display(place) or _inline(_first_line(place))
    formula = _one_line(place).strip(_MARKUP)
    if len(formula) > MAX_ANSWER_CHARS:
        return formula
    spelling = canonical(formula, "math")
    return spelling if is_number(spelling) else formula


def _display(place: str) -> str | None:
    """The inside of the display formula that `place` opens with; it may span lines."""
    start = place.lstrip(_MARKUP + "\r\n")
    for opening, closing in _DISPLAY:
        inside, closed, _ = start.removeprefix(opening).partition(closing)
        if start.startswith(opening) and closed:
            return inside
    return None


def _inline(line: str) -> str:
    """The only formula in a line of words; the whole line where there are more, or signs of one around it."""
    if len(line) > MAX_ANSWER_CHARS:
        return line
    found = list(_INLINE.finditer(line))
    if len(found) != 1 or _FORMULA_SIGNS.search(line[: found[0].start()] + line[found[0].end() :]):
        return line
    return found[0][1] or found[0][2]


def _one_line(text: str) -> str:
    return " ".join(text.translate(_CONTROLS).split())
