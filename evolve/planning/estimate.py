"""Everything that is said of a run before it begins, as one record that stays beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from evolve.config import RunConfig
from evolve.planning.bill import Bill, bill_lines, bill_of
from evolve.planning.disk import sizes_of
from evolve.planning.outlook import Outlook
from evolve.planning.plan import Plan, Problems, StagePlan, plan_run
from evolve.planning.rates import Basis, basis_for
from evolve.planning.span import Span, around, together
from evolve.planning.spending import check_budget
from evolve.preflight import draw
from evolve.progress import read_ended
from evolve.run_files import CONFIG, ESTIMATE
from memory.ledger import read_record
from memory.types import Record


class Estimate(Record):
    """The plan of a run, its bill, what its gate can show, and what all of it rests on."""

    plan: Plan
    bill: Bill
    basis: Basis
    unknown_bases: tuple[str, ...] = Field(
        default=(), description="engines whose weights are not here: disk and operations are without their adapters"
    )

    @property
    def span(self) -> Span:
        """How long the run may take: one number where speeds were measured, two where they are assumed."""
        return together(map(self.span_of, self.plan.stages))

    def span_of(self, stage: StagePlan) -> Span:
        """The same of one stage."""
        return around(stage.seconds, self.basis.spread_of(stage.stage))

    @property
    def totals(self) -> dict[str, float]:
        """All of the plan by name, and the span of its seconds, for programs."""
        return {**self.plan.totals, "seconds_low": self.span.low, "seconds_high": self.span.high}


def estimate(config: RunConfig, problems: Problems, basis: Basis) -> Estimate:
    """What a run on these problems, which are generation 0's, is expected to take and to show."""
    plan = plan_run(config, problems, basis.rates)
    trained = [spec.name for spec in config.serving.engines if spec.kind != "remote"]
    return Estimate(
        plan=plan,
        bill=bill_of(config, problems, plan, basis),
        basis=basis,
        unknown_bases=tuple(name for name, size in sizes_of(config).items() if size is None and name in trained),
    )


def before_it_begins(config: RunConfig, measured: Path | None = None) -> Estimate:
    """The estimate of a run that nothing was spent on yet, its budget checked.

    `measured`: an assessment or a run to go by; None: what lies beside it.

    Raises:
        BudgetTooSmall: it allows no generation. ConfigError: `measured` is neither.
    """
    problems, basis = draw(config), basis_for(config, measured)
    check_budget(config, problems, basis)
    return estimate(config, problems, basis)


def read_estimate(directory: Path) -> Estimate | None:
    """What was said before a run began; None: it has not begun."""
    path, is_begun = directory / ESTIMATE, (directory / CONFIG).is_file()
    return read_record(path, Estimate) if is_begun and path.is_file() else None


def outlook_of(expected: Estimate, directory: Path) -> Outlook:
    """What is left of a run whose estimate is `expected`; of stages that it has ended, `directory` has the times."""
    planned = {stage.stage: expected.span_of(stage) for stage in expected.plan.stages}
    return Outlook(planned, {one.stage: one.seconds for one in read_ended(directory)})


def estimate_lines(config: RunConfig, found: Estimate) -> Iterator[str]:
    """What a person is told below the table of stages."""
    if found.basis.is_guess:
        yield f"It takes {found.span.words}; minutes of stages, hours and money are those of the middle."
    yield from bill_lines(found.bill)
    yield disk_sentence(config, found)
    yield found.basis.sentence


def disk_sentence(config: RunConfig, found: Estimate) -> str:
    """What stays, what is taken meanwhile, and of which engines it is not known."""
    kept = sum(stage.disk_bytes for stage in found.plan.stages)
    passing = found.plan.disk_bytes - kept
    text = f"About {kept / 2**20:.0f} MiB of disk in {config.run_dir}"
    if passing:
        text += f", and at most {passing / 2**20:.0f} MiB more while adapters are trained"
    if found.unknown_bases:
        text += f", without the adapters of {' and '.join(found.unknown_bases)}, whose weights are not here"
    return f"{text}."
