"""What a dataset and an adapter were made from, noted in memory, so that an erase can name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.candidate import Candidate
from evolve.harvest import Harvest
from evolve.lab import Lab
from evolve.learning.accumulate import SetRow
from evolve.learning.accumulate_pairs import PairRow
from evolve.training.job import TrainingJob
from memory.types import Artefact, content_hash


def note_artefacts(
    lab: Lab,
    harvest: Harvest,
    jobs: Mapping[str, TrainingJob],
    adapters: Mapping[str, str],
    *,
    earlier: Sequence[SetRow] = (),
    rows: Sequence[SetRow] = (),
    pairs: Sequence[PairRow] = (),
) -> None:
    """Note the set of all rows, each job's dataset and its adapter, and what each was made from.

    On the safe side: every deliberation of the harvest on a task counts, also those whose proposals were not taken;
    and every dataset counts as made from all rows of earlier generations.

    Args:
        jobs: recipe to job.
        adapters: recipe to adapter hash, of those admitted.
        earlier: rows of all generations before this one, `rows` with this one's.
        pairs: of all generations, this one included; what became of a harvest's pairs counts with its rows.
    """
    if lab.memory is None:
        return
    before = (rows_id(earlier),) if earlier else ()
    if rows:
        tasks = {row.example.task_id for row in rows} | {row.pair.task_id for row in pairs}
        made_from = (*_episodes(harvest, tasks), *before)
        lab.memory.record_artefact(Artefact(id=rows_id(rows), kind="dataset", made_from=made_from))
    for recipe, job in jobs.items():
        tasks = {row.task_id for row in job.rows} | {pair.task_id for pair in job.pairs}
        dataset = (job.data_digest,) if tasks else ()
        if tasks:
            made_from = (*_episodes(harvest, tasks), *before)
            lab.memory.record_artefact(Artefact(id=job.data_digest, kind="dataset", made_from=made_from))
        if recipe in adapters:
            made_from = (*dataset, *(parent.adapter for parent in job.parents))
            lab.memory.record_artefact(Artefact(id=adapters[recipe], kind="adapter", made_from=made_from))


def note_placebo(lab: Lab, candidate: Candidate, twin: Candidate) -> None:
    """Note a twin's dataset as made from the candidate's, and its adapter from that and the same parents."""
    if lab.memory is None:
        return
    dataset, parents = twin.data_digest, candidate.recipe.parents
    if dataset != candidate.data_digest:  # where all targets are alike, shuffling changes nothing
        lab.memory.record_artefact(Artefact(id=dataset, kind="dataset", made_from=(candidate.data_digest,)))
    adapter = twin.member.adapter or ""
    lab.memory.record_artefact(Artefact(id=adapter, kind="adapter", made_from=(dataset, *parents)))


def rows_id(rows: Sequence[SetRow]) -> str:
    """Under which memory knows a set of rows."""
    return content_hash(["rows", *(row.id for row in rows)])


def _episodes(harvest: Harvest, tasks: set[str]) -> tuple[str, ...]:
    return tuple(d.id for d in (*harvest.proposals, *harvest.councils) if d.task.id in tasks)
