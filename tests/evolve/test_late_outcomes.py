"""Late labels and what they teach: outcomes, memory, measured weights."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evolve.audit.measured import read_reliability
from evolve.commands.late_outcomes import (
    Imported,
    Judged,
    judge,
    judge_labels,
    measure_batch,
    publish_measured,
    remember,
)
from evolve.judging.labels import BadRow, Label, LabelFile
from memory.embed import HashedNgramEmbedder
from memory.store import Memory
from memory.types import Cue, Kind, Namespace
from mesh.types import Deliberation, Proposal, Verdict
from serving.outcomes import OutcomeLedger, judged_right
from serving.traces import TraceError, write_traces
from tests.serving.test_export import trace

OURS = Namespace(team="ours")


def labels(*found: Label, bad: tuple[BadRow, ...] = ()) -> LabelFile:
    return LabelFile(digest="f" * 64, labels=found, bad=bad)


def label(answer: str | None = None, correct: bool | None = None, id: str = "t", row: int = 2) -> Label:
    return Label(row=row, id=id, answer=answer, correct=correct)


def said(found: Label, held: Deliberation | None = None) -> dict[str | None, bool] | str:
    held = held or trace()
    judged = judge(held, found, "Ann", held.equality)
    return judged if isinstance(judged, str) else {one.answer: one.correct for one in judged.outcomes}


def test_a_right_answer_judges_everybody() -> None:
    assert said(label("7")) == {"7": True, "7.0": True, "8": False}
    assert said(label("8")) == {"7": False, "7.0": False, "8": True}
    assert said(label("9")) == {"7": False, "7.0": False, "8": False}


def test_whether_it_was_right_judges_those_who_said_it_and_by_that_maybe_the_others() -> None:
    assert said(label(correct=True)) == {"7": True, "7.0": True, "8": False}
    assert said(label(correct=False)) == {"7": False, "7.0": False}


def test_two_ways_of_saying_it_must_agree() -> None:
    assert said(label("7", correct=True)) == said(label("7"))
    assert said(label("7", correct=False)) == "'correct' says False of an answer that 'answer' makes True"


def test_no_answer_is_wrong_and_never_right() -> None:
    silent = trace(verdict=Verdict(answer=None, method="nobody"))
    assert said(label("8"), silent) == {None: False, "7": False, "7.0": False, "8": True}
    assert "it gave no answer" in str(said(label(correct=True), silent))


def test_prose_is_judged_as_a_whole_and_not_compared() -> None:
    prose = trace(task=trace().task.model_copy(update={"answer_kind": "free"}))
    assert "prose cannot be compared" in str(said(label("7"), prose))
    assert said(label(correct=True), prose) == {"7": True}


def test_an_outcome_says_who_judged_and_gives_no_answer_away() -> None:
    judged = judge(trace(), label("9"), "Ann", "number")
    assert isinstance(judged, Judged)
    assert {one.evidence.verifier for one in judged.outcomes} == {"label:Ann"}
    other = judge(trace(), label("10"), "Ann", "number")
    assert judged == other  # two right answers that nobody gave leave the same trace


def batch(tmp_path: Path, *traces: Deliberation) -> Path:
    write_traces(tmp_path / "batch" / "traces.parquet", traces or (trace(),))
    return tmp_path / "batch"


def bring(directory: Path, file: LabelFile, **more: Any) -> tuple[list[Judged], Imported]:
    return asyncio.run(judge_labels(directory, file, **{"by": "Ann", "replace": False, **more}))


def test_what_is_imported_again_changes_nothing(tmp_path: Path) -> None:
    directory = batch(tmp_path)
    judged, first = bring(directory, labels(label("7")))
    assert (first.num_tasks, first.num_right, first.num_new) == (1, 1, 3)
    before = (directory / "outcomes.jsonl").read_bytes()
    assert bring(directory, labels(label("7")))[1].num_new == 0
    assert (directory / "outcomes.jsonl").read_bytes() == before
    with Memory.open(tmp_path / "memory", HashedNgramEmbedder()) as memory:
        assert remember(memory, OURS, judged) == 1
        head = memory.head
        remember(memory, OURS, judged)
        assert memory.head == head


def test_unknown_ids_and_bad_rows_are_told_by_number_and_the_rest_is_taken(tmp_path: Path) -> None:
    file = labels(label("7"), label("1", id="zoe", row=3), bad=(BadRow(row=4, problem="torn"),))
    _, imported = bring(batch(tmp_path), file)
    assert imported.num_tasks == 1
    assert [row.row for row in imported.unknown] == [3]
    assert "no task 'zoe'" in imported.unknown[0].problem
    assert [row.row for row in imported.bad] == [4]


def test_a_label_that_contradicts_an_earlier_one_is_told_and_taken_only_when_that_is_said(tmp_path: Path) -> None:
    directory = batch(tmp_path)
    bring(directory, labels(label("7")))
    judged, imported = bring(directory, labels(label("8", row=9)))
    assert judged == []
    ((row, problem),) = [(bad.row, bad.problem) for bad in imported.bad]
    assert (row, "imported as right before and is wrong now; --replace" in problem) == (9, True)
    bring(directory, labels(label("8")), replace=True)
    assert judged_right(OutcomeLedger(directory).all()) == {("t", "7"): False, ("t", "7.0"): False, ("t", "8"): True}


def test_formulas_are_compared_by_what_they_mean(tmp_path: Path) -> None:
    task = trace().task.model_copy(update={"answer_kind": "math", "question": "Simplify x + x."})
    proposals = tuple(
        Proposal(member=name, family=name, text=f"Answer: {answer}", answer=answer)
        for name, answer in (("ada", "2x"), ("eve", "x^2"))
    )
    held = trace(task=task, proposals=proposals, verdict=Verdict(answer="2x", method="plurality"))
    judged, _ = bring(batch(tmp_path, held), labels(label("x + x")))
    assert {one.answer: one.correct for one in judged[0].outcomes} == {"2x": True, "x^2": False}


def test_memory_learns_what_was_right_and_what_was_wrong_with_the_label_as_evidence(tmp_path: Path) -> None:
    judged, _ = bring(batch(tmp_path), labels(label("7")))
    with Memory.open(tmp_path / "memory", HashedNgramEmbedder()) as memory:
        remember(memory, OURS, judged)
        found = memory.search("What is 2 + 5?", [str(OURS)])
        solution = next(one for one in found if one.kind is Kind.SOLUTION)
        assert "Answer: 7" in solution.text
        assert [check.verifier for check in memory.checks_of(solution.experience_id)] == ["label:Ann"]
        held_back = Cue(text="What is 2 + 5?", namespaces=(str(OURS),), splits=("train",))
        assert memory.recall(held_back).shown == ()


def test_weights_rest_on_all_labels_and_add_to_what_was_measured_before(tmp_path: Path) -> None:
    other = trace(task=trace().task.model_copy(update={"id": "u"}), id="e" * 32)
    directory = batch(tmp_path, trace(), other)
    bring(directory, labels(label("7")))
    bring(directory, labels(label("8", id="u")))
    measured = measure_batch(directory)
    assert [(row.member, row.num_judged, row.num_correct) for row in measured.answers] == [
        ("ada", 2, 1), ("bob", 2, 1), ("eve", 2, 1),
    ]  # fmt: skip
    publish_measured(tmp_path / "together.json", measured, measured)
    assert read_reliability(tmp_path / "together.json").answers[0].num_judged == 4
    assert measure_batch(directory) == measured


def test_a_directory_without_traces_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such trace file"):
        bring(tmp_path, labels(label("7")))
