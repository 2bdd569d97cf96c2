"""What is known of the machine that a run will use, as far as its speed goes: how its CPU multiplies, and its cores."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from evolve.config import MeshConfig
from evolve.planning.disk import sizes_of
from evolve.planning.doctor import usable_cores
from memory.types import Record
from serving.config import VllmSpec
from serving.placement import gpus_of

Arithmetic = Literal["amx", "bf16", "float32"]
BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
"""What a CPU that multiplies bfloat16 has, see `evolve.training.train.fastest_dtype`."""
TIMED_CORES = 2
"""Cores of the machines that were timed."""
TIMED_WEIGHTS = (60_000_000, 600_000_000)
"""Least and most weights of a model that is like those that were timed, which have 135 and 270 million."""


class Machine(Record):
    """Where the engines of a run are, and how far that is like what was timed."""

    arithmetic: Arithmetic | None = Field(
        default=None,
        description="what CPU engines multiply with: AMX tiles, bfloat16 without them, or float32 (AVX2, AVX512); "
        "None: there are GPUs, or machines that this one does not know",
    )
    num_cores: int | None = Field(default=None, description="that this process may use")
    has_timed_models: bool = Field(default=False, description="its models are about as large as those that were timed")


def machine_of(config: MeshConfig, cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """The machine that engines of this configuration run on; `cpuinfo`: what the kernel says of its CPU."""
    specs = [spec for spec in config.serving.engines if isinstance(spec, VllmSpec)]
    address = config.serving.ray.address or os.environ.get("RAY_ADDRESS")
    if len(specs) < len(config.serving.engines) or any(map(gpus_of, specs)) or address not in (None, "local"):
        return Machine()
    sizes = sizes_of(config).values()
    least, most = TIMED_WEIGHTS
    return Machine(
        arithmetic=arithmetic_of(cpuinfo, is_full="float32" in {spec.dtype for spec in specs}),
        num_cores=usable_cores(),
        has_timed_models=all(size is not None and least <= size.num_weights <= most for size in sizes),
    )


def arithmetic_of(cpuinfo: Path, *, is_full: bool = False) -> Arithmetic | None:
    """The fastest that this CPU has, `is_full`: in float32; None: it says nothing, or has no AVX2."""
    flags = cpu_flags(cpuinfo)
    if "amx_bf16" in flags and not is_full:
        return "amx"
    if flags & BF16_FLAGS and not is_full:
        return "bf16"
    return "float32" if "avx2" in flags else None


def cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """Instruction sets of the first CPU of the list; none where there is no such list."""
    if not cpuinfo.exists():
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()
