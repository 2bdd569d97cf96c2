from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.diagnose import MAX_ARGUMENT_CHARS, diagnose, is_stable, shape_of
from mesh.reliability import AnswerCount, PairCount, Reliability
from mesh.tally import plurality
from mesh.types import Diagnosis, Member, Proposal, Verdict

FEW = settings(max_examples=50, deadline=None)
LONG = "I add three and four and get "


def _held(said: str, text: str = "") -> list[Proposal]:
    """'f1 f1 g2 h-': a member of family f holding 1, another, one of g holding 2, one of h abstaining."""
    proposals = []
    for seat, word in enumerate(said.split()):
        answer = None if word[1:] == "-" else word[1:]
        name = f"{'abcdefgh'[seat]}"
        proposals.append(Proposal(member=name, family=word[0], text=text or answer or "", answer=answer))
    return proposals


def _members(proposals: Sequence[Proposal]) -> list[Member]:
    return [Member(name=p.member, engine="e", family=p.family) for p in proposals]


def _decide(proposals: Sequence[Proposal]) -> str | None:
    return plurality(proposals, "number").answer


def _diagnose(
    proposals: Sequence[Proposal], known: Reliability | None = None, verdict: Verdict | None = None
) -> Diagnosis:
    verdict = verdict or plurality(proposals, "number")
    return diagnose(verdict, proposals, "number", _members(proposals), "equal", known, _decide)


@pytest.mark.parametrize(
    ("said", "shape"),
    [
        ("", "nobody answered"),
        ("f- g-", "nobody answered"),
        ("f1 g1.0", "consensus across families"),
        ("f1 g1 h-", "consensus across families"),
        ("f1 f1", "consensus within one family"),
        ("f1", "one member answered"),
        ("f1 g-", "one member answered"),
        ("f1 f1 g-", "consensus within one family"),
        ("f1 g2", "split by family"),
        ("f1 f1 g2 g2", "split by family"),
        ("f1 f1 g2", "split by family"),
        ("f1 g1 h2 i2", "split by family"),
        ("f1 f1 g2 h3", "split by family"),
        ("f1 g1 h2", "one against all"),
        ("f1 f1 f2 g1", "one against all"),
        ("f1 f1 f2", "one against all"),
        ("f1 f1 g1 h2", "one against all"),
        ("f1 f2", "scattered"),
        ("f1 g2 h3", "scattered"),
        ("f1 f2 g3", "scattered"),
        ("f1 f2 g1 g2", "mixed"),
        ("f1 g1 h2 i3", "mixed"),
        ("f1 f2 g2 h-", "one against all"),
    ],
)
def test_the_shape_of_a_disagreement(said: str, shape: str) -> None:
    assert shape_of(_held(said), "number") == shape


def test_samples_that_differ_are_no_consensus_though_the_positions_agree() -> None:
    said = [Proposal(member=m, family=m, text="", answer=a) for m in "fg" for a in ("1", "1", "2")]
    assert shape_of(said, "number") == "mixed"
    alone = [Proposal(member="f", family="f", text="", answer=a) for a in ("1", "2", "3")]
    assert shape_of(alone, "number") == "scattered"
    three = [Proposal(member=m, family=m, text="", answer=a) for m in "fgh" for a in (m, m, "9")]
    assert shape_of(three, "text") == "scattered"


@FEW
@given(st.lists(st.sampled_from(["f1", "f2", "g1", "g2", "h1", "h3", "f-"]), max_size=6), st.randoms())
def test_the_order_of_the_seats_does_not_change_the_shape(said: list[str], random: object) -> None:
    proposals = _held(" ".join(said))
    shuffled = list(proposals)
    random.shuffle(shuffled)
    assert shape_of(shuffled, "number") == shape_of(proposals, "number")


def test_clusters_come_with_their_members_the_chosen_one_first() -> None:
    found = _diagnose(_held("f1 g2 f02 h2 g3 h-"))
    assert [(c.answer, c.members, c.families) for c in found.clusters] == [
        ("2", ("b", "c", "d"), ("g", "f", "h")),
        ("1", ("a",), ("f",)),
        ("3", ("e",), ("g",)),
    ]
    assert [cluster.weight for cluster in found.clusters] == [0.6, 0.2, 0.2]
    assert found.entropy == pytest.approx(-0.6 * math.log2(0.6) - 0.4 * math.log2(0.2))
    assert [cluster.answer for cluster in found.dissent] == ["1", "3"]
    assert found.num_ballots == 6


def test_an_answer_that_nobody_proposed_has_no_author() -> None:
    proposals = _held("f1 g2")
    verdict = plurality(proposals, "number").model_copy(update={"answer": "12"})
    found = _diagnose(proposals, verdict=verdict)
    assert [(c.answer, c.author, c.members, c.weight) for c in found.clusters] == [
        ("12", "", (), 0.0),
        ("1", "a", ("a",), 0.5),
        ("2", "b", ("b",), 0.5),
    ]


def test_without_support_the_proposals_give_the_weights() -> None:
    proposals = _held("f1 g1 h2 h-")
    found = _diagnose(proposals, verdict=Verdict(answer=None, method="waiting"))
    assert [cluster.weight for cluster in found.clusters] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]


def test_nobody_answering_is_diagnosed_too() -> None:
    found = _diagnose(_held("f- g-"))
    assert (found.shape, found.clusters, found.entropy, found.n_eff) == ("nobody answered", (), 0.0, 0.0)
    assert _diagnose([]).without_family == ()


def test_the_longest_reason_argues_and_a_bare_answer_only_where_there_is_no_reason() -> None:
    texts = ["7", f"{LONG}7.", f"{LONG}{LONG}7.", "x" * (MAX_ARGUMENT_CHARS + 1)]
    proposals = [Proposal(member=f"m{i}", family="f", text=t, answer="7") for i, t in enumerate(texts)]
    assert _best(proposals) == ("m2", texts[2])
    assert _best(proposals[:2]) == ("m1", texts[1])
    assert _best(proposals[:1]) == ("m0", "7")
    assert _best(proposals[3:]) == ("m3", "7")
    assert _best(proposals[::-1]) == ("m2", texts[2])
    equal = [Proposal(member=name, family="f", text=f"{LONG}7", answer="7") for name in ("late", "early")]
    assert _best(equal) == ("late", f"{LONG}7")


def test_the_most_accurate_member_argues_before_the_longest_text() -> None:
    proposals = [
        Proposal(member="a", family="f", text=f"{LONG}{LONG}7", answer="7"),
        Proposal(member="b", family="f", text=f"{LONG}7", answer="7"),
        Proposal(member="c", family="f", text="7", answer="7"),
    ]
    shares = {"a": 20, "b": 70, "c": 90}
    counts = [
        AnswerCount(member=name, task_type="t", num_judged=100, num_answered=100, num_correct=right)
        for name, right in shares.items()
    ]
    assert _best(proposals, Reliability(answers=tuple(counts))) == ("b", f"{LONG}7")


def test_an_argument_ends_where_a_model_makes_up_the_next_question() -> None:
    proposal = Proposal(member="a", family="f", text=f"{LONG}7\nQuestion: What is 1 + 1? 2", answer="7")
    assert _best([proposal]) == ("a", f"{LONG}7")


def _best(proposals: Sequence[Proposal], known: Reliability | None = None) -> tuple[str, str]:
    cluster = _diagnose(proposals, known).clusters[0]
    return cluster.author, cluster.argument


def test_unmeasured_members_are_worth_their_number_and_the_weighting_says_so() -> None:
    found = _diagnose(_held("f1 f1 g2 g-"))
    assert found.n_eff == 3.0
    assert found.weighting == "equal; no errors in common are measured, so n_eff is the number of members"
    assert _diagnose(_held("f1")).weighting == "equal"


def test_measured_copies_are_worth_less_than_their_number() -> None:
    pair = PairCount(
        first="a", second="b", task_type="t", num_both=990, num_first_wrong=495, num_second_wrong=495,
        num_both_wrong=495,
    )  # fmt: skip
    found = _diagnose(_held("f1 f1"), Reliability(pairs=(pair,)))
    assert found.n_eff == pytest.approx(2 / (1 + 0.99))
    assert found.weighting == "equal"


def test_a_verdict_that_one_family_carries_is_unstable() -> None:
    proposals = _held("f1 f1 f1 g2 h2")
    found, verdict = _diagnose(proposals), plurality(proposals, "number")
    assert found.without_family == (("f", "2"), ("g", "1"), ("h", "1"))
    assert not is_stable(found, verdict, "number")
    agreed = _held("f1 g1 h1.0")
    assert is_stable(_diagnose(agreed), plurality(agreed, "number"), "number")


def test_a_single_family_cannot_be_left_out() -> None:
    proposals = _held("f1 f1")
    assert _diagnose(proposals).without_family == ()
    assert is_stable(_diagnose(proposals), plurality(proposals, "number"), "number")


@FEW
@given(st.lists(st.sampled_from(["f1", "f2", "g1", "g2", "h1", "h3", "h-"]), max_size=8))
def test_shares_add_up_and_every_supporter_stands_in_one_cluster(said: list[str]) -> None:
    proposals = _held(" ".join(said))
    found = _diagnose(proposals)
    assert math.fsum(cluster.weight for cluster in found.clusters) == pytest.approx(float(bool(found.clusters)))
    assert sorted(name for c in found.clusters for name in c.members) == [p.member for p in proposals if p.answer]
    assert 0.0 <= found.entropy <= math.log2(max(1, len(found.clusters))) + 1e-9
    assert all(cluster.author in cluster.members for cluster in found.clusters)
