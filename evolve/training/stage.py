"""From training jobs to candidates: trained on Ray or in this process, admitted, and told of as soon as one is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from evolve.candidate import Candidate
from evolve.lab import Lab
from evolve.learning.recipe_rows import PreferenceRow, TrainingRow
from evolve.learning.recipes import Recipe
from evolve.lineage import Generation
from evolve.seats import member_on
from evolve.training.job import ParentAdapter, TrainingJob, TrainingReport, finished_report
from evolve.training.steps import StepsDone
from evolve.training.store import TrainingStore
from evolve.training.train_here import train_or_say_why
from memory.types import Record
from serving.adapters import AdapterCorrupt, AdapterMissing, AdapterRefused
from serving.placement import GpuPlace

Ahead = Callable[[Candidate], Awaitable[None]]
"""What may be done with a candidate while others still train. It must accept no step of the journal, whose order would
then depend on which job ends first; it may draw what a later step accepts."""
OnReport = Callable[[TrainingReport], None]


class Trained(Record):
    """Every job's report, in the order of the jobs."""

    reports: tuple[TrainingReport, ...]


class Admitted(Record):
    """What became of the adapters at admission."""

    candidates: tuple[Candidate, ...]
    refused: dict[str, str] = Field(description="recipe to why there is no candidate of it")


def job_of(
    lab: Lab, recipe: Recipe, rows: Sequence[TrainingRow], pairs: Sequence[PreferenceRow] = (), *, out_dir: Path
) -> TrainingJob:
    """The job that makes the recipe's adapter.

    Raises:
        AdapterMissing, AdapterCorrupt: a parent adapter is not in the store as it was admitted.
    """
    name, base = lab.base_of(recipe.base)
    return TrainingJob(
        base_name=name,
        base_dir=base,
        recipe=recipe,
        rows=tuple(rows),
        pairs=tuple(pairs),
        parents=tuple(
            ParentAdapter(adapter=adapter, directory=str(lab.adapters.path(adapter))) for adapter in recipe.parents
        ),
        seed=recipe.seed,
        out_dir=str(out_dir.resolve()),
        base_fingerprint=lab.base_shape(recipe.base).fingerprint,
    )


async def train_jobs(
    lab: Lab,
    name: str,
    jobs: Sequence[TrainingJob],
    *,
    stage: str = "",
    on_report: OnReport | None = None,
) -> tuple[TrainingReport, ...]:
    """The reports of all jobs, in their order, as the journal step `name`; a failed job is quarantined.

    Args:
        stage: under which name times and progress are shown; empty: `name` in words.
        on_report: hears of every report as soon as it is there, but not where engines sleep while it trains, nor when
            the step was accepted before. What it raises ends the training.
    """
    stage = stage or name.replace("-", " ")

    async def work() -> Trained:
        if not jobs:
            return Trained(reports=())
        async with lab.training_room() as places:  # training shares the cluster that the engines stand on
            with lab.times.timed(stage):
                steps = StepsDone(jobs, lab.observer.advance)
                lab.observer.stage(stage, steps.total, "step")
                found = await _train(lab, jobs, places, steps, None if places else on_report)
        return Trained(reports=tuple(map(_lasting, found)))

    reports = (await lab.journal.record(name, [job.digest for job in jobs], Trained, work)).reports
    for report in reports:
        if report.num_rows_left_out:
            lost, kept = report.num_rows_left_out, report.num_rows
            lab.observer.say(
                f"{report.recipe}: {lost} of {kept + lost} rows left out, most likely longer than training.max_length"
            )
    return reports


async def admit_jobs(
    lab: Lab,
    name: str,
    jobs: Mapping[str, TrainingJob],
    reports: Sequence[TrainingReport],
    *,
    generation: int = 0,
    teachers: Mapping[str, Sequence[str]] | None = None,
) -> Admitted:
    """Admission checks on every adapter before an engine sees it, as the journal step `name`; candidates in job order.

    Args:
        jobs: by name of the recipe.
        generation: number of the generation whose traces they learned from.
        teachers: recipe to adapters that wrote what it learned from.
    """

    async def work() -> Admitted:
        candidates, refused = [], {}
        for report in reports:
            found = admit(lab, jobs[report.recipe], report, generation, (teachers or {}).get(report.recipe, ()))
            if isinstance(found, Candidate):
                candidates.append(found)
            else:
                refused[report.recipe] = found
        return Admitted(candidates=tuple(candidates), refused=refused)

    return await lab.journal.record(name, [job.digest for job in jobs.values()], Admitted, work)


class Unusable(Record):
    """Whose adapter could not be put into its engine, and why."""

    reasons: dict[str, str] = Field(default_factory=dict, description="name of a candidate to the reason")


async def load_candidates(
    lab: Lab, name: str, candidates: Sequence[Candidate]
) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """Candidates in the running engines, and why the others are not there, as the journal step `name`.

    An adapter that was damaged after its admission, with no whole copy left in the run, takes its candidate out of this
    generation. A step that was accepted before loads nothing: whoever is asked once more is loaded for that.
    """

    async def work() -> Unusable:
        reasons = {}
        for candidate in candidates:
            try:
                await lab.load_adapters([candidate.member])
            except (AdapterMissing, AdapterCorrupt) as error:
                reasons[candidate.member.name] = f"its adapter cannot be used: {error}"
        return Unusable(reasons=reasons)

    adapters = [candidate.member.adapter for candidate in candidates]
    reasons = (await lab.journal.record(name, adapters, Unusable, work)).reasons
    return tuple(candidate for candidate in candidates if candidate.member.name not in reasons), reasons


class Ranks(Record):
    """LoRA ranks of adapters whose records could be read."""

    by_adapter: dict[str, int] = Field(description="by content hash")


async def ranks_of(lab: Lab, name: str, candidates: Sequence[Candidate], following: Generation) -> Mapping[str, int]:
    """Rank by adapter, as the journal step `name`; one that cannot be read is told of and left out.

    Raises:
        AdapterMissing, AdapterCorrupt: it is seated in `following`, so that the run cannot go on without it.
    """
    seated = {adapter for member in following.seats for adapter in member.adapters}

    async def work() -> Ranks:
        found = {}
        for candidate in candidates:
            adapter = candidate.member.adapter or ""
            try:
                found[adapter] = lab.rank_of(candidate.member.engine, adapter)
            except (AdapterMissing, AdapterCorrupt) as error:
                if adapter in seated:
                    raise
                lab.observer.say(f"{candidate.member.name} is no parent any more, its adapter cannot be read: {error}")
        return Ranks(by_adapter=found)

    return (await lab.journal.record(name, [one.member.adapter for one in candidates], Ranks, work)).by_adapter


def admit(
    lab: Lab, job: TrainingJob, report: TrainingReport, generation: int, teachers: Sequence[str]
) -> Candidate | str:
    """The candidate, its adapter checked and in the store; or why there is none. Doing it again changes nothing."""
    if report.status != "ok":
        return f"quarantined: {report.reason}"
    engine = lab.spec(job.recipe.base)
    assert engine.kind != "remote", "nothing is trained for a remote engine"
    if finished_report(job) is None:
        return "refused at admission: the adapter is not the one that was trained; its files were changed or lost"
    try:
        adapter = lab.adapters.admit(job.adapter_dir, lab.base_shape(engine.name), max_rank=engine.max_lora_rank)
    except AdapterRefused as error:
        return f"refused at admission: {'; '.join(error.reasons)}"
    return Candidate(
        member=member_on(engine, job.recipe.name, adapter.hash),
        recipe=job.recipe,
        data_digest=job.data_digest,
        parents=tuple(dict.fromkeys([*job.recipe.parents, *teachers])),
        generation=generation,
        job=job.digest,
    )


class HeadStart:
    """Candidates go ahead, admitted and loaded, while others train. An async context manager around the training.

    Leaving it waits for what was begun. What is refused here is left to `admit_jobs`, which says so.
    """

    def __init__(
        self,
        lab: Lab,
        jobs: Mapping[str, TrainingJob],
        ahead: Ahead,
        *,
        generation: int,
        teachers: Mapping[str, Sequence[str]],
    ) -> None:
        self._lab, self._jobs, self._ahead = lab, jobs, ahead
        self._generation, self._teachers = generation, teachers
        self._tasks: list[asyncio.Task[None]] = []
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> HeadStart:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for task in self._tasks:
                task.cancel()
        found = await asyncio.gather(*self._tasks, return_exceptions=True)
        failed = [one for one in found if isinstance(one, Exception)]
        if kind is None and failed:
            raise failed[0]

    def hear(self, report: TrainingReport) -> None:
        """Let the candidate of a finished job go ahead."""
        self._tasks.append(asyncio.create_task(self._go(report)))

    async def _go(self, report: TrainingReport) -> None:
        found = admit(
            self._lab,
            self._jobs[report.recipe],
            report,
            self._generation,
            self._teachers.get(report.recipe, ()),
        )
        if isinstance(found, Candidate):
            async with self._loading:  # engines take one adapter after the other
                await self._lab.load_adapters([found.member])
            await self._ahead(found)


async def _train(
    lab: Lab, jobs: Sequence[TrainingJob], places: tuple[GpuPlace, ...], steps: StepsDone, on_report: OnReport | None
) -> list[TrainingReport]:
    def ended(report: TrainingReport) -> None:
        steps.ended(report)
        if on_report is not None:
            on_report(report)

    if lab.config.training.kind == "scripted":
        return [await _train_light(job, ended) for job in jobs]
    from evolve.training.workers import run_jobs  # Ray takes seconds to import; a simulation does without

    workers = lab.config.workers
    store = None if workers.store is None else TrainingStore(workers.store)
    return await run_jobs(jobs, workers, steps.hear, places=places, store=store, on_report=ended)


async def _train_light(job: TrainingJob, on_report: OnReport) -> TrainingReport:
    report = finished_report(job)
    if report is None:
        report = await asyncio.to_thread(train_or_say_why, job)
    on_report(report)
    return report


def _lasting(report: TrainingReport) -> TrainingReport:
    """Without what depends on how often the run was interrupted; `training_report.json` keeps that."""
    return report.model_copy(update={"resumed_steps": 0, "notes": ()})
