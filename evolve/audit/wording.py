"""How differently right answers are worded: their vectors under two encoders, for the Vendi score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from memory.embed import Embedder, HashedNgramEmbedder
from memory.types import content_hash
from mesh.types import Deliberation

MAX_TEXTS = 150
"""Enough for a score to two digits; a text costs some 25 ms on one core."""


def right_texts(traces: Iterable[Deliberation], right: Mapping[tuple[str, str], bool]) -> list[str]:
    """Texts of first proposals that are right, `MAX_TEXTS` at most, chosen by a hash and not by who wrote them."""
    found = {
        content_hash([trace.task.id, proposal.member, proposal.sample]): proposal.text
        for trace in traces
        for proposal in trace.round_of(0)
        if proposal.answer is not None and right.get((trace.task.id, proposal.answer), False)
    }
    return [found[key] for key in sorted(found)[:MAX_TEXTS]]


def vectors_of(texts: list[str], embedder: Embedder | None) -> dict[str, np.ndarray]:
    """Encoder to (texts, dimensions); the memory's embedder beside a lexical one, for encoders disagree.

    Empty with fewer than two texts, of which nothing can be said. `embedder` None: the run has no memory.
    """
    if len(texts) < 2:
        return {}
    lexical = HashedNgramEmbedder()
    encoders: dict[str, Embedder] = {lexical.id: lexical}
    if embedder is not None:
        encoders[embedder.id] = embedder
    return {name: encoder.embed(texts) for name, encoder in encoders.items()}
