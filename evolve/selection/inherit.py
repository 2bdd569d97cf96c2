"""From one finished generation to what the next inherits besides its seats. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from evolve.candidate import Candidate
from evolve.config import RunConfig
from evolve.harvest import Harvest
from evolve.learning.bandit import ArmResult, reward
from evolve.learning.breed import Brood
from evolve.learning.past import Past
from evolve.learning.recipes import LoraTraining, Parent, placebo_of
from evolve.lineage import Generation
from evolve.problems.config import GymProblems
from evolve.problems.curriculum import LevelStep, next_levels, solve_rates, start_levels
from evolve.problems.sealed import SplitProblems
from evolve.problems.splits import Split
from evolve.selection.archive import preference, solved
from evolve.selection.select import Selection
from evolve.training.config import BanditConfig


def nothing_yet(problems: SplitProblems, config: RunConfig) -> Past:
    """What generation 0 inherits: no examples and no parents, only what it may not learn from."""
    levels = start_levels(config.problems) if isinstance(config.problems, GymProblems) else {}
    return Past(
        seen_keys=tuple(sorted(problems.all_keys)), held_out=tuple(sorted(problems.held_out_keys)), levels=levels
    )


def inherited(
    past: Past,
    problems: SplitProblems,
    harvest: Harvest,
    brood: Brood,
    selection: Selection,
    following: Generation,
    config: RunConfig,
    ranks: Mapping[str, int],
) -> Past:
    """What the generation `following` inherits from the one that has just ended.

    `ranks`: LoRA rank by adapter, of `elites_of` this generation; one that is missing is nobody's parent.
    """
    elites = elites_of(past, brood, selection, following)
    names, twins = {c.recipe.name for c in elites}, {placebo_of(c.recipe).name for c in elites}
    levels = dict(past.levels)
    levels.update({step.task_type: step.after for step in level_steps(past, problems, harvest, config)})
    return Past(
        rows=brood.accumulated.all,
        pairs=brood.pairs.all,
        arms=(*past.arms, *_earned(brood, selection, config.recipes.bandit or BanditConfig())),
        parents=tuple(_parents(elites, following, selection, ranks)),
        archive=selection.archive.archive,
        elites=elites,
        taught={name: taught for name, taught in (past.taught | brood.taught).items() if name in names},
        placebos=tuple(c for c in (*past.placebos, *selection.placebos.candidates) if c.recipe.name in twins),
        seen_keys=tuple(sorted({*past.seen_keys, *problems.all_keys})),
        held_out=tuple(sorted({*past.held_out, *problems.held_out_keys})),
        levels=levels,
    )


def elites_of(past: Past, brood: Brood, selection: Selection, following: Generation) -> tuple[Candidate, ...]:
    """Whoever is in the archive or seated in `following`, in the order in which they were bred."""
    known = {c.member.adapter: c for c in (*past.elites, *brood.candidates)}
    in_archive = {elite.adapter for elite in selection.archive.archive.elites}
    seated = {adapter for member in following.seats for adapter in member.adapters}
    return tuple(c for adapter, c in known.items() if adapter in in_archive | seated)


def level_steps(past: Past, problems: SplitProblems, harvest: Harvest, config: RunConfig) -> tuple[LevelStep, ...]:
    """Where the TRAIN problems of each family move, by what the seats solved of today's."""
    if not isinstance(config.problems, GymProblems):
        return ()
    judged, answers = harvest.judged.lookup(), dict[str, list[bool]]()
    for held in harvest.proposals:
        right = [judged.get((held.task.id, p.answer), False) if p.answer is not None else False for p in held.proposals]
        answers.setdefault(held.task.id, []).extend(right)
    rates = solve_rates(problems.of(Split.TRAIN), answers, config.problems)
    return next_levels(past.levels, rates, config.problems)


def _earned(brood: Brood, selection: Selection, config: BanditConfig) -> Iterator[ArmResult]:
    """One result for every recipe that is an arm, also where no candidate came of it."""
    gains = {score.arrangement.candidates: score.gain for score in selection.dev.scores}
    passed = {r.name for r in selection.gate.promoted} if selection.gate else set()
    through = {name for one in selection.dev.finalists if one.name in passed for name in one.candidates}
    for recipe in brood.recipes:
        if recipe.arm:
            earned = reward(gains.get((recipe.name,)), passed_gate=recipe.name in through, config=config)
            yield ArmResult(arm=recipe.arm, recipe=recipe.name, generation=brood.generation + 1, reward=earned)


def _parents(
    elites: Iterable[Candidate], following: Generation, selection: Selection, ranks: Mapping[str, int]
) -> Iterator[Parent]:
    """Seated specialists in seat order, then those of the archive in the order in which it prefers them.

    Of the archive proposers come first: what councils came to with a critic is no accuracy of its own.
    """
    known = {candidate.member.adapter or "": candidate for candidate in elites}
    archive = selection.archive.archive
    solves = solved(archive)
    seated = [adapter for member in following.seats for adapter in member.adapters]
    archived = sorted(
        (adapter for adapter in preference(archive) if adapter in known), key=lambda one: known[one].is_helper
    )
    for adapter in dict.fromkeys(one for one in (*seated, *archived) if one in known and one in ranks):
        candidate = known[adapter]
        training = candidate.recipe.training
        yield Parent(
            name=candidate.member.name,
            adapter=adapter,
            engine=candidate.member.engine,
            rank=ranks[adapter],
            task_types=candidate.recipe.task_types,
            role=candidate.recipe.role,
            solves=solves.get(adapter, {}),
            training=training if isinstance(training, LoraTraining) else None,
        )
