from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evolve.credit import Credit, count_credits, credit
from mesh.types import Deliberation, Member, Proposal, Task, Verdict

TASK = Task(id="t", question="3 + 4?", answer_kind="number")


def said(member: str, answer: str | None, round: int = 0, sample: int = 0) -> Proposal:
    return Proposal(
        member=member, family=f"{member}-family", text=f"Answer: {answer}", answer=answer, round=round, sample=sample
    )


def trace(*proposals: Proposal) -> Deliberation:
    nothing = Verdict(answer=None, method="none")
    names = dict.fromkeys(proposal.member for proposal in proposals)
    return Deliberation(
        id="d",
        task=TASK,
        protocol="council",
        seed=0,
        members=tuple(Member(name=name, engine=name, family=name) for name in names),
        proposals=proposals,
        first_verdict=nothing,
        verdict=nothing,
    )


def is_seven(task_id: str, answer: str | None) -> bool:
    return task_id == "t" and answer == "7"


def kinds(*proposals: Proposal) -> list[str]:
    return [item.kind for item in credit([trace(*proposals)], is_seven)]


def test_first_proposals_are_credited_one_by_one() -> None:
    assert kinds(said("a", "7"), said("a", "8", sample=1), said("b", None)) == ["own_correct", "own_wrong", "abstained"]


def test_a_revision_is_compared_with_what_the_member_said_before() -> None:
    assert kinds(
        said("a", "8"), said("b", "7"), said("c", "7"), said("d", "8"),
        said("a", "7", 1), said("b", "7", 1), said("c", "9", 1), said("d", "9", 1),
    )[4:] == ["wrong_to_right", "stayed_right", "right_to_wrong", "stayed_wrong"]  # fmt: skip


def test_the_latest_revision_counts_and_not_the_first_proposal() -> None:
    assert kinds(said("a", "7"), said("a", "8", 1), said("a", "7", 2))[1:] == ["right_to_wrong", "wrong_to_right"]


def test_with_several_samples_the_first_one_was_the_members_own() -> None:
    assert kinds(said("a", "8"), said("a", "7", sample=1), said("a", "7", 1))[-1] == "wrong_to_right"


def test_an_abstention_is_no_position_and_never_right() -> None:
    assert kinds(said("a", "7"), said("a", None, 1), said("a", "7", 2))[1:] == ["abstained", "wrong_to_right"]
    always = credit([trace(said("a", None))], lambda task_id, answer: True)
    assert not always[0].correct


def test_a_late_comer_counts_as_having_been_wrong() -> None:
    assert kinds(said("a", "7"), said("b", "7", 1))[-1] == "wrong_to_right"


def test_members_are_counted_apart() -> None:
    counts = count_credits(credit([trace(said("a", "7"), said("b", "8"), said("a", "7", sample=1))], is_seven))
    assert counts == {"a": {"own_correct": 2}, "b": {"own_wrong": 1}}


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["7", "8", None]), st.integers(0, 2), st.integers(0, 2)),
        max_size=12,
    )
)
def test_every_proposal_becomes_one_credit_that_is_right_when_its_answer_is(
    drawn: list[tuple[str, str | None, int, int]],
) -> None:
    credits: list[Credit] = credit([trace(*(said(*item) for item in drawn))], is_seven)
    assert len(credits) == len(drawn)
    assert all(item.correct == (item.answer == "7") for item in credits)
    assert [item.round for item in credits] == sorted(item[2] for item in drawn)
