"""What the report says a gate could see, from what that gate itself showed, and who gave up a seat after it."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np

from evolve.gates.arrangements import Arrangement
from evolve.gates.conjunction import ConjunctionRecord, Contest, Rival, hold
from evolve.gates.dev import DevRecord
from evolve.governance.governance import Ruling
from evolve.learning.breed import Brood
from evolve.learning.curate import Curated
from evolve.report.view_gate import decision_view, power_sentence
from evolve.selection.archive import Archive, Update
from evolve.selection.select import Selection

N = 600


def record(size: int, share_of_copies: float, *, are_known: bool = True) -> ConjunctionRecord:
    """A gate of one finalist on clusters of `size`, of which this share of problems repeats its cluster's outcome."""
    rng = np.random.default_rng(4)
    clusters = np.arange(N) // size
    copies = rng.random(N) < share_of_copies

    def draw() -> np.ndarray:
        own, shared = rng.random(N), rng.random(N)
        return np.where(copies, shared[clusters], own)

    before = draw() < 0.5
    after = before ^ (draw() < 0.2)
    one = Contest(
        name="new",
        right=after.tolist(),
        rivals=(Rival(kind="incumbent", name="now", right=before.tolist()),),
        task_types=("sums",) * N,
        clusters=tuple(map(str, clusters.tolist())) if are_known else (),
    )
    return hold([one], 0.05, seed=0)


def gain_told(one: ConjunctionRecord) -> float:
    found = re.search(r"truly \+(\d+\.\d) points", power_sentence(one))
    assert found is not None, power_sentence(one)
    return float(found[1])


def test_near_duplicates_that_go_together_hide_gains_that_as_many_problems_would_show() -> None:
    alike = record(4, 1.0)
    assert gain_told(alike) > 1.5 * gain_told(record(4, 1.0, are_known=False))
    worth = re.search(r"\(600 problems \(worth (\d+) that stand alone", power_sentence(alike))
    assert worth is not None
    assert 120 <= int(worth[1]) <= 190, "150 clusters, of whole copies"


def test_how_alike_near_duplicates_are_is_measured_at_the_gate_and_not_assumed() -> None:
    loose, alone = record(4, 0.0), record(1, 0.0)
    assert "stand alone" not in power_sentence(alone)
    assert abs(gain_told(loose) - gain_told(alone)) < 1.0


def test_whoever_was_to_be_retired_beside_an_arrangement_that_is_seated_has_not_given_up_a_seat() -> None:
    def told(state: Literal["granted", "refused"] | None) -> tuple[tuple[str, str], ...]:
        selection = Selection(
            dev=DevRecord(),
            chosen=None if state is None else Arrangement(name="new", seats=(), candidates=("new",)),
            archive=Update(archive=Archive(), standings=(), stale=()),
            retired={"old": "it takes away"},
            reason="tested",
        )
        one = SimpleNamespace(
            generation=SimpleNamespace(number=1),
            selection=selection,
            brood=Brood(curated=Curated(examples=(), drops=()), selections={}),
            ruling=None if state is None else Ruling(state=state, reason="because"),
        )
        return decision_view(cast(Any, one)).retired

    assert told("granted") == ()
    assert told("refused") == told(None) == (("old", "it takes away"),)
