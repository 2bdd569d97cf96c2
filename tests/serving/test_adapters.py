"""Admission: what is let in, everything that is not, and that what was let in stays as it was."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.adapters import AdapterCorrupt, AdapterMissing, AdapterRefused, AdapterStore
from serving.admission import BaseModelShape
from serving.safetensors_header import HeaderError, read_header

RANK, NUM_IN, NUM_OUT = 4, 6, 8
MODULE = "model.layers.0.self_attn.q_proj"
PREFIX = f"base_model.model.{MODULE}"
CONFIG: dict[str, Any] = {
    **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"]},
    **{"bias": "none", "modules_to_save": None, "use_dora": False, "base_model_name_or_path": "/somebody/elses/path"},
}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """By hand, so that the reader is not tested against its own library. bfloat16 comes as uint16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64"}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": names[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def base_model(tmp_path: Path) -> BaseModelShape:
    directory = tmp_path / "base"
    directory.mkdir(exist_ok=True)
    tensors = {
        f"{MODULE}.weight": np.zeros((NUM_OUT, NUM_IN), np.float32),
        "model.embed_tokens.weight": np.zeros((10, NUM_IN), np.float32),
        "model.norm.weight": np.zeros((NUM_IN,), np.float32),
    }
    write_safetensors(directory / "model.safetensors", tensors)
    return BaseModelShape.from_directory(directory)


def lora(module: str = PREFIX, *, rank: int = RANK, dtype: str = "float32") -> dict[str, np.ndarray]:
    return {
        f"{module}.lora_A.weight": np.ones((rank, NUM_IN), dtype),
        f"{module}.lora_B.weight": np.ones((NUM_OUT, rank), dtype),
    }


def write_adapter(
    directory: Path, tensors: dict[str, np.ndarray] | None = None, config: dict[str, Any] | None = None
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / "adapter_model.safetensors", lora() if tensors is None else tensors)
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG if config is None else config))
    return directory


def admit(tmp_path: Path, directory: Path) -> Any:
    return AdapterStore(tmp_path / "store").admit(directory, base_model(tmp_path), max_rank=16)


def reasons_against(tmp_path: Path, directory: Path) -> tuple[str, ...]:
    with pytest.raises(AdapterRefused) as caught:
        admit(tmp_path, directory)
    published = [entry for entry in (tmp_path / "store").glob("*") if not entry.name.startswith(".")]
    assert published == []
    return caught.value.reasons


def test_plain_lora_is_admitted_and_found_again(tmp_path: Path) -> None:
    adapter = admit(tmp_path, write_adapter(tmp_path / "new"))
    store = AdapterStore(tmp_path / "store")
    assert store.get(adapter.hash) == adapter
    assert store.list() == (adapter,)
    assert (adapter.rank, adapter.alpha, adapter.target_modules) == (RANK, 8, ("q_proj",))
    assert adapter.num_parameters == RANK * (NUM_IN + NUM_OUT)
    assert adapter.base == base_model(tmp_path).fingerprint
    names = sorted(file.name for file in store.path(adapter.hash).iterdir())
    assert names == ["adapter.json", "adapter_config.json", "adapter_model.safetensors"]


def test_equal_content_has_one_hash_wherever_it_was_trained(tmp_path: Path) -> None:
    first = admit(tmp_path, write_adapter(tmp_path / "here"))
    again = admit(tmp_path, write_adapter(tmp_path / "there", config=CONFIG | {"base_model_name_or_path": "/other"}))
    assert first == again
    other = admit(tmp_path, write_adapter(tmp_path / "other", config=CONFIG | {"lora_alpha": 16}))
    assert other.hash != first.hash


def test_one_adapter_for_two_bases_is_two_adapters(tmp_path: Path) -> None:
    base = base_model(tmp_path)
    store, directory = AdapterStore(tmp_path / "store"), write_adapter(tmp_path / "new")
    other = base.model_copy(update={"fingerprint": "0" * 64})
    assert store.admit(directory, base, max_rank=16).hash != store.admit(directory, other, max_rank=16).hash


def test_base_models_of_one_shape_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    base = base_model(tmp_path)
    file = tmp_path / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + struct.pack("<f", 1.0))
    assert BaseModelShape.from_directory(tmp_path / "base").fingerprint != base.fingerprint


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
def test_three_number_formats_are_admitted(tmp_path: Path, dtype: str) -> None:
    assert admit(tmp_path, write_adapter(tmp_path / "new", lora(dtype=dtype)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"auto_mapping": {"base_model_class": "x"}}, "auto_mapping"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"r": 17}, "r: expected at most 16, got 17"),
        ({"r": "4"}, "r: Input should be a valid integer"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"target_modules": ["k_proj"]}, "expected one of target_modules k_proj"),
    ],
)
def test_anything_but_a_plain_lora_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    assert any(
        reason in said for said in reasons_against(tmp_path, write_adapter(tmp_path / "new", None, CONFIG | change))
    )


@pytest.mark.parametrize("text", ["", "[]", '{"r": 4', '{"r": NaN}', "[" * 100_000])
def test_broken_configuration_is_a_reason_not_a_crash(tmp_path: Path, text: str) -> None:
    directory = write_adapter(tmp_path / "new")
    (directory / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in reasons_against(tmp_path, directory)[0]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "expected 1 to"),
        (lora("base_model.model.model.layers.1.self_attn.q_proj"), "which has none of that name"),
        (lora("base_model.model.model.embed_tokens"), "adapters on embed_tokens are not admitted"),
        (lora("somewhere.q_proj"), "expected a name like"),
        (lora(rank=8), "expected shape (4, 6), got (8, 6)"),
        (lora(dtype="int64"), "expected F32, F16 or BF16, got I64"),
        ({f"{PREFIX}.lora_A.weight": np.ones((RANK, NUM_IN), "float32")}, "expected both lora_A and lora_B"),
        (lora() | {f"{PREFIX}.weight": np.ones((NUM_OUT, NUM_IN), "float32")}, "expected a name like"),
    ],
)
def test_tensors_that_do_not_fit_the_base_are_refused(tmp_path: Path, tensors: dict[str, Any], reason: str) -> None:
    assert any(reason in said for said in reasons_against(tmp_path, write_adapter(tmp_path / "new", tensors)))


@pytest.mark.parametrize(("dtype", "value"), [("float32", np.nan), ("float16", np.inf), ("uint16", 0x7F80)])
def test_a_single_value_that_is_not_finite_is_refused(tmp_path: Path, dtype: str, value: float) -> None:
    tensors = lora(dtype=dtype)
    tensors[f"{PREFIX}.lora_B.weight"][1, 2] = value
    (reason,) = reasons_against(tmp_path, write_adapter(tmp_path / "new", tensors))
    assert reason.startswith(f"'{PREFIX}.lora_B.weight': expected finite values")


@pytest.mark.parametrize("name", ["adapter_model.bin", "modeling.py", "optimizer.pt", ".hidden"])
def test_unknown_files_are_refused(tmp_path: Path, name: str) -> None:
    directory = write_adapter(tmp_path / "new")
    (directory / name).touch()
    assert f"{name}: expected only" in reasons_against(tmp_path, directory)[0]


def test_links_and_directories_are_refused(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "new")
    (directory / "adapter_config.json").rename(tmp_path / "config.json")
    (directory / "adapter_config.json").symlink_to(tmp_path / "config.json")
    (directory / "README.md").mkdir()
    found = reasons_against(tmp_path, directory)
    assert [reason.partition(":")[0] for reason in found] == ["README.md", "adapter_config.json"]
    (tmp_path / "link").symlink_to(directory)
    assert "or a link" in reasons_against(tmp_path, tmp_path / "link")[0]


def test_every_reason_is_listed_at_once(tmp_path: Path) -> None:
    config = CONFIG | {"use_dora": True, "bias": "all"}
    found = reasons_against(tmp_path, write_adapter(tmp_path / "new", lora("base_model.model.lm_head"), config))
    assert len(found) == 4


def test_changed_adapter_is_corrupt_and_unknown_one_is_missing(tmp_path: Path) -> None:
    adapter = admit(tmp_path, write_adapter(tmp_path / "new"))
    store = AdapterStore(tmp_path / "store")
    with pytest.raises(AdapterMissing, match=r"adapter\.json: expected an admitted adapter"):
        store.get("0" * 64)
    weights = store.path(adapter.hash) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(AdapterCorrupt, match=rf"expected content hash {adapter.hash}, found"):
        store.path(adapter.hash)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_adapter_that_lacks_a_file_is_corrupt(tmp_path: Path, name: str) -> None:
    adapter = admit(tmp_path, write_adapter(tmp_path / "new"))
    (tmp_path / "store" / adapter.hash / name).unlink()
    with pytest.raises(AdapterCorrupt, match=f"{name} is gone"):
        AdapterStore(tmp_path / "store").path(adapter.hash)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_weights_are_refused_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    write_safetensors(path, lora())
    raw = bytearray(path.read_bytes())
    header_end = 8 + int.from_bytes(raw[:8], "little")
    if data.draw(st.booleans()):
        path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw) - 1))]))
        with pytest.raises(HeaderError):
            read_header(path)
        return
    raw[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    try:
        tensors = read_header(path)
    except HeaderError:
        return
    assert all(header_end <= info.begin <= info.end <= len(raw) for info in tensors.values())


def test_what_was_damaged_or_lost_is_restored_by_its_hash_and_by_nothing_else(tmp_path: Path) -> None:
    trained, other = write_adapter(tmp_path / "trained"), write_adapter(tmp_path / "other", lora(dtype="float16"))
    adapter, store, base = admit(tmp_path, trained), AdapterStore(tmp_path / "store"), base_model(tmp_path)
    weights = tmp_path / "store" / adapter.hash / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert store.restore(adapter.hash, other, base, max_rank=16) is None
    with pytest.raises(AdapterCorrupt):
        store.path(adapter.hash)
    assert store.restore(adapter.hash, trained, base, max_rank=16) == adapter
    assert store.path(adapter.hash) == weights.parent.resolve()
    shutil.rmtree(weights.parent)
    assert store.restore(adapter.hash, trained, base, max_rank=16) == adapter
    assert sorted(path.name for path in store.root.iterdir()) == [adapter.hash]


def test_header_larger_than_allowed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, lora())
    with pytest.raises(HeaderError, match="expected a header of at most 10 bytes"):
        read_header(path, max_header_bytes=10)
