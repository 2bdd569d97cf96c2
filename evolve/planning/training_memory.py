"""Whether what is to be trained fits where it is trained, estimated before anything is spent.

One job has one GPU, or the machine's memory, or as many GPUs as `workers.num_shards` says, over which its base is
spread. A base that needs more is refused with its numbers. The estimate is of the least that a job needs: the
frozen base, the adapter with its gradients and moments, and what one row of `max_length` tokens keeps for the way
back. Larger passes (`max_packed_tokens`), the vocabulary's logits and whatever the allocator wastes come on top, so
a job that passes here may still run out of memory; that quarantines its candidate.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from evolve.config import ConfigError, RunConfig
from evolve.planning.disk import BaseSize, sizes_of
from evolve.planning.doctor import list_gpus, memory_limit_bytes
from evolve.planning.doctor_placement import this_machine
from evolve.planning.machine import BF16_FLAGS, cpu_flags
from evolve.training.config import LoraTraining
from memory.types import Record
from serving.config import SleepingEngines, VllmSpec
from serving.placement import gpus_of

GIB = 2**30
ADAPTER_BYTES = 16
"""Of a trained weight: itself, its gradient and AdamW's two moments, in float32."""
ACTIVATION_BYTES = 4
"""Of each input and output of an adapted matrix and each token: what autograd keeps was measured at 3.8 to 5.2."""


class Room(Record):
    """Where jobs are trained."""

    device: Literal["gpu", "machine"]
    num_bytes: int = Field(description="memory of its smallest GPU, or of the machine less what its engines take")
    has_bf16: bool


class TrainingMemory(Record):
    """The least that one job on a base needs."""

    engine: str
    num_weights: int
    weight_bytes: int
    adapter_bytes: int
    activation_bytes: int

    @property
    def num_bytes(self) -> int:
        """All together."""
        return self.weight_bytes + self.adapter_bytes + self.activation_bytes


def memory_of(
    engine: str, size: BaseSize, training: LoraTraining, *, has_bf16: bool, num_shards: int = 1
) -> TrainingMemory:
    """What training an adapter on a base of this size takes at the least, on each of `num_shards` GPUs."""
    is_half = training.base_dtype == "bfloat16" or (training.base_dtype == "auto" and has_bf16)
    return TrainingMemory(
        engine=engine,
        num_weights=size.num_weights,
        weight_bytes=size.num_weights * (2 if is_half else 4) // num_shards,
        adapter_bytes=ADAPTER_BYTES * training.rank * size.adapted_width,
        activation_bytes=ACTIVATION_BYTES * training.max_length * size.adapted_width,
    )


def too_large(config: RunConfig, room: Room | None) -> str:
    """Why a base cannot be trained there, with the numbers; empty: all can, as far as is known.

    A base whose weights are not here, and a cluster's machines (`room` None), are not judged.
    """
    training = config.training
    if room is None or not isinstance(training, LoraTraining):
        return ""
    num_shards = config.workers.num_shards if room.device == "gpu" else 1
    needs = [
        memory_of(engine, size, training, has_bf16=room.has_bf16, num_shards=num_shards)
        for engine, size in sizes_of(config).items()
        if size is not None and size.num_weights
    ]
    for need in sorted(needs, key=lambda one: -one.num_bytes):
        if need.num_bytes > room.num_bytes:
            where = "its GPU has" if room.device == "gpu" else "this machine has, less what its engines take,"
            return (
                f"training an adapter on {need.engine} ({need.num_weights / 1e9:.2f} billion weights) takes at least "
                f"{_gib(need.num_bytes)}: the base {_gib(need.weight_bytes)}, rank {training.rank} with its moments "
                f"{_gib(need.adapter_bytes)}, a row of {training.max_length} tokens {_gib(need.activation_bytes)}; "
                f"{where} {_gib(room.num_bytes)}. Spread the base over several GPUs (workers.num_shards), lower "
                f"training.max_length or rank, take a smaller base or more memory, or serve this one as kind remote"
            )
    return ""


def check_training_fits(config: RunConfig) -> None:
    """Raises ConfigError where a base plainly cannot be trained where this run trains."""
    if isinstance(config.training, LoraTraining) and (reason := too_large(config, room_of(config))):
        raise ConfigError(reason)


def room_of(config: RunConfig) -> Room | None:
    """Where jobs of this run are trained; None: on machines that this one does not know."""
    address = config.serving.ray.address or os.environ.get("RAY_ADDRESS")
    if address not in (None, "local"):
        return None
    if config.workers.num_gpus or isinstance(config.serving.fleet.training, SleepingEngines):
        num_bytes = this_machine(list_gpus()).gpu_bytes
        return None if num_bytes is None else Room(device="gpu", num_bytes=num_bytes, has_bf16=True)
    taken = engine_bytes(config)
    return Room(
        device="machine",
        num_bytes=max(0, memory_limit_bytes() - taken),
        has_bf16=bool(cpu_flags(Path("/proc/cpuinfo")) & BF16_FLAGS),
    )


def engine_bytes(config: RunConfig) -> int:
    """Main memory that engines on the CPU take besides the trained jobs: weights, keys and values."""
    sizes = sizes_of(config)
    on_cpu = [spec for spec in config.serving.engines if isinstance(spec, VllmSpec) and not gpus_of(spec)]
    return sum(spec.replicas * (_weights(sizes[spec.name]) + int(spec.kv_cache_gib * GIB)) for spec in on_cpu)


def _weights(size: BaseSize | None) -> int:
    return 0 if size is None else 2 * size.num_weights


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
