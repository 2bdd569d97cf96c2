from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from memory.types import Kind, Recollection
from mesh.budget import Budget
from mesh.config import CouncilConfig, ProtocolConfig, SingleConfig, VoteConfig
from mesh.deliberate import deliberate
from mesh.engine import Engine, EngineError
from mesh.types import Deliberation, Demonstration, Member, Message, Sampling, Task
from tests.mesh.doubles import untimed

COUNCIL = CouncilConfig(sampling=Sampling(max_tokens=10), talk_max_tokens=20)
AGREE = {"propose": "7"}
OBJECTION = "Step one forgets the carry entirely, therefore it is off"


def run(task: Task, members: Sequence[Member], engine: Engine, config: ProtocolConfig, seed: int = 1) -> Deliberation:
    return asyncio.run(deliberate(task, members, engine, config, seed=seed))


def differing(**changes: dict[str, object]) -> dict[str, dict[str, object]]:
    """Z says 7, Y and X say 8; having read each other, X finds its step wrong, comes over to 7, and all vote for it."""
    say: dict[str, dict[str, object]] = {
        "ZOE-SEAT": {"propose": "3 + 4 = 7", "critique": OBJECTION, "revise": "Answer: 7", "vote": "7"},
        "YAN-SEAT": {"propose": "8", "critique": "8", "revise": "8", "vote": "7"},
        "XIA-SEAT": {"propose": "I say 8", "critique": OBJECTION, "revise": "It is 7", "vote": "7"},
    }
    for name, change in changes.items():
        say[f"{name}-SEAT"].update(change)
    return say


def test_a_council_proposes_reads_criticises_revises_votes_and_decides(double, task, three) -> None:
    engine = double(differing())
    trace = run(task, three, engine, COUNCIL)
    assert [(p.member, p.answer, p.round) for p in trace.proposals] == [
        ("ZOE-SEAT", "7", 0),
        ("YAN-SEAT", "8", 0),
        ("XIA-SEAT", "8", 0),
        ("ZOE-SEAT", "7", 1),
        ("YAN-SEAT", "8", 1),
        ("XIA-SEAT", "7", 1),
    ]
    assert trace.first_verdict.answer == "8"
    assert (trace.verdict.answer, trace.verdict.dissent, trace.verdict.confidence) == ("7", ("YAN-SEAT",), 1.0)
    assert [(c.member, c.target_answer, c.valid) for c in trace.critiques] == [
        ("ZOE-SEAT", "8", True),
        ("YAN-SEAT", "7", False),
        ("XIA-SEAT", "7", True),
    ]
    assert [vote.answer for vote in trace.votes] == ["7", "7", "7"]
    assert trace.mind_changes == (("XIA-SEAT", "8", "7"),)
    assert trace.failures == ()
    assert Deliberation.model_validate_json(trace.model_dump_json()) == trace


def test_every_call_is_in_the_trace_with_what_was_seen_and_said(double, task, three) -> None:
    engine = double(differing())
    trace = run(task, three, engine, COUNCIL)
    assert [(e.phase, e.round, e.member) for e in trace.exchanges] == [
        (phase, number, member.name)
        for phase, number in (("propose", 0), ("critique", 1), ("revise", 1), ("account", 1), ("vote", 1))
        for member in (three[2:] if phase == "account" else three)
    ]
    assert {(e.member, e.phase, e.messages) for e in trace.exchanges} == {(m, p, s) for m, p, s, _ in engine.calls}
    assert trace.usage.num_calls == 13
    assert trace.usage.output_tokens == 9 * 5 + 1 + 3
    assert trace.usage.prompt_tokens > 0


def test_only_objections_that_say_something_are_passed_on_and_only_to_those_they_concern(double, task, three) -> None:
    engine = double(differing())
    run(task, three, engine, COUNCIL)
    heard = {m: s[-1].text.count("objects to your answer") for m, phase, s, _ in engine.calls if phase == "revise"}
    assert heard == {"ZOE-SEAT": 1, "YAN-SEAT": 1, "XIA-SEAT": 1}


def test_the_letters_of_a_vote_are_dealt_anew_to_every_voter(double, task, three) -> None:
    engine = double(differing())
    for seed in range(6):
        run(task, three, engine, COUNCIL, seed)
    dealt = {(m, s[-1].text.splitlines()[1]) for m, phase, s, _ in engine.calls if phase == "vote"}
    assert dealt == {(m.name, line) for m in three for line in ("A. 7", "A. 8")}


def test_unanimous_first_proposals_end_the_talk_at_once(double, task, three) -> None:
    say = {m.name: {"propose": text} for m, text in zip(three, ("7", "3 + 4 = 7", "7.0"), strict=True)}
    trace = run(task, three, double(say), COUNCIL)
    assert (trace.verdict.answer, trace.verdict.confidence) == ("7", 1.0)
    assert trace.verdict.method == (
        "plurality of 3 proposals (equal weights: nothing is measured) (no member differs: no vote)"
    )
    assert (trace.readings, trace.critiques, trace.votes) == ((), (), ())
    assert trace.usage.num_calls == 3


def test_agreement_after_a_round_ends_the_talk_without_a_vote(double, task, three) -> None:
    say = differing(YAN={"revise": "7"})
    trace = run(task, three, double(say), CouncilConfig(rounds=5))
    assert {p.round for p in trace.proposals} == {0, 1}
    assert (trace.votes, trace.verdict.answer) == ((), "7")


def test_a_second_round_reads_the_revised_answers(double, task, three) -> None:
    trace = run(task, three, double(differing()), CouncilConfig(rounds=2, critique=False))
    assert trace.critiques == ()
    zoe = [reading for reading in trace.readings if reading.reader == "ZOE-SEAT"]
    assert sorted((s.answer, s.supporters) for s in zoe[0].shown) == [("8", 2)]
    assert sorted((s.answer, s.supporters) for s in zoe[1].shown) == [("7", 1), ("8", 1)]


def test_silent_member_becomes_failure_and_the_rest_decide(double, task, three) -> None:
    say = differing(YAN={"propose": EngineError("the engine died")})
    trace = run(task, three, double(say), COUNCIL)
    (failure,) = trace.failures
    assert (failure.member, failure.phase, failure.kind) == ("YAN-SEAT", "propose", "EngineError")
    assert failure.message == "the engine died"
    assert trace.verdict.answer == "7"
    assert {e.phase for e in trace.exchanges if e.member == "YAN-SEAT"} == {"propose"}


@pytest.mark.parametrize("phase", ["critique", "revise", "vote"])
def test_a_member_may_fail_in_any_phase_and_then_sits_out(double, task, three, phase: str) -> None:
    trace = run(task, three, double(differing(YAN={phase: EngineError("gone")})), COUNCIL)
    assert [(f.member, f.phase, f.round) for f in trace.failures] == [("YAN-SEAT", phase, 1)]
    assert trace.verdict.answer == "7"
    assert [e.phase for e in trace.exchanges if e.member == "YAN-SEAT"][-1] == phase


def test_a_member_that_hangs_is_cut_off_and_its_tokens_count_as_spent(double, task, three) -> None:
    async def hang(member: Member) -> None:
        await asyncio.sleep(60 if member.name == "YAN-SEAT" else 0)

    config = VoteConfig(sampling=Sampling(max_tokens=10), call_timeout_s=0.25)
    trace = run(task, three, double(differing(), before=hang), config)
    assert [(f.member, f.kind, f.message) for f in trace.failures] == [
        ("YAN-SEAT", "TimeoutError", "no answer within 0.25 s")
    ]
    assert (trace.verdict.answer, len(trace.proposals)) == ("7", 2)
    limited = COUNCIL.model_copy(update={"call_timeout_s": 0.25, "budget": Budget(output_tokens=45)})
    trace = run(task, three, double(differing(), before=hang), limited)
    assert [f.phase for f in trace.failures] == ["propose", "critique", "critique"]
    assert trace.failures[1].message == "needs 40 output tokens, 25 left"


@pytest.mark.parametrize("config", [SingleConfig(), VoteConfig(samples_per_member=2), CouncilConfig()])
def test_everybody_failing_gives_a_verdict_without_an_answer(double, task, three, config: ProtocolConfig) -> None:
    trace = run(task, three, double({m.name: {"propose": EngineError("dead")} for m in three}), config)
    assert (trace.verdict.answer, trace.first_verdict.answer) == (None, None)
    num_asked = 1 if config.kind == "single" else 3
    assert len(trace.failures) == len(trace.exchanges) == num_asked


@pytest.mark.parametrize("config", [SingleConfig(), VoteConfig(), CouncilConfig()])
def test_everybody_abstaining_gives_a_verdict_without_an_answer(double, task, three, config: ProtocolConfig) -> None:
    trace = run(task, three, double({m.name: {"propose": "no idea"} for m in three}), config)
    assert (trace.verdict.answer, trace.failures) == (None, ())
    assert {p.answer for p in trace.proposals} == {None}


def test_an_unexpected_error_is_not_swallowed(double, task, three) -> None:
    with pytest.raises(KeyError):
        run(task, three, double(differing(YAN={"propose": KeyError("a bug")})), COUNCIL)


def test_an_unreadable_revision_is_an_abstention_and_the_earlier_answer_does_not_stand_in(double, task, three) -> None:
    trace = run(task, three, double(differing(YAN={"revise": "hm"})), COUNCIL)
    assert [p.answer for p in trace.round_of(1)] == ["7", None, "7"]
    assert (trace.verdict.answer, trace.verdict.support) == ("7", (("7", 2.0),))
    assert ("YAN-SEAT", "8", None) in trace.mind_changes


def test_when_no_revision_can_be_read_the_vote_is_over_the_first_answers(double, task, three) -> None:
    say = differing(**{name: {"revise": "hm"} for name in ("ZOE", "YAN", "XIA")})
    trace = run(task, three, double(say), COUNCIL)
    assert sorted(answer for answer, _ in trace.votes[0].weights) == ["7", "8"]
    assert trace.verdict.answer == "7"


def test_a_vote_gives_every_sample_a_ballot_and_its_first_verdict_is_its_verdict(double, task, three) -> None:
    say = {"ZOE-SEAT": {"propose": ["7", "7", "7"]}, "YAN-SEAT": {"propose": ["8", "8", "x"]}}
    trace = run(task, three[:2], double(say), VoteConfig(samples_per_member=3))
    assert trace.verdict.model_copy(update={"diagnosis": None}) == trace.first_verdict
    assert (trace.verdict.answer, trace.verdict.support) == ("7", (("7", 3.0), ("8", 2.0)))
    assert [(p.member, p.sample) for p in trace.proposals] == [
        (name, sample) for name in ("ZOE-SEAT", "YAN-SEAT") for sample in range(3)
    ]
    assert (len(trace.exchanges), trace.protocol) == (2, "vote")


def test_a_council_with_samples_takes_each_members_most_frequent_answer(double, task, three) -> None:
    say = differing(ZOE={"propose": ["8", "7", "7"]}, YAN={"propose": ["8", "8", "7"]}, XIA={"propose": ["8"] * 3})
    trace = run(task, three, double(say), CouncilConfig(samples_per_member=3))
    shown = {r.reader: [(s.answer, s.supporters) for s in r.shown] for r in trace.readings}
    assert shown["ZOE-SEAT"] == [("8", 2)]
    assert sorted(shown["YAN-SEAT"]) == [("7", 1), ("8", 1)]
    assert trace.mind_changes == (("XIA-SEAT", "8", "7"),)


def test_one_member_answers_alone(double, task, three) -> None:
    engine = double(differing())
    first = run(task, three, engine, SingleConfig())
    assert (first.verdict.answer, first.verdict.method) == ("7", "ZOE-SEAT alone (the first seat: nothing is measured)")
    trace = run(task, three, engine, SingleConfig(member="YAN-SEAT"))
    assert (trace.verdict.answer, [e.member for e in trace.exchanges]) == ("8", ["YAN-SEAT"])
    assert run(task, three[:1], engine, COUNCIL).verdict.answer == "7"


def test_a_mesh_that_cannot_sit_is_refused(double, task, three) -> None:
    engine = double(differing())
    with pytest.raises(ValueError, match="at least one member"):
        run(task, (), engine, COUNCIL)
    with pytest.raises(ValueError, match="no name twice"):
        run(task, (three[0], three[0]), engine, COUNCIL)
    with pytest.raises(ValueError, match=r"name members among .*, got 'nobody'"):
        run(task, three, engine, SingleConfig(member="nobody"))


def test_the_same_seed_gives_the_same_trace_whoever_is_faster(double, task, three) -> None:
    def slowest_first(order: Sequence[str]):
        async def wait(member: Member) -> None:
            await asyncio.sleep(0.002 * order.index(member.name))

        return wait

    names = [m.name for m in three]
    traces = [
        run(task, three, double(differing(), before=slowest_first(order)), COUNCIL) for order in (names, names[::-1])
    ]
    assert untimed(traces[0]) == untimed(traces[1])
    other = run(task, three, double(differing()), COUNCIL, seed=2)
    assert other.id != traces[0].id


def test_no_two_calls_share_a_seed(double, task, three) -> None:
    engine = double(differing())
    run(task, three, engine, CouncilConfig(rounds=2))
    seeds = [sampling.seed for _, _, _, sampling in engine.calls if sampling is not None]
    assert len(set(seeds)) == len(seeds)


def test_members_are_asked_at_the_same_time(double, task, three) -> None:
    engine = double(differing())
    run(task, three, engine, COUNCIL)
    assert engine.most_running == 3


def test_first_proposals_know_nothing_of_each_other(double, task, three) -> None:
    engine = double(differing())
    run(task, three, engine, COUNCIL)
    prompts = {messages for _, phase, messages, _ in engine.calls if phase == "propose"}
    assert len(prompts) == 1


def test_an_unaffordable_phase_is_left_undone_for_everybody_and_said_so(double, task, three) -> None:
    config = COUNCIL.model_copy(update={"budget": Budget(output_tokens=30)})
    trace = run(task, three, double(differing()), config)
    assert len(trace.round_of(0)) == 3
    assert [(f.phase, f.kind) for f in trace.failures] == [
        *[("critique", "BudgetExhausted")] * 3,
        *[("revise", "BudgetExhausted")] * 3,
    ]
    assert trace.failures[0].message == "needs 60 output tokens, 15 left"
    assert len(trace.votes) == 3
    assert trace.verdict.answer == "7"
    assert trace.usage.output_tokens <= 30


@pytest.mark.parametrize(("budget", "drawn"), [(240, [8, 8, 8]), (100, [3, 3, 3]), (25, [1, 1, 0]), (5, [0, 0, 0])])
def test_a_short_budget_draws_fewer_samples_each_and_records_the_rest(double, task, three, budget, drawn) -> None:
    config = VoteConfig(sampling=Sampling(max_tokens=10), samples_per_member=8, budget=Budget(output_tokens=budget))
    trace = run(task, three, double({m.name: AGREE for m in three}), config)
    assert [sum(p.member == m.name for p in trace.proposals) for m in three] == drawn
    assert [f.message for f in trace.failures] == [
        f"{count} of 8 samples drawn, {budget} tokens left" for count in drawn if count < 8
    ]
    assert trace.verdict.answer == ("7" if any(drawn) else None)
    assert trace.usage.output_tokens <= budget


def test_what_was_recalled_is_in_the_trace_and_only_in_first_prompts(double, three) -> None:
    task = Task(
        id="t",
        question="What is 3 + 4?",
        answer_kind="number",
        demonstrations=(Demonstration(question="q", answer="a"),),
    )
    note = Recollection(
        experience_id="x", kind=Kind.SOLUTION, text="NOTE-7", task_type="sums", score=1.0, lane="text", why="same words"
    )
    engine = double(differing())
    trace = asyncio.run(deliberate(task, three, engine, COUNCIL, seed=1, recalled=(note,)))
    assert trace.recalled == (note,)
    with_note = {phase for _, phase, messages, _ in engine.calls if any("NOTE-7" in m.text for m in messages)}
    assert with_note == {"propose"}
    with_demonstration = {phase for _, phase, messages, _ in engine.calls if messages[0].text == "q"}
    assert with_demonstration == {"propose", "revise"}


def test_an_engine_that_breaks_its_word_is_a_failure(double, task, three) -> None:
    say = differing(ZOE={"propose": []})
    trace = run(task, three, double(say), COUNCIL)
    assert [(f.member, f.kind) for f in trace.failures] == [("ZOE-SEAT", "EngineError")]
    for weights in ((0.5,), (-1.0, 2.0), (0.0, 0.0), (float("nan"), 1.0)):
        engine = double(differing(), choice=lambda member, messages, labels, weights=weights: weights)
        trace = run(task, three, engine, COUNCIL)
        failed = [(f.member, f.phase, f.kind) for f in trace.failures]
        assert failed == [
            (f"{name}-SEAT", phase, "EngineError")
            for name, phase in (("XIA", "account"), ("ZOE", "vote"), ("YAN", "vote"))
        ]
        assert trace.verdict.method.endswith("(no vote was cast)")
        assert trace.proposals[-1].withdrew == "7"


def test_two_hundred_thousand_characters_from_a_member_harm_nobody_not_even_that_member(double, task, three) -> None:
    say = differing(YAN={"propose": "8\n" + "z" * 200_000}, XIA={"propose": "9" * 200_000})
    engine = double(say, windows={"e1": 4000, "e2": 4000}, length=len)
    config = COUNCIL.model_copy(update={"extract_max_tokens": 8})
    trace = run(task, three, engine, config)
    assert [p.answer for p in trace.round_of(0)] == ["7", "8", None]
    shown = [s.text for r in trace.readings for s in r.shown]
    assert max(map(len, shown)) <= COUNCIL.peer_max_chars
    assert "8" in shown
    assert trace.failures == ()
    assert {"digest", "extract"} & set(engine.phases()) == set()
    assert [vote.member for vote in trace.votes] == [m.name for m in three]


def test_half_a_character_from_a_member_can_be_written_to_a_file(double, three) -> None:
    task = Task(id="t\ud800", question="What\udfff?", answer_kind="text")
    say = {m.name: {"propose": "a\ud800"} for m in three}
    trace = run(task, three, double(say), COUNCIL)
    assert trace.verdict.answer == "a?"
    assert Deliberation.model_validate_json(trace.model_dump_json()) == trace


def test_roles_in_prompts_are_user_and_assistant_alone_and_the_question_is_the_last_untrusted_part(
    double, task, three
) -> None:
    engine = double(differing())
    run(task, three, engine, COUNCIL)
    for _, _, messages, _ in engine.calls:
        assert {m.role for m in messages[:-1]} <= {"user", "assistant"}
        last: Message = messages[-1]
        assert last.role == "user"
        assert [part.text for part in last.parts if not part.trusted][-1] == task.question
