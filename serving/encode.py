"""Text to token ids in two ways: structure may hold control tokens, content never does."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from mesh.text import well_formed
from serving.lookalike import Reading
from serving.templates import Tokenizer, control_ids

_ANCHOR = "\x02"
"""Merges with nothing: what stands after it is encoded as in the middle of a text."""


class Encoder:
    """Encodes the pieces of one prompt, each as it would be encoded in its place in the whole.

    Some tokenizers put a blank before every text they are given; a piece that continues a text must not get one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.control_ids = control_ids(tokenizer)
        self.read = Reading(_normaliser(tokenizer))
        self._leads = self._anchored("x", split_special_tokens=True) != self._whole("x", split_special_tokens=True)
        self._leads_after_control = self._leads and self._puts_blank_after_control()

    def structure(self, text: str, before: list[int]) -> list[int]:
        """Token ids of `text` after `before`, control tokens included."""
        return self._anchored(text) if before and self._leads else self._whole(text)

    def content(self, text: str, before: list[int]) -> list[int]:
        """Token ids of `text` after `before`, none of which is a control token, whatever `text` holds."""
        leads = not before or (self._leads_after_control and before[-1] in self.control_ids)
        encode = self._whole if leads or not self._leads else self._anchored
        text = well_formed(text)
        ids = encode(text, split_special_tokens=True)
        found = {number for number in ids if number in self.control_ids}
        if not found:
            return ids
        first, *rest = self._apart(text, found)
        ids = encode(first, split_special_tokens=True)
        for piece in rest:
            ids += self._anchored(piece, split_special_tokens=True)
        # What a normaliser makes of several signs together escapes `_apart`.
        return [number for number in ids if number not in self.control_ids]

    def without_control(self, text: str) -> str:
        """`text` without the control tokens that are written out in it."""
        contents = (str(self._tokenizer.decode([number])) for number in self.control_ids)
        either = "|".join(re.escape(content) for content in sorted(contents, key=len, reverse=True) if content)
        return re.sub(either, "", text) if either else text

    def _apart(self, text: str, found: set[int]) -> list[str]:
        """`text` cut after the first sign of every control token of `found`.

        Added tokens that are not registered as special are read whole even where control tokens are switched off.
        """
        contents = (self.read(str(self._tokenizer.decode([number])))[0] for number in found)
        either = "|".join(re.escape(content) for content in sorted(contents, key=len, reverse=True) if content)
        seen, places = self.read(text)
        cuts = [places[match.start()] + 1 for match in re.finditer(f"(?={either})", seen)] if either else []
        return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]

    def _anchored(self, text: str, **options: bool) -> list[int]:
        """Token ids of `text` in the middle of a text; as a text of its own where the two cannot be told apart."""
        lead, ids = self._whole(_ANCHOR, **options), self._whole(_ANCHOR + text, **options)
        return ids[len(lead) :] if ids[: len(lead)] == lead else self._whole(text, **options)

    def _whole(self, text: str, **options: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, **options) if text else []

    def _puts_blank_after_control(self) -> bool:
        number = next(iter(self.control_ids), None)
        if number is None:
            return False
        return self._whole(f"{self._tokenizer.decode([number])}x")[1:] != self._anchored("x")


def _normaliser(tokenizer: Tokenizer) -> Callable[[str], str] | None:
    """What the tokenizer does to a text before it reads it; None if it does nothing or does not say."""
    normaliser = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return None if normaliser is None else normaliser.normalize_str
