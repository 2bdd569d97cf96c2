from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from evolve.gates.shapley import Ballot, BallotBox, coalition_votes, contributions, shapley_by_problem, to_retire
from mesh.equivalence import canonical
from mesh.tally import plurality
from mesh.types import Proposal

SPELLINGS = ["1", "1.0", "01", "2", "2.0", "3", None]


def random_box(rng: np.random.Generator, members: int, problems: int, samples: int = 2) -> tuple[BallotBox, list]:
    families = tuple(str(rng.choice(["f", "g", "h"])) for _ in range(members))
    rows, proposals = [], []
    for _ in range(problems):
        truth = {spelling: bool(rng.random() < 0.5) for spelling in SPELLINGS if spelling}
        said = [
            Proposal(
                member=str(m),
                family=families[m],
                text="",
                answer=SPELLINGS[rng.integers(len(SPELLINGS))],
                sample=s,
            )
            for m in range(members)
            for s in range(samples)
        ]
        rows.append(
            tuple(
                Ballot(int(p.member), canonical(p.answer, "number"), p.answer, truth[p.answer])
                for p in said
                if p.answer is not None
            )
        )
        proposals.append((said, truth))
    return BallotBox(tuple(str(m) for m in range(members)), families, tuple(rows)), proposals


def test_replayed_votes_are_those_of_the_tally_for_every_coalition() -> None:
    rng = np.random.default_rng(0)
    for members in (1, 2, 4):
        box, proposals = random_box(rng, members, 25)
        votes = coalition_votes(box)
        for mask in range(2**members):
            for column, (said, truth) in enumerate(proposals):
                seated = [p for p in said if mask >> int(p.member) & 1]
                answer = plurality(seated, "number").answer
                assert votes[mask, column] == (answer is not None and truth[answer])


def test_values_are_the_mean_over_every_order_of_joining() -> None:
    box, _ = random_box(np.random.default_rng(1), 4, 12)
    votes = coalition_votes(box)
    expected = np.zeros((4, 12))
    orders = list(permutations(range(4)))
    for order in orders:
        mask = 0
        for member in order:
            expected[member] += votes[mask | 1 << member].astype(float) - votes[mask]
            mask |= 1 << member
    assert shapley_by_problem(votes) == pytest.approx(expected / len(orders))


def box_of(*rights: str, families: str = "fghijklm") -> BallotBox:
    """Members as strings of 1 (right), 0 (a wrong answer of its own) and - (abstains), problem by problem."""
    rows = []
    for marks in zip(*rights, strict=True):
        ballots = [
            Ballot(member, "right" if mark == "1" else f"wrong {member}", "x", mark == "1")
            for member, mark in enumerate(marks)
            if mark != "-"
        ]
        rows.append(tuple(ballots))
    return BallotBox(tuple("abcdefgh"[: len(rights)]), tuple(families[: len(rights)]), tuple(rows))


def test_values_add_up_and_idle_members_get_nothing_and_twins_the_same() -> None:
    found = contributions(box_of("11100110", "11100110", "--------", "00011111"))
    values = {one.member: one.value for one in found.members}
    assert sum(values.values()) == pytest.approx(found.accuracy)
    assert values["c"] == 0.0
    twins = contributions(box_of("1111", "1111"))
    assert [one.value for one in twins.members] == [0.5, 0.5]


def test_alone_left_out_and_pivotal_are_counted() -> None:
    found = contributions(box_of("1100", "0011"))
    assert (found.coverage, found.accuracy) == (1.0, 0.5)
    first = found.members[0]
    assert (first.alone, first.left_out, first.num_pivotal) == (0.5, 0.5, 2)


def test_a_member_that_harms_is_retired_and_one_that_may_only_be_unlucky_is_not() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(200):
        good = rng.random() < 0.9
        rows.append(
            (
                Ballot(0, "noise", "w", False),
                Ballot(0, "noise", "w", False),
                Ballot(1, "r" if good else "x", "r", good),
                Ballot(2, "r" if rng.random() < 0.5 else "y", "r", True),
            )
        )
    found = contributions(BallotBox(("a", "b", "c"), ("f", "g", "h"), tuple(rows)))
    assert found.members[0].value < 0 < found.members[1].value
    assert list(to_retire(found, "abc")) == ["a"]
    assert to_retire(found, "bc") == {}


def test_a_base_model_that_harms_takes_no_specialists_place_among_those_that_are_asked_about() -> None:
    """Two seats drown the one that is right; the base is as bad as the specialist."""
    both_wrong = (Ballot(0, "w", "w", False), Ballot(1, "w", "w", False), Ballot(2, "r", "r", True))
    found = contributions(BallotBox(("base", "specialist", "right"), ("f", "f", "g"), (both_wrong,) * 60))
    assert list(to_retire(found, ["specialist"])) == ["specialist"]


def test_of_two_seats_the_one_that_is_shown_to_harm_is_given_back_too() -> None:
    first_wrong = (Ballot(0, "w", "w", False), Ballot(1, "r", "r", True))
    found = contributions(BallotBox(("specialist", "base"), ("f", "g"), (first_wrong,) * 60))
    assert list(to_retire(found, ["specialist"])) == ["specialist"]


def test_harm_on_every_problem_counts_as_evidence_by_the_number_of_problems() -> None:
    wrong_twice = (Ballot(0, "w", "w", False), Ballot(1, "w", "w", False), Ballot(2, "r", "r", True))
    few = contributions(BallotBox(("a", "b", "c"), ("f", "f", "g"), (wrong_twice,) * 3))
    many = contributions(BallotBox(("a", "b", "c"), ("f", "f", "g"), (wrong_twice,) * 60))
    assert few.members[0].value == pytest.approx(many.members[0].value) == pytest.approx(-1 / 6)
    assert few.members[0].p_harms == 0.125
    assert (list(to_retire(few, "abc")), list(to_retire(many, "abc"))) == ([], ["a"])


def test_copies_in_one_cluster_widen_the_interval() -> None:
    box = box_of("1100101101", "1010110011")
    copied = BallotBox(box.names, box.families, box.problems * 6)
    alone, clustered = contributions(copied), contributions(copied, [str(i) for i in range(10)] * 6)
    assert clustered.members[0].value == alone.members[0].value
    assert clustered.members[0].interval.width > 2 * alone.members[0].interval.width


def test_too_many_members_and_no_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 12 members"):
        coalition_votes(BallotBox(tuple("abcdefghijklm"), ("f",) * 13, ((),)))
    with pytest.raises(ValueError, match="at least one problem"):
        contributions(BallotBox(("a",), ("f",), ()))
