"""A seat beside its engine's first one: near duplicates among the problems are one draw there as well."""

from evolve.audit.vitals import seat_health
from evolve.evaluate import Pool
from evolve.problems.config import NumericVerifier
from evolve.problems.types import Problem
from mesh.types import Deliberation, Member, Proposal, Task, Verdict

FIRST, LATER = (Member(name=name, engine="ada", family="alpha") for name in ("ada", "later"))
PROBLEMS = [
    Problem(
        task=Task(id=f"t{i}", question="?", answer_kind="number"), reference="7", verifier=NumericVerifier(), key=""
    )
    for i in range(20)
]
SAID = [("ada", ["7", "7", "8", "9"]), ("later", ["8", "8", "8", "8"])]


def drawn() -> Pool:
    """The later seat misses all that the first one solved, and says the same every time."""
    nothing = Verdict(answer=None, method="none")
    return Pool(
        Deliberation(
            id=f"{problem.task.id} {name}", task=problem.task, protocol="vote", seed=0, members=(FIRST, LATER),
            first_verdict=nothing, verdict=nothing,
            proposals=tuple(
                Proposal(member=name, family="alpha", text=f"it is {answer}", answer=answer, sample=number)
                for number, answer in enumerate(answers)
            ),
        )
        for problem in PROBLEMS
        for name, answers in SAID
    )  # fmt: skip


def alarms(clusters: dict[str, str]) -> int:
    judged = {(problem.task.id, "7"): True for problem in PROBLEMS}
    (found,) = seat_health([(0, [FIRST]), (1, [LATER])], drawn(), PROBLEMS, judged, 4, clusters)
    return len(found.health.alarms)


def test_twenty_problems_that_fall_are_an_alarm_and_twenty_copies_of_two_are_none() -> None:
    assert alarms({}) > 0
    assert alarms({problem.task.id: f"c{place % 2}" for place, problem in enumerate(PROBLEMS)}) == 0
