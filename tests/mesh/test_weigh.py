from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.equivalence import canonical
from mesh.reliability import AnswerCount, ConfidenceCount, Judged, PairCount, Reliability, measure
from mesh.tally import plurality, tally_votes
from mesh.types import Member, Proposal, Verdict, Vote
from mesh.weigh import MAX_WEIGHT, NONE_ABOVE_CHANCE, NOTHING_MEASURED, cap_family, weigh_votes, weighted

NAMES = "abcdef"
SEATS = tuple(Member(name=name, engine="e", family="ffghhi"[i]) for i, name in enumerate(NAMES))
FAMILY = {member.name: member.family for member in SEATS}
FEW = settings(max_examples=25, deadline=None)
ANSWERS = st.sampled_from(["1", "2", "3", "1.0", None])


def _proposal(answer: str | None, member: str = "a", sample: int = 0, family: str = "") -> Proposal:
    family = family or FAMILY.get(member, "x")
    return Proposal(member=member, family=family, text=answer or "", answer=answer, sample=sample)


def _vote(answer: str, member: str, weight: float = 1.0, other: str = "") -> Vote:
    weights = ((answer, weight), (other, 1 - weight)) if other else ((answer, weight),)
    return Vote(member=member, family=FAMILY.get(member, "x"), answer=answer, weights=weights)


def _seats(families: str) -> tuple[Member, ...]:
    return tuple(Member(name=name, engine="e", family=f) for name, f in zip(NAMES, families, strict=False))


def _known(shares: dict[str, float], correlation: float | dict[tuple[str, str], float] = 0.0) -> Reliability:
    """As if each had been judged on so many answers that no prior is left."""
    num, names = 10**7, sorted(shares)
    answers = [
        AnswerCount(member=m, task_type="t", num_judged=num, num_answered=num, num_correct=int(num * shares[m]))
        for m in names
    ]
    pairs = []
    for first, second in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        phi = correlation if isinstance(correlation, float) else correlation.get((first, second), 0.0)
        half = num // 2
        pairs.append(
            PairCount(
                first=first,
                second=second,
                task_type="t",
                num_both=num,
                num_first_wrong=half,
                num_second_wrong=half,
                num_both_wrong=int(num * (1 + phi) / 4),
            )
        )
    return Reliability(answers=tuple(answers), pairs=tuple(pairs))


@st.composite
def _reliabilities(draw: st.DrawFn, *, low: float = 0.2, correlated: bool = True) -> Reliability:
    shares = {name: draw(st.sampled_from([low, 0.6, 0.7, 0.9])) for name in NAMES}
    phis = st.sampled_from([-0.3, 0.0, 0.4, 0.9] if correlated else [0.0])
    return _known(shares, {(a, b): draw(phis) for a in NAMES for b in NAMES if a < b})


@st.composite
def _proposals(draw: st.DrawFn) -> list[Proposal]:
    said = draw(st.lists(st.tuples(st.sampled_from(NAMES), ANSWERS), max_size=10))
    return [_proposal(answer, member, i) for i, (member, answer) in enumerate(said)]


@st.composite
def _one_each(draw: st.DrawFn) -> list[Proposal]:
    return [_proposal(draw(ANSWERS), name) for name in NAMES]


@st.composite
def _votes(draw: st.DrawFn) -> list[Vote]:
    voters = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
    weight = st.sampled_from([0.5, 0.6, 0.75, 1.0])
    return [_vote(draw(st.sampled_from(["1", "2", "3", "99"])), voter, draw(weight), "1") for voter in voters]


def _weigh(proposals: Sequence[Proposal], known: Reliability | None, seats: Sequence[Member] = SEATS) -> Verdict:
    return weighted(proposals, "number", known, seats, "t")


# Weights


def test_a_member_weighs_the_log_odds_of_its_measured_accuracy() -> None:
    seats = _seats("fgh")
    known = _known({"a": 0.9, "b": 0.6, "c": 0.6})
    verdict = _weigh([_proposal("1", "a"), _proposal("2", "b"), _proposal("2", "c")], known, _seats("fff"))
    support = dict(verdict.support)
    assert verdict.answer == "1"
    assert support["1"] == pytest.approx(math.log(9), abs=1e-4)
    assert support["2"] == pytest.approx(2 * math.log(1.5), abs=1e-4)
    assert verdict.method == "weighted log-odds of 3 proposals (measured accuracy)"
    three = _weigh([_proposal("1", "a"), _proposal("2", "b"), _proposal("3", "c")], known, seats)
    assert dict(three.support)["2"] == pytest.approx(math.log(2 * 1.5), abs=1e-4)


def test_wrong_answers_that_spread_make_a_weak_member_worth_hearing() -> None:
    known = _known({"a": 0.3, "b": 0.2})
    pair = known.pairs[0].model_copy(update={"num_both_answered_wrong": 900, "num_same_wrong": 99})
    spread = known.model_copy(update={"pairs": (pair,)})
    proposals = [_proposal("1", "a"), _proposal("2", "b")]
    assert NONE_ABOVE_CHANCE in _weigh(proposals, known, SEATS[:2]).method
    support = dict(_weigh(proposals, spread, SEATS[:2]).support)
    assert support["1"] == pytest.approx(math.log(0.3 / 0.7 * 901 / 100), abs=1e-3)
    assert support["2"] == pytest.approx(math.log(0.2 / 0.8 * 901 / 100), abs=1e-3)


def test_weights_are_held_between_nothing_and_a_hundred_to_one() -> None:
    verdict = _weigh([_proposal("1", "a"), _proposal("2", "b")], _known({"a": 0.9999, "b": 0.3}), SEATS[:2])
    assert dict(verdict.support) == {"1": pytest.approx(MAX_WEIGHT), "2": 0.0}


def test_a_member_nobody_judged_weighs_what_the_others_do() -> None:
    verdict = _weigh([_proposal("1", "a"), _proposal("2", "d")], _known({"a": 0.75}), [SEATS[0], SEATS[3]])
    assert dict(verdict.support)["2"] == pytest.approx(dict(verdict.support)["1"], abs=1e-3)


def test_a_specialist_has_a_weight_of_its_own() -> None:
    adapter = "feedfacefeedface"
    seats = [SEATS[0].model_copy(update={"adapter": adapter}), SEATS[2]]
    known = _known({"a": 0.9, "a@feedfacefeed": 0.55, "c": 0.7})
    verdict = _weigh([_proposal("1", "a"), _proposal("2", "c")], known, seats)
    assert dict(verdict.support)["1"] == pytest.approx(math.log(0.55 / 0.45), abs=1e-3)


def test_samples_of_one_member_share_its_weight() -> None:
    known = _known({"a": 0.8, "c": 0.75})
    said = [_proposal("1", "a", i) for i in range(6)] + [_proposal("2", "a", 6), _proposal("2", "a", 7)]
    verdict = _weigh([*said, _proposal(None, "a", 8), _proposal("2", "c")], known)
    support = dict(verdict.support)
    assert support["1"] == pytest.approx(0.75 * math.log(4), abs=1e-4)
    assert support["2"] == pytest.approx(0.25 * math.log(4) + math.log(3), abs=1e-4)
    assert verdict.answer == "2"


def test_supporters_who_err_alike_count_for_less() -> None:
    shares = dict.fromkeys("abcde", 0.7)
    alike = {(x, y): 0.9 for x in "abc" for y in "abc" if x < y}
    proposals = [*(_proposal("1", m, family="f") for m in "abc"), *(_proposal("2", m, family="g") for m in "de")]
    assert _weigh(proposals, _known(shares)).answer == "1"
    verdict = _weigh(proposals, _known(shares, alike))
    assert verdict.answer == "2"
    assert dict(verdict.support)["1"] == pytest.approx(math.log(7 / 3) * 3 / (1 + 2 * 0.9), abs=1e-3)
    assert verdict.method.endswith("(measured accuracy; discounted for correlated errors)")


def test_confidence_of_one_member_is_its_accuracy() -> None:
    for share in (0.6, 0.8, 0.95):
        verdict = _weigh([_proposal("1", "a")], _known({"a": share}))
        assert (verdict.confidence, verdict.calibrated) == (pytest.approx(share, abs=1e-4), False)


def test_members_below_chance_leave_little_confidence_however_united() -> None:
    verdict = _weigh([_proposal("1", name) for name in NAMES], _known(dict.fromkeys(NAMES, 0.2)))
    assert (verdict.answer, verdict.confidence) == ("1", 0.5)
    assert verdict.method == f"the best of 6 proposals alone ({NONE_ABOVE_CHANCE})"


def test_where_none_is_above_chance_the_most_accurate_decides_against_any_number() -> None:
    known = _known({"a": 0.3, "b": 0.2, "c": 0.2})
    verdict = _weigh([_proposal("1", "b"), _proposal("1", "c"), _proposal("2", "a")], known, SEATS[:3])
    assert verdict.answer == "2"
    assert dict(verdict.support) == {"2": pytest.approx(0.3, abs=1e-3), "1": pytest.approx(0.2, abs=1e-3)}


def test_confidence_of_two_who_agree_follows_bayes() -> None:
    verdict = _weigh([_proposal("1", "a"), _proposal("1", "c")], _known({"a": 0.8, "c": 0.7}))
    odds = 0.8 / 0.2 * 0.7 / 0.3
    assert verdict.confidence == pytest.approx(odds / (1 + odds), abs=1e-4)


def test_confidence_among_several_answers_leaves_room_for_one_that_nobody_gave() -> None:
    verdict = _weigh([_proposal(a, m) for a, m in (("1", "a"), ("2", "c"), ("3", "d"))], _known({"a": 0.8, "c": 0.6}))
    odds = [0.8 * 2 / 0.2, 0.6 * 2 / 0.4, dict(verdict.support)["3"]]
    assert verdict.confidence == pytest.approx(odds[0] / (odds[0] + odds[1] + math.exp(odds[2]) + 1), abs=1e-4)


def test_a_member_that_often_abstains_weighs_by_the_answers_it_gives() -> None:
    count = AnswerCount(member="a", task_type="t", num_judged=10**6, num_answered=10**5, num_correct=8 * 10**4)
    verdict = _weigh([_proposal("1", "a")], Reliability(answers=(count,)))
    assert dict(verdict.support)["1"] == pytest.approx(math.log(4), abs=1e-3)


def test_a_measured_curve_makes_the_confidence_a_calibrated_one() -> None:
    counts = ConfidenceCount(percent=80, num_judged=400, num_correct=200)
    known = _known({"a": 0.8}).model_copy(update={"confidences": (counts,)})
    verdict = _weigh([_proposal("1", "a")], known)
    assert (verdict.confidence, verdict.calibrated) == (pytest.approx(0.5, abs=0.02), True)


# Equal weights


@FEW
@given(_proposals(), _votes())
def test_without_measurement_it_is_the_tally_and_the_verdict_says_so(
    proposals: list[Proposal], votes: list[Vote]
) -> None:
    for known in (None, Reliability(), _known({"stranger": 0.9})):
        for found, tally in (
            (weighted(proposals, "number", known, SEATS, "t", cap_families=False), plurality(proposals, "number")),
            (
                weigh_votes(votes, proposals, "number", known, SEATS, "t", cap_families=False),
                tally_votes(votes, proposals, "number"),
            ),
        ):
            same = {"method": ""}
            assert found.model_copy(update=same) == tally.model_copy(update=same)
            assert found.answer is None or NOTHING_MEASURED in found.method


def test_nobody_answering_gives_no_answer() -> None:
    for known in (None, _known({"a": 0.9})):
        for proposals in ([], [_proposal(None), _proposal(None, "c")]):
            verdict = _weigh(proposals, known)
            assert (verdict.answer, verdict.support, verdict.confidence) == (None, (), 0.0)
            assert weigh_votes([_vote("7", "a")], proposals, "number", known, SEATS, "t").answer is None


def test_without_votes_the_proposals_are_weighed_and_the_method_says_so() -> None:
    verdict = weigh_votes([], [_proposal("1")], "number", None, SEATS, "t")
    assert verdict.method == f"plurality of 1 proposal ({NOTHING_MEASURED}) (no vote was cast)"


# The cap


@FEW
@given(st.lists(st.tuples(st.sampled_from("fghi"), st.floats(0.0, 1e6)), max_size=9))
def test_with_three_families_none_keeps_more_than_all_the_others_together(ballots: list[tuple[str, float]]) -> None:
    families = [family for family, _ in ballots]
    capped = cap_family(families, [weight for _, weight in ballots])
    assert all(new <= old for new, (_, old) in zip(capped, ballots, strict=True))
    of_family = {f: math.fsum(w for g, w in zip(families, capped, strict=True) if g == f) for f in families}
    if sum(weight > 0.0 for weight in of_family.values()) < 3:
        return
    for family, own in of_family.items():
        assert own <= math.fsum(w for g, w in zip(families, capped, strict=True) if g != family)


@FEW
@given(st.lists(st.tuples(st.sampled_from("fg"), st.floats(0.0, 1e6)), max_size=9))
def test_with_two_families_nothing_is_capped(ballots: list[tuple[str, float]]) -> None:
    weights = [weight for _, weight in ballots]
    assert cap_family([family for family, _ in ballots], weights) == tuple(weights)


def test_the_cap_takes_from_the_large_family_alone_and_gives_to_nobody() -> None:
    assert cap_family("ffffgh", [1.0] * 6) == (0.5, 0.5, 0.5, 0.5, 1.0, 1.0)
    assert cap_family("ffgh", [1.0] * 4) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("num_copies", [3, 10, 24])
@pytest.mark.parametrize("known", [None, 0.8])
def test_a_family_of_many_copies_cannot_outvote_two_other_families(num_copies: int, known: float | None) -> None:
    seats = [Member(name=f"copy{i}", engine="e", family="f") for i in range(num_copies)]
    seats += [Member(name=name, engine="e", family=name) for name in "gh"]
    measured = None if known is None else _known({seat.name: known for seat in seats})
    proposals = [_proposal("1" if s.family == "f" else "2", s.name, family=s.family) for s in seats]
    verdict = _weigh(proposals, measured, seats)
    assert (verdict.answer, verdict.tied) == ("2", True)
    assert dict(verdict.support)["1"] == pytest.approx(dict(verdict.support)["2"])
    assert "family f held to half of the weight" in verdict.method
    votes = [Vote(member=p.member, family=p.family, answer=p.answer, weights=((p.answer, 1.0),)) for p in proposals]
    by_vote = weigh_votes(votes, proposals, "number", measured, seats, "t")
    assert (by_vote.answer, by_vote.tied) == ("2", True)
    assert _uncapped(proposals, measured, seats).answer == "1"


def _uncapped(proposals: Sequence[Proposal], known: Reliability | None, seats: Sequence[Member]) -> Verdict:
    return weighted(proposals, "number", known, seats, "t", cap_families=False)


def test_equal_ballots_under_the_cap_count_abstentions_in_the_confidence() -> None:
    proposals = [*(_proposal("1", f"f{i}", family="f") for i in range(4)), _proposal("1", "g", family="g")]
    proposals += [_proposal("2", "h", family="h"), _proposal(None, "k", family="k")]
    verdict = _weigh(proposals, None)
    assert dict(verdict.support) == {"1": pytest.approx(3.0), "2": 1.0}
    assert verdict.confidence == pytest.approx(3 / 5)


@FEW
@given(_proposals(), _reliabilities())
def test_no_verdict_rests_on_one_family_of_three_for_more_than_half(
    proposals: list[Proposal], known: Reliability
) -> None:
    """Each family gets an answer of its own, so that support can be read off family by family."""
    proposals = [p.model_copy(update={"answer": p.family}) for p in proposals]
    for measured in (known, None):
        support = dict(_weigh(proposals, measured).support)
        if sum(weight > 0.0 for weight in support.values()) >= 3:
            assert max(support.values()) <= math.fsum(support.values()) / 2 + 1e-12


# Ties, order, monotonicity, forgery


def test_equal_support_goes_to_more_families_then_more_members_then_the_earlier_seat() -> None:
    known = _known({"a": 0.8, "b": 0.8, "c": 0.8, "d": 0.8})
    families = [_proposal("1", m, family=f) for m, f in (("a", "f"), ("b", "f"))]
    families += [_proposal("2", "c", family="g"), _proposal("2", "d", family="f")]
    assert (_weigh(families, known).answer, _weigh(families, known).tied) == ("2", True)
    seats = [_proposal("2", "a"), _proposal("1", "c")]
    assert (_weigh(seats, known).answer, _weigh(seats[::-1], known).answer) == ("2", "1")
    shared = [_proposal("1", "a", 0), _proposal("1", "a", 1)]
    members = [*shared, _proposal("2", "b", 0, "f"), _proposal("2", "c", 0, "f")]
    members += [_proposal("3", "b", 1, "f"), _proposal("3", "c", 1, "f")]
    assert _weigh(members, known).answer == "2"


def test_a_tie_of_weights_names_its_rule_and_so_does_one_that_the_cap_makes() -> None:
    known = _known({"a": 0.8, "c": 0.8})
    seats = [_proposal("2", "a"), _proposal("1", "c")]
    assert _weigh(seats, known).method.endswith(", a tie: the earlier seat")
    copies = [*(_proposal("1", f"f{i}", family="f") for i in range(3)), *(_proposal("2", m, family=m) for m in "gh")]
    method = _weigh(copies, None).method
    assert method.startswith("plurality of 5 proposals (")
    assert method.endswith("family f held to half of the weight), a tie: more families behind it")
    untied = [*(_proposal("1", f"f{i}", family="f") for i in range(3)), *(_proposal("2", m, family=m) for m in "ghf")]
    assert "a tie" not in _weigh(untied, None).method, "three ballots each, of which the cap leaves f half a one each"
    even = [_proposal("2", "g", family="g"), _proposal("1", "f", family="f")]
    assert _weigh(even, None).method.startswith("plurality of 2 proposals, a tie: the earlier seat (")


def test_votes_that_weigh_the_same_go_to_the_greater_sum_of_probabilities() -> None:
    known = _known({"a": 0.8, "c": 0.8})
    proposals = [_proposal("1", "a"), _proposal("2", "c")]
    votes = [_vote("1", "a", 0.6, "2"), _vote("2", "c", 0.9, "1")]
    verdict = weigh_votes(votes, proposals, "number", known, SEATS, "t")
    assert (verdict.answer, verdict.tied) == ("2", True)


@FEW
@given(_proposals(), _reliabilities(), st.randoms())
def test_the_order_of_proposals_and_seats_decides_nothing_but_a_full_tie(
    proposals: list[Proposal], known: Reliability, random: object
) -> None:
    shuffled, seats = list(proposals), list(SEATS)
    random.shuffle(shuffled)
    random.shuffle(seats)
    for measured in (known, None):
        verdict, again = _weigh(proposals, measured), _weigh(shuffled, measured, seats)
        assert (again.confidence, again.tied, again.method) == (verdict.confidence, verdict.tied, verdict.method)
        assert dict(again.support) == dict(verdict.support)
        if not verdict.tied:
            assert again.answer == verdict.answer


@FEW
@given(_one_each(), _votes(), _reliabilities(), st.randoms())
def test_the_order_of_votes_decides_nothing(
    proposals: list[Proposal], votes: list[Vote], known: Reliability, random: object
) -> None:
    shuffled = list(votes)
    random.shuffle(shuffled)
    for measured in (known, None):
        first = weigh_votes(votes, proposals, "number", measured, SEATS, "t")
        assert weigh_votes(shuffled, proposals, "number", measured, SEATS, "t") == first


def _with(proposals: list[Proposal], seat: int, answer: str | None) -> list[Proposal]:
    return [p.model_copy(update={"answer": answer}) if i == seat else p for i, p in enumerate(proposals)]


@FEW
@given(_one_each(), st.integers(0, 5), _reliabilities())
def test_a_seated_member_that_joins_the_winner_never_hurts_it(
    proposals: list[Proposal], joining: int, known: Reliability
) -> None:
    """With correlated errors, some members below chance, and no cap."""
    before = _with(proposals, joining, None)
    winner = _uncapped(before, known, SEATS)
    assume(winner.answer is not None)
    verdict = _uncapped(_with(before, joining, winner.answer), known, SEATS)
    assert canonical(verdict.answer, "number") == canonical(winner.answer, "number")
    assert verdict.tied <= winner.tied


@FEW
@given(_one_each(), st.integers(0, 5), _reliabilities(low=0.6, correlated=False), st.booleans())
def test_under_the_cap_too_while_errors_are_uncorrelated(
    proposals: list[Proposal], joining: int, known: Reliability, measured: bool
) -> None:
    before = _with(proposals, joining, None)
    families = {p.family for p in before if p.answer is not None}
    assume(len(families) >= 3 or len(families | {before[joining].family}) < 3)
    winner = _weigh(before, known if measured else None)
    assume(winner.answer is not None)
    verdict = _weigh(_with(before, joining, winner.answer), known if measured else None)
    assert canonical(verdict.answer, "number") == canonical(winner.answer, "number")


@FEW
@given(_proposals(), _reliabilities())
def test_an_abstention_supports_nothing(proposals: list[Proposal], known: Reliability) -> None:
    for measured in (known, None):
        with_silence = [*proposals, *(_proposal(None, name, 99) for name in NAMES)]
        assert dict(_weigh(with_silence, measured).support) == dict(_weigh(proposals, measured).support)


@FEW
@given(st.lists(st.tuples(st.text(max_size=6), st.integers(1, 4)), max_size=2), st.randoms(), st.booleans())
def test_a_minority_of_arbitrary_voters_cannot_overturn_a_united_majority(
    forged: list[tuple[str, int]], random: object, measured: bool
) -> None:
    """Six seats of one weight; at most two of them say anything at all, again and again."""
    known = _known(dict.fromkeys(NAMES, 0.7)) if measured else None
    bad = [SEATS[1], SEATS[3]][: len(forged)]
    proposals = [_proposal("2" if seat not in bad else "1", seat.name) for seat in SEATS]
    votes = [_vote("2", seat.name) for seat in SEATS if seat not in bad]
    for seat, (text, times) in zip(bad, forged, strict=True):
        votes += [_vote(random.choice([text, "1"]), seat.name) for _ in range(times)]
    random.shuffle(votes)
    verdict = weigh_votes(votes, proposals, "number", known, SEATS, "t")
    assert verdict.answer == "2"
    assert {answer for answer, _ in verdict.support} == {p.answer for p in proposals}


@FEW
@given(_one_each(), _votes(), _reliabilities(), st.text(max_size=5))
def test_an_answer_that_nobody_proposed_cannot_win(
    proposals: list[Proposal], votes: list[Vote], known: Reliability, forged: str
) -> None:
    proposed = {canonical(p.answer, "number") for p in proposals if p.answer is not None}
    for measured in (known, None):
        flood = [*(_vote(forged, f"x{i}") for i in range(20)), *votes]
        verdict = weigh_votes(flood, proposals, "number", measured, SEATS, "t")
        assert {canonical(answer, "number") for answer, _ in verdict.support} <= proposed


def test_of_contradictory_votes_the_first_counts() -> None:
    known = _known({"a": 0.8, "c": 0.6})
    proposals = [_proposal("1", "a"), _proposal("2", "c")]
    votes = [_vote("1", "a"), _vote("2", "c"), *[_vote("2", "a")] * 5]
    verdict = weigh_votes(votes, proposals, "number", known, SEATS, "t")
    assert (verdict.answer, verdict.dissent, verdict.method.split(" (")[0]) == (
        "1",
        ("c",),
        "weighted log-odds of 2 votes",
    )


def test_measured_weights_pay_where_copies_err_alike() -> None:
    """Four copies of a weak model against two better ones: equal votes follow the copies, measured ones do not."""
    draw, seats = random.Random(3), _seats("ffffgh")

    def answers() -> list[str]:
        shared = "1" if draw.random() < 0.4 else draw.choice("23")
        copies = [shared if draw.random() < 0.9 else draw.choice("123") for _ in range(4)]
        return copies + ["1" if draw.random() < 0.7 else draw.choice("23") for _ in range(2)]

    judged = [
        Judged(member=s.name, family=s.family, task_id=str(t), task_type="t", answer=a, correct=a == "1")
        for t in range(100)
        for s, a in zip(seats, answers(), strict=True)
    ]
    known, right = measure(judged), {"plurality": 0, "weighted": 0}
    for _ in range(150):
        proposals = [_proposal(a, s.name, family=s.family) for s, a in zip(seats, answers(), strict=True)]
        right["plurality"] += plurality(proposals, "number").answer == "1"
        right["weighted"] += _weigh(proposals, known, seats).answer == "1"
    assert right["weighted"] >= right["plurality"] + 15
