"""Answers that are one in spite of their spelling are counted, shown and voted for as one, in every round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mesh.budget import Budget
from mesh.config import CouncilConfig, ProtocolConfig, RankConfig, SwitchConfig, VoteConfig
from mesh.engine import EngineError
from mesh.types import Deliberation, Member, Sampling, Task
from tests.mesh.doubles import Double, hold, untrusted

PROSE = Task(id="t1", question="Why is the sky blue?", answer_kind="free")
MATHS = Task(id="t2", question="Simplify (x + 1) squared", answer_kind="math")
MEMBERS = tuple(
    Member(name=name, engine=f"e{n}", family=family)
    for n, (name, family) in enumerate([("ana", "fox"), ("bo", "owl"), ("cy", "ant")])
)
SCATTERED, SCATTER, GHOSTS = "Blue light is scattered most.", "Air scatters blue light most.", "Ghosts paint it."


def alike(member: Member, messages: Any, labels: Any) -> tuple[float, ...]:
    """Says "yes" of two texts that both speak of scattering, under whichever letter; "A" in any other choice."""
    text = messages[-1].text
    if "say the same" not in text:
        return (1.0,) + (0.0,) * (len(labels) - 1)
    is_same = all("scatter" in shown for shown in untrusted(messages)[:2])
    yes = "A" if "A. yes" in text else "B"
    return tuple(float((label == yes) == is_same) for label in labels)


def settled(
    config: ProtocolConfig, *texts: Any, task: Task = PROSE, choice: Callable[..., Any] = alike, **own: Any
) -> tuple[Deliberation, Double]:
    say = {m.name: {"*": text, "account": "none"} for m, text in zip(MEMBERS, texts, strict=False)}
    for name, more in own.items():
        say[name] |= more
    engine = Double(say, choice=choice)
    return hold(task, MEMBERS[: len(texts)], engine, config), engine


def test_prose_that_two_families_call_the_same_is_one_answer() -> None:
    trace, engine = settled(VoteConfig(), SCATTERED, GHOSTS, SCATTER)
    assert trace.verdict.support == ((SCATTER, 2.0), (GHOSTS, 1.0))
    assert [sorted(group) for group in trace.merged] == [sorted([SCATTERED.lower()[:-1], SCATTER.lower()[:-1]])]
    assert {name for name, phase, *_ in engine.calls if phase == "same"} == {"ana", "bo"}
    assert {exchange.phase for exchange in trace.exchanges} == {"propose", "same"}


@pytest.mark.parametrize(
    "choice",
    [
        lambda member, messages, labels: (0.9, 0.1),
        lambda member, messages, labels: alike(member, messages, labels) if member.name == "ana" else (0.5, 0.5),
    ],
    ids=["always A", "only one of the two"],
)
def test_a_letter_that_is_always_liked_and_a_judge_alone_merge_nothing(choice: Any) -> None:
    trace, _ = settled(VoteConfig(), SCATTERED, GHOSTS, SCATTER, choice=choice)
    assert trace.merged == ()
    assert len(trace.verdict.support) == 3


def test_with_one_family_nothing_is_merged_and_nobody_is_asked() -> None:
    trace, engine = settled(VoteConfig(), SCATTERED, SCATTER, choice=alike)
    assert "same" in engine.phases()
    same_family = [member.model_copy(update={"family": "fox"}) for member in MEMBERS[:2]]
    engine = Double({"ana": {"*": SCATTERED}, "bo": {"*": SCATTER}}, choice=alike)
    trace = hold(PROSE, same_family, engine, VoteConfig())
    assert (trace.merged, "same" in engine.phases()) == ((), False)


@pytest.mark.parametrize("why", ["failure", "budget"])
def test_a_judge_that_cannot_be_heard_merges_nothing_and_the_rest_goes_on(why: str) -> None:
    budget = Budget(calls=5) if why == "budget" else Budget()
    more = {"bo": {"same": EngineError("dead")}} if why == "failure" else {}
    trace, _ = settled(VoteConfig(budget=budget), SCATTERED, GHOSTS, SCATTER, **more)
    assert (trace.merged, len(trace.verdict.support)) == ((), 3)
    assert {f.phase for f in trace.failures} == {"same"}
    assert trace.usage.num_calls <= (budget.calls or 99)


def test_members_that_hold_the_same_in_other_words_do_not_talk_and_are_shown_as_one() -> None:
    trace, engine = settled(CouncilConfig(critique=False), SCATTERED, SCATTER, SCATTERED)
    assert "revise" not in engine.phases()
    trace, engine = settled(CouncilConfig(critique=False), SCATTERED, GHOSTS, SCATTER)
    (reading,) = [reading for reading in trace.readings if reading.reader == "bo"]
    assert [shown.supporters for shown in reading.shown] == [2]
    assert [len(vote.weights) for vote in trace.votes] == [2, 2, 2]


def test_no_pair_is_asked_about_twice_in_all_rounds() -> None:
    _, engine = settled(CouncilConfig(critique=False, rounds=3), SCATTERED, GHOSTS, SCATTER)
    asked = [(name, seen) for name, phase, seen, _ in engine.calls if phase == "same"]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("config", [SwitchConfig(samples_per_member=2), RankConfig()])
def test_other_protocols_take_merged_answers_for_one_too(config: ProtocolConfig) -> None:
    texts = [[SCATTERED, SCATTER], GHOSTS, SCATTER] if config.kind == "switch" else [SCATTERED, GHOSTS, SCATTER]
    trace, engine = settled(config, *texts)
    assert len(trace.verdict.support) == (1 if config.kind == "switch" else 2)
    assert engine.phases().count("propose") == (1 if config.kind == "switch" else 3)


def test_formulas_are_one_by_algebra_and_no_member_is_asked() -> None:
    trace, engine = settled(
        VoteConfig(sampling=Sampling(max_tokens=30)), "$x^2 + 2x + 1$", "$x^2 + 1$", "$(x+1)(x+1)$", task=MATHS
    )
    assert set(engine.phases()) == {"propose"}
    assert [weight for _, weight in trace.verdict.support] == [2.0, 1.0]
    assert len(trace.merged) == 1
    assert Deliberation.model_validate_json(trace.model_dump_json()).equality == trace.equality
