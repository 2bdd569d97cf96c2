"""What a training job is given and what it reports, as records that need no training library."""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evolve.learning.recipe_rows import PreferenceRow, TrainingRow
from evolve.learning.recipes import Recipe
from memory.ledger import publish_json, read_record
from memory.types import Record, content_hash
from serving.admission import WEIGHTS_FILE
from serving.weights import sha256_of

REPORT_NAME = "training_report.json"
ADAPTER_NAME = "adapter"
SMOOTHING_STEPS = 5
FEWEST_SMOOTHED = 3
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
DIVERGENCE_FACTOR = 2.0


# What was added after jobs were first written down, with the value that says nothing: left out of the digest, so that
# a job which asks for none of it is the same job as ever.
_LATER: dict[str, Any] = {"pairs": [], "parents": [], "base_fingerprint": ""}
_LATER_OF_RECIPE: dict[str, Any] = {"role": "proposer", "parents": []}
_LATER_OF_TRAINING: dict[str, Any] = {"preference": None}


class ParentAdapter(Record):
    """An adapter that a job starts from."""

    adapter: str = Field(description="content hash")
    directory: str = Field(description="where it lies, for driver and worker")


class TrainingJob(Record):
    """Everything that a worker needs to train one adapter."""

    base_name: str = Field(description="name of the base model, as written into the adapter; never a path")
    base_dir: str = Field(description="directory of the base model on the worker")
    recipe: Recipe
    rows: tuple[TrainingRow, ...]
    seed: int
    out_dir: str = Field(description="directory of this job's results, on storage that driver and worker share")
    pairs: tuple[PreferenceRow, ...] = Field(default=(), description="what is learned from after the rows")
    parents: tuple[ParentAdapter, ...] = Field(
        default=(), description="in the order of the recipe's parents: one to train further, or several to merge"
    )
    base_fingerprint: str = Field(
        default="", description="content of the base model; without it results are not shared between runs"
    )
    checkpoint_steps: int | None = Field(
        default=None, ge=1, description="steps between two checkpoints, which change no result; None: none are kept"
    )

    @property
    def adapter_dir(self) -> Path:
        """Where the finished adapter lies; it appears whole, or not at all."""
        return Path(self.out_dir) / ADAPTER_NAME

    @property
    def digest(self) -> str:
        """Hash of what determines the result: all but where things lie on this machine, and names for bandits."""
        data = self.model_dump(mode="json", exclude={"base_dir", "out_dir", "checkpoint_steps"})
        data["parents"] = [parent.adapter for parent in self.parents]
        del data["recipe"]["arm"], data["recipe"]["changes"]
        for part, later in (
            (data, _LATER),
            (data["recipe"], _LATER_OF_RECIPE),
            (data["recipe"]["training"], _LATER_OF_TRAINING),
        ):
            for name, silent in later.items():
                if name in part and part[name] == silent:
                    del part[name]
        return content_hash(data)

    @property
    def data_digest(self) -> str:
        """Hash of the rows and pairs alone."""
        return data_digest(self.rows, self.pairs)


def data_digest(rows: Sequence[TrainingRow], pairs: Sequence[PreferenceRow] = ()) -> str:
    """Hash of what a job learns from, in its order."""
    plain = [row.model_dump(mode="json") for row in rows]
    if not pairs:
        return content_hash(plain)
    return content_hash({"rows": plain, "pairs": [pair.model_dump(mode="json") for pair in pairs]})


class TrainingProgress(Record):
    """How far a job is."""

    recipe: str
    step: int
    num_steps: int
    loss: float | None = Field(default=None, description="loss of the last finished step; None before the first")
    seconds: float = Field(description="wall seconds since the job's first sign of life")


class TrainingReport(Record):
    """What came of a job. A quarantined candidate is never evaluated, seated or trained from."""

    job: str = Field(description="digest of the job")
    recipe: str
    base_name: str
    status: Literal["ok", "quarantined"]
    reason: str = Field(default="", description="why it was quarantined; empty when ok")
    losses: tuple[float, ...] = Field(default=(), description="mean loss per learned token, one number a step")
    num_rows: int = Field(default=0, description="rows learned from")
    num_rows_left_out: int = Field(default=0, description="rows longer than max_length, or not continuing the prompt")
    trained_tokens: int = Field(default=0, description="tokens of all rows seen, prompts included, every pass counted")
    computed_tokens: int = Field(default=0, description="tokens that went through the model: shared beginnings once")
    learned_tokens: int = Field(default=0, description="tokens the loss was taken over")
    seconds: float = Field(default=0.0, description="wall seconds of the optimizer steps, without loading")
    load_seconds: float = Field(default=0.0, description="wall seconds of loading and tokenising")
    flops: float = Field(default=0.0, description="estimate, see `evolve.training.flops`")
    base_dtype: str = ""
    adapter_sha256: str | None = Field(
        default=None, description="of the weights file in the job's adapter_dir; None when quarantined"
    )
    pair_losses: tuple[float, ...] = Field(
        default=(), description="mean loss per pair, one number a step of that stage"
    )
    num_pairs: int = Field(default=0, description="pairs learned from")
    num_pairs_left_out: int = Field(default=0, description="pairs of which a text was unfit, as rows are")
    pairs_won: float | None = Field(
        default=None, description="share of pairs whose chosen text gained on the rejected one, over the last pass"
    )
    resumed_steps: int = Field(default=0, description="optimizer steps that a checkpoint spared this attempt")
    retained_energy: float | None = Field(
        default=None, description="of a merge: share of its update that the rank kept"
    )
    notes: tuple[str, ...] = Field(default=(), description="what people should know, such as a checkpoint not used")

    @property
    def num_steps(self) -> int:
        """Optimizer steps that were taken, on rows and on pairs."""
        return len(self.losses) + len(self.pair_losses)

    @property
    def tokens_per_second(self) -> float:
        """Trained tokens a second; 0 where nothing was timed."""
        return self.trained_tokens / self.seconds if self.seconds > 0 else 0.0


def quarantined(job: TrainingJob, reason: str) -> TrainingReport:
    """The report of a job that gave no usable adapter."""
    return TrainingReport(
        job=job.digest, recipe=job.recipe.name, base_name=job.base_name, status="quarantined", reason=reason
    )


def is_disk_error(error: OSError) -> bool:
    """Whether the disk is at fault, being full, over quota, read-only or broken: not a defect, not the candidate's."""
    return error.errno in _DISK_ERRORS


def diverged(losses: Sequence[float]) -> str | None:
    """Why these losses disqualify a candidate, or None.

    A loss that is not finite does, and so does a last stretch (mean of 3 to 5 steps) above twice the first stretch.
    Under 6 steps the second is not judged: batches differ that much by themselves.
    """
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            return f"loss is {loss} at step {step}"
    width = min(SMOOTHING_STEPS, len(losses) // 2)
    if width < FEWEST_SMOOTHED:
        return None
    first, last = sum(losses[:width]) / width, sum(losses[-width:]) / width
    if last > DIVERGENCE_FACTOR * first:
        return (
            f"loss rose from {first:.4g} to {last:.4g} (mean of {width} steps), more than {DIVERGENCE_FACTOR:g} times"
        )
    return None


def publish_report(job: TrainingJob, report: TrainingReport) -> None:
    """Make the report durable beside the adapter; a job with a report is finished."""
    publish_json(Path(job.out_dir) / REPORT_NAME, report)


def finished_report(job: TrainingJob) -> TrainingReport | None:
    """The report that an earlier run left for this very job; None: not finished, or another job's, or damaged.

    An "ok" report counts only while its adapter is there, with the weights it speaks of.
    """
    try:
        report = read_record(Path(job.out_dir) / REPORT_NAME, TrainingReport)
    except (FileNotFoundError, ValueError):
        return None
    if report.job != job.digest:
        return None
    if report.status == "ok" and not _has_weights(job, report.adapter_sha256):
        return None
    return report


def _has_weights(job: TrainingJob, sha256: str | None) -> bool:
    weights = job.adapter_dir / WEIGHTS_FILE
    return weights.is_file() and sha256_of(weights) == sha256
