"""From verified traces to candidates: learn from all generations, train, admit, load into the running engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import Field

from evolve.candidate import Candidate
from evolve.harvest import Harvest
from evolve.lab import Lab
from evolve.learning.accumulate import Accumulated
from evolve.learning.accumulate_pairs import AccumulatedPairs
from evolve.learning.bandit import replay
from evolve.learning.credit import PhaseCredit
from evolve.learning.curate import Curated
from evolve.learning.curating import Lessons, learn_from, publish_cards, publish_lessons
from evolve.learning.dataset_card import DatasetCard, dataset_card, recipe_card
from evolve.learning.manifests import Manifest, publish_manifests
from evolve.learning.past import Past
from evolve.learning.provenance import note_artefacts
from evolve.learning.recipe_rows import PairSelection, RowSelection, examples_for, pairs_for, rows_for
from evolve.learning.recipes import Recipe, recipes_for
from evolve.learning.taught import Taught
from evolve.lineage import Generation, seat
from evolve.problems.sealed import SplitProblems
from evolve.run_files import TRAINING
from evolve.training.job import TrainingJob, TrainingReport
from evolve.training.stage import Ahead, HeadStart, admit_jobs, job_of, load_candidates, train_jobs
from memory.types import Record
from serving.adapters import AdapterCorrupt, AdapterMissing


class Brood(Record):
    """All that a generation tried to breed, successes and failures."""

    generation: int = Field(default=0, ge=0, description="number of the generation whose traces were learned from")
    curated: Curated
    accumulated: Accumulated = Accumulated(all=(), used=(), drops=())
    pairs: AccumulatedPairs = Field(default=AccumulatedPairs(), description="what recipes chose their pairs from")
    phases: tuple[PhaseCredit, ...] = Field(default=(), description="every member's record by phase")
    recipes: tuple[Recipe, ...] = Field(default=(), description="every one that was tried")
    selections: dict[str, RowSelection] = Field(description="recipe to the rows it learned from")
    pair_selections: dict[str, PairSelection] = Field(default_factory=dict, description="recipe to its pairs")
    cards: tuple[DatasetCard, ...] = Field(default=(), description="of the whole set, then of each recipe with rows")
    reports: tuple[TrainingReport, ...] = Field(default=(), description="every job, quarantined ones included")
    candidates: tuple[Candidate, ...] = Field(default=(), description="who may be seated, in the order of the recipes")
    refused: dict[str, str] = Field(default_factory=dict, description="recipe to why there is no candidate of it")

    @property
    def taught(self) -> dict[str, Taught]:
        """Recipe to what it learned from."""
        cards = {card.name: card for card in self.cards}
        return {
            name: Taught(rows=rows, pairs=self.pair_selections.get(name, PairSelection()), card=cards.get(name))
            for name, rows in self.selections.items()
        }

    @property
    def reason(self) -> str:
        """Why nothing can be seated, in a sentence; empty where something can."""
        if self.candidates:
            return ""
        if not self.recipes:
            return "no candidate: no recipe could be made"
        learned = f"{len(self.accumulated.used)} rows to learn from"
        why = "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
        return f"no candidate out of {len(self.recipes)} recipes, {learned}: {why}"


class _Plan(Record):
    """What every recipe is to learn from, and the jobs of those that can be trained."""

    recipes: tuple[Recipe, ...]
    selections: dict[str, RowSelection]
    pairs: dict[str, PairSelection]
    jobs: dict[str, TrainingJob]
    refused: dict[str, str]
    manifests: dict[str, Manifest]
    cards: tuple[DatasetCard, ...]

    @property
    def teachers(self) -> dict[str, tuple[str, ...]]:
        return {name: selection.adapters for name, selection in self.selections.items()}


async def breed(
    lab: Lab,
    generation: Generation,
    harvest: Harvest,
    problems: SplitProblems,
    past: Past,
    *,
    ahead: Ahead | None = None,
) -> Brood:
    """One candidate for every recipe that has rows, trains, and passes admission; the reason for every other.

    Args:
        problems: what this generation was given.
        ahead: what is begun with each candidate while others still train, where training leaves the engines awake;
            all of it has ended when this returns. It is not called again once training was accepted.
    """
    number = generation.number
    directory = lab.directory / f"generation-{number}"
    lessons = await learn_from(lab, number, harvest, problems, past)
    plan = _plan(lab, generation, lessons, problems, past, directory)
    publish_lessons(directory, lessons)
    publish_cards(directory, plan.cards)
    publish_manifests(directory, {name: plan.manifests[name] for name in plan.jobs})
    async with AsyncExitStack() as stack:
        on_report = None
        if ahead is not None:
            start = HeadStart(lab, plan.jobs, ahead, generation=number, teachers=plan.teachers)
            on_report = (await stack.enter_async_context(start)).hear
        name = f"train-generation-{number}"
        reports = await train_jobs(
            lab, name, list(plan.jobs.values()), stage=f"generation {number} training", on_report=on_report
        )
    admitted = await admit_jobs(
        lab, f"admit-generation-{number}", plan.jobs, reports, generation=number, teachers=plan.teachers
    )
    adapters = {candidate.recipe.name: candidate.member.adapter or "" for candidate in admitted.candidates}
    note_artefacts(
        lab, harvest, plan.jobs, adapters, earlier=past.rows, rows=lessons.accumulated.all, pairs=lessons.pairs.all
    )
    candidates, unusable = await load_candidates(lab, f"load-generation-{number}", admitted.candidates)
    return Brood(
        generation=number,
        curated=lessons.curated,
        accumulated=lessons.accumulated,
        pairs=lessons.pairs,
        phases=lessons.phases,
        recipes=plan.recipes,
        selections=plan.selections,
        pair_selections=plan.pairs,
        cards=plan.cards,
        reports=reports,
        candidates=candidates,
        refused=plan.refused | admitted.refused | unusable,
    )


def recipes_of(lab: Lab, generation: Generation, problems: SplitProblems, past: Past) -> tuple[Recipe, ...]:
    """The recipes that follow `generation`, for engines that can be trained; a bandit knows what earlier ones gave."""
    config, number = lab.config, generation.number + 1
    engines = {engine.name: engine for engine in config.serving.engines if engine.kind != "remote"}
    bandit = config.recipes.bandit
    return recipes_for(
        number,
        [member for member in seat(generation) if member.engine in engines],
        config.recipes,
        config.training,
        task_types=sorted({problem.task.type for problem in problems.train}),
        seed=config.seed,
        parents=past.parents,
        bandit=None if bandit is None else replay(past.arms, bandit, number),
        max_ranks={name: engine.max_lora_rank for name, engine in engines.items()},
    )


def _plan(
    lab: Lab, generation: Generation, lessons: Lessons, problems: SplitProblems, past: Past, directory: Path
) -> _Plan:
    recipes = recipes_of(lab, generation, problems, past)
    examples = lessons.accumulated.examples
    selections = {recipe.name: rows_for(recipe, examples, lab.config.recipes) for recipe in recipes}
    pairs = {recipe.name: pairs_for(recipe, lessons.pairs.pairs) for recipe in recipes}
    row_of = {row.example: row for row in lessons.accumulated.used}
    manifests = {
        recipe.name: Manifest(
            rows=tuple(row_of[example] for example in examples_for(recipe, examples, lab.config.recipes)[0]),
            pairs=pairs[recipe.name].pairs,
        )
        for recipe in recipes
    }
    refused = {name: chosen.refusal for name, chosen in selections.items() if chosen.refusal}
    jobs: dict[str, TrainingJob] = {}
    for recipe in recipes:
        if recipe.name in refused:
            continue
        rows, chosen = selections[recipe.name].rows, pairs[recipe.name].pairs
        try:
            jobs[recipe.name] = job_of(lab, recipe, rows, chosen, out_dir=directory / TRAINING / recipe.name)
        except (AdapterMissing, AdapterCorrupt) as error:
            refused[recipe.name] = f"a parent adapter cannot be used: {error}"
    return _Plan(
        recipes=recipes,
        selections=selections,
        pairs=pairs,
        jobs=jobs,
        refused=refused,
        manifests=manifests,
        cards=_cards(lab, generation.number, recipes, lessons, selections, manifests),
    )


def _cards(
    lab: Lab,
    number: int,
    recipes: Sequence[Recipe],
    lessons: Lessons,
    selections: Mapping[str, RowSelection],
    manifests: Mapping[str, Manifest],
) -> tuple[DatasetCard, ...]:
    found, num_held_out = lessons.accumulated, lessons.num_held_out
    whole = dataset_card(f"generation-{number}", found, drops=lessons.curated.drops, num_held_out=num_held_out)
    cards = [
        recipe_card(
            recipe.name,
            manifests[recipe.name].rows,
            found,
            selections[recipe.name].left_out,
            num_pairs=len(manifests[recipe.name].pairs),
            num_held_out=num_held_out,
        )
        for recipe in recipes
        if selections[recipe.name].rows
    ]
    return (whole, *cards)
