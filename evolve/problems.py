"""Drawing the problems of a run: from the configuration to one set of problems for each split."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain, zip_longest

from evolve.problem_config import FileProblems, GymProblems, ProblemsConfig
from evolve.problem_types import (
    DrawReport,
    FamilyDraw,
    Problem,
    ProblemsError,
    ProblemSet,
    ReasoningGymVerifier,
    Skipped,
    VerifierSpec,
)
from evolve.splits import Split
from evolve.taskfile import draw_file
from mesh.types import Demonstration

__all__ = [
    "DrawReport",
    "FamilyDraw",
    "Problem",
    "ProblemSet",
    "ProblemsError",
    "ReasoningGymVerifier",
    "Skipped",
    "VerifierSpec",
    "check_problems",
    "draw_problems",
]


def draw_problems(
    config: ProblemsConfig,
    seed: int,
    *,
    split_seeds: Mapping[Split, int] | None = None,
    exclude: Collection[str] = (),
) -> ProblemSet:
    """The problems of a run, by split; families alternate within a split.

    Whatever the seeds, an item belongs to one split for ever (see `split_of`): a set drawn with another seed holds
    other items of the same splits. Demonstrations depend on the configuration alone, so prompts agree between draws.

    Args:
        config: what to draw.
        seed: which items.
        split_seeds: another seed for some splits, e.g. for AUDIT one that was drawn after the recipe was committed.
        exclude: canonical keys to pass over, e.g. those an earlier generation has used.

    Raises:
        ProblemsError: a bad family, setting or file, or nothing to draw at all.
    """
    if isinstance(config, FileProblems):
        return draw_file(config, seed, frozenset(exclude))
    from evolve.gym import (  # importing reasoning-gym takes seconds; a user's file needs none
        distinct_items,
        draw_family,
    )

    seeds = {split: (split_seeds or {}).get(split, seed) for split in Split}
    taken = set(exclude)
    by_split: dict[Split, list[list[Problem]]] = {split: [] for split in Split}
    reports: list[FamilyDraw] = []
    malformed: list[Skipped] = []
    demonstrations: dict[str, tuple[Demonstration, ...]] = {}
    for family in config.families:
        counted = distinct_items(family, config.min_distinct_items) if config.min_distinct_items else None
        drawn, report, skipped = draw_family(family, config, seeds, taken, counted)
        reports.append(report)
        malformed.extend(skipped)
        for split, items in drawn.items():
            by_split[split].append(items)
            if items:
                demonstrations[family.type] = items[0].task.demonstrations
    problems = {split: tuple(_alternate(lists)) for split, lists in by_split.items()}
    if not any(problems.values()):
        raise ProblemsError("no problem could be drawn; raise items_per_family or widen the settings of the families")
    report_of_draw = DrawReport(
        source="reasoning_gym",
        families=tuple(reports),
        malformed=tuple(malformed),
        warnings=tuple(chain.from_iterable(_warnings(r, config) for r in reports)),
    )
    return ProblemSet(problems=problems, demonstrations=demonstrations, report=report_of_draw)


def check_problems(config: ProblemsConfig) -> None:
    """Raise ProblemsError now for what a draw would stumble over: unknown families or settings, a missing file."""
    if isinstance(config, GymProblems):
        from evolve.gym import open_family  # see draw_problems

        for family in config.families:
            open_family(family, seed=0)
    elif not config.path.is_file():
        raise ProblemsError(f"expected a file of tasks, found none at '{config.path}'; correct the path")


def _alternate(lists: Iterable[list[Problem]]) -> list[Problem]:
    """First of each, second of each...: a prefix of the result holds all families."""
    return [problem for row in zip_longest(*lists) for problem in row if problem is not None]


def _warnings(report: FamilyDraw, config: GymProblems) -> list[str]:
    found = []
    if report.num_distinct is not None and report.num_distinct < config.min_distinct_items:
        found.append(
            f"{report.type} showed {report.num_distinct} distinct items, fewer than {config.min_distinct_items}: "
            "a member can learn the answers by heart; widen its settings"
        )
    for split in Split:
        asked, got = config.items_per_family.of(split), report.got.of(split)
        if got < asked:
            found.append(f"{report.type} gave {got} of {asked} {split.value} items: it has no more; widen its settings")
    return found
