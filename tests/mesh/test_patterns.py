"""Protocols made of protocols: what each part sees, what is traced of it, and that every loop ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mesh.config import (
    CouncilConfig,
    EscalateConfig,
    HierarchicalConfig,
    ParallelConfig,
    ProtocolConfig,
    ReviewConfig,
    SequentialConfig,
    SingleConfig,
    VoteConfig,
)
from mesh.engine import EngineError
from mesh.oversight import OversightConfig
from mesh.patterns.hierarchical import MAX_SUBTASK_CHARS, delegate, plan_lines
from mesh.patterns.review import reviewers
from mesh.patterns.step import Step
from mesh.reliability import Judged, measure
from mesh.types import Cluster, Deliberation, Demonstration, Diagnosis, Member, Message, Task, Verdict
from tests.mesh.doubles import Desk, Double, hold, phase_of, untimed, untrusted

TASK = Task(
    id="t1", question="What is 3 + 4?", type="sums", answer_kind="number", instruction="Give the number.",
    demonstrations=(Demonstration(question="1 + 1?", answer="2"),),
)  # fmt: skip
ANA, BO, CY = MEMBERS = tuple(
    Member(name=name, engine=f"e{n}", family=family)
    for n, (name, family) in enumerate([("ana", "fox"), ("bo", "owl"), ("cy", "ant")])
)


def saying(**own: Any) -> dict[str, dict[str, Any]]:
    heard = {member.name: own.get(member.name, "7") for member in MEMBERS}
    return {name: said if isinstance(said, dict) else {"*": said, "account": "none"} for name, said in heard.items()}


def held(
    config: ProtocolConfig, say: dict[str, dict[str, Any]], members: Sequence[Member] = MEMBERS, **options: Any
) -> tuple[Deliberation, Double]:
    engine = Double(say)
    return hold(TASK, members, engine, config, **options), engine


def alone(name: str) -> SingleConfig:
    return SingleConfig(member=name)


def tree(trace: Deliberation) -> list[tuple[str, str]]:
    return [(path, part.protocol) for path, part in trace.walk()]


# Sequential


def test_steps_come_one_after_the_other_and_each_is_shown_what_the_earlier_ones_came_to() -> None:
    config = SequentialConfig(
        steps=(
            Step(name="guess", protocol=alone("ana")),
            Step(name="check", protocol=alone("bo"), instruction="Check the guess."),
            Step(name="last", protocol=alone("cy")),
        )
    )
    trace, engine = held(config, saying(ana="I guess 6", bo="No: 8", cy="7"))
    assert (trace.verdict.answer, trace.first_verdict.answer) == ("7", "6")
    assert tree(trace) == [("", "sequential"), ("guess", "single"), ("check", "single"), ("last", "single")]
    seen = {name: untrusted(messages) for name, _, messages, _ in engine.calls}
    assert [text for text in seen["ana"] if text.startswith(("guess", "check"))] == []
    assert seen["bo"][:-1] == ["guess: 6"]
    assert seen["cy"][:-1] == ["guess: 6", "check: 8"]
    (asked,) = engine.asked("propose", "bo")
    assert [message.role for message in asked] == ["user"]
    assert asked[0].text.startswith("Check the guess.\n")
    assert len(engine.asked("propose", "cy")[0]) == 3


def test_a_step_may_pass_on_its_argument_and_one_without_an_answer_says_so() -> None:
    config = SequentialConfig(
        steps=(
            Step(name="one", protocol=alone("ana"), passes="argument"),
            Step(name="two", protocol=alone("bo")),
            Step(name="three", protocol=alone("cy")),
        )
    )
    _, engine = held(config, saying(ana="Three and four come to 7", bo=EngineError("dead")))
    assert untrusted(engine.asked("propose", "cy")[0])[:-1] == ["one: Three and four come to 7", "two: (no answer)"]


# Parallel


def branches(*names: str) -> tuple[Step, ...]:
    return tuple(Step(name=f"by-{name}", protocol=alone(name)) for name in names)


def test_branches_are_held_at_the_same_time_and_none_sees_another() -> None:
    trace, engine = held(ParallelConfig(branches=branches("ana", "bo", "cy")), saying(bo="8"))
    assert engine.most_running == 3
    assert {len(untrusted(messages)) for _, _, messages, _ in engine.calls} == {1}
    assert [child.step for child in trace.children] == ["by-ana", "by-bo", "by-cy"]
    assert (trace.verdict.answer, trace.verdict.support) == ("7", (("7", 2.0), ("8", 1.0)))
    assert trace.verdict.dissent == ("by-bo",)
    assert trace.verdict.method == "one ballot from each of 3 branches"


def test_a_joined_verdict_is_diagnosed_over_the_members_of_all_branches() -> None:
    config = ParallelConfig(branches=(*branches("ana"), Step(name="two", protocol=VoteConfig())))
    trace, _ = held(config, saying(bo="8", cy="8"))
    found = trace.verdict.diagnosis
    assert (found.num_ballots, found.shape) == (3, "one against all")
    assert {cluster.answer: cluster.members for cluster in found.clusters} == {"7": ("ana",), "8": ("bo", "cy")}


def test_a_split_between_joined_branches_can_be_shown_to_a_person() -> None:
    desk = Desk(lambda question: "9")
    config = ParallelConfig(branches=branches("ana", "bo"), oversight=OversightConfig(on_family_split=True))
    trace, _ = held(config, saying(bo="8"), desk=desk)
    assert [question.reason for question in desk.asked] == ["split by family: fox (1) against owl (1)"]
    assert trace.verdict.answer == "9"


def test_the_earliest_branch_wins_a_tie_whichever_ends_first() -> None:
    async def slow_first(member: Member) -> None:
        await asyncio.sleep(0.01 if member.name == "ana" else 0)

    engine = Double(saying(bo="8"), before=slow_first)
    trace = hold(TASK, MEMBERS, engine, ParallelConfig(branches=branches("ana", "bo")))
    assert (trace.verdict.answer, trace.verdict.tied) == ("7", True)
    assert [child.step for child in trace.children] == ["by-ana", "by-bo"]


def test_a_synthesis_reads_the_arguments_of_all_branches() -> None:
    say = saying(ana={"propose": "Three and four come to 7", "synthesise": "So 5"}, bo="8", cy="no idea")
    config = ParallelConfig(branches=branches("ana", "bo", "cy"), join="synthesise")
    trace, engine = held(config, say)
    ((prompt,),) = (seen[-1:] for seen in engine.asked("synthesise"))
    assert untrusted([prompt])[:-1] == ["Three and four come to 7", "8", "(no answer)"]
    assert (trace.verdict.answer, trace.verdict.method) == ("5", "synthesis by ana")
    assert trace.first_verdict.answer == "7"


@pytest.mark.parametrize("said", ["no idea", EngineError("dead")])
def test_without_a_readable_synthesis_the_branches_vote(said: Any) -> None:
    say = saying(ana={"propose": "7", "synthesise": said}, bo="8", cy="8")
    config = ParallelConfig(branches=branches("ana", "bo", "cy"), join="synthesise")
    trace, _ = held(config, say)
    assert (trace.verdict.answer, trace.first_verdict.answer) == ("8", "7")
    assert trace.verdict.method.endswith("(no readable synthesis)")


def test_a_bug_in_one_branch_is_not_swallowed() -> None:
    with pytest.raises(KeyError, match="a bug"):
        held(ParallelConfig(branches=branches("ana", "bo")), saying(bo=KeyError("a bug")))


# Hierarchical


PLAN = "1. How many is three?\n2) How many is four?\n- Add both.\n"


def test_the_planner_splits_others_work_and_it_answers_from_what_they_found() -> None:
    say = saying(ana={"plan": PLAN, "propose": "7"}, bo="three it is", cy="four it is")
    trace, engine = held(HierarchicalConfig(), say)
    assert tree(trace) == [
        ("", "hierarchical"),
        ("part-1", "single"),
        ("part-2", "single"),
        ("part-3", "single"),
        ("answer", "single"),
    ]
    assert [(name, phase) for name, phase, *_ in engine.calls] == [
        ("ana", "plan"),
        ("bo", "propose"),
        ("cy", "propose"),
        ("bo", "propose"),
        ("ana", "propose"),
    ]
    assert [part.task.question for _, part in trace.walk()][1:4] == [
        "How many is three?",
        "How many is four?",
        "Add both.",
    ]
    assert untrusted(engine.asked("propose", "cy")[0]) == ["What is 3 + 4?", "How many is four?"]
    assert untrusted(engine.asked("propose", "ana")[0])[:-1] == [
        "How many is three?\nthree it is",
        "How many is four?\nfour it is",
        "Add both.\nthree it is",
    ]
    assert trace.verdict.answer == "7"
    assert (trace.children[0].task.id, trace.children[0].task.answer_kind) == ("t1/1", "text")


def test_a_plan_of_a_thousand_lines_is_cut_to_the_number_of_parts_allowed() -> None:
    say = saying(ana={"plan": "\n".join(f"{n}. part {n}" for n in range(1000)), "propose": "7"})
    trace, engine = held(HierarchicalConfig(max_subtasks=4), say)
    assert [child.step for child in trace.children] == ["part-1", "part-2", "part-3", "part-4", "answer"]
    assert len(engine.calls) == 6


@pytest.mark.parametrize("plan", ["", " \n\n- \n", "x" * (MAX_SUBTASK_CHARS + 1), EngineError("dead")])
def test_without_a_readable_plan_the_whole_task_is_the_one_part(plan: Any) -> None:
    trace, engine = held(HierarchicalConfig(), saying(ana={"plan": plan, "propose": "7"}, bo="It is 7"))
    assert [child.step for child in trace.children] == ["part-1", "answer"]
    assert untrusted(engine.asked("propose", "bo")[0]) == ["What is 3 + 4?"]
    assert trace.verdict.answer == "7"
    assert engine.phases("ana") == (["plan"] if isinstance(plan, Exception) else ["plan", "propose"])


def test_the_planner_works_on_no_part_while_there_is_anybody_else() -> None:
    say = saying(ana={"plan": PLAN, "propose": "7"})
    for members in (MEMBERS, MEMBERS[:2]):
        trace, _ = held(HierarchicalConfig(planner="ana", workers_per_subtask=9, worker=VoteConfig()), say, members)
        workers = {e.member for child in trace.children[:-1] for e in child.exchanges}
        assert workers == {member.name for member in members} - {"ana"}
    trace, _ = held(HierarchicalConfig(), say, MEMBERS[:1])
    assert (trace.verdict.answer, len(trace.children)) == ("7", 4)


def test_parts_go_to_the_skilled_then_to_the_measured_best_then_in_turn() -> None:
    skilled = CY.model_copy(update={"skills": ("sums",)})
    di = Member(name="di", engine="e3", family="elk")
    offered = [[m.name for m in delegate([ANA, BO, skilled, di], ANA, "sums", turn, None)] for turn in range(3)]
    assert offered == [["cy", "bo", "di"], ["cy", "di", "bo"], ["cy", "di", "bo"]]
    assert [m.name for m in delegate([ANA, BO, CY], ANA, "sums", 1, None)] == ["cy", "bo"]
    known = measure(
        Judged(member=name, family="f", task_id=f"t{n}", task_type="sums", answer="1", correct=right)
        for name, right in (("bo", False), ("di", True))
        for n in range(9)
    )
    assert [m.name for m in delegate([ANA, BO, di], ANA, "sums", 0, known)] == ["di", "bo"]
    assert delegate([ANA], ANA, "sums", 0, None) == [ANA]


def test_a_worker_may_be_any_protocol_but_names_nobody() -> None:
    say = saying(ana={"plan": "one part", "propose": "7"}, bo="8", cy="8")
    trace, _ = held(HierarchicalConfig(worker=EscalateConfig(), workers_per_subtask=2), say)
    assert trace.children[0].verdict.method.startswith("bo and cy agree")
    for worker in (
        alone("bo"),
        EscalateConfig(first=("ana", "bo")),
        ReviewConfig(produce=VoteConfig(), reviewers=("bo",)),
    ):
        with pytest.raises(ValueError, match="expected no name in `worker`, got"):
            held(HierarchicalConfig(worker=worker), say)


def test_a_plan_line_loses_its_number_and_nothing_else() -> None:
    text = "1. one\n (2) two\n3: three\n* four\n• five\n-5 plus 3?\n3.5 times 2\n12:30 is when?\none\n\n10.eleven"
    assert plan_lines(text, 99) == [
        "one", "two", "three", "four", "five", "-5 plus 3?", "3.5 times 2", "12:30 is when?", "eleven",
    ]  # fmt: skip


@given(st.text(max_size=300), st.integers(1, 16))
def test_a_plan_has_no_more_parts_than_allowed_and_no_empty_or_double_one(text: str, most: int) -> None:
    lines = plan_lines(text, most)
    assert len(lines) <= most
    assert len(set(lines)) == len(lines)
    assert all(0 < len(line) <= MAX_SUBTASK_CHARS and line == line.strip() for line in lines)


# Review


def drafting(*approved: str, draft: str = "It is 7", **more: Any) -> dict[str, dict[str, Any]]:
    """ana drafts, the others call right what is in `approved` and else object."""
    judging = {"approve": approved, "critique": "the carry was forgotten in the second step", **more}
    return {"ana": {"*": draft, **judging}, "bo": dict(judging), "cy": dict(judging)}


def test_a_draft_that_the_other_families_call_right_is_accepted_at_once() -> None:
    trace, engine = held(ReviewConfig(produce=alone("ana")), drafting("7"))
    assert [child.step for child in trace.children] == ["draft-1"]
    assert {name for name, phase, *_ in engine.calls if phase == "approve"} == {"bo", "cy"}
    assert trace.verdict.method == "draft 1 of 1 accepted by review (0.90)"
    assert (trace.verdict.answer, trace.critiques) == ("7", ())


def test_an_objection_reaches_the_next_draft_and_the_one_favoured_most_is_kept() -> None:
    drafts = iter(["It is 6", "It is 5", "It is 8"])
    say = drafting(draft=lambda messages: next(drafts))
    say["bo"]["approve"] = ("5",)
    trace, engine = held(ReviewConfig(produce=alone("ana"), max_drafts=3, accept_from=0.8), say)
    assert [child.step for child in trace.children] == ["draft-1", "draft-2", "draft-3"]
    told = [[t for t in untrusted(seen) if "objection" in t] for seen in engine.asked("propose", "ana")]
    objection = "An objection to an earlier draft: the carry was forgotten in the second step"
    assert told == [[], [objection] * 2, [objection]]
    assert (trace.verdict.answer, trace.first_verdict.answer) == ("5", "6")
    assert trace.verdict.method == "draft 2 of 3 favoured most, not accepted, by review (0.50)"


@pytest.mark.parametrize("max_drafts", [1, 2, 16])
def test_a_review_that_never_accepts_ends_after_the_most_drafts_allowed(max_drafts: int) -> None:
    trace, engine = held(ReviewConfig(produce=alone("ana"), max_drafts=max_drafts), drafting())
    assert len(trace.children) == len(engine.asked("propose")) == max_drafts
    assert trace.verdict.answer == "7"
    assert "not accepted" in trace.verdict.method


def test_a_draft_without_an_answer_is_reviewed_by_nobody_and_accepted_by_nobody() -> None:
    drafts = iter(["no idea", "It is 7"])
    say = drafting(draft=lambda messages: next(drafts))
    trace, engine = held(ReviewConfig(produce=alone("ana"), accept_from=0.0), say)
    assert (trace.verdict.answer, len(trace.children)) == ("7", 2)
    assert len(engine.asked("approve")) == 4
    silent = {**drafting(draft="no idea"), "bo": {}, "cy": {}}
    assert held(ReviewConfig(produce=alone("ana")), silent)[0].verdict.answer is None


def test_a_draft_that_nobody_could_review_is_better_than_none() -> None:
    drafts = iter(["no idea", "It is 7"])
    say = drafting(draft=lambda messages: next(drafts), approve=EngineError("dead"))
    trace, _ = held(ReviewConfig(produce=alone("ana")), say)
    assert trace.verdict.answer == "7"
    method = "draft 2 of 2 favoured most, not accepted, by review (0.00)"
    assert trace.verdict.method == f"{method}; no reviewer was of another family than the authors"


def test_reviewers_are_those_named_else_other_families_than_the_authors_else_everybody() -> None:
    def drafted(*families: str) -> Deliberation:
        cluster = Cluster(answer="7", weight=1.0, members=(), families=families)
        found = Diagnosis(shape="mixed", clusters=(cluster,), num_ballots=1, n_eff=1.0, weighting="equal", entropy=0.0)
        verdict = Verdict(answer="7", method="m", diagnosis=found)
        return Deliberation(
            id="d", task=TASK, protocol="vote", seed=1, members=MEMBERS, first_verdict=verdict, verdict=verdict
        )

    assert reviewers(MEMBERS, (), drafted("fox")) == [BO, CY]
    assert reviewers(MEMBERS, ("ana", "cy"), drafted("fox")) == [ANA, CY]
    assert reviewers(MEMBERS, (), drafted("fox", "owl", "ant")) == list(MEMBERS)
    undiagnosed = drafted("fox").model_copy(update={"verdict": Verdict(answer="7", method="m")})
    assert reviewers(MEMBERS, (), undiagnosed) == list(MEMBERS)


def test_a_reviewer_sees_the_draft_in_both_orders_and_its_place_decides_nothing() -> None:
    engine = Double(drafting("7"), choice=lambda member, messages, labels: (0.8, 0.2))
    trace = hold(TASK, MEMBERS, engine, ReviewConfig(produce=alone("ana"), max_drafts=1))
    assert trace.verdict.method == "draft 1 of 1 accepted by review (0.50)"


# Nesting


DEEP = """
kind: sequential
steps:
  - name: sides
    passes: argument
    protocol:
      kind: parallel
      branches:
        - {name: quick, protocol: {kind: single, member: ana}}
        - {name: slow, protocol: {kind: review, produce: {kind: vote, samples_per_member: 2}, max_drafts: 2}}
  - name: parts
    protocol:
      kind: hierarchical
      planner: bo
      max_subtasks: 2
      workers_per_subtask: 2
      worker: {kind: council, critique: false}
"""

DEEP_IN_PYTHON = SequentialConfig(
    steps=(
        Step(
            name="sides",
            passes="argument",
            protocol=ParallelConfig(
                branches=(
                    Step(name="quick", protocol=SingleConfig(member="ana")),
                    Step(name="slow", protocol=ReviewConfig(produce=VoteConfig(samples_per_member=2), max_drafts=2)),
                )
            ),
        ),
        Step(
            name="parts",
            protocol=HierarchicalConfig(
                planner="bo", max_subtasks=2, workers_per_subtask=2, worker=CouncilConfig(critique=False)
            ),
        ),
    )
)


def test_what_is_nested_two_deep_in_yaml_is_what_is_nested_in_python_and_is_traced_as_a_tree() -> None:
    config = TypeAdapter(ProtocolConfig).validate_python(yaml.safe_load(DEEP))
    assert config == DEEP_IN_PYTHON
    say = saying(bo={"*": "8", "plan": "1. half\n2. the other half"}, cy="8")
    for own in say.values():
        own |= {"approve": (), "critique": "it is off by one in the last step"}
    trace, engine = held(config, say)
    assert tree(trace) == [
        ("", "sequential"),
        ("sides", "parallel"),
        ("sides/quick", "single"),
        ("sides/slow", "review"),
        ("sides/slow/draft-1", "vote"),
        ("sides/slow/draft-2", "vote"),
        ("parts", "hierarchical"),
        ("parts/part-1", "council"),
        ("parts/part-2", "council"),
        ("parts/answer", "single"),
    ]
    assert trace.verdict.answer == "8"
    parts = [part for _, part in trace.walk()]
    assert sum(len(part.exchanges) for part in parts) == len(engine.calls) == trace.usage.num_calls
    assert len({part.id for part in parts}) == len(parts)
    assert Deliberation.model_validate_json(trace.model_dump_json()) == trace
    again, _ = held(config, say)
    assert untimed(again) == untimed(trace)


def test_no_two_parts_share_a_seed_though_they_ask_the_same() -> None:
    config = ParallelConfig(branches=tuple(Step(name=name, protocol=VoteConfig()) for name in ("one", "two")))
    _, engine = held(config, saying())
    seeds = [sampling.seed for *_, sampling in engine.calls if sampling is not None]
    assert len(set(seeds)) == 6


def test_context_reaches_every_phase_that_asks_for_an_answer_as_data() -> None:
    say = saying(cy={"*": "8", "account": "none", "vote": "8"})
    engine = Double({**say, "ana": {**say["ana"], "vote": "7"}})
    task = TASK.model_copy(update={"context": ("earlier: 6",)})
    hold(task, MEMBERS, engine, CouncilConfig(critique=False))
    for _, phase, messages, _ in engine.calls:
        last: Message = messages[-1]
        assert ("earlier: 6" in untrusted([last])) == (phase in ("propose", "revise"))
        assert phase == phase_of(messages)
