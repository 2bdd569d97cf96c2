"""Fences around text that others wrote, so that a reader can tell what is data from what is asked of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import count

from mesh.types import Part

MARK_CHARS = 6


def fence_mark(seed: int, texts: Iterable[str]) -> str:
    """A mark drawn from `seed` that occurs in none of `texts`: what is fenced cannot close its own fence."""
    written = [text.casefold() for text in texts]
    for attempt in count():
        mark = hashlib.sha256(f"{seed}:{attempt}".encode()).hexdigest()[:MARK_CHARS]
        if not any(mark in text for text in written):
            return mark
    raise AssertionError("count() never ends")


def fenced(text: str, mark: str) -> tuple[Part, Part, Part]:
    """`text` as an untrusted part between two trusted lines that carry the mark."""
    return Part(text=f"[{mark}]\n"), Part(text=text, trusted=False), Part(text=f"\n[/{mark}]\n")
