"""The table of AUDIT before and after: its constants are scored there, its intervals are those of the gains."""

import pytest

from evolve.audit.audited import AuditedRoster, AuditItems, Scores, gains, lines_of
from evolve.audit.tables import before_and_after
from evolve.report.data import AccuracyRow, AccuracyTable, ConstantAnswer
from evolve.report.measure import Accuracy
from mesh.types import Member

ADA = Member(name="ada", engine="ada", family="alpha")
TASKS = [f"t{number}" for number in range(40)]
ITEMS = AuditItems(
    types={task: "sums" if number < 20 else "words" for number, task in enumerate(TASKS)},
    clusters={task: f"c{number // 4}" for number, task in enumerate(TASKS)},  # four near duplicates each
)
CONSTANTS = {name: ConstantAnswer(answer="7", accuracy=Accuracy(correct=9.0, n=10)) for name in ("sums", "words", "")}
"""What TRAIN and DEV said, which is another thing than what they score on AUDIT."""


def right(*numbers: int) -> Scores:
    return {task: float(number in numbers) for number, task in enumerate(TASKS)}


def roster(name: str, member: Member, vote: Scores, council: Scores | None = None) -> AuditedRoster:
    return AuditedRoster(
        name=name,
        members=(member,),
        samples_each=2,
        ballots=2,
        alone={member.name: vote},
        vote=vote,
        single_name=member.name,
        single=vote,
        consistency_name=member.name,
        consistency=vote,
        output_tokens=20.0,
        council_vote=council or {},
        council=council or {},
    )


FIRST = roster("generation 0", ADA, right(0, 1), {"t0": 1.0, "t20": 0.0})
LAST = roster("generation 1", ADA.model_copy(update={"name": "a1"}), right(*range(12), 24), {"t0": 1.0, "t20": 1.0})


def table(first: AuditedRoster = FIRST, last: AuditedRoster = LAST) -> AccuracyTable:
    return before_and_after(first, last, ITEMS, CONSTANTS, right(3, 25), seed=0)


def overall(found: AccuracyTable) -> AccuracyRow:
    assert [row.task_type for row in found.rows] == ["sums", "words", ""]
    return found.rows[-1]


def test_the_best_constant_of_a_row_is_what_it_scores_on_audit() -> None:
    shares = [row.constant.accuracy.mean if row.constant else None for row in table().rows]
    assert shares == [pytest.approx(1 / 20), pytest.approx(1 / 20), pytest.approx(2 / 40)]


def test_the_interval_of_a_row_is_that_of_the_gain_by_whole_clusters() -> None:
    (vote, *_) = gains(FIRST, LAST, ITEMS, seed=0)
    found = {one.method: one.difference for one in overall(table()).comparisons}["first-round vote"]
    assert found is not None
    assert (found.low, found.high) == (vote.gain.absolute.low, vote.gain.absolute.high)
    assert found.mean == pytest.approx(11 / 40)


def test_the_interval_of_an_accuracy_is_that_of_the_lines_by_whole_clusters() -> None:
    found = {one.method: one for one in overall(table()).comparisons}["first-round vote"]
    (line,) = [x for x in lines_of(1, LAST, {}, ITEMS) if (x.method, x.task_type) == ("vote", "")]
    assert found.after is not None
    assert found.after.interval == (line.share.low, line.share.high)
    alone = AuditItems(types=ITEMS.types, clusters={task: task for task in TASKS})
    plain = before_and_after(FIRST, LAST, alone, CONSTANTS, right(3, 25), seed=0)
    (vote,) = [one.after for one in overall(plain).comparisons if one.method == "first-round vote"]
    assert vote == Accuracy(correct=13.0, n=40), "where all stand alone nothing changes"
    assert found.after.interval[0] < vote.interval[0] < vote.interval[1] < found.after.interval[1]


def test_councils_stand_in_the_table_with_the_problems_they_were_held_on() -> None:
    found = {one.method: one for one in overall(table()).comparisons}["mesh council"]
    assert found.before is not None
    assert found.after is not None
    assert (found.before.correct, found.after.correct, found.after.n) == (1.0, 2.0, 2)


def test_without_councils_there_is_no_such_column_and_the_same_seats_have_no_after() -> None:
    same = roster("generation 1", ADA, right(0, 1))
    found = {one.method: one for one in overall(table(roster("generation 0", ADA, right(0, 1)), same)).comparisons}
    assert list(found) == ["ada alone", "first-round vote"]
    assert found["first-round vote"].after is None
