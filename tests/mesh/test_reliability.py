from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.calibrate import MIN_POINTS
from mesh.reliability import PRIOR_STRENGTH, Judged, Reliability, judged_answers, measure, seat_key
from mesh.types import Deliberation, Member, Proposal, Task, Verdict

FEW = settings(max_examples=50, deadline=None)
JUDGED = st.lists(
    st.builds(
        lambda member, task, sample, answer: _judged(member, task, answer, "odd" if task % 2 else "even", sample),
        st.sampled_from("abc"),
        st.integers(0, 9),
        st.integers(0, 1),
        st.sampled_from(["right", "wrong", "worse", None]),
    ),
    max_size=40,
)


def _judged(member: str, task: int, answer: str | None, task_type: str = "sums", sample: int = 0) -> Judged:
    return Judged(
        member=member,
        family=f"family of {member}",
        task_id=f"t{task}",
        task_type=task_type,
        sample=sample,
        answer=answer,
        correct=answer == "right",
    )


def _answers(member: str, answers: Sequence[str | None], task_type: str = "sums", start: int = 0) -> list[Judged]:
    return [_judged(member, start + i, answer, task_type) for i, answer in enumerate(answers)]


def _member(name: str, family: str = "", adapter: str | None = None) -> Member:
    return Member(name=name, engine="e", family=family or name, adapter=adapter)


def _deliberation(
    proposals: Sequence[Proposal], task: Task, children: tuple[Deliberation, ...] = (), step: str = ""
) -> Deliberation:
    verdict = Verdict(answer=None, method="none")
    return Deliberation(
        id="d",
        task=task,
        protocol="vote",
        seed=0,
        members=(_member("a"),),
        proposals=tuple(proposals),
        first_verdict=verdict,
        verdict=verdict,
        children=children,
        step=step,
    )


def _proposal(
    member: str, answer: str | None, sample: int = 0, number: int = 0, adapter: str | None = None
) -> Proposal:
    return Proposal(
        member=member, family="f", text=answer or "", answer=answer, sample=sample, round=number, adapter=adapter
    )


TASK = Task(id="t", question="?", type="sums", answer_kind="number")


def test_every_first_sample_is_judged_and_nothing_else() -> None:
    proposals = [_proposal("a", "07"), _proposal("a", "8", sample=1), _proposal("a", None, sample=2)]
    proposals += [_proposal("b", "9"), _proposal("a", "8", number=1)]
    found = list(judged_answers([_deliberation(proposals, TASK)], {("t", "07"): True, ("t", "8"): False}))
    assert [(j.member, j.sample, j.answer, j.correct) for j in found] == [
        ("a", 0, "7", True),
        ("a", 1, "8", False),
        ("a", 2, None, False),
    ]
    assert {(j.task_id, j.task_type, j.family) for j in found} == {("t", "sums", "f")}


def test_parts_are_judged_unless_they_were_given_an_earlier_step() -> None:
    alone = _deliberation([_proposal("a", "7")], TASK, step="draft")
    told = _deliberation([_proposal("b", "7")], TASK.model_copy(update={"context": ("7",)}), step="check")
    found = list(judged_answers([_deliberation([], TASK, (alone, told))], {("t", "7"): True}))
    assert [j.member for j in found] == ["a"]


def test_a_specialist_is_not_its_base() -> None:
    adapter = "0123456789abcdef"
    assert seat_key(_member("a")) == "a"
    assert seat_key(_member("a", adapter=adapter)) == "a@0123456789ab"
    assert seat_key(_proposal("a", "7", adapter=adapter)) == seat_key(_member("a", adapter=adapter))
    reliability = measure(_answers(seat_key(_member("a", adapter=adapter)), ["right"] * 5))
    assert (reliability.knows([_member("a")]), reliability.knows([_member("a", adapter=adapter)])) == (False, True)


def test_where_nothing_is_known_the_estimate_is_the_whole_range() -> None:
    found = Reliability().accuracy("a", "sums")
    assert (found.mean, found.num_judged) == (0.5, 0)
    assert (found.low, found.high) == (pytest.approx(0.025), pytest.approx(0.975))


def test_a_member_nobody_judged_gets_what_is_known_of_the_others() -> None:
    reliability = measure(_answers("a", ["right"] * 80 + ["wrong"] * 20))
    found = reliability.accuracy("b", "sums")
    assert (found.mean, found.num_judged) == (pytest.approx(81 / 102), 0)
    assert found.num_right + found.num_wrong == pytest.approx(PRIOR_STRENGTH)


def test_accuracy_is_shrunk_from_the_others_over_other_types_to_this_one() -> None:
    judged = _answers("b", ["right"] * 38 + ["wrong"] * 60, "gcd")
    judged += _answers("a", ["right"] * 8 + ["wrong"] * 2, "gcd", 200)
    judged += _answers("a", ["wrong"] * 4 + ["right"], "sums", 300)
    of_others = 39 / 100
    elsewhere = (10 * of_others + 8) / 20
    assert measure(judged).accuracy("a", "sums").mean == pytest.approx((10 * elsewhere + 1) / 15)
    assert measure(judged).accuracy("a").mean == pytest.approx((10 * of_others + 9) / 25)
    assert measure(judged).accuracy("a", "sums").num_judged == 15


def test_abstentions_are_wrong_answers_but_no_bad_votes() -> None:
    reliability = measure(_answers("a", ["right"] * 300 + [None] * 700))
    assert reliability.accuracy("a", "sums").mean == pytest.approx(0.3, abs=0.01)
    assert reliability.accuracy("a", "sums", answered_only=True).mean == pytest.approx(1.0, abs=0.01)


def test_many_judged_answers_win_over_any_prior() -> None:
    judged = _answers("a", ["right"] * 900 + ["wrong"] * 100) + _answers("b", ["wrong"] * 1000)
    found = measure(judged).accuracy("a", "sums")
    assert found.mean == pytest.approx(0.9, abs=0.01)
    assert found.low < found.mean < found.high < found.low + 0.05


def test_the_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    draw, held = random.Random(2), 0
    for _ in range(100):
        judged = _answers("a", ["right" if draw.random() < 0.3 else "wrong" for _ in range(40)])
        found = measure(judged).accuracy("a", "sums")
        held += found.low <= 0.3 <= found.high
    assert 0.9 <= held / 100 <= 1.0


def test_copies_are_measured_as_one_and_strangers_as_many() -> None:
    draw = random.Random(4)
    said = ["right" if draw.random() < 0.5 else "wrong" for _ in range(400)]
    copies = measure([j for name in "abcd" for j in _answers(name, said)])
    assert copies.correlation("a", "b") == pytest.approx(400 / 410)
    assert copies.num_effective("abcd") == pytest.approx(1.0, abs=0.06)
    strangers = measure(
        [j for name in "abcd" for j in _answers(name, [draw.choice(["right", "wrong"]) for _ in range(400)])]
    )
    assert strangers.num_effective("abcd", "sums") > 3.0


def test_few_answers_together_say_little_of_a_correlation() -> None:
    judged = [j for name in "ab" for j in _answers(name, ["right", "wrong"])]
    assert measure(judged).correlation("a", "b") == pytest.approx(2 / 12)
    assert measure(judged).correlation("a", "b", "sums") == pytest.approx(2 / 12)


def test_opposite_errors_are_worth_no_more_than_the_members_there_are() -> None:
    judged = _answers("a", ["right", "wrong"] * 50) + _answers("b", ["wrong", "right"] * 50)
    assert measure(judged).correlation("a", "b") < -0.8
    assert measure(judged).num_effective("ab") == 2.0


def test_a_type_that_is_hard_for_both_is_no_agreement_of_theirs() -> None:
    draw = random.Random(6)
    judged = []
    for task_type, chance, start in (("easy", 0.95, 0), ("hard", 0.05, 1000)):
        for name in "ab":
            said = ["right" if draw.random() < chance else "wrong" for _ in range(500)]
            judged += _answers(name, said, task_type, start)
    assert abs(measure(judged).correlation("a", "b")) < 0.1


def test_one_type_leans_on_the_others_where_it_has_few_answers() -> None:
    said = ["right", "wrong"] * 50
    judged = [j for name in "ab" for j in _answers(name, said, "gcd")]
    few = [j for name in "ab" for j in _answers(name, ["right", "wrong"], "sums", 500)]
    elsewhere = 100 / 110
    assert measure(judged + few).correlation("a", "b", "sums") == pytest.approx((2 + 10 * elsewhere) / 12)
    assert measure(judged).correlation("a", "b", "never seen") == pytest.approx(elsewhere)


def test_who_is_always_right_has_no_correlation() -> None:
    judged = _answers("a", ["right"] * 50) + _answers("b", ["right", "wrong"] * 25)
    assert measure(judged).correlation("a", "b") == 0.0


def test_being_wrong_together_is_counted_apart_from_the_same_wrong_answer() -> None:
    judged = _answers("a", ["wrong", "wrong", "worse", None, "right"])
    judged += _answers("b", ["wrong", "worse", "worse", None, "wrong"])
    reliability = measure(judged)
    assert reliability.double_fault("a", "b") == pytest.approx(4 / 5)
    assert reliability.same_wrong_share("b", "a") == pytest.approx(2 / 3)
    assert reliability.num_wrong_answers(["a", "b"], "sums") == pytest.approx(4 / 3)
    assert (reliability.double_fault("a", "c"), reliability.same_wrong_share("a", "c")) == (None, None)
    assert (reliability.num_wrong_answers(["a", "c"]), reliability.num_shared(["a", "b", "c"])) == (1.0, 5)


def test_the_best_member_is_the_most_accurate_and_of_equals_the_earlier_seat() -> None:
    a, b, c = _member("a"), _member("b"), _member("c")
    judged = _answers("a", ["right", "wrong"] * 20) + _answers("b", ["right"] * 30 + ["wrong"] * 10)
    assert measure(judged).best_member([a, b, c], "sums") == b
    twins = _answers("a", ["right"] * 9) + _answers("b", ["right"] * 9)
    assert measure(twins).best_member([b, a]) == b
    assert measure(judged).best_member([c]) is None


def test_a_member_can_be_best_on_one_type_alone() -> None:
    judged = _answers("a", ["right"] * 40, "gcd") + _answers("a", ["wrong"] * 40, "sums", 100)
    judged += _answers("b", ["wrong"] * 40, "gcd") + _answers("b", ["right"] * 40, "sums", 100)
    members = [_member("a"), _member("b")]
    assert measure(judged).best_member(members, "gcd") == members[0]
    assert measure(judged).best_member(members, "sums") == members[1]


def test_the_complementary_pair_is_right_where_the_other_is_wrong() -> None:
    half, other_half = ["right", "wrong"] * 50, ["wrong", "right"] * 50
    judged = _answers("a", half) + _answers("b", half) + _answers("c", other_half)
    a, b, c = _member("a", "f"), _member("b", "g"), _member("c", "g")
    assert measure(judged).complementary_pair([a, b, c], "sums") == (a, c)
    assert measure(judged).complementary_pair([b, c]) == (b, c)
    assert measure(judged).complementary_pair([a, _member("z")]) is None


def test_a_pair_of_two_families_goes_before_a_better_pair_of_one() -> None:
    judged = _answers("a", ["right"] * 90 + ["wrong"] * 10) + _answers("b", ["wrong"] * 10 + ["right"] * 90)
    judged += _answers("c", ["right"] * 20 + ["wrong"] * 80)
    a, b, c = _member("a", "f"), _member("b", "f"), _member("c", "g")
    assert measure(judged).complementary_pair([a, b, c]) in ((a, c), (b, c))


def test_of_answers_to_one_task_with_one_sample_number_the_first_counts() -> None:
    judged = _answers("a", ["right", "wrong"]) + _answers("b", ["right", None])
    assert measure(judged * 2) == measure(judged)
    assert measure(judged + _answers("a", ["wrong", "right"])) == measure(judged)


def test_a_type_nobody_was_wrong_on_together_borrows_how_wrong_answers_spread() -> None:
    judged = _answers("a", ["wrong", "wrong", "worse"], "gcd") + _answers("b", ["wrong", "worse", "wrong"], "gcd")
    assert measure(judged).num_wrong_answers(["a", "b"], "sums") == 4 / 2


@FEW
@given(JUDGED)
def test_two_measurements_add_up_to_one_of_everything(judged: list[Judged]) -> None:
    early = [j for j in judged if j.task_id < "t5"]
    late = [j for j in judged if j.task_id >= "t5"]
    confidences = [(0.1 * i, bool(i % 2)) for i in range(9)]
    merged = measure(early, confidences[:4]).merge(measure(late, confidences[4:]))
    assert merged == measure(judged, confidences)
    assert merged.accuracy("a", "odd") == measure(judged).accuracy("a", "odd")


@FEW
@given(JUDGED)
def test_a_reliability_survives_a_file(judged: list[Judged]) -> None:
    reliability = measure(judged, [(0.5, True)])
    reliability.accuracy("a")
    assert Reliability.model_validate_json(reliability.model_dump_json()) == reliability


@FEW
@given(JUDGED, st.randoms())
def test_the_order_of_judged_answers_decides_nothing(judged: list[Judged], random: object) -> None:
    unique = list({(j.member, j.task_id, j.sample): j for j in judged}.values())
    shuffled = list(unique)
    random.shuffle(shuffled)
    assert measure(shuffled) == measure(unique)


@FEW
@given(JUDGED)
def test_every_derived_number_stays_in_its_range(judged: list[Judged]) -> None:
    reliability = measure(judged)
    for task_type in (None, "odd", "even", "new"):
        assert 1.0 <= reliability.num_effective("abc", task_type) <= 3.0
        assert reliability.num_wrong_answers("abc", task_type) >= 1.0
        assert -1.0 <= reliability.correlation("a", "b", task_type) <= 1.0
        assert reliability.correlation("a", "b", task_type) == reliability.correlation("b", "a", task_type)
        assert 0.0 < reliability.accuracy("a", task_type).mean < 1.0


def test_confidences_are_kept_as_counts_and_fitted_when_there_are_enough() -> None:
    pairs = [(0.9, i % 2 == 0) for i in range(MIN_POINTS)]
    few, enough = measure([], pairs[:-1]), measure([], pairs)
    assert few.calibration is None
    assert enough.calibration is not None
    assert enough.calibration(0.9) == pytest.approx(0.5, abs=0.06)
    assert enough.calibration.num_points == MIN_POINTS


def test_a_single_member_is_one_vote_and_none_are_none() -> None:
    assert (Reliability().num_effective(["a"]), Reliability().num_effective([])) == (1.0, 0.0)
    assert Reliability().num_effective("abc") == 3.0
