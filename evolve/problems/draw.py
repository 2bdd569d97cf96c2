"""Drawing the problems of a run: from the configuration to one set of problems for each split.

GATE and AUDIT leave this module sealed. `draw_open` is for benchmarks of members, which have no gate to be honest with,
and `draw_undealt` for a study of finished seats; `tests/evolve/test_sealed.py` names who may take these from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from evolve.problems.config import FileProblems, GymProblems, ProblemsConfig, UnitTestsVerifier
from evolve.problems.curriculum import sizes_by_family, sizes_by_level
from evolve.problems.sealed import SplitProblems, sealed
from evolve.problems.splits import Split, SplitShares, SplitSizes, derived_seed
from evolve.problems.taskfile import draw_file
from evolve.problems.types import (
    DrawReport,
    FamilyDraw,
    Problem,
    ProblemsError,
    ProblemSet,
    ReasoningGymVerifier,
    Skipped,
    VerifierSpec,
    named,
)
from mesh.types import Demonstration

__all__ = [
    "DrawReport",
    "FamilyDraw",
    "Problem",
    "ProblemsError",
    "ReasoningGymVerifier",
    "Skipped",
    "VerifierSpec",
    "check_problems",
    "draw_generation",
    "draw_open",
    "draw_problems",
    "draw_undealt",
]

_T = TypeVar("_T")

UNDIVIDED = SplitShares(train=1.0, dev=0.0, gate=0.0, audit=0.0)
"""Every item in one split, where nothing is learned or decided."""


def draw_problems(
    config: ProblemsConfig,
    seed: int,
    *,
    split_seeds: Mapping[Split, int] | None = None,
    exclude: Collection[str] = (),
) -> SplitProblems:
    """The problems of a run, by split, GATE and AUDIT sealed; families alternate within a split.

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
    return sealed(draw_open(config, seed, split_seeds=split_seeds, exclude=exclude))


def draw_open(
    config: ProblemsConfig,
    seed: int,
    *,
    split_seeds: Mapping[Split, int] | None = None,
    exclude: Collection[str] = (),
) -> ProblemSet:
    """As `draw_problems`, with every answer key in the open. No run may use it."""
    if isinstance(config, FileProblems):
        with named("problems.path"):
            return draw_file(config, seed, frozenset(exclude))
    drawn = _draw_gym(config, {split: (split_seeds or {}).get(split, seed) for split in Split}, exclude, {})
    if not any(drawn.problems.values()):
        raise ProblemsError(
            "problems.families: no problem could be drawn; raise problems.items_per_family, or widen the settings of "
            "the families"
        )
    return drawn


def draw_undealt(config: FileProblems, seed: int) -> tuple[tuple[Problem, ...], dict[str, str]]:
    """Every usable task of a user's file but its demonstrations, in the open, in the order that `seed` makes; and the
    id of each that has near duplicates to its cluster.

    For a study alone, which leaves out what a run had. Splits play no part: neither the configuration's shares nor the
    ledger that `problems add` keeps, which other settings would not fit.

    Raises:
        ProblemsError: no file, or no usable line.
    """
    whole = config.model_copy(update={"shares": UNDIVIDED, "sizes": None})
    drawn = draw_file(whole, seed, pinned=False)
    return drawn.of(Split.TRAIN), drawn.clusters


def draw_generation(
    config: GymProblems,
    seed: int,
    generation: int,
    exclude: Collection[str] = (),
    *,
    levels: Mapping[str, int] | None = None,
) -> SplitProblems:
    """TRAIN, DEV and GATE of one generation; AUDIT stays empty, for it is drawn once and for the whole run.

    Give the keys of all earlier generations (`SplitProblems.all_keys`) as `exclude` and no item comes twice; an item of
    AUDIT never comes, whatever is excluded, because an item belongs to one split for ever. A user's file has no fresh
    items: all its generations share one draw, and each learns from the next slice of TRAIN (`harvest.gather`).

    Nothing at all where the families have no more; what a run makes of that is its own affair.

    Args:
        config: what to draw.
        seed: seed of the run.
        generation: counted from 0; another number gives other items.
        exclude: canonical keys to pass over.
        levels: task type to level of its TRAIN items, see `curriculum.next_levels`; a missing one starts at
            `curriculum.start`.

    Raises:
        ProblemsError: a bad family or setting.
    """
    fresh = derived_seed("generation", seed, generation)
    sizes = {"items_per_family": config.items_per_family.without(Split.AUDIT)}
    mix = {"mix": config.mix.without(Split.AUDIT)} if config.mix else {}
    changed = config.model_copy(update=sizes | mix)
    return sealed(_draw_gym(changed, dict.fromkeys(Split, fresh), exclude, levels or {}))


def _draw_gym(
    config: GymProblems, seeds: Mapping[Split, int], exclude: Collection[str], levels: Mapping[str, int]
) -> ProblemSet:
    from evolve.problems.gym import (  # importing reasoning-gym takes seconds; a user's file needs none
        demonstrations_of,
        distinct_items,
        draw_family,
    )

    taken = set(exclude)
    by_split: dict[Split, list[list[Problem]]] = {split: [] for split in Split}
    reports: list[FamilyDraw] = []
    malformed: list[Skipped] = []
    demonstrations: dict[str, tuple[Demonstration, ...]] = {}
    for number, (family, sizes) in enumerate(zip(config.families, sizes_by_family(config), strict=True)):
        easiest = family.at_level(0)
        with named(_key(number)):
            counted = distinct_items(easiest, config.min_distinct_items) if config.min_distinct_items else None
            shown = demonstrations_of(easiest, config)
        of_family: dict[Split, list[list[Problem]]] = {split: [] for split in Split}
        parts: list[FamilyDraw] = []
        for level, part in enumerate(sizes_by_level(family, sizes, config.curriculum, levels.get(family.type))):
            if level and not any(part.of(split) for split in Split):
                continue
            wanted = config.model_copy(update={"items_per_family": part})
            with named(_key(number)):
                drawn, report, skipped = draw_family(family.at_level(level), wanted, seeds, taken, counted, shown)
            parts.append(report)
            malformed.extend(skipped)
            for split, items in drawn.items():
                of_family[split].append(items)
        reports.append(_together(parts, sizes))
        for split, lists in of_family.items():
            by_split[split].append(spread(lists))
            if any(lists):
                demonstrations[family.type] = shown
    problems = {split: tuple(_alternate(lists)) for split, lists in by_split.items()}
    report_of_draw = DrawReport(
        source="reasoning_gym",
        families=tuple(reports),
        malformed=tuple(malformed),
        warnings=tuple(chain.from_iterable(_warnings(r, config) for r in reports)),
    )
    return ProblemSet(problems=problems, demonstrations=demonstrations, report=report_of_draw)


def _key(number: int) -> str:
    return f"problems.families.{number}"


def check_problems(config: ProblemsConfig) -> None:
    """Raise now for what a run would stumble over.

    Raises:
        ProblemsError: an unknown family or setting, a missing file.
        IsolationError: answers are programs, and there is nothing to run them in.
    """
    if isinstance(config, GymProblems):
        from evolve.problems.gym import open_family  # see draw_problems

        for number, family in enumerate(config.families):
            with named(_key(number)):
                for level in range(max(1, len(family.levels))):
                    open_family(family.at_level(level), seed=0)
    elif not config.path.is_file():
        raise ProblemsError(f"problems.path: expected a file of tasks, found none at '{config.path}'; correct the path")
    elif isinstance(config.verifier, UnitTestsVerifier):
        from evolve.judging.runner import open_runner  # most runs execute nothing

        open_runner(config.verifier.runner)


def _alternate(lists: Iterable[list[Problem]]) -> list[Problem]:
    """First of each, second of each...: a prefix of the result holds all families."""
    return [problem for row in zip_longest(*lists) for problem in row if problem is not None]


def spread(lists: Sequence[Sequence[_T]]) -> list[_T]:
    """The levels of one family, each spread evenly: a slice anywhere holds them in the shares that the whole does."""
    placed = [((i + 0.5) / len(items), level, one) for level, items in enumerate(lists) for i, one in enumerate(items)]
    return [one for _, _, one in sorted(placed, key=lambda place: place[:2])]


def _together(parts: list[FamilyDraw], asked: SplitSizes) -> FamilyDraw:
    """What the levels of one family gave, as one."""
    if len(parts) == 1:
        return parts[0].model_copy(update={"asked": asked})
    got = {split.value: sum(part.got.of(split) for part in parts) for split in Split}
    return parts[0].model_copy(
        update={
            "asked": asked,
            "got": SplitSizes(**got),
            "num_draws": sum(part.num_draws for part in parts),
            "num_duplicates": sum(part.num_duplicates for part in parts),
        }
    )


def _warnings(report: FamilyDraw, config: GymProblems) -> list[str]:
    found = []
    if report.num_distinct is not None and report.num_distinct < config.min_distinct_items:
        found.append(
            f"{report.type} showed {report.num_distinct} distinct items, fewer than {config.min_distinct_items}: "
            "a member can learn the answers by heart; widen its settings"
        )
    for split in Split:
        asked = 0 if report.asked is None else report.asked.of(split)
        got = report.got.of(split)
        if got < asked:
            found.append(f"{report.type} gave {got} of {asked} {split.value} items: it has no more; widen its settings")
    return found
