"""The fingerprint of a text: equal for two statements of one problem, and for two occurrences of one error."""

from __future__ import annotations

from collections.abc import Sequence

from memory.faults import error_normal_form
from memory.particulars import particulars, same_particulars
from memory.tokens import MAX_CHARS, SPELLED, Token, folded_outside_quotes, head_and_rest, sha256, tokens_of
from memory.types import Kind

__all__ = [
    "MAX_CHARS",
    "error_normal_form",
    "fingerprint",
    "particulars",
    "problem_normal_form",
    "same_particulars",
]


def fingerprint(kind: Kind, text: str) -> str:
    """32 hex digits of the sha256 of the normal form: equal for two statements of one error, or of one problem.

    All kinds but errors share one normal form, so the same words have one fingerprint whatever their kind; compare
    within a kind. A text whose normal form is empty is its own normal form. Any `str` is accepted.
    """
    form = error_normal_form(text) if kind is Kind.ERROR else problem_normal_form(text)
    scope = "error" if kind is Kind.ERROR else "text"
    return sha256(f"{scope}\n{form or text}")[:32]


def problem_normal_form(text: str) -> str:
    """`text` without what does not change its meaning; words, numbers and symbols with one space between them.

    Unified: Unicode compatibility forms, case, whitespace, typographic quotes and dashes, signs of arithmetic, and the
    ways of writing a number (1,000 = 1000; 1.50 = 1.5; .5 = 0.5; leading zeros stay). Dropped: punctuation at the
    edges of words. Inside quotes case and punctuation stay: there they may be what is asked about. Applying it again
    changes nothing, as long as the form is within `MAX_CHARS`.
    """
    head, rest = head_and_rest(text)
    words = [_spelled(token) for token in _essential(tokens_of(folded_outside_quotes(head)))]
    return " ".join([*words, f"[rest {sha256(rest)}]"] if rest else words)


def _essential(tokens: Sequence[Token]) -> list[Token]:
    kept = [token for token in tokens if not _is_edge(token)]
    while kept and kept[-1].kind == "stop" and kept[-1].text.strip("?.") == "":
        kept.pop()
    return kept


def _is_edge(token: Token) -> bool:
    """True: punctuation that only ends a word, a clause or a list item, or a quotation mark without its partner."""
    if token.kind == "symbol":
        return token.text in "\"'`"
    if token.kind != "stop" or not (token.left.isalnum() or token.left in tuple(")]}\"'%_")):
        return False
    if token.text == ",":
        return True
    if token.right and not token.right.isspace() and token.right not in "\"')]}":
        return False
    # "5!" and "[1 2; 3 4]" mean something, and so do dots in a grid; after a letter they only end a clause.
    return token.left.isalpha() or token.text in (".", ":") or "?" in token.text


def _spelled(token: Token) -> str:
    return f'"{token.text}"' if token.kind == "quote" else SPELLED.get(token.text, token.text)
