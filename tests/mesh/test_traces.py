"""What is made of a finished trace: lessons, the summary of its talk, the transcript."""

from __future__ import annotations

import pytest

from memory.types import Evidence, Kind, Namespace, Recollection, Relation
from mesh.inert import TalkSummary, summarise_talk
from mesh.lessons import lessons
from mesh.tally import plurality
from mesh.transcript import transcript
from mesh.types import Critique, Deliberation, Failure, Member, Outcome, Proposal, Reading, Shown, Task, Verdict, Vote

TASK = Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number")
MEMBERS = (Member(name="zoe", engine="e", family="fox"), Member(name="yan", engine="e", family="owl"))
OURS = Namespace(run="r")
CHECKED = Evidence(verifier="exact", verdict="passed", digest="d")


def _said(member: str, answer: str | None, number: int = 0, text: str = "") -> Proposal:
    return Proposal(member=member, family="f", text=text or f"say {answer}", answer=answer, round=number)


def _trace(last: str = "7", **changes: object) -> Deliberation:
    first = (_said("zoe", "7"), _said("yan", "8"))
    trace = Deliberation(
        id="d",
        task=TASK,
        protocol="council",
        seed=1,
        members=MEMBERS,
        proposals=(*first, _said("zoe", "7", 1), _said("yan", last, 1)),
        readings=(
            Reading(reader="yan", round=1, shown=(Shown(label="A", answer="7", author="zoe", supporters=1, text="7"),)),
        ),
        critiques=(
            Critique(member="zoe", round=1, target_answer="8", text="carry is wrong", valid=True),
            Critique(member="yan", round=1, target_answer="7", text="", valid=False),
        ),
        votes=(Vote(member="zoe", family="fox", answer="7", weights=(("7", 0.75), ("8", 0.25))),),
        failures=(Failure(member="yan", phase="vote", round=1, kind="TimeoutError", message="no answer\nin 3 s"),),
        first_verdict=plurality(first[::-1], "number"),
        verdict=Verdict(answer="7", method="plurality of 1 vote", support=(("7", 1.0),), dissent=("yan",)),
    )
    return trace.model_copy(update=changes)


def _outcome(answer: str | None, correct: bool) -> Outcome:
    evidence = CHECKED if correct else CHECKED.model_copy(update={"verdict": "failed"})
    return Outcome(task_id="t1", task_type="sums", answer=answer, correct=correct, evidence=evidence)


def test_a_right_answer_becomes_problem_attempt_solution_and_outcome() -> None:
    learnt = lessons(_trace(), _outcome("7", True), namespace=OURS, split="train")
    by_kind = {o.experience.kind: o.experience for o in learnt.observations}
    assert set(by_kind) == {Kind.PROBLEM, Kind.ATTEMPT, Kind.OUTCOME, Kind.SOLUTION, Kind.DECISION}
    assert by_kind[Kind.SOLUTION].text == "What is 3 + 4?\nAnswer: 7"
    assert {o.source for o in learnt.observations} == {"", "zoe, yan"}
    assert {(e.namespace, e.split, e.task_type) for e in by_kind.values()} == {(OURS, "train", "sums")}
    assert all(o.evidence == CHECKED for o in learnt.observations if o.experience.kind is not Kind.PROBLEM)
    problem, solution, outcome = (by_kind[k].id for k in (Kind.PROBLEM, Kind.SOLUTION, Kind.OUTCOME))
    assert (problem, Relation.RESOLVED_BY, solution) in {(e.source, e.relation, e.target) for e in learnt.edges}
    assert (solution, Relation.LED_TO, outcome) in {(e.source, e.relation, e.target) for e in learnt.edges}


def test_a_wrong_answer_becomes_an_error_and_leaves_the_problem_open() -> None:
    learnt = lessons(_trace(), _outcome("8", False), namespace=OURS, split="train")
    kinds = [o.experience.kind for o in learnt.observations]
    assert kinds == [Kind.PROBLEM, Kind.ATTEMPT, Kind.OUTCOME, Kind.ERROR]
    assert Relation.RESOLVED_BY not in {edge.relation for edge in learnt.edges}
    ids = {o.experience.id for o in learnt.observations}
    assert all({edge.source, edge.target} <= ids for edge in learnt.edges)


def test_an_outcome_of_another_task_teaches_nothing() -> None:
    other = _outcome("7", True).model_copy(update={"task_id": "t2"})
    with pytest.raises(ValueError, match="expected an outcome of task 't1'"):
        lessons(_trace(), other, namespace=OURS, split="train")


def test_the_same_deliberation_gives_the_same_ids() -> None:
    first, second = (lessons(_trace(), _outcome(None, False), namespace=OURS, split="s") for _ in range(2))
    assert first == second
    assert "(no answer)" in first.observations[1].experience.text


def test_the_summary_counts_valid_critiques_and_changed_answers() -> None:
    summary = summarise_talk([_trace(), _trace(last="8")])
    assert (summary.num_critiques, summary.valid_critique_share) == (4, 0.5)
    assert (summary.num_revisions, summary.changed_share) == (4, 0.25)
    assert (summary.num_deliberations, summary.num_talked, summary.num_judged) == (2, 2, 0)
    assert summary.inert_phases == ()


def test_a_revision_that_loses_its_answer_is_no_change_of_mind() -> None:
    lost = _trace().model_copy(update={"proposals": (_said("zoe", "7"), _said("zoe", None, 1), _said("zoe", "7", 2))})
    summary = summarise_talk([lost])
    assert (summary.num_changed, summary.num_revised_to_nothing) == (1, 1)


def test_flips_are_counted_where_both_verdicts_were_judged() -> None:
    right, wrong = _outcome("7", True), _outcome("8", False)
    summary = summarise_talk([_trace()], {("t1", "7"): right, ("t1", "8"): wrong})
    assert (summary.num_judged, summary.num_wrong_to_right, summary.num_right_to_wrong) == (1, 1, 0)
    undecided = _trace(verdict=Verdict(answer=None, method="none"))
    summary = summarise_talk([undecided], {("t1", "8"): wrong.model_copy(update={"correct": True})})
    assert (summary.num_wrong_to_right, summary.num_right_to_wrong) == (0, 1)
    assert summarise_talk([_trace()], {("t1", "7"): right}).num_judged == 0


def test_a_phase_that_does_nothing_is_called_inert_and_one_that_never_ran_is_not() -> None:
    assert TalkSummary(num_critiques=100, num_valid_critiques=4, num_revisions=20).inert_phases == (
        "critique",
        "revise",
    )
    assert TalkSummary(num_critiques=100, num_valid_critiques=5).inert_phases == ()
    assert TalkSummary().valid_critique_share is None


def test_a_transcript_tells_the_story_in_order() -> None:
    assert transcript(_trace()) == (
        "Task t1 (sums), protocol council",
        "  | What is 3 + 4?",
        "First proposals",
        "  zoe: 7",
        "    | say 7",
        "  yan: 8",
        "    | say 8",
        "First verdict: 8 by plurality of 2 proposals, a tie: the earlier seat [8 1, 7 1]",
        "Round 1",
        "  yan reads A: 7 (1, by zoe)",
        "  zoe objects to 8",
        "    | carry is wrong",
        "  yan objects to 7 (empty or copied: not passed on)",
        "    | ",
        "  zoe: 7 (stays)",
        "    | say 7",
        "  yan: 7 (changed from 8)",
        "    | say 7",
        "Votes",
        "  zoe votes 7 (7 0.75, 8 0.25)",
        "Failures",
        "  yan (vote, round 1): TimeoutError: no answer in 3 s",
        "Verdict: 7 by plurality of 1 vote [7 1]",
        "0 calls, 0 prompt tokens, 0 output tokens",
    )


def test_a_transcript_tells_what_was_recalled_and_what_was_withheld() -> None:
    note = Recollection(
        experience_id="x",
        kind=Kind.SOLUTION,
        text="3 + 4?\nAnswer: 7",
        task_type="sums",
        score=0.5,
        lane="both",
        why="w",
    )
    lines = transcript(_trace(recalled=(note,), withheld=(note.model_copy(update={"text": "4 + 3?"}),)))
    assert lines[2:7] == (
        "Recalled (solution, observed, a similar one, both, score 0.50):",
        "  | 3 + 4?",
        "  | Answer: 7",
        "Recalled and withheld, to measure what recall is worth (solution, observed):",
        "  | 4 + 3?",
    )


def test_a_transcript_cannot_drive_a_terminal_or_drown_the_reader() -> None:
    hostile = _said("zoe", None, text="\x1b[2J\u202egone" + "x" * 5000)
    lines = transcript(_trace(proposals=(hostile,)), max_text_chars=100)
    assert all(line.isprintable() for line in lines)
    assert any(line.endswith("(4909 more characters)") for line in lines)
    assert "  zoe: (no answer)" in lines
