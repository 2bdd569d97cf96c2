"""Jobs that need neither Ray nor torch: simulations and merges, carried out in this process."""

from __future__ import annotations

from contextlib import suppress

from evolve.training.job import TrainingJob, TrainingReport, is_disk_error, publish_report, quarantined
from evolve.training.scripted_train import train_scripted

LIGHT_KINDS = ("scripted", "merge")


def is_light(job: TrainingJob) -> bool:
    """Whether `train_here` can carry out the job."""
    return job.recipe.training.kind in LIGHT_KINDS


def train_here(job: TrainingJob) -> TrainingReport:
    """Carry out a light job and publish its report. Raises TypeError for a job that trains, and OSError."""
    if job.recipe.training.kind == "merge":
        # Needs numpy alone, but only runs that merge should pay for it.
        from evolve.training.merge import train_merge

        return train_merge(job)
    return train_scripted(job)


def train_or_say_why(job: TrainingJob) -> TrainingReport:
    """`train_here`, where a disk that is full or failing quarantines the job instead of ending the run.

    Raises what `train_here` raises of everything else.
    """
    try:
        return train_here(job)
    except OSError as error:
        if not is_disk_error(error):
            raise
        return quarantine(job, f"its results could not be written: {error.strerror or error}")


def quarantine(job: TrainingJob, reason: str) -> TrainingReport:
    """The report of a job that failed, published if the disk takes it: who asked has it either way."""
    report = quarantined(job, reason)
    with suppress(OSError):
        publish_report(job, report)
    return report
