"""What the archive is told of a generation's members."""

from __future__ import annotations

import pytest

from evolve.gates.arrangements import Arrangement
from evolve.gates.dev import DevRecord, Measured
from evolve.gates.paired import paired_test
from evolve.gates.remeasure import remeasured
from evolve.lineage import founders
from evolve.selection.select import flattery_of
from mesh.types import Member

ADA, BEN = Member(name="ada", engine="ada", family="alpha"), Member(name="ben", engine="ben", family="beta")
ADA_TOO = ADA.model_copy(update={"name": "ada-2"})
NEW = ADA.model_copy(update={"name": "new", "adapter": "1" * 64})


def test_a_winner_is_flattered_by_what_its_gain_over_its_engines_seats_lost_on_fresh_problems() -> None:
    generation = founders([ADA, BEN, ADA_TOO])
    winner = Arrangement(name="new", seats=(NEW, BEN, ADA_TOO), candidates=("new",))
    scores = {"ada": (0.0, 0.5), "ada-2": (0.5, 0.5), "ben": (1.0, 1.0), "new": (1.0, 0.75)}
    dev = DevRecord(
        members=tuple(Measured(name=name, scores=found, num_samples=4) for name, found in scores.items()),
    )
    test = paired_test([False, True], [True, True], seed=0)
    fresh = {"ada": 0.5, "ada-2": 0.7, "ben": 0.1, "new": 0.8}
    again = remeasured("new", test, 3, test, fresh)
    assert flattery_of(generation, winner, dev, again) == {"new": pytest.approx(0.5 - 0.2)}
