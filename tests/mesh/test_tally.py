from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.equivalence import canonical
from mesh.tally import plurality, tally_votes
from mesh.types import Proposal, Vote

FEW = settings(max_examples=40, deadline=None)
ANSWERS = st.sampled_from(["1", "2", "3", "1.0", None])


def _proposal(answer: str | None, member: str = "a", family: str = "f", sample: int = 0) -> Proposal:
    return Proposal(member=member, family=family, text=answer or "", answer=answer, sample=sample)


def _vote(answer: str, member: str, family: str = "f", weight: float = 1.0, other: str = "") -> Vote:
    weights = ((answer, weight), (other, 1 - weight)) if other else ((answer, weight),)
    return Vote(member=member, family=family, answer=answer, weights=weights)


@st.composite
def _proposals(draw: st.DrawFn) -> list[Proposal]:
    seats = draw(st.lists(st.tuples(st.sampled_from("abcd"), ANSWERS), max_size=12))
    return [_proposal(answer, member, "fg"[member in "ab"], i) for i, (member, answer) in enumerate(seats)]


@st.composite
def _votes(draw: st.DrawFn) -> list[Vote]:
    voters = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8))
    answers = st.sampled_from(["1", "2", "3", "99"])
    weight = st.sampled_from([0.5, 0.6, 0.75, 1.0])
    return [_vote(draw(answers), voter, "fg"[voter in "abc"], draw(weight), "1") for voter in voters]


def test_equal_answers_are_counted_together() -> None:
    verdict = plurality([_proposal("2"), _proposal("1"), _proposal("1.0")], "number")
    assert (verdict.answer, verdict.support, verdict.tied) == ("1", (("1", 2.0), ("2", 1.0)), False)
    assert verdict.confidence == pytest.approx(2 / 3)
    assert verdict.method == "plurality of 3 proposals"


def test_nobody_answering_gives_no_answer() -> None:
    for proposals in ([], [_proposal(None), _proposal(None, "b")]):
        verdict = plurality(proposals, "number")
        assert (verdict.answer, verdict.support, verdict.confidence, verdict.tied) == (None, (), 0.0, False)
        assert tally_votes([_vote("7", "x")], proposals, "number").answer is None


def test_an_abstention_lowers_the_confidence_and_is_no_dissent() -> None:
    verdict = plurality([_proposal("1"), _proposal(None, "b")], "number")
    assert (verdict.answer, verdict.confidence, verdict.dissent) == ("1", 0.5, ())


def test_a_tie_goes_to_more_families_then_more_members_then_the_earlier_seat() -> None:
    families = [_proposal("1", "a", "f"), _proposal("1", "b", "f"), _proposal("2", "c", "f"), _proposal("2", "d", "g")]
    assert (plurality(families, "number").answer, plurality(families, "number").tied) == ("2", True)
    outnumbered = [*(_proposal("1", m, "f") for m in "abc"), *(_proposal("2", m, m) for m in "fgf")]
    assert plurality(outnumbered, "number").answer == "2"
    members = [_proposal("1", "a"), _proposal("1", "a", sample=1), _proposal("2", "b"), _proposal("2", "c")]
    assert plurality(members, "number").answer == "2"
    seats = [_proposal("2", "a"), _proposal("1", "b")]
    assert plurality(seats, "number").answer == "2"
    assert plurality(seats[::-1], "number").answer == "1"


def test_members_whose_own_answer_lost_are_the_dissent() -> None:
    proposals = [_proposal("1", "a"), _proposal("2", "b"), _proposal("1", "c")]
    assert plurality(proposals, "number").dissent == ("b",)
    swayed = tally_votes([_vote("2", m) for m in "abc"], proposals, "number")
    assert (swayed.answer, swayed.dissent, swayed.method) == ("2", ("a", "c"), "plurality of 3 votes")


@FEW
@given(_proposals(), st.randoms())
def test_the_order_of_proposals_decides_nothing_but_a_full_tie(proposals: list[Proposal], random: object) -> None:
    verdict = plurality(proposals, "number")
    shuffled = list(proposals)
    random.shuffle(shuffled)
    again = plurality(shuffled, "number")
    assert (again.confidence, again.tied) == (verdict.confidence, verdict.tied)
    assert dict(again.support) == dict(verdict.support)
    if not verdict.tied:
        assert (again.answer, set(again.dissent) <= {p.member for p in proposals}) == (verdict.answer, True)


@FEW
@given(_proposals(), _votes(), st.randoms())
def test_the_order_of_votes_decides_nothing(proposals: list[Proposal], votes: list[Vote], random: object) -> None:
    shuffled = list(votes)
    random.shuffle(shuffled)
    assert tally_votes(shuffled, proposals, "number") == tally_votes(votes, proposals, "number")


@FEW
@given(_proposals())
def test_one_more_proposal_for_the_winner_keeps_it_the_winner(proposals: list[Proposal]) -> None:
    verdict = plurality(proposals, "number")
    assume(verdict.answer is not None)
    more = plurality([*proposals, _proposal(verdict.answer, "z", "h")], "number")
    assert canonical(more.answer, "number") == canonical(verdict.answer, "number")
    assert not more.tied


@FEW
@given(_proposals(), _votes())
def test_one_more_vote_for_the_winner_keeps_it_the_winner(proposals: list[Proposal], votes: list[Vote]) -> None:
    assume(votes)
    verdict = tally_votes(votes, proposals, "number")
    assume(verdict.answer is not None)
    more = tally_votes([*votes, _vote(verdict.answer, "z", "h", 0.5, "3")], proposals, "number")
    assert more.answer == verdict.answer


@FEW
@given(_proposals(), _votes(), st.text(max_size=5))
def test_an_answer_that_nobody_proposed_cannot_win(proposals: list[Proposal], votes: list[Vote], forged: str) -> None:
    votes = [*votes, *(_vote(forged, f"x{i}") for i in range(20))]
    verdict = tally_votes(votes, proposals, "number")
    proposed = {canonical(p.answer, "number") for p in proposals if p.answer is not None}
    assert verdict.answer is None or canonical(verdict.answer, "number") in proposed


def test_a_member_has_one_vote_however_often_it_votes() -> None:
    proposals = [_proposal("1", "a"), _proposal("2", "b")]
    votes = [_vote("1", "a"), _vote("1", "c"), *[_vote("2", "b")] * 9]
    assert tally_votes(votes, proposals, "number").answer == "1"


def test_of_contradictory_votes_the_first_counts() -> None:
    proposals = [_proposal("1", "a"), _proposal("2", "b")]
    votes = [_vote("1", "a"), _vote("2", "b"), _vote("2", "c"), _vote("1", "b"), _vote("1", "c")]
    assert tally_votes(votes, proposals, "number").answer == "2"


@FEW
@given(st.lists(st.sampled_from(["1", "2", "3", "x"]), max_size=4))
def test_a_minority_of_arbitrary_voters_cannot_overturn_five_who_agree(forged: list[str]) -> None:
    proposals = [_proposal(a, a) for a in ("1", "2", "3")]
    votes = [*(_vote(a, f"m{i}", f"g{i}") for i, a in enumerate(forged)), *(_vote("2", f"h{i}") for i in range(5))]
    assert tally_votes(votes, proposals, "number").answer == "2"


def test_the_method_of_a_tie_names_the_rule_that_broke_it() -> None:
    families = [_proposal("1", "a", "f"), _proposal("1", "b", "f"), _proposal("2", "c", "f"), _proposal("2", "d", "g")]
    assert plurality(families, "number").method == "plurality of 4 proposals, a tie: more families behind it"
    members = [_proposal("1", "a"), _proposal("1", "a", sample=1), _proposal("2", "b"), _proposal("2", "c")]
    assert plurality(members, "number").method.endswith(", a tie: more members behind it")
    seats = [_proposal("1", "a", "f"), _proposal("2", "b", "g")]
    assert plurality(seats, "number").method.endswith(", a tie: the earlier seat")
    votes = [_vote("1", "a", "f", 0.6, "2"), _vote("2", "b", "g", 0.9, "1")]
    assert tally_votes(votes, seats, "number").method == "plurality of 2 votes, a tie: greater vote probabilities"
    assert plurality(seats[:1], "number").method == "plurality of 1 proposal"


def test_tied_votes_go_to_the_greater_sum_of_probabilities_before_families() -> None:
    proposals = [_proposal("1", "a", "f"), _proposal("2", "b", "g")]
    votes = [_vote("1", "a", "f", 0.6, "2"), _vote("2", "b", "g", 0.9, "1")]
    verdict = tally_votes(votes, proposals, "number")
    assert (verdict.answer, verdict.tied, verdict.confidence) == ("2", True, 0.5)
    even = [_vote("1", "a", "f", 0.9, "2"), _vote("2", "b", "g", 0.9, "1")]
    assert tally_votes(even, proposals, "number").answer == "1"


def test_without_votes_the_proposals_decide_and_the_method_says_so() -> None:
    verdict = tally_votes([], [_proposal("1"), _proposal("1", "b")], "number")
    assert (verdict.answer, verdict.method) == ("1", "plurality of 2 proposals (no vote was cast)")


@FEW
@given(_proposals())
def test_the_winner_is_first_by_ballots_then_families_then_members_then_seat(proposals: list[Proposal]) -> None:
    """The rule once more, answer by answer instead of pile by pile."""
    read = [(canonical(p.answer, "number"), p) for p in proposals if p.answer is not None]

    def rank(answer: str) -> tuple[int, ...]:
        behind = [p for spelled, p in read if spelled == answer]
        seat = next(i for i, p in enumerate(proposals) if p is behind[0])
        return (len(behind), len({p.family for p in behind}), len({p.member for p in behind}), -seat)

    best = max({answer for answer, _ in read}, key=rank, default=None)
    verdict = plurality(proposals, "number")
    assert (None if verdict.answer is None else canonical(verdict.answer, "number")) == best


@FEW
@given(_proposals(), st.integers(1, 5))
def test_abstentions_change_nothing_but_the_confidence(proposals: list[Proposal], num_silent: int) -> None:
    silent = [_proposal(None, name, "h") for name in "uvwxyz"[:num_silent]]
    verdict, with_silence = plurality(proposals, "number"), plurality([*silent, *proposals], "number")
    told = {"method", "confidence"}
    assert with_silence.model_dump(exclude=told) == verdict.model_dump(exclude=told)
    assert with_silence.confidence * (len(proposals) + num_silent) == pytest.approx(verdict.confidence * len(proposals))


@FEW
@given(_proposals(), _votes(), st.lists(st.tuples(st.integers(0, 7), st.text(max_size=4)), max_size=6))
def test_a_member_that_has_voted_cannot_add_to_its_vote(
    proposals: list[Proposal], votes: list[Vote], again: list[tuple[int, str]]
) -> None:
    assume(votes)
    voters = [votes[i % len(votes)] for i, _ in again]
    repeated = [_vote(text, voter.member, "h") for voter, (_, text) in zip(voters, again, strict=True)]
    assert tally_votes([*votes, *repeated], proposals, "number") == tally_votes(votes, proposals, "number")


@FEW
@given(st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=4), st.randoms())
def test_a_minority_of_arbitrary_proposals_cannot_overturn_five_who_agree(
    forged: list[str | None], random: object
) -> None:
    """Each of the minority in a family of its own, which would win it any tie."""
    proposals = [_proposal(answer, f"m{i}", f"g{i}") for i, answer in enumerate(forged)]
    proposals += [_proposal("2", f"h{i}", "f") for i in range(5)]
    random.shuffle(proposals)
    verdict = plurality(proposals, "number")
    assert canonical(verdict.answer, "number") == "2"
    assert not verdict.tied


@FEW
@given(_proposals(), _votes())
def test_only_what_was_proposed_has_support(proposals: list[Proposal], votes: list[Vote]) -> None:
    proposed = {canonical(p.answer, "number") for p in proposals if p.answer is not None}
    for verdict in (plurality(proposals, "number"), tally_votes(votes, proposals, "number")):
        assert {canonical(answer, "number") for answer, _ in verdict.support} == proposed
        assert set(verdict.dissent) <= {p.member for p in proposals}
        assert 0.0 <= verdict.confidence <= 1.0
