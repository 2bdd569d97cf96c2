from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evolve.learning.credit import (
    Credit,
    count_credits,
    count_phases,
    credit,
    credit_critiques,
    credit_roles,
    credit_votes,
)
from mesh.types import (
    Completion,
    Critique,
    Deliberation,
    Exchange,
    Member,
    Message,
    Part,
    Phase,
    Proposal,
    Task,
    Verdict,
    Vote,
)

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


def against(member: str, target: str, round: int = 1, valid: bool = True) -> Critique:
    return Critique(member=member, round=round, target_answer=target, text="No.", valid=valid)


def critique_kinds(critiques: list[Critique], *proposals: Proposal) -> list[str]:
    held = trace(*proposals).model_copy(update={"critiques": tuple(critiques)})
    return [item.kind for item in credit_critiques([held], is_seven)]


def test_a_critique_is_credited_with_those_it_spoke_against_ending_right() -> None:
    first = (said("a", "8"), said("b", "7"), said("c", "8"))
    assert critique_kinds([against("b", "8")], *first, said("a", "7", 1), said("c", "8", 1)) == ["fixed"]
    assert critique_kinds([against("b", "8")], *first, said("a", "9", 1), said("c", "8", 1)) == ["left_wrong"]


def test_a_critique_of_a_right_answer_harms_when_somebody_leaves_it() -> None:
    first = (said("a", "7"), said("b", "8"))
    assert critique_kinds([against("b", "7")], *first, said("a", "7", 1)) == ["kept_right"]
    assert critique_kinds([against("b", "7")], *first, said("a", "8", 1)) == ["broke"]


def test_a_critique_nobody_could_heed_counts_for_nothing() -> None:
    first = (said("a", "8"), said("b", "8"))
    assert critique_kinds([against("b", "9")], *first, said("a", "7", 1)) == ["unheard"]
    assert critique_kinds([against("a", "8", valid=False)], *first, said("b", "7", 1)) == ["invalid"]
    assert critique_kinds([against("a", "8")], said("a", "8"), said("a", "7", 1)) == ["unheard"]  # its own revision


def test_a_critique_of_the_second_round_speaks_to_what_was_held_after_the_first() -> None:
    told = [said("a", "7"), said("b", "7"), said("a", "8", 1), said("b", "7", 1), said("a", "7", 2)]
    assert critique_kinds([against("b", "8", round=2)], *told) == ["fixed"]


def test_votes_are_right_or_wrong_and_show_how_sure_they_were() -> None:
    votes = (
        Vote(member="a", family="f", answer="7", weights=(("7", 0.75), ("8", 0.25))),
        Vote(member="b", family="g", answer="8", weights=(("8", 0.6), ("7", 0.4))),
        Vote(member="c", family="h", answer="9", weights=(("9", 1.0),)),
    )
    held = trace(said("a", "7"), said("b", "8")).model_copy(update={"votes": votes})
    found = credit_votes([held], is_seven)
    assert [(v.correct, v.right_weight, v.could_be_right) for v in found] == [
        (True, 0.75, True), (False, 0.4, True), (False, 0.0, False),
    ]  # fmt: skip


def test_every_member_has_a_record_by_phase() -> None:
    held = trace(said("a", "8"), said("b", "7"), said("a", "7", 1), said("b", "8", 1)).model_copy(
        update={
            "critiques": (against("b", "8"), against("a", "9")),
            "votes": (Vote(member="a", family="f", answer="7", weights=(("7", 1.0),)),),
        }
    )
    rows = count_phases(credit([held], is_seven), credit_critiques([held], is_seven), credit_votes([held], is_seven))
    assert [(r.member, r.phase, r.num, r.num_good, r.num_changed, r.num_harmed) for r in rows] == [
        ("a", "propose", 1, 0, 0, 0), ("a", "revise", 1, 1, 1, 0), ("a", "vote", 1, 1, 0, 0),
        ("b", "propose", 1, 1, 0, 0), ("b", "revise", 1, 0, 0, 1), ("b", "critique", 1, 1, 1, 0),
    ]  # fmt: skip


def exchange(member: str, phase: Phase, text: str, round: int = 1) -> Exchange:
    prompt = (Message(role="user", parts=(Part(text=f"{phase} of {member}"),)),)
    return Exchange(
        member=member, phase=phase, round=round, messages=prompt, completions=(Completion(text=f"{text}\n"),)
    )


def test_what_was_said_to_others_keeps_the_prompt_it_was_said_to() -> None:
    held = trace(said("a", "8"), said("b", "7"), said("a", "7", 1), said("b", None, 1)).model_copy(
        update={
            "critiques": (against("b", "8"), against("a", "7")),
            "exchanges": (
                exchange("a", "propose", "Answer: 8", 0),
                exchange("b", "critique", "No."),
                exchange("a", "critique", "No."),
                exchange("a", "revise", "Answer: 7"),
                exchange("b", "revise", "Answer: None"),
            ),
        }
    )
    found = credit_roles([held], is_seven)
    assert [(r.role, r.member, r.kind, r.messages[0].text) for r in found] == [
        ("critique", "b", "right", "critique of b"),
        ("critique", "a", "wrong", "critique of a"),  # it spoke against a right answer
        ("synthesis", "a", "right", "revise of a"),
        ("synthesis", "b", "abstained", "revise of b"),
    ]


def test_what_was_said_to_others_and_has_no_prompt_in_the_trace_is_left_out() -> None:
    held = trace(said("a", "8"), said("b", "7"), said("a", "7", 1)).model_copy(
        update={"critiques": (against("b", "8"),), "exchanges": (exchange("b", "critique", "Something else."),)}
    )
    assert credit_roles([held], is_seven) == []
