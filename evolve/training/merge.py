"""One adapter out of several of the same base: merged on ΔW, layer by layer in float32, no training."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from evolve.learning.merged_rank import merged_rank
from evolve.training.adapter_files import publish_adapter
from evolve.training.config import MergeTraining
from evolve.training.delta import Reduced, concatenate, dare, reduce_dense, reduce_factors, ties
from evolve.training.job import TrainingJob, TrainingReport, publish_report, quarantined
from evolve.training.lora_files import AdapterUnfit, Factors, LoraFile, all_shapes, write_lora
from memory.types import Record, content_hash


class MergeReport(Record):
    """What a merge gave."""

    rank: int
    num_layers: int
    retained_energy: float = Field(description="share of the merged update's sum of squares that the rank kept")
    least_retained: float = Field(description="the same of the layer that lost most")
    least_layer: str
    adapter_sha256: str = Field(description="of the weights file")


def merge_adapters(
    parents: Sequence[Path], config: MergeTraining, target: Path, *, base_name: str, seed: int = 0, max_rank: int = 512
) -> MergeReport:
    """Merge the adapters in `parents` into a new one at `target`; the same input gives the same bytes.

    Methods: `cat` is exact, of a rank that is the sum of the parents' ranks; `svd` the nearest update of
    `config.rank`; `ties` and `dare` change entries of ΔW first. Energy is measured on what the method made of ΔW,
    before the rank was cut. Memory: one layer's ΔW of every parent.

    Raises:
        AdapterUnfit: fewer than one parent, another number of weights, parents of different bases, or a rank above
            `max_rank`.
        OSError: an adapter cannot be read or written.
    """
    weights = _weights(config, len(parents))
    files = [LoraFile(path) for path in parents]
    shapes = all_shapes(files)
    rank = _rank(config, files, max_rank)
    found: dict[str, tuple[float, float]] = {}

    def factors_of(module: str) -> Factors:
        parts = [_padded(file, module, shapes[module]) for file in files]
        merged = _merge_layer(parts, weights, config, rank, _seed(seed, module))
        found[module] = (merged.energy, merged.kept)
        return merged.factors

    scale = _scale(config, files, weights)
    digest = publish_adapter(
        target, base_name, lambda directory: write_lora(directory, shapes, rank, scale * rank, factors_of)
    )
    shares = {module: min(1.0, kept / energy) if energy > 0 else 1.0 for module, (energy, kept) in found.items()}
    least = min(shares, key=lambda module: (shares[module], module))
    energy = sum(one for one, _ in found.values())
    return MergeReport(
        rank=rank,
        num_layers=len(shapes),
        retained_energy=min(1.0, sum(kept for _, kept in found.values()) / energy) if energy > 0 else 1.0,
        least_retained=shares[least],
        least_layer=least,
        adapter_sha256=digest,
    )


def train_merge(job: TrainingJob) -> TrainingReport:
    """Carry out a job whose recipe merges its parents, and publish its report; in this process, without torch.

    Parents that do not fit, or a rank that keeps less than `min_energy` of the update, quarantine it.

    Raises:
        TypeError: the recipe does not merge. OSError: an adapter cannot be read or written.
    """
    config, started = job.recipe.training, time.perf_counter()
    if not isinstance(config, MergeTraining):
        raise TypeError(f"expected a job with training.kind 'merge', got {config.kind!r}")
    try:
        merged = merge_adapters(
            [Path(parent.directory) for parent in job.parents],
            config,
            job.adapter_dir,
            base_name=job.base_name,
            seed=job.seed,
        )
    except AdapterUnfit as error:
        report = quarantined(job, str(error))
    else:
        report = _report(job, merged, config, time.perf_counter() - started)
    publish_report(job, report)
    return report


def distance(left: Path, right: Path) -> float:
    """How far two adapters of one base are apart: ‖ΔW − ΔW'‖ / ‖ΔW‖ over all layers; 0: they do the same.

    Infinity where the left one does nothing and the right one does something. Raises AdapterUnfit.
    """
    ours, theirs = LoraFile(left), LoraFile(right)
    shapes = all_shapes([ours, theirs])
    apart, whole = 0.0, 0.0
    for module, shape in shapes.items():
        one, other = (_padded(file, module, shape).delta.astype(np.float64) for file in (ours, theirs))
        apart += float(np.sum(np.square(one - other)))
        whole += float(np.sum(np.square(one)))
    if whole == 0:
        return 0.0 if apart == 0 else float("inf")
    return float(np.sqrt(apart / whole))


def _report(job: TrainingJob, merged: MergeReport, config: MergeTraining, seconds: float) -> TrainingReport:
    if merged.retained_energy < config.min_energy:
        shutil.rmtree(job.adapter_dir)
        reason = (
            f"rank {merged.rank} keeps {merged.retained_energy:.3f} of the merged update, less than min_energy "
            f"({config.min_energy:g}); {merged.least_layer} keeps {merged.least_retained:.3f}; raise the rank"
        )
        refused = quarantined(job, reason)
        return refused.model_copy(update={"retained_energy": merged.retained_energy, "seconds": seconds})
    return TrainingReport(
        job=job.digest,
        recipe=job.recipe.name,
        base_name=job.base_name,
        status="ok",
        seconds=seconds,
        retained_energy=merged.retained_energy,
        adapter_sha256=merged.adapter_sha256,
    )


def _merge_layer(
    parts: Sequence[Factors], weights: Sequence[float], config: MergeTraining, rank: int, seed: int
) -> Reduced:
    if config.method == "cat":
        return Reduced(concatenate(parts, weights), 1.0, 1.0)
    if config.method == "svd":
        return reduce_factors(concatenate(parts, weights), rank)
    deltas = [part.delta for part in parts]
    if config.method == "ties":
        return reduce_dense(ties(deltas, weights, config.density), rank, seed)
    return reduce_dense(dare(deltas, weights, config.density, np.random.default_rng(seed)), rank, seed)


def _padded(file: LoraFile, module: str, shape: tuple[int, int]) -> Factors:
    """The adapter's factors of a layer; zeros of its rank where it leaves the layer alone."""
    if module in file.shapes:
        return file.factors(module)
    rank = file.config.r
    zeros = np.zeros((rank, shape[1]), dtype=np.float32), np.zeros((shape[0], rank), dtype=np.float32)
    return Factors(*zeros, file.scale)


def _weights(config: MergeTraining, num_parents: int) -> tuple[float, ...]:
    if num_parents < 1:
        raise AdapterUnfit("expected at least one adapter to merge, got none")
    if config.weights and len(config.weights) != num_parents:
        raise AdapterUnfit(f"expected a weight for each of {num_parents} parents, got {len(config.weights)}")
    return config.weights or (1 / num_parents,) * num_parents


def _rank(config: MergeTraining, files: Sequence[LoraFile], max_rank: int) -> int:
    rank = merged_rank([file.config.r for file in files], config)
    if rank > max_rank:
        raise AdapterUnfit(
            f"expected a rank of at most {max_rank}, a merge by {config.method} has {rank}; "
            "merge by svd, or raise the engine's max_lora_rank"
        )
    return rank


def _scale(config: MergeTraining, files: Sequence[LoraFile], weights: Sequence[float]) -> float:
    """The scale that `_merge_layer` leaves out of its factors; the same for every layer."""
    shares = set(_shares(files, weights))
    return shares.pop() if config.method == "cat" and len(shares) == 1 else 1.0


def _shares(files: Sequence[LoraFile], weights: Sequence[float]) -> Iterator[float]:
    return (weight * file.scale for file, weight in zip(files, weights, strict=True))


def _seed(seed: int, module: str) -> int:
    return int(content_hash([seed, module])[:16], 16)
