"""Free text in whole runs: who judges it, what it takes before it may gate, and what is said where it may not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from evolve.commands.assess import hold_assessment
from evolve.config import RunConfig
from evolve.gates.dev import DevRecord
from evolve.gates.gatekeeping import hold_gate
from evolve.journal import Journal
from evolve.judging import panel_asking
from evolve.judging.judge import Judge
from evolve.judging.panel import Ballot
from evolve.judging.panel_asking import gate_refusal, judges_of, panel_standings, verdicts_on
from evolve.lab import Lab
from evolve.learning.placebos import Placebos
from evolve.lineage import founders
from evolve.planning.plan import plan_assessment, plan_run
from evolve.preflight import check, draw
from evolve.problems.config import ExactVerifier
from evolve.problems.splits import Split
from evolve.problems.types import ProblemsError
from evolve.progress import Silent, merged_times
from evolve.seats import base_seats
from evolve.studies.assessing import AssessOptions
from memory.ledger import Ledger
from serving.fleet import Fleet
from tests.evolve.quick_run import Stop, quick_config, ran, steps_of

SKILL = 0.8
"""A scripted judge of this skill knows a right answer from a wrong one for nine questions in ten."""


def engines(*families: str, skill: float = SKILL) -> list[dict[str, Any]]:
    """One engine of each family."""
    return [
        {"kind": "scripted", "name": f"of-{family}", "family": family, "skill": skill, "adapter_gain": 0.2}
        for family in families
    ]


THREE = engines("alpha", "beta", "gamma")


def write_labels(path: Path, *, count: int = 150, wrong_every: int = 0, families: tuple[str, ...] = ()) -> Path:
    """Sums that a person found right or wrong; every `wrong_every`-th time the person erred."""
    rows = []
    for n in range(count):
        a, b, is_right = 60 + n, 70 + n, n % 2 == 0
        slip = wrong_every > 0 and n % wrong_every < 2
        rows.append(
            {
                "question": f"{a} + {b} =",
                "reference": f"It makes {a + b}.",
                "answer": f"Counting on. Answer: {a + b if is_right else a + b + 7}",
                "correct": is_right != slip,
                "families": list(families),
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(directory: Path, labels: Path | None, **changes: Any) -> RunConfig:
    """Sums that are answered in prose."""
    plain = {
        "serving": {"in_process": True, "engines": THREE},
        "gate": {"samples_per_member": 1, "required": [], "aa_every": 1},
        "recipes": {"min_rows": 1, "placebo": False},
        "tracking": {"tensorboard": False},
    }
    return quick_config(
        directory,
        sizes={"train": 6, "dev": 8, "gate": 16, "audit": 3},
        grid=(10, 8),
        answer=lambda total: f"It makes {total}.",
        verifier={"kind": "panel", "labels": None if labels is None else str(labels)},
        **(plain | changes),
    )


def lab_of(config: RunConfig) -> Lab:
    config.run_dir.mkdir(parents=True, exist_ok=True)
    return Lab(config, journal=Journal(config.run_dir), judge=Judge(), memory=None, observer=Silent())


def test_a_run_on_free_text_harvests_gates_and_is_audited_on_the_panels_word(tmp_path: Path) -> None:
    config = config_of(tmp_path, write_labels(tmp_path / "labels.jsonl"))
    check(config)
    data = ran(config)
    steps = steps_of(config.run_dir)
    asked = [step for step in steps if step.endswith("-panel")]
    assert {"generation-0-harvest-panel", "generation-0-dev-seats-panel", "generation-0-gate-panel"} <= set(asked)
    assert {"audit-panel", "audit-constants-panel"} <= set(asked)
    assert all(f"judge-{step.removesuffix('-panel')}" in steps for step in asked if "generation" in step)
    harvest = next((config.run_dir / "steps").glob("judge-generation-0-harvest-*.json"))
    verdicts = [one["evidence"]["verdict"] for one in json.loads(harvest.read_text())["outcomes"]]
    assert verdicts.count("passed") > len(verdicts) / 2
    assert "failed" in verdicts
    assert any("The panel may gate by the 150 human labels" in one.text for one in data.verifier_audit)


def test_what_a_kill_leaves_of_a_panel_is_taken_up_and_nobody_is_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_labels(tmp_path / "labels.jsonl")
    config = config_of(tmp_path, labels)
    ran(config.model_copy(update={"run_dir": tmp_path / "whole"}))
    next(tmp_path.glob("*.gate-wear.jsonl")).unlink()
    asked: list[tuple[str, str]] = []
    real = panel_asking.ask_panel

    async def dying(caller: Any, judges: Any, brief: Any, answer: str) -> tuple[Ballot, ...]:
        if len(asked) in (90, 200, 340):
            asked.append(("", ""))
            raise Stop
        asked.append((brief.task_id, answer))
        return await real(caller, judges, brief, answer)

    monkeypatch.setattr(panel_asking, "ask_panel", dying)
    for _ in range(3):
        with pytest.raises(Stop):
            ran(config)
    ran(config)
    assert (config.run_dir / "journal.jsonl").read_bytes() == (tmp_path / "whole" / "journal.jsonl").read_bytes()
    of_labels = [known for known in asked if known[0].startswith("line ")]
    # What was under way at a kill, `concurrency` at most, is asked again.
    assert 150 <= len(of_labels) <= 150 + config.concurrency
    assert not list(config.run_dir.glob("*.partial.jsonl"))


def test_a_panel_is_not_charged_for_engines_that_had_to_start_or_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, write_labels(tmp_path / "labels.jsonl"))
    real = Lab.fleet

    async def late(self: Lab) -> Fleet:
        if not self.times.all or self.times.all[-1].stage != "start engines":
            await asyncio.sleep(3.0)
        return await real(self)

    async def polled() -> float:
        async with lab_of(config) as lab:
            await panel_asking.verdicts_on(lab, "judge", [])
            return merged_times(lab.times.all)["judge panel"].seconds

    monkeypatch.setattr(Lab, "fleet", late)
    assert asyncio.run(polled()) < 1.0


def test_no_family_judges_what_it_wrote(tmp_path: Path) -> None:
    config = config_of(tmp_path, write_labels(tmp_path / "labels.jsonl"))

    async def work() -> None:
        async with lab_of(config) as lab:
            problem = (await lab.draw_problems()).of(Split.TRAIN)[0]
            brief = lab.judge.brief(problem)
            said = [(brief, f"by {'/'.join(by)}", by) for by in ((), ("alpha",), ("alpha", "gamma"))]
            everybody = (brief, "by all", ("alpha", "beta", "gamma"))
            found = await verdicts_on(lab, "look", [*said, everybody])
            judged = {answer: {ballot.family for ballot in one.ballots} for (_, answer), one in found.items()}
            assert judged == {
                "by ": {"alpha", "beta", "gamma"},
                "by alpha": {"beta", "gamma"},
                "by alpha/gamma": {"beta"},
                "by all": set(),
            }
            assert found[problem.task.id, "by all"].right is None

    asyncio.run(work())


def test_of_two_families_each_judges_the_other_and_is_held_against_people_alone(tmp_path: Path) -> None:
    serving = {"in_process": True, "engines": engines("alpha", "beta")}
    config = config_of(tmp_path, write_labels(tmp_path / "labels.jsonl"), serving=serving)

    async def work() -> None:
        async with lab_of(config) as lab:
            found = await panel_standings(lab)
            assert found is not None
            assert {author: one.judges for author, one in found.by_author.items()} == {
                "alpha": ("of-beta",),
                "beta": ("of-alpha",),
            }
            assert found.may_gate
            assert await gate_refusal(lab) == ""

    check(config)
    asyncio.run(work())


def test_where_a_judge_was_held_against_no_label_no_gate_is_held_however_well_the_others_agree(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.jsonl", families=("gamma",))
    config = config_of(tmp_path, labels)

    async def work() -> str:
        async with lab_of(config) as lab:
            found = await panel_standings(lab)
            assert found is not None
            assert found.may_gate
            return await gate_refusal(lab)

    told = asyncio.run(work())
    assert told.startswith(f"Some judges gave no verdict on any label of {labels}. The panel may gate by the 150")


def test_judges_are_the_engines_as_they_were_before_anything_was_learned(tmp_path: Path) -> None:
    judges = judges_of(config_of(tmp_path, None, seats_per_engine=2))
    assert [(judge.name, judge.adapter) for judge in judges] == [(one["name"], None) for one in THREE]


@pytest.mark.parametrize(
    ("labels", "families", "reason"),
    [
        (None, ("alpha", "beta"), "human labels, and no file of labels is named; see docs/evolution.md, Free text"),
        (40, ("alpha", "beta"), r"40 of the 40 human labels in .*labels\.jsonl, 100 are needed: add 60 lines like"),
        (150, ("alpha",), "all engines are of one, 'alpha'; add an engine of another family"),
    ],
)
def test_a_panel_that_could_never_gate_stops_a_run_before_anything_starts(
    tmp_path: Path, labels: int | None, families: tuple[str, ...], reason: str
) -> None:
    path = None if labels is None else write_labels(tmp_path / "labels.jsonl", count=labels)
    config = config_of(tmp_path, path, serving={"in_process": True, "engines": engines(*families)})
    with pytest.raises(ProblemsError, match=reason):
        check(config)
    assert not config.run_dir.exists()


def test_without_a_gate_a_panel_needs_no_labels(tmp_path: Path) -> None:
    config = config_of(tmp_path, None)
    open_gate = config.problems.model_copy(update={"sizes": config.problems.sizes.without(Split.GATE)})
    check(config.model_copy(update={"problems": open_gate}))


def test_a_panel_that_disagrees_with_people_stops_the_run_and_with_better_labels_it_goes_on(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.jsonl", wrong_every=5)
    config = config_of(tmp_path, labels)
    check(config)  # enough labels of both kinds: what they are worth is known only once the judges were asked
    for _ in range(2):
        with pytest.raises(
            ProblemsError, match=r"The panel may not gate by the 150 human labels .* Label more"
        ) as told:
            ran(config)
        assert "with more labels the same command goes on" in str(told.value)
    assert steps_of(config.run_dir) == ["problems", "panel-labels"]
    assert not (config.run_dir / "generation-0").exists()
    write_labels(labels)
    assert ran(config).generations[-1].number == 1


def test_the_gate_itself_refuses_a_panel_that_people_do_not_bear_out(tmp_path: Path) -> None:
    config = config_of(tmp_path, write_labels(tmp_path / "labels.jsonl", wrong_every=5))

    async def no_twins() -> Placebos:
        raise AssertionError("a gate that is not held trains no placebos")

    async def work() -> None:
        async with lab_of(config) as lab:
            problems = await lab.draw_problems()
            held = await hold_gate(lab, founders(base_seats(config)), DevRecord(reason="none"), problems, no_twins)
            assert held.record is None
            assert held.level.alpha is None
            assert held.reason.startswith("no gate was held: The panel may not gate by the 150 human labels of")

    asyncio.run(work())
    assert not list(tmp_path.glob("*.gate-wear.jsonl"))


def test_the_estimate_counts_what_the_panel_reads(tmp_path: Path) -> None:
    config = config_of(tmp_path, write_labels(tmp_path / "labels.jsonl"))
    with_panel = plan_run(config, draw(config))
    exact = config.problems.model_copy(update={"verifier": ExactVerifier()})
    without = plan_run(config.model_copy(update={"problems": exact}), draw(config))
    calls = sum(stage.num_calls for stage in without.stages)
    panels = [stage for stage in with_panel.stages if stage.stage.endswith("panel")]
    assert [stage.stage for stage in panels] == ["generation 0 panel", "audit panel"]
    assert sum(stage.num_calls for stage in panels) == 2 * 2 * calls  # two of three families are left, each asked twice
    *looked, panel = plan_assessment(config, draw(config).of(Split.TRAIN), 4, 2)
    assert panel.num_calls == 2 * 2 * sum(stage.num_calls for stage in looked)
    ran(config)
    entries = Ledger(config.run_dir / "times.jsonl", readonly=True).entries()
    taken = sum(one.payload["output_tokens"] for one in entries if one.payload["stage"].endswith(" panel"))
    assert 0 < taken < 1.5 * sum(stage.output_tokens for stage in panels)


def test_judges_that_all_fail_stop_the_run_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*_: Any) -> tuple[Ballot, ...]:
        return ()

    monkeypatch.setattr(panel_asking, "ask_panel", nobody)
    config = config_of(tmp_path, write_labels(tmp_path / "labels.jsonl"))
    with pytest.raises(ProblemsError, match="judged by nobody: it was held against 0 human labels, 100 are needed"):
        ran(config)
    problems = config.problems.model_copy(update={"sizes": config.problems.sizes.without(Split.GATE)})
    without = config.model_copy(update={"problems": problems, "run_dir": tmp_path / "other"})
    with pytest.raises(ProblemsError, match="none of 3 of sum could be judged: nobody could judge it"):
        ran(without)


def test_free_text_is_assessed_before_a_night_is_spent(tmp_path: Path) -> None:
    config = config_of(tmp_path, write_labels(tmp_path / "labels.jsonl"))
    found = asyncio.run(hold_assessment(config, AssessOptions(num_items=8, num_councils=1), Silent())).findings
    assert found.num_items == 8
    rates = {probe.probe: probe.rate for probe in found.probes}
    assert (rates["reference"], rates["empty"]) == (1.0, 0.0)
    assert rates["'0'"] < 0.5
    assert found.reach.mean > 0.0
