"""The run in the terminal when it has ended."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evolve.report.answer import alarms, rival_sentences
from evolve.report.data import ReportData
from evolve.report.formats import operations, pvalue
from evolve.report.headline import caveats, headline, share, signed
from evolve.report.measure import Accuracy, Comparison


def print_summary(console: Console, data: ReportData, directory: Path) -> None:
    """The headline, AUDIT accuracy by task family, and where to read on."""
    console.print()
    console.print(headline(data), style="bold", highlight=False, markup=False)
    for sentence in (*caveats(data), *rival_sentences(data)):
        console.print(sentence, highlight=False, markup=False)
    if data.evolution.answer:
        console.print(f"Novelty or noise? {data.evolution.answer}", highlight=False, markup=False)
    for note in data.notes:
        console.print(note, style="yellow", highlight=False, markup=False)
    for alarm in alarms(data):
        console.print(f"ALARM: {alarm}", style="bold red", highlight=False, markup=False)
    if data.evolution.gains:
        console.print(_gain_table(data))
    if data.evolution.decisions:
        console.print(_decision_table(data))
    if data.audit.rows and not data.evolution.gains:
        console.print(_accuracy_table(data))
        console.print(data.audit.note, style="dim", highlight=False, markup=False)
    minutes = (data.wall_seconds or 0.0) / 60
    tokens = sum(stage.output_tokens for stage in data.stages)
    memory = "" if data.peak_memory_gib is None else f", {data.peak_memory_gib:.1f} GiB of memory at most"
    flops, idle = data.evolution.total_flops, data.evolution.idle_share
    trained = f", {operations(flops)} of training" if flops else ""
    waiting = "" if idle is None else f", engines idle {idle:.0%}"
    text = f"{minutes:.1f} minutes, {tokens:,} output tokens{trained}{waiting}{memory}."
    console.print(text, highlight=False, markup=False)
    if versions := _versions(data):
        console.print(versions, style="dim", highlight=False, markup=False)
    console.print(f"Report: {directory / 'report.html'}", highlight=False, markup=False)


def _versions(data: ReportData) -> str:
    """What the figures rest on, of what is installed; all of it is in the report. Empty where nothing is known."""
    return ", ".join(filter(None, (data.main_versions, data.machine)))


def _gain_table(data: ReportData) -> Table:
    table = Table(
        title="AUDIT accuracy, the last generation beside generation 0", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("method", no_wrap=True)
    for name in ("n", "before", "after", "points, 95% interval", "relative", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for gain in data.evolution.gains:
        low, high = signed(100 * gain.difference.low, 1), signed(100 * gain.difference.high, 1)
        table.add_row(
            gain.method,
            f"{gain.n:,}",
            share(gain.before),
            share(gain.after),
            f"{signed(100 * gain.mean, 1)} [{low}, {high}]",
            "–" if gain.relative is None else f"{signed(100 * gain.relative, 1)}%",
            pvalue(gain.p),
            style="bold" if gain is data.evolution.primary else None,
        )
    return table


def _decision_table(data: ReportData) -> Table:
    table = Table(title="Decisions", title_justify="left", box=SIMPLE_HEAD)
    for name in ("generation", "bred", "promoted", "reason"):
        table.add_column(name, justify="right" if name in ("generation", "bred") else "left")
    for one in data.evolution.decisions:
        table.add_row(str(one.generation), str(one.num_bred), one.chosen or "–", one.reason)
    return table


def _accuracy_table(data: ReportData) -> Table:
    table = Table(title="AUDIT accuracy, 95% intervals", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("task type", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for name in ("n", "before", "after", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in data.audit.rows:
        label = row.task_type or "all"
        if row.constant is not None:
            table.add_row(label, "best constant", "", share(row.constant.accuracy.mean), "", "", style="dim")
            label = ""
        for comparison in row.comparisons:
            table.add_row(label, *_cells(comparison))
            label = ""
        table.add_section()
    return table


def _cells(comparison: Comparison) -> tuple[str, ...]:
    measured, difference = comparison.before or comparison.after, comparison.difference
    return (
        comparison.method,
        str(measured.n) if measured else "",
        _accuracy(comparison.before),
        _accuracy(comparison.after),
        ""
        if difference is None
        else f"{signed(100 * difference.mean, 1)} [{signed(100 * difference.low)}, {signed(100 * difference.high)}]",
    )


def _accuracy(value: Accuracy | None) -> str:
    if value is None or value.interval is None:
        return "–"
    low, high = value.interval
    return f"{share(value.mean)} [{share(low)}, {share(high)}]"
