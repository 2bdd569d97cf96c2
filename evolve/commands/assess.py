"""What `evomesh assess` does: a look at a user's own tasks before a night is spent, and plain advice."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evolve.commands.general import OUT, print_json
from evolve.config import MeshConfig, RunConfig, load_mesh
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.planning.gates_ahead import level_sentence
from evolve.planning.plan import plan_assessment
from evolve.planning.rates import ASSESSMENT, assumed_for
from evolve.planning.span import around
from evolve.preflight import check
from evolve.problems.draw import draw_problems
from evolve.problems.sealed import SplitProblems
from evolve.progress import Observer, Silent
from evolve.report.headline import share
from evolve.report.measure import Accuracy
from evolve.studies.advice import Assessment
from evolve.studies.assess import Arm, Findings
from evolve.studies.assessing import AssessOptions, assess, assess_config, choose_items, num_samples
from memory.ledger import exclusive_lock, publish_json, read_record
from memory.types import content_hash


def assess_command(tasks: Path, config: Path, out: Path | None, options: AssessOptions, *, as_json: bool) -> None:
    """`evomesh assess`."""
    mesh = load_mesh(config)
    directory = out or place_of(mesh, tasks, options)
    found = read_assessment(directory)
    if found is None:
        run = assess_config(mesh, tasks, directory)
        check(run)
        found = asyncio.run(hold_assessment(run, options, Silent())) if as_json else _watched(run, options)
    if as_json:
        print_json({**found.model_dump(mode="json"), "directory": str(directory)})
        return
    print_assessment(found, directory)


def place_of(config: MeshConfig, tasks: Path, options: AssessOptions) -> Path:
    """Where this very assessment lies: other tasks, settings or options lie elsewhere.

    Raises FileNotFoundError if there are no tasks.
    """
    told = [config.model_dump(mode="json"), content_hash(tasks.read_bytes().hex()), options.model_dump(mode="json")]
    return config.run_dir / "assess" / content_hash(told)[:12]


def read_assessment(directory: Path) -> Assessment | None:
    """What was found there before; None: it has not ended."""
    path = directory / ASSESSMENT
    return read_record(path, Assessment) if path.is_file() else None


async def hold_assessment(config: RunConfig, options: AssessOptions, observer: Observer) -> Assessment:
    """Carry an assessment to its end, from wherever it was, and publish it.

    Raises AlreadyLocked: another process is at it.
    """
    directory = config.run_dir
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory / "driver"), ExitStack() as stack:
        problems = draw_problems(config.problems, config.seed)
        judge = stack.enter_context(Judge())
        journal = Journal(directory)
        async with Lab(config, journal=journal, judge=judge, memory=None, observer=observer) as lab:
            found = await assess(lab, problems, options)
    observer.finished()
    publish_json(directory / ASSESSMENT, found)
    return found


def print_assessment(found: Assessment, directory: Path) -> None:
    """The verdict first, then what it rests on."""
    advice, findings = found.advice, found.findings
    _say(advice.sentence, style="bold")
    for reason in advice.because[1:]:
        _say(f"Also: {reason}.")
    OUT.print(_table(findings))
    for note in advice.notes:
        _say(note)
    _say(_gate_sentence(findings))
    if worn := level_sentence(findings.gate_level, findings.later_gates):
        _say(worn)
    if findings.near_duplicates:
        _say(findings.near_duplicates)
    if findings.night is not None:
        money = "" if findings.night.money is None else f", {findings.night.money:.2f} in money"
        _say(
            f"A run as configured would take about {findings.night.hours:.1f} hours and "
            f"{findings.night.output_tokens:,} output tokens{money}; `evomesh estimate` and `evomesh evolve` go by the "
            "speeds measured here; training was not timed."
        )
    _say(
        f"This look took {findings.seconds / 60:.1f} minutes and {findings.output_tokens:,} output tokens: {directory}"
    )


def _watched(config: RunConfig, options: AssessOptions) -> Assessment:
    from evolve.commands.console import ConsoleObserver

    problems = draw_problems(config.problems, config.seed)
    before = Console(stderr=True)  # the first thing on standard output is the verdict
    for told in (*problems.report.notes, bill_sentence(config, problems, options)):
        before.print(told, highlight=False, markup=False)
    with ConsoleObserver(before) as observer:
        return asyncio.run(hold_assessment(config, options, observer))


def bill_sentence(config: RunConfig, problems: SplitProblems, options: AssessOptions) -> str:
    """What the look will take, before it starts."""
    items = choose_items(config, problems, options)
    basis = assumed_for(config)
    stages = plan_assessment(config, items, num_samples(config, options), options.num_councils, basis.rates)
    takes = around(sum(stage.seconds for stage in stages), basis.spread)
    return (
        f"{len(items)} items, {num_samples(config, options)} proposals of each member for each: {takes.words} and "
        f"{sum(stage.output_tokens for stage in stages):,} output tokens, at most "
        f"{sum(stage.max_output_tokens for stage in stages):,} (speeds are {basis.source})."
    )


def _table(findings: Findings) -> Table:
    table = Table("way of answering", "right", "95% interval", "samples an item", title_justify="left")
    copied = [] if findings.copied is None else [findings.copied]
    arms: list[Arm] = [
        findings.constant,
        *copied,
        *findings.alone,
        findings.single,
        findings.consistency,
        findings.mesh,
    ]
    talked = [arm for arm in (findings.council_vote, findings.council) if arm is not None]
    for arm in (*arms, *talked, findings.ceiling, findings.reach):
        found = arm.accuracy(findings.council_clusters if arm in talked else findings.clusters)
        table.add_row(arm.name, share(arm.mean), _interval(found), str(arm.num_samples or ""))
    return table


def _interval(value: Accuracy) -> str:
    if value.interval is None:
        return ""
    low, high = value.interval
    return f"{share(low)} to {share(high)} (n={value.n})"


def _gate_sentence(findings: Findings) -> str:
    if findings.gate_level is not None and findings.gate_level.alpha is None:
        return "The gate may not be held, so nothing can be seated."
    if findings.detectable is None:
        return f"A whole gate of {findings.num_gate} items can show no gain of any size."
    differing = max(findings.discordance, findings.detectable)
    return (
        f"A whole gate of {findings.num_gate} items, of which {differing:.0%} may differ, finds a gain of "
        f"{100 * findings.detectable:.1f} points with 80% power: every rival beaten, no guard raised, at the accuracy "
        "measured here."
    )


def _say(text: str, style: str | None = None) -> None:
    OUT.print(text, style=style, highlight=False, markup=False)
