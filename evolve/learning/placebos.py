"""The twins of what goes to the gate: trained alike on shuffled targets, they can learn form and no content.

They are trained once DEV has said who goes to the gate, so none is trained in vain and every finalist meets its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from evolve.candidate import Candidate
from evolve.gates.arrangements import Arrangement
from evolve.lab import Lab
from evolve.learning.provenance import note_placebo
from evolve.learning.recipe_rows import shuffle_targets, turn_pairs
from evolve.learning.recipes import PLACEBO_SUFFIX, placebo_of
from evolve.learning.taught import Taught
from evolve.run_files import TRAINING
from evolve.training.job import TrainingJob, TrainingReport
from evolve.training.stage import admit_jobs, job_of, load_candidates, train_jobs
from memory.ledger import publish_bytes
from memory.types import Record
from mesh.types import Member
from serving.adapters import AdapterCorrupt, AdapterMissing


class Placebos(Record):
    """The twins of a generation's finalists."""

    reports: tuple[TrainingReport, ...] = Field(default=(), description="of every twin that was to be trained now")
    candidates: tuple[Candidate, ...] = Field(default=(), description="twins trained now; never seated")
    earlier: tuple[Candidate, ...] = Field(
        default=(), description="twins of elites, trained when those were finalists of an earlier generation"
    )
    refused: dict[str, str] = Field(default_factory=dict, description="name of a twin to why there is none")
    without: tuple[str, ...] = Field(
        default=(), description="candidates that learned from no rows, as merges do, so that they can have no twin"
    )

    @property
    def twins(self) -> dict[str, Member]:
        """Name of a candidate to its twin."""
        return {_original(one): one.member for one in self.everyone}

    @property
    def everyone(self) -> tuple[Candidate, ...]:
        """Every twin there is, those of earlier generations first."""
        return (*self.earlier, *self.candidates)

    def twin_of(self, name: str) -> Candidate | None:
        """The twin of a candidate; None: there is none."""
        return next((one for one in self.everyone if _original(one) == name), None)


async def breed_placebos(
    lab: Lab,
    number: int,
    finalists: Sequence[Arrangement],
    candidates: Sequence[Candidate],
    taught: Mapping[str, Taught],
    known: Sequence[Candidate] = (),
) -> Placebos:
    """The twin of every candidate in these arrangements; nothing is trained where `recipes.placebo` is off.

    Args:
        number: of the generation at whose gate they are needed.
        candidates: whoever may be in the arrangements, elites included.
        taught: recipe to what it learned from.
        known: twins that there are from earlier generations.
    """
    if not lab.config.recipes.placebo:
        return Placebos()
    names = {name for arrangement in finalists for name in arrangement.candidates}
    going = [candidate for candidate in candidates if candidate.member.name in names]
    learned = [candidate for candidate in going if candidate.recipe.start != "merge"]
    earlier = [one for one in known if _original(one) in {candidate.member.name for candidate in learned}]
    missing = [c for c in learned if c.member.name not in {_original(one) for one in earlier}]
    jobs, refused = _jobs(lab, missing, taught)
    found = Placebos(
        earlier=tuple(earlier), refused=refused, without=tuple(c.member.name for c in going if c not in learned)
    )
    if jobs:
        teachers = {placebo_of(c.recipe).name: taught[c.recipe.name].rows.adapters for c in missing}
        found = await _trained(lab, number, found, jobs, teachers)
        _keep_records(lab, missing, found, taught)
    usable, unusable = await load_candidates(lab, f"load-placebos-generation-{number}", found.everyone)
    return found.model_copy(
        update={
            "earlier": tuple(one for one in found.earlier if one in usable),
            "candidates": tuple(one for one in found.candidates if one in usable),
            "refused": found.refused | unusable,
        }
    )


def twin_job(lab: Lab, candidate: Candidate, taught: Taught) -> TrainingJob:
    """The job of a candidate's twin: the candidate's own in everything but the targets.

    Raises:
        AdapterMissing, AdapterCorrupt: a parent adapter is not in the store as it was admitted.
    """
    recipe = placebo_of(candidate.recipe)
    return job_of(
        lab,
        recipe,
        shuffle_targets(taught.rows.rows, recipe.seed),
        turn_pairs(taught.pairs.pairs, recipe.seed),
        out_dir=lab.directory / f"generation-{candidate.generation}" / TRAINING / recipe.name,
    )


def _jobs(
    lab: Lab, candidates: Sequence[Candidate], taught: Mapping[str, Taught]
) -> tuple[dict[str, TrainingJob], dict[str, str]]:
    """Name of a twin to its job, and to why there is none."""
    jobs, refused = {}, {}
    for candidate in candidates:
        name = placebo_of(candidate.recipe).name
        try:
            jobs[name] = twin_job(lab, candidate, taught[candidate.recipe.name])
        except (AdapterMissing, AdapterCorrupt) as error:
            refused[name] = f"a parent adapter cannot be used: {error}"
    return jobs, refused


async def _trained(
    lab: Lab,
    number: int,
    found: Placebos,
    jobs: Mapping[str, TrainingJob],
    teachers: Mapping[str, Sequence[str]],
) -> Placebos:
    stage = f"generation {number} placebo training"
    reports = await train_jobs(lab, f"train-placebos-generation-{number}", list(jobs.values()), stage=stage)
    admitted = await admit_jobs(
        lab, f"admit-placebos-generation-{number}", jobs, reports, generation=number, teachers=teachers
    )
    refused = found.refused | admitted.refused
    return found.model_copy(update={"reports": reports, "candidates": admitted.candidates, "refused": refused})


def _keep_records(lab: Lab, originals: Sequence[Candidate], found: Placebos, taught: Mapping[str, Taught]) -> None:
    """A twin's dataset card beside its candidate's, and what it was made from, so that an erase can name it."""
    twins = {_original(twin): twin for twin in found.candidates}
    for candidate in originals:
        name, card = placebo_of(candidate.recipe).name, taught[candidate.recipe.name].card
        if card is not None:
            text = card.model_copy(update={"name": name, "is_placebo": True}).text
            publish_bytes(lab.directory / f"generation-{candidate.generation}" / "cards" / f"{name}.md", text.encode())
        if candidate.member.name in twins:
            note_placebo(lab, candidate, twins[candidate.member.name])


def _original(twin: Candidate) -> str:
    """Name of the candidate whose twin it is."""
    return twin.recipe.name.removesuffix(PLACEBO_SUFFIX)
