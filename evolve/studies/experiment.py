"""A run and the arms it is held against, in sittings: stopped at a boundary, continued by the same call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from evolve.audit.audit import SCORES, AuditScores, audit_rosters
from evolve.audit.audited import RosterAsk
from evolve.config import ConfigError, RunConfig
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.problems.drawn import problems_by_generation
from evolve.progress import Observer
from evolve.report.finished import leave_report, read_report
from evolve.report.view_arms import with_arms
from evolve.run import run
from evolve.studies.experiment_results import ArmAudit, ExperimentResults, markdown, results_of
from evolve.studies.rival_arms import arm_config, hold_arm, read_arm, spent_by
from evolve.studies.rival_methods import ArmName, RivalArm, Spent
from memory.ledger import exclusive_lock, publish_bytes, publish_json, read_record

RESULTS, RESULTS_TEXT = "results.json", "results.md"
ARM_AUDIT = "arm_audit.json"
"""Beside the arm: the arm with what AUDIT found of it."""


class SittingOver(Exception):
    """The time of this sitting has passed; everything accepted so far is durable."""


class Sitting:
    """Ends a run at its next durable step once its time is over. Give it as `on_commit`."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = None if minutes is None else clock() + 60.0 * minutes

    def __call__(self, step: str) -> None:
        """Raises SittingOver after its time."""
        if self._ends is not None and self._clock() >= self._ends:
            raise SittingOver(f"the time of this sitting is over, after {step}; the same command continues")


async def hold_experiment(
    config: RunConfig,
    names: Sequence[ArmName],
    observer: Observer,
    sitting: Sitting,
    *,
    commits: Sequence[str] = (),
) -> ExperimentResults:
    """The run, then its arms one after the other, from wherever they were.

    Raises:
        SittingOver, alone or in an ExceptionGroup: call again to go on.
        ConfigError, AlreadyLocked, JournalError: as `evolve.run.run`.
    """
    await run(config, observer, on_commit=sitting)
    arms = []
    for name in names:
        sitting(f"what comes before the arm {name}")
        arms.append(await hold_arm_of(config, name, observer, sitting))
    scores = read_record(config.run_dir / SCORES, AuditScores)
    spent, simulated = _spent(config), config.is_simulated
    return results_of(scores, arms, spent, seed=config.seed, commits=commits, is_simulated=simulated)


def leave_results(run_dir: Path, found: ExperimentResults) -> None:
    """Write `results.json` and `results.md` beside the run, and show its arms in its report."""
    publish_json(run_dir / RESULTS, found)
    publish_bytes(run_dir / RESULTS_TEXT, markdown(found).encode())
    data = read_report(run_dir)
    if data is not None:
        leave_report(run_dir, with_arms(data, found))


async def hold_arm_of(
    config: RunConfig, name: ArmName, observer: Observer, on_commit: Callable[[str], None] = lambda _: None
) -> ArmAudit:
    """One arm of a finished run, held and audited; a finished one is only read.

    Raises ConfigError where the run is not finished, AlreadyLocked where another process holds the arm.
    """
    if not (config.run_dir / SCORES).is_file():
        raise ConfigError(f"{config.run_dir}: expected a run that has been audited; let `evomesh evolve` finish it")
    one = arm_config(config, name)
    path = one.run_dir / ARM_AUDIT
    if path.is_file():
        return read_record(path, ArmAudit)
    one.run_dir.mkdir(parents=True, exist_ok=True)
    problems, spent = problems_by_generation(config.run_dir), _spent(config)
    with exclusive_lock(one.run_dir / "driver"), Judge() as judge:
        journal = Journal(one.run_dir, on_commit=on_commit)
        async with Lab(one, journal=journal, judge=judge, memory=None, observer=observer) as lab:
            arm = read_arm(one.run_dir) or await hold_arm(lab, name, problems, spent)
            asks = rosters_of(arm, config.evaluation.audit_samples_per_member)
            rosters = await audit_rosters(lab, "audit", asks, problems[0]) if asks else ()
    found = ArmAudit(arm=arm, rosters=rosters)
    publish_json(path, found)
    return found


def rosters_of(arm: RivalArm, samples: int) -> list[RosterAsk]:
    """What is audited of an arm: every generation that learned, with as many votes as the mesh has. None of frozen."""
    if arm.name == "frozen":
        return []  # it is the run's own generation 0, which is audited with the run
    return [
        RosterAsk(
            name=f"{arm.name} generation {step.number}",
            members=step.members,
            samples_each=max(1, samples * arm.num_seats // len(step.members)),
            ballots=samples * arm.num_seats,
        )
        for step in arm.steps[1:]
    ]


def read_arm_audit(run_dir: Path, name: ArmName) -> ArmAudit | None:
    """A finished and audited arm of a run; None: there is none."""
    path = run_dir / "arms" / name / ARM_AUDIT
    return read_record(path, ArmAudit) if path.is_file() else None


def _spent(config: RunConfig) -> tuple[Spent, ...]:
    """By the generations that AUDIT knows: a demotion later adds one to the lineage that nothing was trained in."""
    scores = read_record(config.run_dir / SCORES, AuditScores)
    return spent_by(config.run_dir, config, len(scores.rosters) - 1)
