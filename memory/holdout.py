"""Which recollections are held back, so that what remembering is worth can be measured; pure."""

from __future__ import annotations

import hashlib


def is_withheld(episode: str, experience_id: str, share: float) -> bool:
    """Whether `episode` is not to see an experience that was chosen for it; a fixed `share` of all pairs is so.

    Decided by a hash of the pair: every process decides alike, a resumed episode sees what it saw before, and neither
    an entry nor an episode is held back as a whole. What a small share withholds a greater one withholds too. The
    empty episode is nobody's experiment: nothing is withheld from it.

    Raises:
        ValueError: the share is not within 0 to 1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"held-out share: expected 0 to 1, got {share}")
    if not episode:
        return False
    digest = hashlib.sha256(f"{episode}\0{experience_id}".encode("utf-8", "surrogatepass")).digest()
    # 53 bits: as many as a float between 0 and 1 holds exactly, so that a share of 1 withholds everything.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53 < share
