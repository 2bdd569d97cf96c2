"""How many optimizer steps training jobs take, before they start, and how many are done; needs no training library."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evolve.training.config import LoraTraining
from evolve.training.job import TrainingJob, TrainingProgress, TrainingReport


def num_steps(num_examples: int, batch_size: int, num_epochs: int, max_steps: int | None) -> int:
    """Steps of one stage; an epoch's last batch may be smaller than the others."""
    whole = -(-num_examples // batch_size) * num_epochs
    return min(max_steps or whole, whole)


def steps_of(job: TrainingJob) -> int:
    """Steps of a job if no row or pair is left out; 1 for one that trains nothing."""
    training = job.recipe.training
    if not isinstance(training, LoraTraining):
        return 1
    steps = num_steps(len(job.rows), training.batch_size, training.num_epochs, training.max_steps)
    later = training.preference
    if later is not None and len(job.pairs) >= later.min_pairs:
        steps += num_steps(len(job.pairs), later.batch_size, later.num_epochs, later.max_steps)
    return max(1, steps)


class StepsDone:
    """How far several jobs are together, in steps: tells `advance` how many more are done, or fewer.

    A job has fewer again when its process died and it goes on from a checkpoint.
    """

    def __init__(self, jobs: Sequence[TrainingJob], advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._all = {job.recipe.name: steps_of(job) for job in jobs}
        self._done = dict.fromkeys(self._all, 0)

    @property
    def total(self) -> int:
        """Of all jobs."""
        return sum(self._all.values())

    def hear(self, progress: TrainingProgress) -> None:
        """A job is so far; where rows were left out, by the share of its steps."""
        self._reach(progress.recipe, self._all[progress.recipe] * progress.step // max(1, progress.num_steps))

    def ended(self, report: TrainingReport) -> None:
        """A job has ended, well or not."""
        self._reach(report.recipe, self._all[report.recipe])

    def _reach(self, recipe: str, done: int) -> None:
        if done != self._done[recipe]:
            self._advance(done - self._done[recipe])
            self._done[recipe] = done
