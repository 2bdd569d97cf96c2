"""Jobs that need neither Ray nor torch: simulations and merges, carried out in this process."""

from __future__ import annotations

from evolve.scripted_train import train_scripted
from evolve.training_job import TrainingJob, TrainingReport

LIGHT_KINDS = ("scripted", "merge")


def is_light(job: TrainingJob) -> bool:
    """Whether `train_here` can carry out the job."""
    return job.recipe.training.kind in LIGHT_KINDS


def train_here(job: TrainingJob) -> TrainingReport:
    """Carry out a light job and publish its report. Raises TypeError for a job that trains, and OSError."""
    if job.recipe.training.kind == "merge":
        # Needs numpy alone, but only runs that merge should pay for it.
        from evolve.merge import train_merge

        return train_merge(job)
    return train_scripted(job)
