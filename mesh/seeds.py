"""Every random choice of a deliberation, from one seed: the same inputs draw the same in every process."""

from __future__ import annotations

import hashlib
import json
import random


def derive_seed(seed: int, *parts: str | int) -> int:
    """A seed in [0, 2**31) that depends on `seed` and `parts` alone; every serving API takes that range.

    The usual parts are (task id, member name, phase, round): no two calls of a deliberation share a stream.
    """
    text = json.dumps([seed, *parts], ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 2**31


def derive_random(seed: int, *parts: str | int) -> random.Random:
    """A generator of its own, seeded with `derive_seed`."""
    return random.Random(derive_seed(seed, *parts))
