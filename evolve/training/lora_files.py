"""A LoRA adapter's files, one layer at a time: its factors in float32, and a safetensors file written as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolve.training.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from serving.admission import PREFIX, LoraConfig, examine
from serving.safetensors_header import TensorInfo, read_header

Matrix = NDArray[np.float32]
# Attention alone learns less; embeddings and the head cannot be served as part of an adapter.
TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_DTYPES = {"F32": "<f4", "F16": "<f2"}
_ITEM_BYTES = 4


class AdapterUnfit(ValueError):
    """An adapter that cannot be merged or continued; the message says why and what to do."""


class Factors(NamedTuple):
    """One layer's update: ΔW = scale · up @ down."""

    down: Matrix
    """(rank, in), what PEFT calls lora_A"""
    up: Matrix
    """(out, rank), what PEFT calls lora_B"""
    scale: float = 1.0
    """alpha / rank"""

    @property
    def delta(self) -> Matrix:
        """ΔW itself, (out, in)."""
        return self.up @ (self.down * np.float32(self.scale))


class LoraFile:
    """Reads an adapter's layers; nothing is held but the header.

    Raises:
        AdapterUnfit: the directory does not hold a plain LoRA in a safe file with finite values.
    """

    def __init__(self, directory: Path, *, max_rank: int = 512) -> None:
        missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (directory / name).is_file()]
        if missing:
            raise AdapterUnfit(f"{directory}: expected a plain LoRA adapter: {', '.join(missing)} is missing")
        facts, reasons = examine(directory, None, max_rank=max_rank)
        if facts is None or reasons:
            raise AdapterUnfit(f"{directory}: expected a plain LoRA adapter: {'; '.join(reasons)}")
        self.config: LoraConfig = facts.config
        self._path = directory / WEIGHTS_FILE
        self._tensors = read_header(self._path)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by: alpha / rank."""
        return self.config.lora_alpha / self.config.r

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) by module name, sorted by name."""
        modules = sorted({name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in self._tensors})
        return {module: (self._info(module, "B").shape[0], self._info(module, "A").shape[1]) for module in modules}

    def factors(self, module: str) -> Factors:
        """The factors of one layer. Raises KeyError where the adapter does not touch it."""
        return Factors(self._read(self._info(module, "A")), self._read(self._info(module, "B")), self.scale)

    def _info(self, module: str, side: str) -> TensorInfo:
        return self._tensors[tensor_name(module, side)]

    def _read(self, info: TensorInfo) -> Matrix:
        with self._path.open("rb") as file:
            file.seek(info.begin)
            data = file.read(info.end - info.begin)
        if info.dtype == "BF16":
            # numpy has no bfloat16, which is the upper half of a float32.
            values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(data, _DTYPES[info.dtype]).astype("<f4")
        return values.reshape(info.shape)


def tensor_name(module: str, side: str) -> str:
    """The name that PEFT and vLLM give a factor; side 'A' or 'B'."""
    return f"{PREFIX}{module}.lora_{side}.weight"


def write_lora(
    directory: Path,
    shapes: dict[str, tuple[int, int]],
    rank: int,
    alpha: float,
    factors_of: Callable[[str], Factors],
) -> None:
    """Write both files of an adapter of one rank; `factors_of` is asked for one layer after the other, by name.

    The scale is the configuration's alpha / rank for every layer: factors come with theirs worked in, or it is
    dropped. Raises ValueError for factors of another shape, OSError.
    """
    targets = sorted({module.rpartition(".")[2] for module in shapes})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "bias": "none"}
    config |= {"lora_dropout": 0.0, "target_modules": targets, "inference_mode": True}
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    layers = [(module, ((rank, num_in), (num_out, rank))) for module, (num_out, num_in) in sorted(shapes.items())]
    with (directory / WEIGHTS_FILE).open("wb") as file:
        header = _header(layers)
        file.write(len(header).to_bytes(8, "little") + header)
        for module, expected in layers:
            down, up, _ = factors_of(module)
            if (down.shape, up.shape) != expected:
                raise ValueError(f"{module}: expected factors of shapes {expected}, got {(down.shape, up.shape)}")
            for matrix in (down, up):
                file.write(np.ascontiguousarray(matrix, dtype="<f4").tobytes())


def all_shapes(files: Sequence[LoraFile]) -> dict[str, tuple[int, int]]:
    """(out, in) of every layer that any of the adapters touches.

    Raises:
        AdapterUnfit: two of them disagree, so they are not for one base model.
    """
    found: dict[str, tuple[int, int]] = {}
    for file in files:
        for module, shape in file.shapes.items():
            if found.setdefault(module, shape) != shape:
                raise AdapterUnfit(
                    f"{module}: expected adapters of one base model, got layers of {found[module]} and {shape}; "
                    "merge only adapters of the same base"
                )
    return dict(sorted(found.items()))


def _header(layers: Iterable[tuple[str, tuple[tuple[int, int], tuple[int, int]]]]) -> bytes:
    entries, position = {}, 0
    for module, shapes in layers:
        for side, shape in zip("AB", shapes, strict=True):
            end = position + shape[0] * shape[1] * _ITEM_BYTES
            entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
            entries[tensor_name(module, side)] = entry
            position = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    # Readers map the file and want the numbers aligned.
    return text + b" " * (-len(text) % 8)
