"""Tells a model that answers as it did when it started from one whose numbers have gone wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping

MAX_SHIFT = 0.25
"""Largest change of a token's probability that rounding, another batch or another cache state may make."""
MAX_DRIFT_NATS = 1.0
"""The same for the mean change of log-probabilities: it tells where no token was likely to begin with."""

NUM_TOKENS = 8
"""How many of the likeliest first tokens are looked at."""

Fingerprint = Mapping[int, float]
"""Log-probabilities of the likeliest tokens after a fixed prompt, by token id."""


def broken(found: Fingerprint) -> str:
    """Why these are no log-probabilities of a working model, in words; "" if they are."""
    odd = [log_prob for log_prob in found.values() if not math.isfinite(log_prob) or log_prob > 1e-3]
    if not found or odd:
        return f"expected finite log-probabilities of {NUM_TOKENS} tokens, got {odd[0] if odd else 'none'}"
    return ""


def shifted(before: Fingerprint, found: Fingerprint) -> str:
    """Why the model that gave `found` is not the one that gave `before`, in words; "" if it is."""
    if reason := broken(found):
        return reason
    missing = before.keys() - found.keys()
    if missing:
        return f"expected log-probabilities of all {len(before)} tokens, got none of {len(missing)}"
    shift = max(abs(math.exp(found[token]) - math.exp(before[token])) for token in before)
    drift = sum(abs(found[token] - before[token]) for token in before) / len(before)
    if shift > MAX_SHIFT or drift > MAX_DRIFT_NATS:
        return (
            f"expected what it said when it started, got a probability changed by {shift:.2f} (at most {MAX_SHIFT}) "
            f"and log-probabilities by {drift:.2f} nats in the mean (at most {MAX_DRIFT_NATS})"
        )
    return ""
