"""What a dataset and an adapter were made from, noted in memory, so that an erase can name them."""

from __future__ import annotations

from collections.abc import Iterable

from evolve.harvest import Harvest
from evolve.lab import Lab
from evolve.training_job import TrainingJob
from memory.types import Artefact


def note_artefacts(lab: Lab, harvest: Harvest, jobs: Iterable[TrainingJob], adapters: dict[str, str]) -> None:
    """Note each job's dataset, made from the deliberations on its rows' tasks, and its adapter, made from the dataset.

    `adapters`: data digest to adapter hash, of those admitted. On the safe side: every deliberation of the harvest on
    a task counts, also those whose proposals were not taken.
    """
    if lab.memory is None:
        return
    for job in jobs:
        tasks = {row.task_id for row in job.rows}
        episodes = tuple(d.id for d in (*harvest.proposals, *harvest.councils) if d.task.id in tasks)
        lab.memory.record_artefact(Artefact(id=job.data_digest, kind="dataset", made_from=episodes))
        if job.data_digest in adapters:
            lab.memory.record_artefact(
                Artefact(id=adapters[job.data_digest], kind="adapter", made_from=(job.data_digest,))
            )
