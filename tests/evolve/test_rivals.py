from __future__ import annotations

import pytest

from evolve.evaluate import Pool, right_votes, success_counts, vote_scores, weighted_vote_scores
from evolve.gates.conjunction import hold
from evolve.gates.rivals import aa_seats, again, best_incumbent, contest_of, members_of, rival_seats
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
from mesh.reliability import AnswerCount, Reliability
from mesh.types import Deliberation, Member, Proposal, Task, Verdict

A, B = Member(name="a", engine="ea", family="fa"), Member(name="b", engine="eb", family="fb")
NEW = Member(name="g1-ea-own", engine="ea", family="fa", adapter="1" * 64)
FORM = Member(name="g1-ea-own-placebo", engine="ea", family="fa", adapter="2" * 64)
TWINS = {NEW.name: FORM}
MERGE = Member(name="g1-eb-merge", engine="eb", family="fb", adapter="4" * 64)


def problems(count: int) -> list[Problem]:
    return [
        Problem(
            task=Task(id=f"t{index}", question="?", type="sums", answer_kind="number"),
            reference="1",
            verifier=ExactVerifier(),
            key=f"k{index}",
        )
        for index in range(count)
    ]


def pool(items: list[Problem], right: dict[str, int]) -> Pool:
    """Member name to the number of leading problems it answers rightly, with "1"; else each its own wrong answer."""
    held = []
    for index, problem in enumerate(items):
        for place, (name, count) in enumerate(right.items()):
            answer = "1" if index < count else str(place + 10)
            proposal = Proposal(member=name, family=name[0], text="", answer=answer)
            held.append(
                Deliberation(
                    id=f"{problem.task.id}/{name}",
                    task=problem.task,
                    members=(Member(name=name, engine="e", family=name[0]),),
                    protocol="vote",
                    seed=0,
                    proposals=(proposal,),
                    first_verdict=Verdict(answer=answer, method="m"),
                    verdict=Verdict(answer=answer, method="m"),
                )
            )
    return Pool(held)


def judged(items: list[Problem]) -> dict[tuple[str, str], bool]:
    return {(problem.task.id, "1"): True for problem in items}


def test_every_rival_stands_in_the_candidates_place_at_equal_budget() -> None:
    rivals = rival_seats([A, B], [NEW, B], TWINS, best=B)
    assert rivals == {"incumbent": (A, B), "placebo": (FORM, B), "budget": (again(B, "budget-0"), B)}
    assert rivals["budget"][0].name == "b~budget-0"
    assert rivals["budget"][0].engine == "eb"
    assert "placebo" not in rival_seats([A, B], [NEW, B], {}, best=A)
    with pytest.raises(ValueError, match="changes at least one seat"):
        rival_seats([A, B], [A, B], TWINS, best=A)


def test_each_of_two_candidates_of_one_engine_meets_its_own_twin() -> None:
    seats = [A, B, A.model_copy(update={"name": "a-2"})]
    other, its = (NEW.model_copy(update={"name": name}) for name in ("g1-ea-cross", "g1-ea-cross-placebo"))
    arrangement = [NEW, B, other]
    assert rival_seats(seats, arrangement, TWINS | {other.name: its}, best=B)["placebo"] == (FORM, B, its)
    assert "placebo" not in rival_seats(seats, arrangement, TWINS, best=B)


def test_what_learned_from_no_rows_stays_beside_the_twins_of_the_others() -> None:
    both = rival_seats([A, B], [NEW, MERGE], TWINS, best=A, without=[MERGE.name])
    assert both["placebo"] == (FORM, MERGE)
    assert "placebo" not in rival_seats([A, B], [A, MERGE], TWINS, best=A, without=[MERGE.name])


def test_an_aa_arm_is_the_incumbents_under_names_that_nothing_was_drawn_for() -> None:
    assert [member.name for member in aa_seats([A, B], "g1")] == ["a~aa-g1", "b~aa-g1"]
    assert len(members_of([[A, B], aa_seats([A, B], "g1"), [NEW, B]])) == 5


def test_the_best_incumbent_has_the_highest_score_and_ties_go_to_the_earlier_seat() -> None:
    assert best_incumbent([A, B], {"a": [0.5, 0.0], "b": [1.0, 0.0]}) == B
    assert best_incumbent([A, B], {"a": [1.0], "b": [1.0]}) == A


def test_contests_are_replayed_from_the_pool() -> None:
    items = problems(40)
    drawn = pool(items, {"a": 10, "b": 10, NEW.name: 30, FORM.name: 12, "b~budget-0": 11})
    rivals = rival_seats([A, B], [NEW, B], TWINS, best=B)
    contest = contest_of("new", drawn, [NEW, B], rivals, items, judged(items))
    assert sum(contest.right) == 30
    assert [sum(rival.right) for rival in contest.rivals] == [10, 12, 11]
    assert contest.rivals[1].name == "g1-ea-own-placebo and b"
    assert hold([contest], 0.05, required=("placebo", "budget"), seed=0).results[0].passed


def test_votes_and_counts_say_the_same_as_the_scores() -> None:
    items = problems(6)
    drawn = pool(items, {"a": 4, "b": 3})
    assert right_votes(drawn, [A, B], items, judged(items)) == tuple(
        score == 1.0 for score in vote_scores(drawn, [A, B], items, judged(items))
    )
    assert success_counts(drawn, A, items, judged(items)) == [(1, 1)] * 4 + [(0, 1)] * 2
    assert success_counts(drawn, NEW, items, judged(items)) == [(0, 0)] * 6


def test_a_weighted_vote_hears_the_member_that_was_measured_better_where_the_plurality_is_tied() -> None:
    items = problems(6)
    drawn = pool(items, {"a": 2, "b": 4})
    counts = tuple(
        AnswerCount(member=name, task_type=items[0].task.type, num_judged=40, num_answered=40, num_correct=right)
        for name, right in (("a", 8), ("b", 32))
    )
    known = judged(items)
    assert sum(vote_scores(drawn, [A, B], items, known)) == 2  # a tie falls to the first seat
    assert sum(weighted_vote_scores(drawn, [A, B], items, known, Reliability(answers=counts))) == 4
    assert sum(weighted_vote_scores(drawn, [A, B], items, known, Reliability())) == 2  # nothing measured: a plurality
