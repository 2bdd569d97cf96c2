"""Markers found in whatever spelling they are read as markers, and broken up where an untrusted hand wrote them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import count

from mesh.types import Part

WORD_START = "\u2581"
"""Stands for a blank in many vocabularies: written out in a text, it is read as one."""
MAX_BREAKS = 3
"""A tokenizer that takes the blanks out again is met by taking the signs out, after so many tries."""


class Reading:
    """How a text is read, character by character: full-width and styled letters as plain ones, invisible ones not.

    Plain forms are Unicode's NFKC (UAX #15). What a tokenizer's own normaliser does to a character comes first.
    Not covered: normalisers that rewrite several characters together.
    """

    def __init__(self, normalise: Callable[[str], str] | None = None) -> None:
        """`normalise`: a tokenizer's normaliser; None: it has none."""
        self._normalise = normalise
        # Normalisers may put a sign before the text.
        self._lead = "" if normalise is None else normalise("xx").removesuffix("x")
        self._known: dict[str, str] = {}
        self._keeps_ascii = all(self._read(chr(number)) == chr(number) for number in range(128))

    def __call__(self, text: str) -> tuple[str, Sequence[int]]:
        """`text` as it is read, and for every character of that its place in `text`."""
        if self._keeps_ascii and text.isascii():
            return text, range(len(text))
        seen: list[str] = []
        places: list[int] = []
        for place, character in enumerate(text):
            read = self._read(character)
            seen.append(read)
            places += [place] * len(read)
        return "".join(seen), places

    def _read(self, character: str) -> str:
        if character not in self._known:
            self._known[character] = _plain(self._normalised(character))
        return self._known[character]

    def _normalised(self, character: str) -> str:
        if self._normalise is None:
            return character
        # Between two letters: normalisers trim the ends of a text.
        between = self._normalise(f"x{character}x")
        framed = between.startswith(self._lead) and between.endswith("x") and len(between) > len(self._lead)
        return between[len(self._lead) : -1] if framed else character


def broken_up(parts: Sequence[Part], markers: re.Pattern[str], read: Reading) -> str:
    """The text of `parts`, with a blank in every marker that an untrusted part had a hand in; trusted text is kept.

    A marker is the group `marker` of a match. One that ends in a colon loses the colon: with a blank before it, it
    would still be read as one. Where no blank helps, the untrusted brackets and bars of the marker are left out.
    """
    signs = [sign for part in parts for sign in part.text]
    untrusted = [not part.trusted for part in parts for _ in part.text]
    for attempt in count():
        seen, places = read("".join(signs))
        found = [(places[one.start("marker")], places[one.end("marker") - 1]) for one in markers.finditer(seen)]
        forged = [(first, last) for first, last in found if any(untrusted[first : last + 1])]
        if not forged:
            break
        for first, last in reversed(forged):
            _break(signs, untrusted, first, last, removes=attempt >= MAX_BREAKS)
    return "".join(signs)


def _break(signs: list[str], untrusted: list[bool], first: int, last: int, *, removes: bool) -> None:
    """Breaks the marker from `first` to `last`, both included, where it is untrusted."""
    if removes or first == last:
        theirs = [place for place in range(first, last + 1) if untrusted[place]]
        # Without its brackets and bars a marker is still readable.
        for place in reversed([place for place in theirs if not signs[place].isalnum()] or theirs):
            del signs[place], untrusted[place]
        return
    if untrusted[last] and _plain(signs[last]) == ":":
        at, width, between = last, 1, [" ", "-"]
    else:
        foreign = untrusted.index(True, first)
        at, width, between = max(first + 1, foreign), 0, [" "]
    signs[at : at + width] = between
    untrusted[at : at + width] = [True] * len(between)


def _plain(text: str) -> str:
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text.replace(WORD_START, " "))
    return "".join(sign for sign in plain if unicodedata.category(sign) not in ("Cf", "Mn"))
