"""A deliberation held again from its trace: without a model call, or by asking the engines once more."""

from __future__ import annotations


class ReplayError(RuntimeError):
    """The deliberation is not found, or the protocol it was held under is not known here."""
