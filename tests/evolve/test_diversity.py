from __future__ import annotations

import numpy as np
import pytest

from evolve.selection.diversity import cohens_kappa, describe, vendi_score, yules_q
from mesh.reliability import Judged, measure


def judged(member: str, task: int, right: bool, answer: str | None = None) -> Judged:
    given = "1" if right else answer
    return Judged(member=member, family=member, task_id=f"t{task}", task_type="sums", answer=given, correct=right)


def population(seed: int, shared: float, n: int = 200) -> list[Judged]:
    rng, rows = np.random.default_rng(seed), []
    for task in range(n):
        common = rng.random() < 0.5
        for member in "abc":
            right = common if rng.random() < shared else bool(rng.random() < 0.5)
            rows.append(judged(member, task, right, str(rng.integers(2, 5))))
    return rows


def test_the_textbook_values() -> None:
    assert yules_q(40, 10, 20, 30) == pytest.approx((1200 - 200) / 1400)
    assert cohens_kappa(40, 10, 20, 30) == pytest.approx((0.7 - 0.5) / 0.5)
    assert yules_q(5, 0, 0, 0) is None
    assert cohens_kappa(5, 0, 0, 0) is None
    assert cohens_kappa(0, 0, 0, 0) is None


def test_independent_members_are_worth_their_number_and_copies_one() -> None:
    independent, copies = describe(population(0, 0.0)), describe(population(1, 1.0))
    assert independent.n_eff > 2.5
    assert independent.kappa == pytest.approx(0.0, abs=0.1)
    assert independent.q == pytest.approx(0.0, abs=0.2)
    assert copies.n_eff == pytest.approx(1.0, abs=0.1)
    assert copies.kappa == pytest.approx(1.0)
    assert copies.n_eff_interval.high < independent.n_eff_interval.low


def test_n_eff_and_pairs_are_those_of_the_mesh() -> None:
    rows = population(2, 0.5)
    found, reliability = describe(rows), measure(rows)
    assert found.n_eff == pytest.approx(reliability.num_effective("abc"))
    assert found.n_eff_interval.low < found.n_eff < found.n_eff_interval.high
    pair = found.pairs[0]
    assert (pair.first, pair.second, pair.num_both) == ("a", "b", 200)
    assert pair.double_fault == reliability.double_fault("a", "b")
    assert pair.same_wrong == reliability.same_wrong_share("a", "b")
    assert pair.same_wrong == pytest.approx(1 / 3, abs=0.12)
    assert describe(rows) == found


def test_vendi_counts_different_texts() -> None:
    assert vendi_score(np.eye(5)) == pytest.approx(5.0)
    assert vendi_score(np.ones((5, 3))) == pytest.approx(1.0)
    assert vendi_score(np.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])) == pytest.approx(2.0)
    assert vendi_score(np.zeros((0, 3))) == 0.0
    with pytest.raises(ValueError, match="length above 0"):
        vendi_score(np.zeros((1, 3)))
    assert describe(population(0, 0.0, 5), vectors={"words": np.eye(4)}).vendi == {"words": pytest.approx(4.0)}


def test_one_member_or_nobody_is_described_too() -> None:
    alone = describe([judged("a", task, True) for task in range(3)])
    assert (alone.n_eff, alone.pairs, alone.double_fault) == (1.0, (), None)
    assert describe([]).members == ()
