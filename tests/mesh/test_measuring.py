from __future__ import annotations

import asyncio

import pytest

from mesh.config import VoteConfig
from mesh.deliberate import deliberate
from mesh.job import Job
from mesh.measuring import measure_traces
from mesh.reliability import MIN_TALKS, Reliability, TalkCount, judged_talks, measure
from mesh.types import Deliberation, Member, Proposal, Reading, Shown, Task, Verdict

MEMBERS = (Member(name="a", engine="a", family="fox"), Member(name="b", engine="b", family="owl"))


def trace(number: int, answers: tuple[str, str], first: str, final: str, *, talked: bool = True) -> Deliberation:
    shown = Shown(label="A", answer=answers[1], author="b", supporters=1, text=answers[1])
    return Deliberation(
        id=str(number),
        task=Task(id=f"t{number}", question="?", type="sum", answer_kind="number"),
        protocol="council",
        seed=1,
        members=MEMBERS,
        proposals=tuple(
            Proposal(member=m.name, family=m.family, text=answer, answer=answer)
            for m, answer in zip(MEMBERS, answers, strict=True)
        ),
        readings=(Reading(reader="a", round=1, shown=(shown,)),) if talked else (),
        first_verdict=Verdict(answer=first, method="x"),
        verdict=Verdict(answer=final, method="x"),
    )


RIGHT = {("t1", "7"): True, ("t2", "7"): True, ("t3", "7"): True}


def test_talks_are_judged_by_what_they_did_to_the_verdict() -> None:
    traces = [trace(1, ("7", "8"), "8", "7"), trace(2, ("7", "8"), "7", "8"), trace(3, ("7", "8"), "7", "7")]
    counted = measure((), talks=judged_talks(traces, RIGHT)).talks
    assert counted == (TalkCount(task_type="sum", num_judged=3, num_right_to_wrong=1, num_wrong_to_right=1),)


def test_a_deliberation_in_which_nobody_read_anybody_is_no_talk() -> None:
    assert list(judged_talks([trace(1, ("7", "7"), "7", "7", talked=False)], RIGHT)) == []


@pytest.mark.parametrize(
    ("num_judged", "fixed", "broken", "pays"),
    [
        (MIN_TALKS - 1, 9, 0, None),
        (MIN_TALKS, 2, 1, True),
        (MIN_TALKS, 1, 2, False),
        (MIN_TALKS, 2, 2, False),
    ],
)
def test_talk_pays_where_it_turned_more_verdicts_right_than_wrong(num_judged, fixed, broken, pays) -> None:
    count = TalkCount(task_type="sum", num_judged=num_judged, num_wrong_to_right=fixed, num_right_to_wrong=broken)
    assert Reliability(talks=(count,)).talk_pays("sum") is pays


def test_talks_of_other_task_types_count_only_while_this_type_has_too_few() -> None:
    other = TalkCount(task_type="gcd", num_judged=MIN_TALKS, num_wrong_to_right=5)
    own = TalkCount(task_type="sum", num_judged=MIN_TALKS, num_right_to_wrong=5)
    assert Reliability(talks=(other,)).talk_pays("sum") is True
    assert Reliability(talks=(other, own)).talk_pays("sum") is False


def test_talks_add_up_when_two_reliabilities_are_merged() -> None:
    first, second = trace(1, ("7", "8"), "8", "7"), trace(2, ("7", "8"), "7", "8")
    apart = [measure((), talks=judged_talks([one], RIGHT)) for one in (first, second)]
    assert apart[0].merge(apart[1]) == measure((), talks=judged_talks([first, second], RIGHT))


def test_a_verdict_says_when_its_weights_were_measured_on_other_task_types(double) -> None:
    measured = measure_traces([trace(number, ("7", "8"), "7", "7", talked=False) for number in range(30)], RIGHT)
    words = {}
    for kind in ("sum", "gcd"):
        task = Task(id="x", question="?", type=kind, answer_kind="number")
        engine = double({member.name: {"propose": "7"} for member in MEMBERS})
        held = asyncio.run(deliberate(task, MEMBERS, engine, VoteConfig(), seed=1, job=Job(reliability=measured)))
        assert held.verdict.diagnosis is not None
        words[kind] = held.verdict.diagnosis.weighting
    assert words["sum"].startswith("measured on 3 judged answers")
    assert "of other task types, none of this one" in words["gcd"]
    assert "of other task types" not in words["sum"]


def test_confidence_is_fitted_to_tasks_that_the_weights_were_not_measured_on() -> None:
    # Members look perfect on half of the tasks and hopeless on the other: in sample they would look sure everywhere.
    traces = [trace(number, ("7", "7"), "7", "7", talked=False) for number in range(400)]
    right = {(one.task.id, "7"): number % 2 == 0 for number, one in enumerate(traces)}
    measured = measure_traces(traces, right)
    assert measured.accuracy("a", "sum").num_judged == 400
    assert measured.calibration is not None
    assert abs(measured.calibration(max(count.percent for count in measured.confidences) / 100) - 0.5) < 0.1
