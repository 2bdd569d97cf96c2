"""Which split an item belongs to: decided by a hash of what it asks, so that no item is ever in two."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from enum import StrEnum

from pydantic import Field, model_validator

from memory.types import Record


class Split(StrEnum):
    """What an item may be used for. Training reads TRAIN alone; AUDIT only reports."""

    TRAIN = "train"
    DEV = "dev"
    GATE = "gate"
    AUDIT = "audit"


class SplitShares(Record):
    """Share of all distinct items that belongs to each split; the four add up to 1."""

    train: float = Field(default=0.5, ge=0.0, le=1.0, description="share for harvest and training")
    dev: float = Field(default=0.15, ge=0.0, le=1.0, description="share for choosing between candidates")
    gate: float = Field(default=0.2, ge=0.0, le=1.0, description="share for the promotion test")
    audit: float = Field(default=0.15, ge=0.0, le=1.0, description="share for the sealed report")

    @model_validator(mode="after")
    def _adds_up(self) -> SplitShares:
        total = math.fsum((self.train, self.dev, self.gate, self.audit))
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"split shares must add up to 1, got {total:g}; change train, dev, gate or audit")
        return self

    def of(self, split: Split) -> float:
        """Share of one split."""
        return float(getattr(self, split.value))


class SplitSizes(Record):
    """How many items to draw for each split; 0 leaves a split empty."""

    train: int = Field(default=0, ge=0, description="items for harvest and training")
    dev: int = Field(default=0, ge=0, description="items for choosing between candidates")
    gate: int = Field(default=0, ge=0, description="items for the promotion test")
    audit: int = Field(default=0, ge=0, description="items for the sealed report")

    def of(self, split: Split) -> int:
        """Size of one split."""
        return int(getattr(self, split.value))

    def without(self, split: Split) -> SplitSizes:
        """The same with no items of one split."""
        return self.model_copy(update={split.value: 0})


def split_of(key: str, seed: int, shares: SplitShares) -> Split:
    """The split of the item with canonical key `key`: a pure function, the same in every process and run.

    Use one `seed` for all runs that share a memory or a training set; another seed deals the items anew.
    """
    position = _fraction(f"split:{seed}:{key}")
    upper = 0.0
    present = [split for split in Split if shares.of(split) > 0.0]
    for split in present:
        upper += shares.of(split)
        if position < upper:
            return split
    return present[-1]


def is_reserved(key: str, seed: int, share: float) -> bool:
    """True when the item is kept for demonstrations and so belongs to no split.

    Independent of `split_of`: turning demonstrations on or off moves no other item.
    """
    return _fraction(f"demonstration:{seed}:{key}") < share


def normalised_text(text: str) -> str:
    """`text` for keys: composed (NFC), case folded, white space collapsed. Digits stay, and so does 2² beside 22."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def derived_seed(*parts: str | int) -> int:
    """A 31-bit seed from `parts`; small because some generators hand it to numpy, which refuses more than 32 bits."""
    return int(_fraction(":".join(str(part) for part in parts)) * (2**31 - 1))


def _fraction(text: str) -> float:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
