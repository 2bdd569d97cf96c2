"""The bill of a run in the terminal, before it starts."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from evolve.config import RunConfig
from evolve.planning.estimate import Estimate, estimate_lines


def print_plan(console: Console, config: RunConfig, found: Estimate) -> None:
    """Tokens and time by stage, disk, money, what the gate as a whole can see, and what all of it rests on."""
    plan = found.plan
    table = Table(title=f"Plan of {config.name}", title_justify="left")
    table.add_column("stage")
    for name in ("calls", "prompt tokens", "output tokens", "at most", "minutes"):
        table.add_column(name, justify="right")
    for stage in plan.stages:
        counts = (stage.num_calls, stage.prompt_tokens, stage.output_tokens, stage.max_output_tokens)
        table.add_row(stage.stage, *(f"{count:,}" for count in counts), f"{stage.seconds / 60:.1f}")
    counts = (plan.num_calls, plan.prompt_tokens, plan.output_tokens, plan.max_output_tokens)
    table.add_row("all", *(f"{count:,}" for count in counts), _minutes(found), style="bold")
    console.print(table)
    for line in estimate_lines(config, found):
        console.print(line, highlight=False, markup=False)


def _minutes(found: Estimate) -> str:
    span = found.span
    if not found.basis.is_guess:
        return f"{found.plan.seconds / 60:.1f}"
    return f"{span.low / 60:.0f} to {span.high / 60:.0f}"
