"""Each protocol does what its description says, no more and no less."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.budget import Budget
from mesh.config import (
    CouncilConfig,
    DebateConfig,
    EscalateConfig,
    MixtureConfig,
    ProtocolConfig,
    RankConfig,
    SelfConsistencyConfig,
    SelfMixtureConfig,
    SingleConfig,
    SwitchConfig,
    VoteConfig,
)
from mesh.engine import EngineError
from mesh.protocols.rank import borda_points, mean_scores
from mesh.protocols.switch import consistency
from mesh.reliability import Judged, Reliability, TalkCount, measure
from mesh.types import Deliberation, Member, Message, Proposal, Sampling, Task
from tests.mesh.doubles import Double, hold, untrusted

TASK = Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number")
ANA, BO, CY, DI = MEMBERS = tuple(
    Member(name=name, engine=f"e{n}", family=family)
    for n, (name, family) in enumerate([("ana", "fox"), ("bo", "fox"), ("cy", "owl"), ("di", "ant")])
)
NAMES = tuple(member.name for member in MEMBERS)
SHORT = Sampling(max_tokens=10)


def saying(**own: Any) -> dict[str, dict[str, Any]]:
    """What each says first, or a table of what it says in each phase; whoever is not named says 7."""
    heard = {name: own.get(name, "7") for name in NAMES}
    return {name: said if isinstance(said, dict) else {"*": said, "account": "none"} for name, said in heard.items()}


def held(
    config: ProtocolConfig, say: dict[str, dict[str, Any]], members: Sequence[Member] = MEMBERS, **options: Any
) -> tuple[Deliberation, Double]:
    engine = Double(say)
    return hold(TASK, members, engine, config, **options), engine


def measured(talks: tuple[TalkCount, ...] = (), **right_of_ten: int) -> Reliability:
    """Ten judged answers of each of these members, the first ones right."""
    return measure(
        (
            Judged(
                member=name, family="f", task_id=f"t{n}", task_type="sums",
                answer="7" if n < right else f"{name}{n}", correct=n < right,
            )
            for name, right in right_of_ten.items()
            for n in range(10)
        ),
        talks=talks,
    )  # fmt: skip


def askers(engine: Double, phase: str = "propose") -> list[str]:
    return [name for name, kind, *_ in engine.calls if kind == phase]


# Single


def test_single_asks_the_measured_best_alone_and_says_why() -> None:
    trace, engine = held(SingleConfig(), saying(cy="8"), reliability=measured(ana=3, bo=5, cy=9))
    assert (engine.phases(), askers(engine)) == (["propose"], ["cy"])
    assert (trace.verdict.answer, trace.verdict.method) == ("8", "cy alone (measured best at sums)")


def test_single_asks_the_first_seat_where_nothing_is_measured_and_whoever_is_named() -> None:
    trace, _ = held(SingleConfig(), saying(ana="5"))
    assert (trace.verdict.answer, trace.verdict.method) == ("5", "ana alone (the first seat: nothing is measured)")
    trace, _ = held(SingleConfig(member="di"), saying(di="6"), reliability=measured(ana=9))
    assert (trace.verdict.answer, trace.verdict.method) == ("6", "di alone (as configured)")


# Vote


def test_a_vote_counts_by_measured_weight_and_a_plurality_does_not() -> None:
    say, known = saying(ana="7", bo="8", cy="8", di="no idea"), measured(ana=10, bo=3, cy=3)
    assert held(VoteConfig(), say, reliability=known)[0].verdict.answer == "7"
    trace, _ = held(VoteConfig(tally="plurality"), say, reliability=known)
    assert (trace.verdict.answer, trace.verdict.diagnosis.weighting.startswith("equal, as configured")) == ("8", True)
    trace, _ = held(VoteConfig(), say)
    assert (trace.verdict.answer, "nothing is measured" in trace.verdict.method) == ("8", True)


def test_in_a_vote_nobody_reads_anybody() -> None:
    trace, engine = held(VoteConfig(samples_per_member=3), saying(bo=["7", "8", "9"]))
    assert set(engine.phases()) == {"propose"}
    assert len({messages for _, _, messages, _ in engine.calls}) == 1
    assert (trace.readings, trace.critiques, trace.votes) == ((), (), ())


# Switch


def test_switch_stops_at_the_first_member_that_agrees_with_itself() -> None:
    trace, engine = held(SwitchConfig(samples_per_member=2), saying(ana=["7", "8"], bo=["9", "9.0"]))
    assert askers(engine) == ["ana", "bo"]
    assert (trace.verdict.answer, trace.verdict.support) == ("9", (("9", 2.0), ("7", 0.0), ("8", 0.0)))
    assert trace.verdict.method == "consistency-weighted vote of 2 of 4 members"


def test_switch_asks_the_measured_best_first() -> None:
    _, engine = held(SwitchConfig(samples_per_member=2), saying(), reliability=measured(ana=2, bo=4, cy=9))
    assert askers(engine) == ["cy"]


def test_switch_weighs_everybody_by_consistency_where_nobody_agrees_with_itself() -> None:
    say = saying(ana=["7", "8", "8", "8"], bo=["7", "7", "9", "5"], cy=["1", "2", "3", "4"], di=["7", "7", "8", "8"])
    trace, engine = held(SwitchConfig(samples_per_member=4), say)
    assert askers(engine) == list(NAMES)
    weight = {
        name: 1.0 - entropy / math.log(4)
        for name, entropy in (("ana", 0.5623351), ("bo", 1.0397208), ("di", 0.6931472))
    }
    support = dict(trace.verdict.support)
    assert support["8"] == pytest.approx(3 * weight["ana"] + 2 * weight["di"], abs=1e-5)
    assert support["7"] == pytest.approx(weight["ana"] + 2 * weight["bo"] + 2 * weight["di"], abs=1e-5)
    assert (trace.verdict.answer, support["1"]) == ("8", 0.0)


def test_less_consistency_can_be_enough() -> None:
    say = saying(ana=["7", "7", "7", "8"])
    _, engine = held(SwitchConfig(samples_per_member=4, enough_consistency=0.5), say)
    assert askers(engine) == ["ana"]
    _, engine = held(SwitchConfig(samples_per_member=4, enough_consistency=0.7), say)
    assert askers(engine) == ["ana", "bo"]


def test_a_member_that_gives_nothing_is_passed_over_even_where_no_consistency_is_asked_for() -> None:
    say = saying(ana=EngineError("dead"), bo="no idea")
    trace, engine = held(SwitchConfig(samples_per_member=2), say)
    assert askers(engine) == ["ana", "bo", "cy"]
    assert trace.verdict.answer == "7"
    _, engine = held(SwitchConfig(samples_per_member=2, enough_consistency=0.0), saying(ana=EngineError("dead")))
    assert askers(engine) == ["ana", "bo"]


@given(st.lists(st.sampled_from(["1", "2", "1.0", None]), min_size=1, max_size=6), st.randoms())
def test_consistency_is_one_for_one_answer_and_nothing_for_as_many_as_samples(
    answers: list[str | None], random: Any
) -> None:
    def of(texts: Sequence[str | None]) -> float:
        return consistency([Proposal(member="m", family="f", text="", answer=a) for a in texts], "number")

    value = of(answers)
    assert -1e-9 <= value <= 1.0 + 1e-9
    shuffled = list(answers)
    random.shuffle(shuffled)
    assert of(shuffled) == pytest.approx(value)
    if None not in answers:
        assert (value == pytest.approx(1.0)) == (len({float(a) for a in answers if a}) == 1)
    assert of([None] * len(answers)) == of([]) == 0.0


# Self-consistency


def test_self_consistency_is_the_plurality_of_one_member() -> None:
    say = saying(cy=["8", "7", "8", "x"])
    trace, engine = held(SelfConsistencyConfig(samples=4, member="cy"), say)
    assert askers(engine) == ["cy"]
    assert (trace.verdict.answer, trace.verdict.confidence) == ("8", 0.5)
    assert trace.verdict.method == "plurality of 4 proposals of cy (as configured)"


# Escalate


def test_escalate_stops_where_two_members_of_different_families_agree() -> None:
    trace, engine = held(EscalateConfig(sampling=SHORT), saying(cy="7.0"))
    assert engine.phases() == ["propose"] * 2
    assert askers(engine) == ["ana", "cy"]
    assert (trace.verdict.answer, trace.verdict.confidence) == ("7", 1.0)
    assert trace.verdict.method.startswith("ana and cy agree")


def test_escalate_asks_the_rest_and_talks_where_the_two_differ() -> None:
    say = saying(cy={"*": "8", "critique": "it forgets to carry the one", "account": "none", "vote": "8"})
    for name in ("ana", "bo", "di"):
        say[name] |= {"critique": "that adds one too many there", "vote": "7"}
    trace, engine = held(EscalateConfig(), say)
    assert askers(engine) == ["ana", "cy", "bo", "di"]
    assert {"critique", "revise", "vote"} <= set(engine.phases())
    assert (trace.verdict.answer, len(trace.votes)) == ("7", 4)


@pytest.mark.parametrize("second", ["no idea", EngineError("dead")])
def test_escalate_goes_on_where_one_of_the_two_says_nothing(second: Any) -> None:
    trace, engine = held(EscalateConfig(), saying(cy=second))
    assert askers(engine) == ["ana", "cy", "bo", "di"]
    assert trace.verdict.answer == "7"


def test_agreement_is_believed_from_the_measured_confidence_on_and_always_where_nothing_is_measured() -> None:
    config, poor = EscalateConfig(min_confidence=0.8, first=("ana", "cy")), measured(ana=3, bo=3, cy=4, di=3)
    trace, engine = held(config, saying(), reliability=poor)
    assert sorted(askers(engine)) == sorted(NAMES)
    assert "revise" not in engine.phases()
    assert trace.verdict.answer == "7"
    good = measured(ana=9, bo=3, cy=9, di=3)
    trace, engine = held(config, saying(), reliability=good)
    assert sorted(askers(engine)) == ["ana", "cy"]
    assert trace.verdict.confidence >= 0.8
    assert len(askers(held(config, saying())[1])) == 2


def test_the_first_two_are_those_named_else_the_measured_pair_that_covers_most() -> None:
    assert askers(held(EscalateConfig(first=("di", "bo")), saying())[1]) == ["di", "bo"]
    known = measured(ana=2, bo=9, cy=2, di=8)
    assert sorted(askers(held(EscalateConfig(min_confidence=0.0), saying(), reliability=known)[1])) == ["bo", "di"]
    quick = tuple(member.model_copy(update={"tiers": ("reflection",)}) for member in MEMBERS[:2])
    assert askers(held(EscalateConfig(first=("ana", "cy")), saying(), (*quick, *MEMBERS[2:]))[1]) == ["ana", "cy"]


def test_members_of_one_family_do_for_the_two_where_there_is_no_other_and_one_member_decides_alone() -> None:
    trace, engine = held(EscalateConfig(), saying(), MEMBERS[:2])
    assert (askers(engine), trace.verdict.method.startswith("ana and bo agree")) == (["ana", "bo"], True)
    trace, engine = held(EscalateConfig(), saying(), MEMBERS[:1])
    assert (engine.phases(), trace.verdict.answer) == (["propose"], "7")


@pytest.mark.parametrize(("gained", "lost", "talks"), [(3, 5, False), (5, 5, False), (5, 3, True)])
def test_where_talking_was_measured_not_to_pay_the_first_answers_decide(gained: int, lost: int, talks: bool) -> None:
    known = measured(
        (TalkCount(task_type="sums", num_judged=30, num_right_to_wrong=lost, num_wrong_to_right=gained),),
        ana=5, bo=5, cy=5, di=5,
    )  # fmt: skip
    say = saying(cy={"*": "8", "account": "none", "vote": "8"})
    trace, engine = held(EscalateConfig(critique=False), say, reliability=known)
    assert ("revise" in engine.phases()) == talks
    assert trace.verdict.method.endswith("(talking was measured not to pay: no council)") != talks
    _, engine = held(EscalateConfig(critique=False, talk="always"), say, reliability=known)
    assert "revise" in engine.phases()


def test_a_frugal_escalation_costs_less_than_the_council_and_reads_the_same_first_answers() -> None:
    frugal, council = held(EscalateConfig(), saying())[0], held(CouncilConfig(), saying())[0]
    assert frugal.usage.num_calls == 2 < council.usage.num_calls
    first = {p.member: p.text for p in council.proposals}
    assert all(first[p.member] == p.text for p in frugal.proposals)


# Rank


def favouring(*answers: str) -> dict[str, Any]:
    """A judge that calls these right and favours them in this order."""

    def favourite(messages: Sequence[Message]) -> str:
        return next((answer for answer in answers if any(answer in text for text in untrusted(messages))), "")

    return {"rank": favourite, "approve": answers}


def ranking(**own: tuple[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {"propose": f"it is {answer}", **judging} for name, (answer, judging) in own.items()}


RANKED = ranking(
    ana=("7", favouring("9", "8")), bo=("7", favouring("9")), cy=("8", favouring("7")), di=("9", favouring("7"))
)


@pytest.mark.parametrize("method", ["pairwise", "borda", "approval"])
def test_no_judge_sees_a_text_of_its_own_family(method: Any) -> None:
    trace, engine = held(RankConfig(method=method), RANKED)
    written_by = {"it is 7": "fox", "it is 8": "owl", "it is 9": "ant"}
    judged = [(name, untrusted(seen)[:-1]) for name, phase, seen, _ in engine.calls if phase in ("rank", "approve")]
    family = {member.name: member.family for member in MEMBERS}
    assert judged
    assert all(family[name] not in {written_by[text] for text in texts} for name, texts in judged)
    assert trace.verdict.answer in ("7", "9")
    assert trace.verdict.method == f"{method} ranking by 4 judges of other families"


def test_pairs_are_compared_in_both_orders_so_that_a_judge_of_places_favours_nobody() -> None:
    say = {name: {**own, "rank": "nothing"} for name, own in RANKED.items()}
    engine = Double(say, choice=lambda member, messages, labels: (0.9, 0.1))
    trace = hold(TASK, MEMBERS, engine, RankConfig())
    assert {round(weight, 9) for _, weight in trace.verdict.support} == {0.5}
    assert trace.verdict.tied
    assert trace.verdict.method.endswith(", a tie: the one ahead in the vote on the proposals")
    assert trace.verdict.answer == "7"
    assert len(engine.asked("rank")) == 4 * 2


def test_an_approval_asks_about_each_answer_alone_and_in_both_orders() -> None:
    trace, engine = held(RankConfig(method="approval"), RANKED)
    assert len(engine.asked("approve")) == 4 * 2 * 2
    scores = dict(trace.verdict.support)
    assert scores["7"] == pytest.approx(0.9)
    assert scores["9"] == pytest.approx((0.9 + 0.9 + 0.1) / 3)
    assert scores["8"] == pytest.approx((0.9 + 0.1 + 0.1) / 3)


def test_with_two_answers_of_two_families_nobody_can_compare_so_each_judges_the_other_alone() -> None:
    say = ranking(ana=("7", favouring("8")), cy=("8", favouring()))
    trace, engine = held(RankConfig(), say, (ANA, CY))
    assert trace.verdict.method.startswith("approval ranking by 2 judges")
    assert (trace.verdict.answer, len(engine.asked("approve"))) == ("8", 4)


def test_one_answer_leaves_nothing_to_rank_and_one_family_no_judge() -> None:
    trace, engine = held(RankConfig(), saying())
    assert (engine.phases().count("rank"), trace.verdict.method.endswith("(nothing to rank)")) == (0, True)
    trace, engine = held(RankConfig(), ranking(ana=("7", {}), bo=("8", {})), (ANA, BO))
    assert set(engine.phases()) == {"propose"}
    assert trace.verdict.method.endswith("(no judge of another family was heard)")
    assert (trace.verdict.answer, trace.verdict.confidence) == ("7", 0.5)


def test_judges_that_cannot_be_paid_leave_the_plurality() -> None:
    trace, _ = held(RankConfig(budget=Budget(calls=11)), RANKED)
    assert (trace.verdict.answer, {f.phase for f in trace.failures}) == ("7", {"rank"})
    assert trace.verdict.confidence == 0.5


def test_only_the_most_held_answers_are_judged() -> None:
    say = ranking(
        ana=("7", favouring("9")), bo=("7", favouring("9")), cy=("8", favouring("9")), di=("9", favouring("7"))
    )
    trace, engine = held(RankConfig(max_candidates=2), say)
    assert not any("it is 9" in text for seen in engine.asked("approve") for text in untrusted(seen))
    assert [answer for answer, _ in trace.verdict.support] in (["7", "8"], ["8", "7"])


@given(st.lists(st.integers(0, 4), min_size=2, max_size=7))
def test_borda_points_follow_the_order_share_ties_and_sum_to_half_of_the_places(weights: list[int]) -> None:
    points = borda_points(weights)
    assert sum(points) == pytest.approx(len(weights) / 2)
    assert all(0.0 <= point <= 1.0 for point in points)
    for first, one in zip(weights, points, strict=True):
        for second, other in zip(weights, points, strict=True):
            assert (one > other) == (first > second)
    if len(set(weights)) == len(weights):
        assert (max(points), min(points)) == (1.0, 0.0)


def test_scores_are_means_over_the_judges_and_whom_nobody_could_judge_gets_the_mean() -> None:
    assert mean_scores(["a", "b", "c"], [{"a": 1.0, "b": 0.5}, {"a": 0.5}]) == pytest.approx(
        {"a": 0.75, "b": 0.5, "c": 0.625}
    )
    assert mean_scores(["a"], []) == {"a": 0.0}


@given(st.permutations(list(range(4))))
def test_the_order_of_the_judges_decides_nothing(order: list[int]) -> None:
    judged = [{"a": 0.1, "b": 0.7}, {"a": 0.3}, {"b": 0.9, "c": 0.2}, {"c": 1.0}]
    assert mean_scores("abc", [judged[place] for place in order]) == mean_scores("abc", judged)


# The published rivals


def test_a_debate_shows_everybody_all_other_whole_texts_in_every_round_and_ends_in_a_plurality() -> None:
    changing = {name: {"propose": f"{name} first 7", "synthesise": f"{name} now 8"} for name in ("ana", "cy")}
    say = saying(**changing, bo="still 7", di="still 8")
    trace, engine = held(DebateConfig(rounds=2), say)
    assert len(engine.asked("synthesise")) == 8
    assert len(trace.round_of(2)) == 4
    seen = [untrusted(seen)[:-1] for name, phase, seen, _ in engine.calls if (name, phase) == ("bo", "synthesise")]
    assert seen == [["ana first 7", "cy first 7", "still 8"], ["ana now 8", "cy now 8", "still 8"]]
    assert (trace.verdict.answer, trace.verdict.method) == ("8", "plurality of 4 proposals")
    assert trace.first_verdict.answer == "7"
    assert {exchange.phase for exchange in trace.exchanges} == {"propose", "revise"}


def test_a_debate_goes_on_though_all_agree() -> None:
    _, engine = held(DebateConfig(rounds=3), saying())
    assert len(engine.asked("synthesise")) == 12


def test_a_mixture_is_layers_of_all_and_the_last_word_of_one() -> None:
    say = saying(**{name: {"propose": f"at first {n}", "synthesise": f"later {n}"} for n, name in enumerate(NAMES)})
    trace, engine = held(MixtureConfig(layers=2, aggregator="cy"), say)
    by_layer = [untrusted(seen)[:-1] for seen in engine.asked("synthesise")]
    assert by_layer == [[f"at first {n}" for n in range(4)]] * 4 + [[f"later {n}" for n in range(4)]]
    assert (trace.verdict.answer, trace.verdict.method) == ("2", "synthesis by cy of 4 texts, 1 of which say the same")
    assert [p.member for p in trace.round_of(2)] == ["cy"]


def test_the_measured_best_aggregates_and_an_unreadable_synthesis_leaves_the_plurality() -> None:
    trace, _ = held(MixtureConfig(), saying(di={"propose": "8", "synthesise": "5"}), reliability=measured(di=9, ana=2))
    assert trace.verdict.answer == "5"
    trace, _ = held(MixtureConfig(), saying(ana={"propose": "8", "synthesise": "no idea"}))
    assert (trace.verdict.answer, trace.verdict.confidence) == ("7", 0.75)
    assert trace.verdict.method.endswith("(no readable synthesis)")


def test_a_first_seat_that_failed_does_not_aggregate() -> None:
    trace, engine = held(MixtureConfig(), saying(ana=EngineError("dead")))
    assert (engine.phases("ana"), trace.verdict.method) == (
        ["propose"],
        "synthesis by bo of 3 texts, 3 of which say the same",
    )


def test_self_mixture_is_one_member_that_reads_itself() -> None:
    trace, engine = held(
        SelfMixtureConfig(samples=3, member="bo"), saying(bo={"propose": ["7", "8", "x 9"], "synthesise": "5"})
    )
    assert {name for name, *_ in engine.calls} == {"bo"}
    ((prompt,),) = engine.asked("synthesise")
    assert untrusted([prompt])[:-1] == ["7", "8", "x 9"]
    assert (trace.verdict.answer, trace.verdict.method) == ("5", "synthesis by bo of 3 texts, 0 of which say the same")


# Council


def test_a_council_may_talk_for_several_rounds_and_stops_where_all_agree() -> None:
    say = saying(cy={"propose": "8", "revise": "8", "account": "none", "vote": "8"})
    trace, engine = held(CouncilConfig(rounds=3, critique=False), say)
    assert {p.round for p in trace.proposals} == {0, 1, 2, 3}
    assert len(trace.votes) == 4
    say["cy"] |= {"revise": "7", "account": "8"}
    trace, engine = held(CouncilConfig(rounds=3, critique=False), say)
    assert {p.round for p in trace.proposals} == {0, 1}
    assert engine.asked("vote") == []


def test_a_verdict_that_was_voted_for_is_held_against_the_votes_without_a_family() -> None:
    say = saying(bo="8", cy="8", di="8")
    for own in say.values():
        own["vote"] = "7"
    trace, _ = held(CouncilConfig(critique=False), say)
    assert trace.verdict.answer == "7"
    assert dict(trace.verdict.diagnosis.without_family) == {"fox": "8", "owl": "7", "ant": "7"}


def test_members_of_one_engine_and_no_other_still_hold_a_council() -> None:
    members = tuple(member.model_copy(update={"engine": "e0", "family": "fox"}) for member in MEMBERS)
    trace, _ = held(CouncilConfig(critique=False), saying(bo={"*": "8", "account": "none", "vote": "8"}), members)
    assert trace.verdict.answer == "7"
    assert trace.verdict.diagnosis.without_family == ()


# What every verdict carries


CONFIGS = [
    SingleConfig(), VoteConfig(samples_per_member=2), SwitchConfig(), CouncilConfig(critique=False),
    EscalateConfig(critique=False), RankConfig(), SelfConsistencyConfig(), SelfMixtureConfig(), MixtureConfig(),
    DebateConfig(),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
@pytest.mark.parametrize("surprise", [False, True])
def test_every_verdict_carries_its_diagnosis_and_the_surprise_where_asked_for(config: Any, surprise: bool) -> None:
    say = {
        name: {"*": f"Three and four make {answer}", "account": "none", "vote": "7"}
        for name, answer in zip(NAMES, "7778", strict=True)
    }
    engine = Double(say, can_score=True)
    trace = hold(TASK, MEMBERS, engine, config.model_copy(update={"surprise": surprise}))
    found = trace.verdict.diagnosis
    assert found.clusters[0].answer == trace.verdict.answer == "7"
    assert found.clusters[0].argument == "Three and four make 7"
    assert found.num_ballots == found.n_eff == sum(len(cluster.members) for cluster in found.clusters)
    differs = len(found.clusters) > 1
    assert [e.member for e in trace.exchanges if e.phase == "score"] == (["di"] if surprise and differs else [])
    assert (found.surprise is not None) == (surprise and differs)
