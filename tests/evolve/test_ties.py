"""Whose answer a tied vote takes."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from evolve.evaluate import Pool, Precedence, right_votes
from evolve.gates.rivals import again, contest_of
from evolve.gates.shapley import ballot_box, coalition_votes
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
from evolve.ties import by_reliability, cross_fitted, standing, units, weights_key
from mesh.reliability import Reliability
from mesh.types import Deliberation, Member, Proposal, Task, Verdict

FIRST, SECOND = Member(name="a", engine="ea", family="fa"), Member(name="b", engine="eb", family="fb")
SEATS = (FIRST, SECOND)
RIGHT = "1"


def problem(number: int, kind: str = "sums", prefix: str = "t") -> Problem:
    task = Task(id=f"{prefix}{number}", question="?", type=kind, answer_kind="number")
    return Problem(task=task, reference=RIGHT, verifier=ExactVerifier(), key=f"{prefix}{number}")


def drawn(asked: Problem, member: Member, answers: list[str]) -> Deliberation:
    verdict = Verdict(answer=answers[0], method="m")
    return Deliberation(
        id=f"{asked.task.id}/{member.name}",
        task=asked.task,
        members=(member,),
        protocol="vote",
        seed=0,
        proposals=tuple(
            Proposal(member=member.name, family=member.family, text="", answer=answer, sample=number)
            for number, answer in enumerate(answers)
        ),
        first_verdict=verdict,
        verdict=verdict,
    )


def judged(problems: list[Problem]) -> dict[tuple[str, str], bool]:
    return {(one.task.id, RIGHT): True for one in problems}


def dev(good: dict[str, Member]) -> tuple[Pool, list[Problem]]:
    """Twenty problems of each type, of which one member, `good`, is always right and the other never."""
    problems = [problem(number, kind, prefix=kind) for kind in good for number in range(20)]
    pool = Pool(
        drawn(one, member, [RIGHT if member == good[one.task.type] else "7"] * 2)
        for one in problems
        for member in SEATS
    )
    return pool, problems


def test_a_tied_vote_takes_the_answer_of_whoever_is_better_at_that_kind_of_task() -> None:
    pool, problems = dev({"sums": SECOND, "words": FIRST})
    ties = by_reliability(standing(pool, SEATS, problems, judged(problems)))
    fresh = [problem(0, "sums"), problem(1, "words")]
    split = Pool(
        drawn(one, member, [RIGHT if (member == SECOND) == (one.task.type == "sums") else "8"] * 2)
        for one in fresh
        for member in SEATS
    )
    assert right_votes(split, SEATS, fresh, judged(fresh), ties) == (True, True)
    assert right_votes(split, SEATS, fresh, judged(fresh)) == (False, True)


def test_both_sides_of_a_contest_have_their_ties_decided_alike() -> None:
    pool, problems = dev({"sums": SECOND})
    fresh = [problem(number) for number in range(4)]
    answers = {FIRST: "7", SECOND: RIGHT}
    votes = Pool(drawn(one, member, [said] * 2) for one in fresh for member, said in answers.items())
    right = judged(fresh)
    ties = by_reliability(standing(pool, SEATS, problems, judged(problems)))
    measured = contest_of("again", votes, [FIRST, SECOND], {"incumbent": SEATS}, fresh, right, ties=ties)
    seated = contest_of("again", votes, [FIRST, SECOND], {"incumbent": SEATS}, fresh, right)
    assert measured.right == measured.rivals[0].right == (True,) * 4
    assert seated.right == seated.rivals[0].right == (False,) * 4


def test_a_majority_is_not_overruled_by_the_better_member() -> None:
    pool, problems = dev({"sums": SECOND})
    ties = by_reliability(standing(pool, SEATS, problems, judged(problems)))
    fresh = [problem(0)]
    # The better member contradicts itself; both of the other's samples agree.
    votes = Pool([drawn(fresh[0], FIRST, [RIGHT, RIGHT]), drawn(fresh[0], SECOND, ["8", "9"])])
    assert right_votes(votes, SEATS, fresh, judged(fresh), ties) == (True,)


def test_where_nothing_is_measured_and_between_equals_the_earlier_seat_decides() -> None:
    fresh = [problem(0)]
    assert list(by_reliability(Reliability())(SEATS, fresh[0].task)) == [FIRST, SECOND]
    equals = Pool(drawn(fresh[0], member, [RIGHT]) for member in SEATS)
    same = standing(equals, SEATS, fresh, judged(fresh))
    assert list(by_reliability(same)(SEATS[::-1], fresh[0].task)) == [SECOND, FIRST]


def test_one_more_sample_of_a_member_is_as_good_as_the_member_and_another_adapter_is_not() -> None:
    pool, problems = dev({"sums": SECOND})
    ties = by_reliability(standing(pool, SEATS, problems, judged(problems)))
    copy = again(SECOND, "budget-0")
    assert list(ties([FIRST, copy], problems[0].task)) == [copy, FIRST]
    assert weights_key(copy) == weights_key(SECOND) != weights_key(SECOND.model_copy(update={"adapter": "1" * 64}))


def test_nobody_is_preferred_on_a_problem_for_being_right_about_it() -> None:
    """Two members of equal worth that are never right together: the tie rule must not know who is right here."""
    rng = random.Random(5)
    problems = [problem(number, f"kind {number // 2}") for number in range(600)]
    lucky = {one.task.id: rng.choice(SEATS) for one in problems}
    pool = Pool(drawn(one, m, [RIGHT if lucky[one.task.id] == m else "7"] * 4) for one in problems for m in SEATS)
    right = judged(problems)

    def share(ties: Precedence) -> float:
        return sum(right_votes(pool, SEATS, problems, right, ties)) / len(problems)

    assert 0.45 < share(cross_fitted(pool, SEATS, problems, right, [])) < 0.55
    assert share(by_reliability(standing(pool, SEATS, problems, right))) > 0.7  # what it would look like


def test_nobody_is_preferred_on_a_problem_for_being_right_about_its_near_duplicate() -> None:
    rng = random.Random(5)
    problems = [problem(number, f"kind {number // 2}") for number in range(600)]
    pairs = [one.task.type for one in problems]
    lucky = {pair: rng.choice(SEATS) for pair in dict.fromkeys(pairs)}
    pool = Pool(drawn(one, m, [RIGHT if lucky[one.task.type] == m else "7"] * 4) for one in problems for m in SEATS)
    right = judged(problems)

    def share(clusters: list[str]) -> float:
        ties = cross_fitted(pool, SEATS, problems, right, clusters)
        return sum(right_votes(pool, SEATS, problems, right, ties)) / len(problems)

    assert 0.4 < share(pairs) < 0.6
    assert share([]) > 0.75  # what it would look like


def test_an_item_that_shares_its_cluster_with_none_of_the_others_is_dealt_by_its_own_id() -> None:
    problems = [problem(number) for number in range(4)]
    assert units(problems, []) == ["t0", "t1", "t2", "t3"]
    assert units(problems, ["pair", "key of t1", "pair", "key of one that is not here"]) == ["pair", "t1", "pair", "t3"]


def test_a_candidate_that_saw_few_problems_is_measured_on_those_alone() -> None:
    problems = [problem(number) for number in range(20)]
    late = Member(name="late", engine="ea", family="fa", adapter="1" * 64)
    few = Pool(
        [*(drawn(one, m, ["7", "7"]) for one in problems for m in SEATS)]
        + [drawn(one, late, [RIGHT, RIGHT]) for one in problems[:5]]
    )
    (count,) = [c for c in standing(few, [late], problems, judged(problems)).answers if c.member == weights_key(late)]
    assert (count.num_judged, count.num_correct) == (10, 10)


@given(st.integers(0, 10_000))
def test_coalitions_are_replayed_with_the_same_ties(seed: int) -> None:
    rng = random.Random(seed)
    members = [Member(name=name, engine=name, family=name) for name in "abc"]
    problems = [problem(number) for number in range(6)]
    pool = Pool(drawn(one, m, rng.choices([RIGHT, "7", "8"], k=2)) for one in problems for m in members)
    right = judged(problems)
    ties = cross_fitted(pool, members, problems, right, [])
    votes = coalition_votes(ballot_box(pool, members, problems, right, ties))
    for mask in range(1, 8):
        seated = [member for place, member in enumerate(members) if mask >> place & 1]
        assert tuple(votes[mask]) == right_votes(pool, seated, problems, right, ties)
