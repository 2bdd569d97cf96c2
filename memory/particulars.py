"""What sets a problem apart from its look-alikes: its numbers in their order, quotes, names, and words that turn it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from memory.tokens import SPELLED, Token, head_and_rest, sha256, tokens_of
from memory.wording import ASKING, NUMBER_WORDS, OPERATORS, SIGN_WORDS, SYNONYMS, TURNS, UNITS


def particulars(text: str) -> frozenset[str]:
    """What makes a problem this one and not a look-alike, as strings "what:value".

    One by one, so that a difference can be shown: "number:12", "unit:km", "quoted:abc", "name:Alice", "code:foo_bar",
    "turn:more" (a negation, or a word with an opposite; synonyms share one value). In their order too, because
    "12 minus 5" is not "5 minus 12": "numbers:12 - 5" (with the arithmetic signs and units beside them),
    "turns:max to min", "names:Alice Bob" (names and quoted strings). A text without any has the empty set. The rest
    of a text beyond `MAX_CHARS` is one particular, "rest:<its sha256>".
    """
    head, rest = head_and_rest(text)
    tokens = tokens_of(head)
    numbers, units, turns = _numbers(tokens), _units(tokens), _turns(tokens)
    names, codes = _names(tokens), _codes(tokens)
    found = {f"number:{item}" for item in numbers if item[0].isdigit()}
    for what, words in (("unit", units), ("turn", turns), ("code", codes)):
        found |= {f"{what}:{word}" for word in words}
    found |= set(names)
    for order, items in (("numbers", numbers), ("turns", turns), ("names", names)):
        if items:
            found.add(f"{order}:{' '.join(items)}")
    return frozenset(found | {f"rest:{sha256(rest)}"} if rest else found)


def same_particulars(a: str, b: str) -> bool:
    """True: `a` and `b` have the same particulars, and the same content words in the same order.

    Particulars miss a name in lower case or at the start of a sentence, a plain noun ("how many legs have 3 spiders"),
    and a condition at the end ("round it up"). So nothing may differ but words that only ask or are polite, plain
    synonyms, case and punctuation: a list in `memory.wording`, because no measure of similarity tells a paraphrase from
    a look-alike. A paraphrase that is missed costs a second look; a look-alike that is taken for it, a wrong answer.
    """
    if particulars(a) != particulars(b):
        return False
    return _content(tokens_of(head_and_rest(a)[0])) == _content(tokens_of(head_and_rest(b)[0]))


def _content(tokens: Iterable[Token]) -> list[str]:
    """Words that carry content, casefolded, synonyms as one; those that particulars hold already are left out."""
    words = (token.text.casefold() for token in tokens if token.kind == "word")
    return [SYNONYMS.get(word, word) for word in words if word not in ASKING and not _is_special(word)]


def _is_special(word: str) -> bool:
    return _turn(word) is not None or word in NUMBER_WORDS or word in SIGN_WORDS or _looked_up(word, UNITS) is not None


def _bases(word: str) -> Iterator[str]:
    """`word` and what it may be a form of: the plural, the past and the -ing form."""
    yield word
    for ending, instead in (("s", ""), ("es", ""), ("d", ""), ("ed", ""), ("ing", ""), ("ing", "e")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            yield word.removesuffix(ending) + instead


def _looked_up(word: str, table: dict[str, str]) -> str | None:
    return next((table[base] for base in _bases(word.casefold()) if base in table), None)


def _turn(word: str) -> str | None:
    if word.casefold().endswith("n't"):
        return "not"
    return _looked_up(word, TURNS)


def _turns(tokens: Iterable[Token]) -> list[str]:
    return [turn for token in tokens if token.kind == "word" and (turn := _turn(token.text)) is not None]


def _operand(token: Token) -> str | None:
    """The number or variable that a token is; None: neither."""
    if token.kind == "number":
        return token.text
    if token.kind != "word":
        return None
    if len(token.text) == 1 and token.text not in "aAI":
        return token.text
    return NUMBER_WORDS.get(token.text.casefold())


def _sign(token: Token) -> str | None:
    if token.kind == "symbol" and token.text in OPERATORS:
        return SPELLED.get(token.text, token.text)
    if token.kind == "stop":
        is_ratio = token.text == ":" and token.left.isdigit() and token.right.isdigit()
        is_mark = token.text in ("!", ";") and token.left.isdigit()  # "5!", and the rows of "[1 2; 3 4]"
        is_gap = token.text.strip(".") == "" and not (token.left + token.right).strip(" .\n")  # an empty cell of a grid
        return token.text if is_ratio or is_mark or is_gap else None
    return SIGN_WORDS.get(token.text.casefold()) if token.kind == "word" else None


def _numbers(tokens: Sequence[Token]) -> list[str]:
    """Numbers in their order, with the units that follow them and the signs that stand beside them."""
    operands, signs = [_operand(token) for token in tokens], [_sign(token) for token in tokens]
    counts = [operand is not None for operand in operands]
    for i in range(1, len(tokens)):
        counts[i] = counts[i] or (signs[i] is not None and counts[i - 1])
    for i in range(len(tokens) - 2, -1, -1):
        counts[i] = counts[i] or (signs[i] is not None and counts[i + 1])
    found: list[str] = []
    for i, token in enumerate(tokens):
        measured = i > 0 and operands[i - 1] is not None and token.kind == "word"
        if measured and (unit := _looked_up(token.text, UNITS)):
            found.append(unit)
        elif counts[i]:
            found.append(operands[i] or str(signs[i]))
    while found and found[-1] == "=":  # "4 + 3 =" asks no more than "4 + 3"
        found.pop()
    return found if any(operand is not None for operand in operands) else []


def _units(tokens: Sequence[Token]) -> frozenset[str]:
    """Units, as words of more than one letter or right after a number."""
    found = set()
    for i, token in enumerate(tokens):
        after_number = i > 0 and _operand(tokens[i - 1]) is not None
        if token.kind == "word" and (after_number or len(token.text) > 2):
            found.add(_looked_up(token.text, UNITS))
    return frozenset(unit for unit in found if unit is not None)


def _names(tokens: Sequence[Token]) -> list[str]:
    """Quoted strings, words in capitals, and capitalised words that do not start a sentence, in their order.

    None but the quoted ones where nearly every word is capitalised: a headline, or shouting.
    """
    words = [token for token in tokens if token.kind == "word"]
    capitalised = [token for token in words if token.text[0].isupper()]
    shouted = len(words) > 3 and len(capitalised) > 0.6 * len(words)
    inside = {token.text for token in capitalised if not token.starts_sentence}
    found = []
    for token in tokens:
        if token.kind == "quote":
            found.append(f"quoted:{token.text}")
        elif token.kind == "word" and not shouted and token.text in inside and len(token.text) > 1:
            found.append(f"name:{token.text}")
    return found


def _codes(tokens: Iterable[Token]) -> frozenset[str]:
    """Words that look like code: with an underscore, a digit, a point or a capital inside."""
    words = (token.text for token in tokens if token.kind == "word")
    return frozenset(word for word in words if re.search(r"[_.0-9]|[a-z][A-Z]", word))
