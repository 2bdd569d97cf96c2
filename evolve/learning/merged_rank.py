"""Which rank a merge of adapters has: needed before a merge is planned, so it comes without numbers."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.training.config import MergeTraining


def merged_rank(ranks: Sequence[int], config: MergeTraining) -> int:
    """Rank that a merge of adapters of these ranks has."""
    if config.method == "cat":
        return sum(ranks)
    return max(ranks) if config.rank is None else config.rank
