"""Answers that a verifier could not check: counted, told, and no ground to promote anybody on."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.judging.scorer import RAISED, GymScorer
from evolve.judging.unchecked import all_unchecked, keep_unchecked, unchecked_of
from evolve.lab import Lab
from evolve.loop import Run, evolve
from evolve.progress import Silent
from evolve.report.answer import alarms
from evolve.report.data import ReportData
from evolve.report.page import render
from evolve.report.view import Facts, report_of
from memory.types import Evidence
from mesh.types import Outcome
from tests.evolve.quick_run import quick_config

# Speaks the scorer's protocol, says yes to a sum's own result, and dies over everything once the file is there.
CHILD = """
import json, os, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    if os.path.exists(sys.argv[1]):
        os._exit(3)
    request = json.loads(line)
    print(json.dumps({"score": float(request["answer"] == json.loads(request["entry"])["answer"])}), flush=True)
"""

Said = Literal["passed", "failed", "unknown"]


def outcome(number: int, verdict: Said, *, task_type: str = "sums", verifier: str = "regex") -> Outcome:
    return Outcome(
        task_id=f"t{number}",
        task_type=task_type,
        answer="7",
        correct=verdict == "passed",
        evidence=Evidence(verifier=verifier, verdict=verdict, digest="0" * 64),
    )


def test_unchecked_answers_are_counted_by_task_type_with_the_usual_reason() -> None:
    outcomes = [outcome(n, "unknown") for n in range(3)] + [outcome(n, "passed") for n in range(3, 10)]
    outcomes += [outcome(n, "failed", task_type="words") for n in range(10, 20)]
    reasons = {"t0": "the scorer died", "t1": "the scorer died", "t2": f"{RAISED} ValueError"}
    found = unchecked_of("audit", outcomes, lambda one: reasons[one.task_id])
    (group,) = found.groups
    assert (group.task_type, group.num_unchecked, group.num_answers) == ("sums", 3, 10)
    assert (group.num_broken, group.reason) == (2, "the scorer died")
    assert (found.share, found.broken_share) == (0.15, 0.1)
    assert found.sentence == (
        "audit: answers count as wrong because they could not be checked: 3 of 10 of sums (the scorer died)"
    )


def test_where_everything_was_checked_there_is_nothing_to_say_or_keep(tmp_path: Path) -> None:
    found = unchecked_of("audit", [outcome(0, "passed")], lambda _: "")
    keep_unchecked(tmp_path, found)
    assert (found.groups, found.sentence, list(tmp_path.iterdir())) == ((), "", [])
    assert found.broken_share == 0.0


def test_a_panel_that_keeps_silent_is_listed_and_is_no_fault_of_the_verifier() -> None:
    found = unchecked_of("gate", [outcome(0, "unknown", verifier="panel")], lambda _: "all families wrote it")
    assert found.groups
    assert (found.share, found.broken_share) == (0.0, 0.0)


def test_a_verifier_that_breaks_at_the_gate_promotes_nobody_and_the_report_raises_an_alarm(tmp_path: Path) -> None:
    run, data = _run_with_a_verifier_that_breaks_after("generation-0-gate", tmp_path)
    (first,) = run.rounds
    assert first.selection.conjunction is None
    assert all(not member.adapter for member in run.last.seats)
    assert "the gate decided nothing: generation 0 gate: answers count as wrong" in first.selection.reason
    told = [one for one in alarms(data) if "could not be checked" in one]
    assert any(one.startswith("generation 0 gate:") for one in told)
    assert any(one.startswith("audit:") and "the scorer died (exit status 3)" in one for one in told)
    assert "Answers that could not be checked" in render(data)


def test_the_same_run_with_a_sound_verifier_promotes_and_raises_no_such_alarm(tmp_path: Path) -> None:
    run, data = _run_with_a_verifier_that_breaks_after("never", tmp_path)
    assert any(member.adapter for member in run.last.seats)
    assert not [one for one in alarms(data) if "could not be checked" in one]
    assert "Answers that could not be checked" not in render(data)
    assert all_unchecked(run_directory(tmp_path)) == ()


def run_directory(directory: Path) -> Path:
    return directory / "run"


def _run_with_a_verifier_that_breaks_after(step: str, directory: Path) -> tuple[Run, ReportData]:
    config = quick_config(
        directory,
        sizes={},
        problems={
            "kind": "reasoning_gym",
            "items_per_family": {"train": 6, "dev": 8, "gate": 24, "audit": 2},
            "families": [{"name": "chain_sum", "settings": {"min_terms": 2, "max_terms": 2, "max_digits": 3}}],
        },
        tracking={"tensorboard": False},
    )
    broken = directory / "broken"

    def commit(accepted: str) -> None:
        if accepted == step:
            broken.touch()

    async def work() -> tuple[Run, ReportData]:
        command = [sys.executable, "-I", "-S", "-c", CHILD, str(broken)]
        with Judge(scorer=GymScorer(timeout_s=0.5, command=command)) as judge:
            journal = Journal(config.run_dir, on_commit=commit)
            async with Lab(config, journal=journal, judge=judge, memory=None, observer=Silent()) as lab:
                run = await evolve(lab)
                facts = Facts(started_at=datetime.now(UTC))
                data = report_of(config, run, facts, lab.times.all, None, unchecked=all_unchecked(lab.directory))
                return run, data

    return asyncio.run(work())


def test_a_reason_outlives_the_process_that_found_it(tmp_path: Path) -> None:
    found = unchecked_of("generation 0 gate", [outcome(0, "unknown")], lambda _: "the scorer died")
    keep_unchecked(tmp_path, found)
    assert all_unchecked(tmp_path) == (found,)
    assert json.loads((tmp_path / "unchecked" / "generation-0-gate.json").read_text())["stage"] == "generation 0 gate"


def test_a_stage_that_is_judged_again_without_a_fault_is_found_without_a_fault(tmp_path: Path) -> None:
    keep_unchecked(tmp_path, unchecked_of("generation 0 gate", [outcome(0, "unknown")], lambda _: "the scorer died"))
    keep_unchecked(tmp_path, unchecked_of("audit", [outcome(0, "unknown")], lambda _: "the scorer died"))
    keep_unchecked(tmp_path, unchecked_of("generation 0 gate", [outcome(0, "passed")], lambda _: ""))
    assert [one.stage for one in all_unchecked(tmp_path)] == ["audit"]
