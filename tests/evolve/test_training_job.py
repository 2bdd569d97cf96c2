from __future__ import annotations

import math

from evolve.training_job import diverged


def test_losses_that_double_or_are_not_finite_are_called_diverged():
    assert diverged([2.0] * 5 + [3.9] * 5) is None
    assert "rose from 2 to 4.1" in (diverged([2.0] * 5 + [4.1] * 5) or "")
    assert diverged([1.0, math.nan]) == "loss is nan at step 1"
    assert diverged([math.inf]) == "loss is inf at step 0"
    assert diverged([]) is None
