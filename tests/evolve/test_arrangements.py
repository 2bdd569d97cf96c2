"""Arrangements and replayed votes: pure parts of choosing who is seated next."""

import hypothesis.strategies as st
from hypothesis import given

from evolve.evaluate import Pool, member_scores, vote_scores
from evolve.gates.arrangements import Arrangement, alone, distinct, one_of_each, together, weakest_places, widest
from evolve.problems.config import NumericVerifier
from evolve.problems.types import Problem
from mesh.tally import plurality
from mesh.types import Deliberation, Member, Proposal, Task

ADA = Member(name="ada", engine="ada", family="alpha")
BEN = Member(name="ben", engine="ben", family="beta")
ADA_TOO = ADA.model_copy(update={"name": "ada-2"})
SEATS, PLACES = [ADA, BEN], {"ada": 0, "ben": 1}


def candidate(name: str, engine: Member) -> Member:
    return engine.model_copy(update={"name": name, "adapter": name * 8})


def problem(number: int) -> Problem:
    task = Task(id=f"t{number}", question=f"{number} + 1 =", type="sum", answer_kind="number")
    return Problem(task=task, reference=str(number + 1), verifier=NumericVerifier(), key=str(number))


def drawn(task: Task, member: Member, *answers: str | None) -> Deliberation:
    proposals = tuple(
        Proposal(member=member.name, family=member.family, text=answer or "", answer=answer, sample=sample)
        for sample, answer in enumerate(answers)
    )
    verdict = plurality(proposals, "number")
    return Deliberation(
        id=f"{task.id}-{member.name}",
        task=task,
        protocol="vote",
        seed=0,
        members=(member,),
        proposals=proposals,
        first_verdict=verdict,
        verdict=verdict,
    )


def test_a_candidate_takes_the_weakest_place_of_its_engine() -> None:
    seats = [ADA, BEN, ADA_TOO]
    places = weakest_places(seats, {"ada": 0.3, "ben": 0.1, "ada-2": 0.2})
    assert places == {"ada": 2, "ben": 1}
    found = alone(seats, candidate("a1", ADA), places)
    assert [member.name for member in found.seats] == ["ada", "ben", "a1"]
    assert (found.name, found.candidates) == ("a1", ("a1",))


def test_of_places_worth_the_same_the_last_is_taken() -> None:
    assert weakest_places([ADA, ADA_TOO], {"ada": 0.0, "ada-2": 0.0}) == {"ada": 1}


def test_the_best_of_each_engine_sit_together() -> None:
    found = together(SEATS, [candidate("a1", ADA), candidate("b1", BEN), candidate("a2", ADA)], PLACES)
    assert found is not None
    assert found.candidates == ("a1", "b1")
    assert [member.name for member in found.seats] == ["a1", "b1"]


def test_candidates_of_one_engine_are_never_seated_together() -> None:
    assert together(SEATS, [candidate("a1", ADA), candidate("a2", ADA)], PLACES) is None


def test_seats_are_chosen_for_what_they_cover_and_not_for_their_own_scores() -> None:
    """The better of two candidates solves what the other seat solves already; the worse one solves what nobody does."""
    better, other = candidate("a1", ADA), candidate("a2", ADA)
    scores = {"ada": (0.0,) * 4, "ben": (1.0, 1.0, 0.0, 0.0), "a1": (1.0, 1.0, 0.0, 0.0), "a2": (0.0, 0.0, 0.0, 1.0)}
    found = widest(SEATS, [better, other], scores)
    assert found is not None
    assert [member.name for member in found.seats] == ["a2", "ben"]


def test_todays_seats_are_no_arrangement() -> None:
    scores = {"ada": (1.0, 0.0), "ben": (0.0, 1.0), "a1": (0.0, 0.0)}
    assert widest(SEATS, [candidate("a1", ADA)], scores) is None


def test_equal_seats_are_measured_once() -> None:
    one = alone(SEATS, candidate("a1", ADA), PLACES)
    assert distinct([one, None, one.model_copy(update={"name": "other"})]) == [one]


@given(data=st.data())
def test_every_arrangement_keeps_the_number_of_seats_and_of_each_engine(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(["a1", "a2", "b1", "b2"]), unique=True, min_size=1))
    candidates = [candidate(name, ADA if name[0] == "a" else BEN) for name in names]
    share = st.sampled_from([0.0, 0.5, 1.0])
    scores = {
        name: tuple(data.draw(st.lists(share, min_size=3, max_size=3))) for name in ("ada", "ada-2", "ben", *names)
    }
    seats = [ADA, BEN, ADA_TOO]
    places = weakest_places(seats, {member.name: sum(scores[member.name]) for member in seats})
    found = distinct(
        [
            *(alone(seats, c, places) for c in candidates),
            together(seats, candidates, places),
            widest(seats, candidates, scores),
        ]
    )
    for one in found:
        assert sorted(m.engine for m in one.seats) == sorted(m.engine for m in seats)
        assert set(one.candidates) == {m.name for m in one.seats} - {m.name for m in seats}


def test_vote_replayed_from_the_pool_equals_a_vote_over_the_same_proposals() -> None:
    items = [problem(1), problem(2)]
    pool = Pool(
        [
            drawn(items[0].task, ADA, "2", "2"),
            drawn(items[0].task, BEN, "9", "2"),
            drawn(items[1].task, ADA, "7", None),
            drawn(items[1].task, BEN, "7", "3"),
        ]
    )
    judged = {("t1", "2"): True, ("t1", "9"): False, ("t2", "7"): False, ("t2", "3"): True}
    assert vote_scores(pool, [ADA, BEN], items, judged) == [1.0, 0.0]
    assert member_scores(pool, BEN, items, judged) == [0.5, 0.5]


def test_member_whose_calls_all_failed_scores_nothing_and_the_vote_goes_on() -> None:
    item = problem(1)
    pool = Pool([drawn(item.task, BEN, "2")])
    judged = {("t1", "2"): True}
    assert member_scores(pool, ADA, [item], judged) == [0.0]
    assert vote_scores(pool, [ADA, BEN], [item], judged) == [1.0]


def test_of_arrangements_of_the_same_candidates_the_first_stays_whatever_seats_they_take() -> None:
    first = Arrangement(name="x and y", seats=(ADA, BEN), candidates=("x", "y"))
    other = first.model_copy(update={"seats": (BEN, ADA), "candidates": ("y", "x")})
    single = first.model_copy(update={"name": "x", "candidates": ("x",)})
    assert one_of_each([first, other, single]) == [first, single]
