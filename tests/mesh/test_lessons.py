"""What a judged deliberation gives to memory, and what recalled text may not do there."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.types import Evidence, Kind, Level, Namespace, Recall, Recollection, Relation
from mesh.config import CouncilConfig, VoteConfig
from mesh.deliberate import deliberate
from mesh.lessons import Lessons, lessons, told_answer
from mesh.types import Deliberation, Member, Outcome, Proposal, Task, Verdict

TASK = Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number")
OURS = Namespace(project="sums", run="r")
SPOKEN = "Add 3 and 4. That makes 8 in all.\nAnswer: 8"


def _note(answer: str = "7", name: str = "x", kind: Kind = Kind.SOLUTION, **changes: object) -> Recollection:
    mark = {Kind.SOLUTION: "Answer", Kind.ERROR: "Wrong", Kind.ATTEMPT: "Tried"}[kind]
    note = Recollection(
        experience_id=name,
        kind=kind,
        text=f"What is 3 + 4?\n{mark}: {answer}",
        task_type="sums",
        score=1.0,
        lane="fingerprint",
        why="the same problem",
        warning=kind is Kind.ERROR,
        same=True,
        level=Level.VERIFIED,
    )
    return note.model_copy(update=changes)


def _outcome(answer: str | None, correct: bool, verdict: str = "", task_id: str = "t1") -> Outcome:
    judged = verdict or ("passed" if correct else "failed")
    evidence = Evidence(verifier="exact", verdict=judged, digest=f"digest of {answer}")  # type: ignore[arg-type]
    return Outcome(task_id=task_id, task_type="sums", answer=answer, correct=correct, evidence=evidence)


def _held(double, three, says: str = "Answer: 7", recalled: object = ()) -> Deliberation:
    engine = double({member.name: {"*": says} for member in three})
    return asyncio.run(deliberate(TASK, three, engine, VoteConfig(), seed=1, recalled=recalled))


def _talked(double, three) -> Deliberation:
    """ZOE and YAN say 7; XIA says 8, calls a step wrong and changes to 7."""
    right = {"*": "Answer: 7", "critique": "that makes one more than there are", "vote": "7"}
    swayed = {"*": SPOKEN, "revise": "Answer: 7", "account": "makes 8", "critique": "so it is", "vote": "7"}
    engine = double({"ZOE-SEAT": right, "YAN-SEAT": right, "XIA-SEAT": swayed})
    return asyncio.run(deliberate(TASK, three, engine, CouncilConfig(), seed=1))


def _learn(trace: Deliberation, outcome: Outcome, also: tuple[Outcome, ...] = ()) -> Lessons:
    return lessons(trace, outcome, namespace=OURS, split="train", also=also)


def _texts(learnt: Lessons, kind: Kind) -> list[str]:
    return [o.experience.text for o in learnt.observations if o.experience.kind is kind]


def test_every_observation_names_its_episode_its_source_and_the_check_that_was_made(double, three) -> None:
    trace = _held(double, three)
    learnt = _learn(trace, _outcome("7", True))
    assert [o.experience.kind for o in learnt.observations] == [
        Kind.PROBLEM,
        Kind.ATTEMPT,
        Kind.OUTCOME,
        Kind.SOLUTION,
    ]
    assert {o.episode for o in learnt.observations} == {trace.id}
    assert {o.source for o in learnt.observations[1:]} == {"ZOE-SEAT, YAN-SEAT, XIA-SEAT"}
    assert {o.experience.namespace for o in learnt.observations} == {OURS}
    problem, *rest = learnt.observations
    assert (problem.source, problem.evidence) == ("", None)
    assert all(o.evidence == _outcome("7", True).evidence for o in rest)
    assert learnt.use is None


def test_an_outcome_that_nobody_could_check_teaches_nothing(double, three) -> None:
    trace = _held(double, three, recalled=(_note(),))
    assert _learn(trace, _outcome("7", False, verdict="unknown")) == Lessons()


def test_a_step_that_was_rightly_called_wrong_is_an_error_with_its_resolution(double, three) -> None:
    trace = _talked(double, three)
    assert trace.mind_changes == (("XIA-SEAT", "8", "7"),)
    learnt = _learn(trace, _outcome("7", True), also=(_outcome("8", False),))
    step, error = (o for o in learnt.observations if o.experience.kind is Kind.ERROR)
    assert step.experience.text == ("What is 3 + 4?\nWrong step: That makes 8 in all.\nIt led to 8, where 7 is right")
    assert "That makes 8 in all." in trace.proposals[2].text
    assert (step.source, error.experience.text) == ("XIA-SEAT", "What is 3 + 4?\nWrong: 8")
    assert step.evidence == error.evidence == _outcome("8", False).evidence
    solution = next(o.experience for o in learnt.observations if o.experience.kind is Kind.SOLUTION)
    joined = {(e.source, e.relation, e.target) for e in learnt.edges}
    assert (step.experience.id, Relation.RESOLVED_BY, solution.id) in joined
    assert (error.experience.id, Relation.CAUSED_BY, step.experience.id) in joined


def test_a_step_whose_answer_nobody_checked_is_observed_without_evidence(double, three) -> None:
    learnt = _learn(_talked(double, three), _outcome("7", True))
    (step,) = (o for o in learnt.observations if o.experience.kind is Kind.ERROR)
    assert step.evidence is None


def test_a_change_of_mind_to_a_wrong_answer_teaches_no_step(double, three) -> None:
    learnt = _learn(_talked(double, three), _outcome("7", False))
    assert _texts(learnt, Kind.ERROR) == ["What is 3 + 4?\nWrong: 7"]


def test_an_answer_that_repeats_what_was_recalled_is_a_use_and_nothing_new(double, three) -> None:
    trace = _held(double, three, "Answer: 7.0", recalled=(_note("7"), _note("9", "y", same=False)))
    learnt = _learn(trace, _outcome("7.0", True))
    assert (learnt.observations, learnt.edges) == ((), ())
    assert learnt.use is not None
    assert learnt.use.model_dump() == {
        "episode": trace.id,
        "success": True,
        "verifier": "exact",
        "shown": ("x", "y"),
        "withheld": (),
        "followed": ("x",),
        "same": ("x",),
    }


def test_a_recalled_answer_that_fails_is_followed_and_refuted_by_its_use_alone(double, three) -> None:
    learnt = _learn(_held(double, three, "Answer: 8", recalled=(_note("8"),)), _outcome("8", False))
    assert learnt.observations == ()
    assert learnt.use is not None
    assert (learnt.use.success, learnt.use.followed) == (False, ("x",))


def test_a_warning_that_is_ignored_and_right_teaches_nothing_new_and_was_not_followed(double, three) -> None:
    warned = _held(double, three, "Answer: 8", recalled=(_note("8", kind=Kind.ERROR),))
    learnt = _learn(warned, _outcome("8", False))
    assert learnt.observations == ()
    assert learnt.use is not None
    assert learnt.use.followed == ()


def test_a_warning_against_the_right_answer_is_contradicted_by_the_solution(double, three) -> None:
    warning = next(
        o.experience
        for o in _learn(_held(double, three, "Answer: 7"), _outcome("7", False)).observations
        if o.experience.kind is Kind.ERROR
    )
    note = _note("7", warning.id, kind=Kind.ERROR)
    learnt = _learn(_held(double, three, recalled=(note,)), _outcome("7", True))
    (solution,) = (o.experience.id for o in learnt.observations if o.experience.kind is Kind.SOLUTION)
    assert (solution, Relation.CONTRADICTS, warning.id) in {(e.source, e.relation, e.target) for e in learnt.edges}
    (refuted,) = (o for o in learnt.observations if o.experience.id == warning.id)
    assert refuted.evidence == _outcome("7", True).evidence


def test_every_edge_joins_two_things_that_are_observed_together(double, three) -> None:
    foreign = _note("7", "of another namespace", kind=Kind.ERROR)
    for trace in (_held(double, three, recalled=(foreign,)), _talked(double, three)):
        learnt = _learn(trace, _outcome("7", True), also=(_outcome("8", False),))
        known = {o.experience.id for o in learnt.observations}
        assert all({edge.source, edge.target} <= known for edge in learnt.edges)


def test_the_answer_of_a_similar_problem_may_be_right_here_too_without_being_followed(double, three) -> None:
    learnt = _learn(_held(double, three, recalled=(_note("7", same=False),)), _outcome("7", True))
    assert _texts(learnt, Kind.SOLUTION) == ["What is 3 + 4?\nAnswer: 7"]
    assert learnt.use is not None
    assert (learnt.use.followed, learnt.use.same) == ((), ())


def test_another_answer_than_the_recalled_one_is_learnt_as_if_nothing_had_been_recalled(double, three) -> None:
    learnt = _learn(_held(double, three, "Answer: 8", recalled=(_note("7"),)), _outcome("8", False))
    assert _texts(learnt, Kind.ERROR) == ["What is 3 + 4?\nWrong: 8"]
    assert learnt.use is not None
    assert learnt.use.followed == ()


def test_what_is_withheld_reaches_no_prompt_is_in_the_trace_and_in_the_use(double, three) -> None:
    says = {
        "*": "Answer: 7", "critique": "that leaves one of them out", "vote": "7", "account": "none",
    }  # fmt: skip
    engine = double({three[0].name: says | {"*": "Answer: 8"}, **{member.name: says for member in three[1:]}})
    recall = Recall(shown=(_note("SHOWN-1", "x"),), withheld=(_note("SECRET-2", "y"),))
    trace = asyncio.run(deliberate(TASK, three, engine, CouncilConfig(), seed=1, recalled=recall))
    assert {"propose", "revise", "critique"} <= set(engine.phases())
    prompts = [message.text for _, _, messages, _ in engine.calls for message in messages]
    assert any("SHOWN-1" in prompt for prompt in prompts)
    assert not any("SECRET-2" in prompt for prompt in prompts)
    assert (trace.recalled, trace.withheld) == (recall.shown, recall.withheld)
    use = _learn(trace, _outcome(trace.verdict.answer, True)).use
    assert use is not None
    assert (use.shown, use.withheld, use.same) == (("x",), ("y",), ("x", "y"))


def test_a_recalled_and_withheld_answer_that_is_found_anyway_is_independent(double, three) -> None:
    trace = _held(double, three, recalled=Recall(withheld=(_note("7"),)))
    learnt = _learn(trace, _outcome("7", True))
    assert _texts(learnt, Kind.SOLUTION) == ["What is 3 + 4?\nAnswer: 7"]
    assert learnt.use is not None
    assert (learnt.use.withheld, learnt.use.followed) == (("x",), ())


def test_a_hold_out_makes_another_deliberation_and_none_makes_the_same(double, three) -> None:
    plain = _held(double, three, recalled=(_note(),))
    assert _held(double, three, recalled=Recall(shown=(_note(),))).id == plain.id
    assert _held(double, three, recalled=Recall(shown=(_note(),), withheld=(_note("9", "y"),))).id != plain.id


def test_the_outcome_of_an_answer_that_is_not_the_verdict_says_nothing_of_the_recall(double, three) -> None:
    trace = _held(double, three, recalled=(_note("9"),))
    assert _learn(trace, _outcome("8", False)).use is None


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (Kind.SOLUTION, "How many?\nAnswer: 7", "7"),
        (Kind.SOLUTION, "Which?\nAnswer: x\nAnswer: 8", "8"),
        (Kind.SOLUTION, "Somebody noted that the answer is 7.", "7"),
        (Kind.SOLUTION, "How many?\nAnswer: (no answer)", None),
        (Kind.ERROR, "How many?\nWrong: 8", "8"),
        (Kind.ERROR, "How many?\nWrong step: one\nIt led to 8, where 7 is right", None),
        (Kind.DECISION, "How many?\nTalking replaced 8 by 7, which is right", None),
    ],
)
def test_the_answer_is_read_out_of_a_recalled_text(kind: Kind, text: str, told: str | None) -> None:
    assert told_answer(_note().model_copy(update={"kind": kind, "text": text}), "number") == told


@given(st.text(max_size=60), st.text(min_size=1, max_size=30).filter(lambda answer: "\n" not in answer))
def test_what_a_solution_says_is_read_back_as_it_was_written(question: str, answer: str) -> None:
    task = Task(id="t1", question=question, answer_kind="text")
    trace = _trace_of(task, answer)
    learnt = lessons(trace, _outcome(answer, True), namespace=OURS, split="s")
    (text,) = _texts(learnt, Kind.SOLUTION)
    assert told_answer(_note().model_copy(update={"text": text}), "text") == (
        None if answer == "(no answer)" else answer
    )


def _trace_of(task: Task, answer: str) -> Deliberation:
    verdict = Verdict(answer=answer, method="one")
    return Deliberation(
        id="d",
        task=task,
        protocol="vote",
        seed=1,
        members=(Member(name="a", engine="e", family="f"),),
        proposals=(Proposal(member="a", family="f", text=answer, answer=answer),),
        first_verdict=verdict,
        verdict=verdict,
    )
