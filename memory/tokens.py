"""Text cut into quotes, numbers, words and signs, after the ways of writing the same characters were unified."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import NamedTuple

MAX_CHARS = 20_000
"""Of a longer text the rest counts by its hash alone: it still tells two texts apart, but is not read."""


class Token(NamedTuple):
    """A piece of text; `left` and `right` are the characters beside it ("" at an end).

    `kind` is "quote", "number", "word", "stop" (punctuation) or "symbol".
    """

    kind: str
    text: str
    left: str
    right: str
    starts_sentence: bool


# Every repetition is over a class that cannot match what follows it, or is bounded: no text makes them backtrack.
_TOKEN = re.compile(
    r"""
      "(?P<double>[^"]{0,1000})"
    | `(?P<back>[^`"\n]{1,1000})`
    | (?<![\w\u0300-\u036f])'(?P<single>[^'"\n]{1,200})'(?![\w\u0300-\u036f])
    | (?P<number>(?<![\w.,\[({])[0-9]{1,3}(?:,[0-9]{3}){1,9}(?!,?[0-9])(?!\.[0-9]+\.)(?![\])}])(?:\.[0-9]+)?
                |[0-9]+(?:\.[0-9]+)*
                |(?<![\w.)\]])\.[0-9]+(?!\.?[0-9]))
    | (?P<word>[^\W0-9]\w*(?:['.][^\W0-9]\w*)*)
    | (?P<stop>[.,:;!?]+)
    | (?P<break>\n)
    | (?P<symbol>\*\*|<=|>=|!=|==|\S)
    """,
    re.VERBOSE,
)

_IGNORABLE = dict.fromkeys(
    [0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
)
_ALIKE = {ord(char): "'" for char in "‘’‚‛′´ʼ"} | {ord(char): '"' for char in "“”„‟«»″"}
_ALIKE |= {ord(char): "-" for char in "‐‑‒–—―−"} | {0x2044: "/", 0x2215: "/"}
_SIGNS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "≤": "<=", "≥": ">=", "≠": "!=", "∕": "/"}
_ALIKE |= {ord(sign): plain for sign, plain in _SIGNS.items()}
SPELLED = {"**": "^", "==": "="}
"""Signs with two spellings."""


def _number_marks() -> dict[int, str]:
    """Characters whose compatibility form would melt into a number beside them: "2³" is not 23, "1½" not 11/2."""
    marks = {"<super>": "^{}", "<sub>": "_{}", "<fraction>": " {} ", "<circle>": " {} ", "<compat>": " {} "}
    found = {}
    for code in range(0x80, 0x3400):
        tag, _, _ = unicodedata.decomposition(chr(code)).partition(" ")
        plain = unicodedata.normalize("NFKC", chr(code))
        if tag in marks and any(char.isdigit() for char in plain):
            found[code] = marks[tag].format(plain)
    return found


# A mark that case folding turns into a letter, and a letter that it turns into a mark, would move the edges of words.
_BEFORE = _number_marks() | {ord("″"): '"', ord("ŉ"): "'n", 0x345: "ι"}


def unified(text: str) -> str:
    """`text` in Unicode normal form KC with quotes, dashes and signs of one sort, without invisible characters."""
    if text.isascii():
        return text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFKC", text.translate(_BEFORE)).translate(_IGNORABLE).translate(_ALIKE)
    return unicodedata.normalize("NFKC", text).replace("\r\n", "\n").replace("\r", "\n")


def folded(text: str) -> str:
    """`text` without distinctions of case, in normal form KC."""
    for _ in range(4):  # case folding can undo normalisation and the other way round; it settles at once or in two
        plain = unicodedata.normalize("NFKC", text.casefold())
        if plain == text:
            break
        text = plain
    return text


def folded_outside_quotes(text: str) -> str:
    """`text`, which is unified, without distinctions of case except between quotation marks."""
    parts, end = [], 0
    for match in _TOKEN.finditer(text):
        if _is_quote(match):
            parts += [folded(text[end : match.start()]), match.group()]
            end = match.end()
    return "".join([*parts, folded(text[end:])])


def _is_quote(match: re.Match[str]) -> bool:
    return match.lastgroup in ("double", "back", "single")


def tokens_of(text: str) -> list[Token]:
    """The tokens of a unified text, numbers in their canonical spelling; a quote's text is without its marks."""
    tokens = []
    starts = True
    for match in _TOKEN.finditer(text):
        kind = "quote" if _is_quote(match) else str(match.lastgroup)
        value = str(match[match.lastgroup or 0])
        left, right = text[max(match.start() - 1, 0) : match.start()], text[match.end() : match.end() + 1]
        if kind == "break":
            starts = True
            continue
        value = " ".join(value.split()) if kind == "quote" else _canonical(value) if kind == "number" else value
        tokens.append(Token(kind, value, left, right, starts))
        starts = (kind == "stop" and value[-1] in ".!?:") or (starts and kind == "symbol")
    return tokens


def _canonical(number: str) -> str:
    """1,000 is 1000, 1.50 is 1.5, .5 is 0.5; a version such as 1.10.0 stays as it is, and so do zeros ahead."""
    number = number.replace(",", "")
    if number.count(".") != 1:
        return number
    whole, _, part = number.partition(".")
    part = part.rstrip("0")
    return f"{whole or '0'}.{part}" if part else whole or "0"


def head_and_rest(text: str) -> tuple[str, str]:
    """(the unified first `MAX_CHARS` characters, everything after them). Compatibility forms can lengthen a text."""
    head = unified(text[:MAX_CHARS])
    return head[:MAX_CHARS], head[MAX_CHARS:] + text[MAX_CHARS:]


def sha256(text: str) -> str:
    """Hex digest; lone surrogates are hashed as they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
