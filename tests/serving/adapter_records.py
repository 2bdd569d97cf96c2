"""Adapter records for tests of engines that only keep the record."""

from __future__ import annotations

from memory.types import content_hash
from serving.adapters import Adapter


def adapter_record(name: str, *, rank: int = 8) -> Adapter:
    """An adapter that nobody trained."""
    return Adapter(hash=content_hash(name), base="scripted", rank=rank)
