"""Arrangements and replayed votes: pure parts of choosing who is seated next."""

from evolve.breed import Candidate
from evolve.evaluate import Pool, member_scores, vote_scores
from evolve.problem_config import NumericVerifier
from evolve.problem_types import Problem
from evolve.recipes import Recipe
from evolve.select import arrangements
from evolve.training_config import ScriptedTraining
from mesh.tally import plurality
from mesh.types import Deliberation, Member, Proposal, Task

ADA = Member(name="ada", engine="ada", family="alpha")
BEN = Member(name="ben", engine="ben", family="beta")


def candidate(name: str, engine: Member) -> Candidate:
    recipe = Recipe(
        name=name, base=engine.engine, family=engine.family, mix=("own_correct",), training=ScriptedTraining(), seed=0
    )
    member = engine.model_copy(update={"name": name, "adapter": name * 8})
    return Candidate(member=member, recipe=recipe, data_digest="d")


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


def test_each_candidate_takes_its_own_engines_seat_and_the_best_of_each_sit_together() -> None:
    best, second, other = candidate("a1", ADA), candidate("a2", ADA), candidate("b1", BEN)
    found = arrangements([ADA, BEN], [best, other, second])
    assert [one.candidates for one in found] == [("a1",), ("b1",), ("a2",), ("a1", "b1")]
    assert [member.name for member in found[0].seats] == ["a1", "ben"]
    assert [member.name for member in found[-1].seats] == ["a1", "b1"]


def test_candidates_of_one_engine_are_never_seated_together() -> None:
    found = arrangements([ADA, BEN], [candidate("a1", ADA), candidate("a2", ADA)])
    assert [one.candidates for one in found] == [("a1",), ("a2",)]


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
