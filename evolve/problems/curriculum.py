"""How many items of which family at which level: mixes by weight, levels by last generation's solve rate. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from evolve.problems.config import CurriculumConfig, GymFamily, GymProblems
from evolve.problems.splits import Split, SplitSizes
from evolve.problems.types import Problem, ReasoningGymVerifier
from memory.types import Record


class SolveRate(Record):
    """How often the TRAIN problems of one task type and level were solved."""

    task_type: str
    level: int = Field(ge=0)
    correct: int = Field(ge=0, description="answers that were right")
    n: int = Field(ge=0, description="answers, abstentions included")

    @property
    def rate(self) -> float:
        """Share of the answers that were right; 0 without any."""
        return self.correct / self.n if self.n else 0.0


class LevelStep(Record):
    """The level of one task type for the next generation, and why."""

    task_type: str
    before: int
    after: int
    reason: str


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """`total` items dealt by `weights`, largest remainders first; ties go to the earlier. The parts add up to `total`.

    Raises:
        ValueError: no weight above 0.
    """
    whole = sum(weights)
    if whole <= 0.0 or min(weights) < 0.0:
        raise ValueError(f"expected weights of at least 0 and one above it, got {list(weights)}")
    shares = [total * weight / whole for weight in weights]
    parts = [int(share) for share in shares]
    by_remainder = sorted(range(len(parts)), key=lambda index: (parts[index] - shares[index], index))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def sizes_by_family(config: GymProblems) -> list[SplitSizes]:
    """Items of each family for each split, in the order of the families."""
    if config.mix is None:
        return [config.items_per_family] * len(config.families)
    weights = [family.weight for family in config.families]
    dealt = {split: apportion(config.mix.of(split), weights) for split in Split}
    return [SplitSizes(**{split.value: dealt[split][index] for split in Split}) for index in range(len(weights))]


def sizes_by_level(
    family: GymFamily, sizes: SplitSizes, curriculum: CurriculumConfig | None, level: int | None
) -> list[SplitSizes]:
    """The items of one family dealt to its levels, easy to hard; one element for a family without levels.

    TRAIN stands at `level` (None: where the curriculum starts) with a share of review from the levels below; without
    a curriculum it is dealt evenly. DEV, GATE and AUDIT always are, so that they measure the same in every generation.
    """
    if not family.levels:
        return [sizes]
    even = [1.0] * len(family.levels)
    dealt = {split: apportion(sizes.of(split), even) for split in Split}
    if curriculum is not None:
        here = min(curriculum.start if level is None else level, len(even) - 1)
        dealt[Split.TRAIN] = apportion(sizes.train, _train_weights(here, len(even), curriculum.review_share))
    return [SplitSizes(**{split.value: dealt[split][index] for split in Split}) for index in range(len(even))]


def start_levels(config: GymProblems) -> dict[str, int]:
    """Task type to the level of generation 0; types without levels are missing."""
    start = config.curriculum.start if config.curriculum else 0
    return {family.type: min(start, len(family.levels) - 1) for family in config.families if family.levels}


def level_of(problem: Problem, config: GymProblems) -> int | None:
    """The level a problem was drawn at; None: its family has none, or it is not of this configuration."""
    family = next((one for one in config.families if one.type == problem.task.type), None)
    if family is None or not family.levels or not isinstance(problem.verifier, ReasoningGymVerifier):
        return None
    drawn_with = json.loads(problem.verifier.settings)
    for level in range(len(family.levels)):
        if family.at_level(level).model_dump(mode="json")["settings"] == drawn_with:
            return level
    return None


def solve_rates(
    problems: Iterable[Problem], answers: Mapping[str, Sequence[bool]], config: GymProblems
) -> list[SolveRate]:
    """Solve rates of the levels that were asked, in the order met.

    Args:
        problems: the TRAIN problems of a generation.
        answers: task id to whether each first proposal was right; an abstention is False.
        config: the levels.
    """
    counts: dict[tuple[str, int], tuple[int, int]] = {}
    for problem in problems:
        level, told = level_of(problem, config), answers.get(problem.task.id, ())
        if level is not None and told:
            correct, n = counts.get((problem.task.type, level), (0, 0))
            counts[problem.task.type, level] = (correct + sum(told), n + len(told))
    return [SolveRate(task_type=key[0], level=key[1], correct=c, n=n) for key, (c, n) in counts.items()]


def next_levels(current: Mapping[str, int], rates: Iterable[SolveRate], config: GymProblems) -> tuple[LevelStep, ...]:
    """Where each task type's TRAIN problems stand in the next generation: one level up, one down, or the same.

    Only answers at the current level count; review of easier levels says nothing about it.

    Args:
        current: task type to level, `start_levels` for generation 0.
        rates: what the last generation solved.
        config: levels and thresholds; without a curriculum nothing moves.
    """
    measured = {(rate.task_type, rate.level): rate for rate in rates}
    steps = []
    for family in config.families:
        if family.levels:
            before = min(current.get(family.type, 0), len(family.levels) - 1)
            steps.append(_step(family, before, measured.get((family.type, before)), config.curriculum))
    return tuple(steps)


def _step(family: GymFamily, before: int, rate: SolveRate | None, curriculum: CurriculumConfig | None) -> LevelStep:
    after, reason = before, ""
    if curriculum is None:
        reason = "no curriculum is configured"
    elif rate is None or rate.n < curriculum.min_answers:
        reason = f"{0 if rate is None else rate.n} answers, fewer than {curriculum.min_answers}"
    else:
        solved = f"{rate.rate:.0%} of {rate.n} answers were right"
        if rate.rate >= curriculum.raise_at:
            after = min(before + 1, len(family.levels) - 1)
            reason = solved + (", and there is no harder level" if after == before else "")
        elif rate.rate <= curriculum.lower_at:
            after = max(before - 1, 0)
            reason = solved + (", and there is no easier level" if after == before else "")
        else:
            reason = solved
    return LevelStep(task_type=family.type, before=before, after=after, reason=reason)


def _train_weights(here: int, count: int, review_share: float) -> list[float]:
    if here == 0:
        review_share = 0.0
    below = review_share / here if here else 0.0
    return [below if level < here else 1.0 - review_share if level == here else 0.0 for level in range(count)]
