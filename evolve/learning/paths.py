"""Which way an answer was reached: completions of one path are one example, however they are worded. Pure."""

from __future__ import annotations

import re

from memory.types import content_hash

MIN_EQUATIONS = 1
"""From so many written equations on, they alone are the path; below, the words of the steps are."""

_LEFT = frozenset("0123456789+-*/().^,%$ \t×÷·−–")
_RIGHT = re.compile(r"\s*\$?\s*(-?\d+(?:[.,]\d+)*)")
_CALCULATION = re.compile(r"\d[^\d=]*[-+*/^]")
_SYMBOLS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "$": "", ",": "", " ": "", "\t": ""})
_LABEL = re.compile(
    r"^\s*(?:step\s*\d*|(?:first|second|third|then|next|finally|so|thus|hence|therefore)\b|[-*•]|\(?\d+[.)])\s*",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"^\W*(?:the\s+)?(?:final\s+)?answer\b\s*(?:is)?\W*", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:\.\d+)?")


def steps_of(completion: str) -> tuple[str, ...]:
    """The steps of a completion, normalised, in order.

    Where it writes equations (`12 * 3 = 36`) they are the steps, as in rejection-sampling fine-tuning (Yuan et al.
    2023, arXiv 2308.01825); else every line or sentence is one, without labels such as "Step 2:", without case,
    spacing and punctuation. A line that only gives the answer is no step, unless there is nothing else.
    """
    equations = tuple(found for line in completion.splitlines() for found in _equations(line))
    if len(equations) >= MIN_EQUATIONS:
        return tuple(dict.fromkeys(equations))
    sentences = [part for line in completion.splitlines() for part in re.split(r"(?<=[.!?;])\s+", line)]
    worded = [(_words(sentence), _ANSWER.match(sentence) is not None) for sentence in sentences]
    steps = tuple(words for words, is_answer in worded if words and not is_answer)
    return steps or tuple(words for words, _ in worded if words)


def path_of(completion: str) -> str:
    """Short hash of the steps: equal for two completions that go the same way."""
    return content_hash(steps_of(completion))[:16]


def _equations(line: str) -> list[str]:
    """Every calculation with its result. Looks outwards from each "=", so that no line takes more than a glance."""
    found, start = [], 0
    for place, character in enumerate(line):
        if character != "=":
            continue
        right = _RIGHT.match(line, place + 1)
        left = place
        while left > start and line[left - 1] in _LEFT:
            left -= 1
        text = line[left:place].translate(_SYMBOLS).lstrip(".")
        if right is not None and _CALCULATION.search(text):
            found.append(f"{text}={right.group(1).translate(_SYMBOLS)}")
        start = place + 1
    return found


def _words(sentence: str) -> str:
    text = sentence
    while (shorter := _LABEL.sub("", text, count=1).lstrip(" :,")) != text:
        text = shorter
    return " ".join(_WORD.findall(text.casefold()))
