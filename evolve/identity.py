"""What tells a run from every other one, also from one that lay in the same directory under the same name before."""

from __future__ import annotations

import secrets
from pathlib import Path

from evolve.run_files import IDENTITY
from memory.ledger import publish_bytes


def identity_of(directory: Path, *, anew: bool = False) -> str:
    """The identity of the run in `directory`; drawn where there is none yet, or `anew`, and kept from then on.

    It is random, so it belongs into no step of the journal and no comparison of two runs.
    """
    known = None if anew else known_identity(directory)
    if known is not None:
        return known
    drawn = secrets.token_hex(16)
    publish_bytes(directory / IDENTITY, drawn.encode())
    return drawn


def known_identity(directory: Path) -> str | None:
    """The identity of the run in `directory`; None: none was drawn there yet, and none is drawn now."""
    path = directory / IDENTITY
    return path.read_text(encoding="utf-8") if path.is_file() else None
