"""From verified traces to candidates: curate, train, admit, load into the running engines."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from evolve.candidate import Candidate
from evolve.credit import credit
from evolve.curate import Curated, curate
from evolve.harvest import Harvest
from evolve.lab import Lab
from evolve.lineage import Generation, seat
from evolve.problem_types import ProblemSet
from evolve.provenance import note_artefacts
from evolve.recipes import Recipe, RowSelection, recipes_for, rows_for
from evolve.scripted_train import train_scripted
from evolve.splits import Split
from evolve.training_job import TrainingJob, TrainingProgress, TrainingReport
from memory.ledger import publish_bytes
from memory.types import Record
from mesh.types import Member
from serving.adapters import AdapterRefused
from serving.placement import GpuPlace


class Brood(Record):
    """All that a generation tried to breed, successes and failures."""

    curated: Curated
    selections: dict[str, RowSelection] = Field(description="recipe to the rows it learned from")
    reports: tuple[TrainingReport, ...] = Field(default=(), description="every job, quarantined ones included")
    candidates: tuple[Candidate, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict, description="recipe to why there is no candidate of it")


class _Trained(Record):
    reports: tuple[TrainingReport, ...]


class _Admitted(Record):
    candidates: tuple[Candidate, ...]
    refused: dict[str, str]


async def breed(lab: Lab, generation: Generation, harvest: Harvest, problems: ProblemSet) -> Brood:
    """One candidate for every recipe that has rows, trains, and passes admission; the reason for every other."""
    config, number = lab.config, generation.number
    directory = lab.directory / f"generation-{number}"
    judged = harvest.judged.lookup()
    train = problems.of(Split.TRAIN)

    async def choose() -> Curated:
        credits = credit(
            [*harvest.proposals, *harvest.councils], lambda task, answer: judged.get((task, answer or ""), False)
        )
        return curate(credits, train, config.curation, held_out=problems.held_out_keys, seed=config.seed)

    curated = await lab.journal.record(f"curate-generation-{number}", harvest.judged, Curated, choose)
    _publish_examples(directory, curated)
    recipes = recipes_for(
        number + 1,
        seat(generation),
        config.recipes,
        config.training,
        task_types=sorted({p.task.type for p in train}),
        seed=config.seed,
    )
    selections = {recipe.name: rows_for(recipe, curated.examples, config.recipes) for recipe in recipes}
    refused = {name: chosen.refusal for name, chosen in selections.items() if chosen.refusal}
    jobs = {r.name: _job(lab, r, selections[r.name], directory) for r in recipes if r.name not in refused}
    reports = await _train(lab, number, list(jobs.values()))
    admitted = await _admit(lab, generation, jobs, reports)
    note_artefacts(lab, harvest, jobs.values(), {c.data_digest: c.member.adapter or "" for c in admitted.candidates})
    await lab.load_adapters(candidate.member for candidate in admitted.candidates)
    return Brood(
        curated=curated,
        selections=selections,
        reports=reports,
        candidates=admitted.candidates,
        refused=refused | admitted.refused,
    )


async def _train(lab: Lab, number: int, jobs: list[TrainingJob]) -> tuple[TrainingReport, ...]:
    stage = f"generation {number} training"

    async def work() -> _Trained:
        if not jobs:
            return _Trained(reports=())
        async with lab.training_room() as places:  # training shares the cluster that the engines stand on
            return await train(places)

    async def train(places: tuple[GpuPlace, ...]) -> _Trained:
        with lab.timed(stage):
            lab.observer.stage(stage, 100 * len(jobs))
            shares: dict[str, int] = {}

            def hear(progress: TrainingProgress) -> None:
                percent = 100 * progress.step // max(1, progress.num_steps)
                lab.observer.advance(percent - shares.get(progress.recipe, 0))
                shares[progress.recipe] = percent

            if lab.config.training.kind == "scripted":
                return _Trained(reports=tuple(train_scripted(job) for job in jobs))
            from evolve.workers import run_jobs  # Ray takes seconds to import; a simulation does without

            return _Trained(reports=tuple(await run_jobs(jobs, lab.config.workers, hear, places=places)))

    digests = [job.digest for job in jobs]
    return (await lab.journal.record(f"train-generation-{number}", digests, _Trained, work)).reports


async def _admit(
    lab: Lab, generation: Generation, jobs: dict[str, TrainingJob], reports: tuple[TrainingReport, ...]
) -> _Admitted:
    """Admission checks on every adapter before an engine sees it."""

    async def work() -> _Admitted:
        candidates, refused = [], {}
        for report in reports:
            if report.status != "ok":
                refused[report.recipe] = f"quarantined: {report.reason}"
                continue
            job = jobs[report.recipe]
            engine = lab.spec(job.recipe.base)
            assert engine.kind != "remote", "nothing is trained for a remote engine"
            try:
                adapter = lab.adapters.admit(
                    job.adapter_dir, lab.base_shape(engine.name), max_rank=engine.max_lora_rank
                )
            except AdapterRefused as error:
                refused[report.recipe] = f"refused at admission: {'; '.join(error.reasons)}"
                continue
            member = Member(name=job.recipe.name, engine=engine.name, family=engine.family, adapter=adapter.hash)
            parents = tuple(m.adapter for m in generation.seats if m.adapter is not None)
            candidates.append(Candidate(member=member, recipe=job.recipe, data_digest=job.data_digest, parents=parents))
        return _Admitted(candidates=tuple(candidates), refused=refused)

    name = f"admit-generation-{generation.number}"
    return await lab.journal.record(name, [job.digest for job in jobs.values()], _Admitted, work)


def _job(lab: Lab, recipe: Recipe, selection: RowSelection, directory: Path) -> TrainingJob:
    name, base = lab.base_of(recipe.base)
    return TrainingJob(
        base_name=name,
        base_dir=base,
        recipe=recipe,
        rows=selection.rows,
        seed=recipe.seed,
        out_dir=str((directory / "training" / recipe.name).resolve()),
    )


def _publish_examples(directory: Path, curated: Curated) -> None:
    """What was learned from and what was not, one JSON a line, for people and other tools."""
    for name, records in {"examples": curated.examples, "drops": curated.drops}.items():
        text = "".join(record.model_dump_json() + "\n" for record in records)
        publish_bytes(directory / f"{name}.jsonl", text.encode())
