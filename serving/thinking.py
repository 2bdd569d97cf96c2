"""What a model thinks before it answers: the marks around it, found by looking, and answers without it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from memory.types import Record

_TAG = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]")
_ABOUT_THINKING = re.compile(r"[<\[]\|?/?(?:\w+[:_])?(?:think(?:ing)?|thoughts?|reasoning)\|?[>\]]", re.IGNORECASE)
# A mark that opens, and how the one that closes is made of it.
_CLOSED_BY = (
    (re.compile("begin|start"), "end"),
    (re.compile("BEGIN|START"), "END"),
    (re.compile(r"^([<\[]\|?)"), r"\1/"),
    (re.compile(r"^([<\[])"), r"\1/"),
)


class Thinking(Record):
    """How one model's thoughts are marked."""

    opening: str
    closing: str
    starts_open: bool = False
    """The call for an answer opens a thought: the model's text begins inside it."""
    is_special: bool = False
    """The marks are special tokens, which decoding leaves out unless it is told to keep them."""

    def answer(self, text: str) -> str | None:
        """`text` without its thoughts; None if there is nothing but thoughts and the last of them does not end.

        A closing mark without an opening one ends a thought that began with the text: some templates open it.
        """
        if self.starts_open and self.closing not in text:
            return None
        before, _, after = text.partition(self.closing)
        rest = after if self.closing in text and self.opening not in before else text
        said = ""
        while self.opening in rest:
            spoken, _, thought = rest.partition(self.opening)
            said += spoken
            _, closing, rest = thought.partition(self.closing)
            if not closing:
                return said.strip() or None
        return (said + rest).strip()


def cut_at(text: str, stops: Iterable[str]) -> tuple[str, bool]:
    """`text` up to the first of `stops` that occurs in it, and whether one did."""
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def thinking_in(text: str) -> Thinking | None:
    """The marks that a text of unknown origin uses, known by their shape alone: a tag that speaks of thinking.

    It must open the text, or close what came before.
    """
    for found in _TAG.finditer(text):
        if not speaks_of_thinking(found.group()):
            continue
        if not text[: found.start()].strip():
            return Thinking(opening=found.group(), closing=_closings(found.group())[0])
        if re.match(r"[<\[]\|?/", found.group()):
            return Thinking(opening=found.group().replace("/", "", 1), closing=found.group())
    return None


def marks_around(before: str, after: str) -> tuple[str, str] | None:
    """The tag that ends `before` and the one that begins `after`, white space aside; None if either is missing."""
    opening, closing = list(_TAG.finditer(before.rstrip())), _TAG.match(after.lstrip())
    if not opening or closing is None or opening[-1].end() != len(before.rstrip()):
        return None
    return opening[-1].group(), closing.group()


def pairs_of_marks(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(opening, closing) for every tag in `texts` whose counterpart is there too, in order of appearance."""
    tags = list(dict.fromkeys(tag for text in texts for tag in _TAG.findall(text)))
    for tag in tags:
        yield from ((tag, closing) for closing in _closings(tag) if closing in tags)


def speaks_of_thinking(mark: str) -> bool:
    """Whether a mark's own words say what it is for."""
    return _ABOUT_THINKING.fullmatch(mark) is not None


def _closings(tag: str) -> list[str]:
    """What could close `tag`, likeliest first: </x>, <|/x|>, end for begin or start."""
    made = (pattern.sub(closed, tag, count=1) for pattern, closed in _CLOSED_BY)
    return [closing for closing in dict.fromkeys(made) if closing != tag]
