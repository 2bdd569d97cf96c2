"""The LoRA ops against a float reference, and the guard against an unknown vLLM."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import vllm_plugin
from serving.vllm_plugin import PluginMismatch, bgmv_expand, bgmv_expand_slice, bgmv_shrink, patch, patch_wrapper

SLOTS, RANK, NUM_IN, NUM_OUT = 3, 4, 10, 12
indices_of_rows = st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=9)


def weights(rows: int, columns: int, *, stacked: bool = True) -> torch.Tensor:
    drawn = torch.randn(SLOTS, rows, columns, generator=torch.Generator().manual_seed(rows))
    return drawn.unsqueeze(1) if stacked else drawn


def inputs(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(7))


@settings(deadline=None, max_examples=60)
@given(indices_of_rows, st.booleans())
def test_shrink_equals_the_reference_and_leaves_base_rows_untouched(slots: list[int], stacked: bool) -> None:
    a, x = weights(RANK, NUM_IN, stacked=stacked), inputs(len(slots), NUM_IN)
    output = torch.full((len(slots), RANK), 5.0)
    bgmv_shrink(x, a, output, torch.tensor(slots), 0.5)
    for row, slot in enumerate(slots):
        expected = 0.5 * a.reshape(SLOTS, RANK, NUM_IN)[slot] @ x[row] if slot >= 0 else torch.full((RANK,), 5.0)
        torch.testing.assert_close(output[row], expected)


@settings(deadline=None, max_examples=60)
@given(indices_of_rows, st.booleans(), st.booleans())
def test_expand_equals_the_reference_and_leaves_base_rows_untouched(slots: list[int], stacked: bool, add: bool) -> None:
    b, x = weights(NUM_OUT, RANK, stacked=stacked), inputs(len(slots), RANK)
    output = torch.full((len(slots), NUM_OUT), 5.0)
    bgmv_expand(x, b, output, torch.tensor(slots), add)
    for row, slot in enumerate(slots):
        expected = b.reshape(SLOTS, NUM_OUT, RANK)[slot] @ x[row] + (5.0 if add else 0.0)
        torch.testing.assert_close(output[row], expected if slot >= 0 else torch.full((NUM_OUT,), 5.0))


@settings(deadline=None, max_examples=60)
@given(indices_of_rows, st.integers(0, 3), st.booleans())
def test_expand_slice_writes_its_columns_only(slots: list[int], offset: int, add: bool) -> None:
    b, x = weights(NUM_OUT, RANK), inputs(len(slots), RANK)
    output = torch.zeros(len(slots), NUM_OUT + 5)
    bgmv_expand_slice(x, b, output, torch.tensor(slots), offset, NUM_OUT, add)
    for row, slot in enumerate(slots):
        expected = torch.zeros(NUM_OUT + 5)
        if slot >= 0:
            expected[offset : offset + NUM_OUT] = b[slot, 0] @ x[row]
        torch.testing.assert_close(output[row], expected)


def test_expand_cuts_what_the_model_has_no_room_for() -> None:
    output = torch.zeros(2, NUM_OUT - 3)
    bgmv_expand(inputs(2, RANK), weights(NUM_OUT, RANK), output, torch.tensor([0, -1]))
    torch.testing.assert_close(output[0], (weights(NUM_OUT, RANK)[0, 0] @ inputs(2, RANK)[0])[: NUM_OUT - 3])
    assert not output[1].any()


def test_bfloat16_adapters_agree_with_the_float_reference_within_rounding() -> None:
    b, x = weights(NUM_OUT, RANK).bfloat16(), inputs(2, RANK)
    output = torch.zeros(2, NUM_OUT, dtype=torch.bfloat16)
    bgmv_expand(x, b, output, torch.tensor([1, 1]))
    torch.testing.assert_close(output.float(), x @ b[1, 0].float().t(), atol=0.05, rtol=0.02)


def test_stock_ops_are_replaced_in_every_module_that_imported_them() -> None:
    ops, importer = stock_ops(), ModuleType("importer")
    patch(ops, (importer,))
    patch(ops, (importer,))  # vLLM may call a plugin twice in one process
    for module in (ops, importer):
        assert module.bgmv_shrink is bgmv_shrink
        assert module.bgmv_expand is bgmv_expand
        assert module.bgmv_expand_slice is bgmv_expand_slice


def test_unknown_ops_are_refused_loudly_and_nothing_is_patched() -> None:
    ops = stock_ops()
    stock = ops.bgmv_shrink
    ops.bgmv_expand = bgmv_shrink
    with pytest.raises(PluginMismatch, match=r"bgmv_expand: expected source sha256 .* install the locked version"):
        patch(ops, ())
    assert ops.bgmv_shrink is stock
    del ops.bgmv_expand
    with pytest.raises(PluginMismatch, match="no such function"):
        patch(ops, ())


class Wrapper:
    """vLLM's wrapper as far as the plugin touches it."""

    def __init__(self) -> None:
        self.token_lora_indices = torch.tensor([0, -1, 1])
        self.num_updates = 0

    def add_lora_linear(self, *arguments: object, **named: object) -> None:
        raise AssertionError("stock code was called")

    def update_metadata(self) -> None:
        self.num_updates += 1


def test_wrapper_groups_rows_once_a_step_and_adds_by_these_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patched(Wrapper):
        pass

    monkeypatch.setattr(vllm_plugin, "check_stock", lambda owner, name, found: None)
    patch_wrapper(Patched)
    patch_wrapper(Patched)  # vLLM may call a plugin twice in one process
    wrapper = Patched()
    wrapper.update_metadata()
    a, b, x = weights(RANK, NUM_IN), weights(NUM_OUT, RANK), inputs(3, NUM_IN)
    y = torch.zeros(3, NUM_OUT)
    wrapper.add_lora_linear(y, x, (a,), (b,), 2.0, (NUM_OUT,))
    assert wrapper.num_updates == 1
    for row, slot in enumerate([0, -1, 1]):
        expected = 2.0 * b[slot, 0] @ (a[slot, 0] @ x[row]) if slot >= 0 else torch.zeros(NUM_OUT)
        torch.testing.assert_close(y[row], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(AssertionError, match="stock code was called"):
        wrapper.add_lora_linear(y[:2], x[:2], (a,), (b,), 2.0, (NUM_OUT,))


def test_unknown_wrapper_is_refused_loudly_and_left_alone() -> None:
    stock = Wrapper.update_metadata
    with pytest.raises(PluginMismatch, match="add_lora_linear: expected source sha256"):
        patch_wrapper(Wrapper)
    assert Wrapper.update_metadata is stock


@pytest.mark.parametrize(
    ("file", "owner", "name"),
    [
        ("punica_cpu.py", "PunicaWrapperCPU", "add_lora_linear"),
        ("punica_base.py", "PunicaWrapperBase", "update_metadata"),
    ],
)
def test_installed_wrapper_is_the_one_this_plugin_was_written_for(file: str, owner: str, name: str) -> None:
    text = (vllm_directory() / "lora/punica_wrapper" / file).read_text()
    (kind,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == owner]
    (found,) = [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == name]
    lines = text.splitlines(keepends=True)[found.lineno - 1 : found.end_lineno]
    source = textwrap.dedent("".join(lines))
    assert hashlib.sha256(source.encode()).hexdigest() == vllm_plugin.STOCK_SHA256[name]


def test_stock_ops_contaminate_base_rows() -> None:
    """The bug this plugin is for; when this fails, the installed vLLM has cured it, and the plugin can go."""
    output = torch.zeros(2, NUM_OUT)
    stock_ops().bgmv_expand(inputs(2, RANK), weights(NUM_OUT, RANK), output, torch.tensor([0, -1]))
    assert output[1].any()


def stock_ops() -> ModuleType:
    """A fresh copy of vLLM's module, found without importing vLLM, which takes many seconds."""
    path = vllm_directory() / "lora/ops/torch_ops/lora_ops.py"
    spec = importlib.util.spec_from_file_location("stock_lora_ops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(vllm_plugin.REPLACEMENTS) <= set(vars(module))
    return module


def vllm_directory() -> Path:
    package = importlib.util.find_spec("vllm")
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0])
