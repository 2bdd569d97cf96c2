"""Admission against files made to break it: headers, settings and values that nobody trained."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.adapters import AdapterRefused, AdapterStore, copy_durably
from serving.admission import MAX_REASONS, LoraConfig, examine
from serving.safetensors_header import HeaderError, read_header
from tests.serving.lora_files import BASE, MODULE, NUM_IN, NUM_OUT, RANK

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": ["q_proj"]}
# What PEFT 0.21 writes for a plain LoRA.
PEFT_CONFIG: dict[str, Any] = CONFIG | {
    **{"task_type": "CAUSAL_LM", "peft_version": "0.21.2", "base_model_name_or_path": "x", "revision": None},
    **{"inference_mode": True, "lora_dropout": 0.05, "fan_in_fan_out": False, "bias": "none", "use_rslora": False},
    **{"modules_to_save": None, "init_lora_weights": True, "layers_to_transform": None, "layers_pattern": None},
    **{"rank_pattern": {}, "alpha_pattern": {}, "megatron_config": None, "megatron_core": "megatron.core"},
    **{"loftq_config": {}, "eva_config": None, "corda_config": None, "use_dora": False, "layer_replication": None},
    **{"qalora_group_size": 16, "ensure_weight_tying": False, "auto_mapping": None, "exclude_modules": None},
    **{"trainable_token_indices": None, "use_qalora": False, "lora_bias": False, "target_parameters": None},
}
WEIGHTS, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
A, B = (f"base_model.model.{MODULE}.lora_{side}.weight" for side in "AB")

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
_entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I64", "X"]) | _json,
        "shape": st.lists(st.integers(-2, 5), max_size=10) | _json,
        "data_offsets": st.lists(st.integers(-4, 200), min_size=2, max_size=2) | _json,
    }
)


def header_file(directory: Path, header: bytes, data: bytes = b"") -> Path:
    path = directory / WEIGHTS
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def lora_directory(directory: Path, tensors: dict[str, np.ndarray], config: object) -> Path:
    header, data = {}, b""
    for name, tensor in tensors.items():
        end = len(data) + tensor.nbytes
        kind = {"float32": "F32", "uint16": "BF16"}[str(tensor.dtype)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), end]}
        data += tensor.tobytes()
    directory.mkdir(exist_ok=True)
    header_file(directory, json.dumps(header).encode(), data)
    (directory / CONFIG_FILE).write_text(json.dumps(config))
    return directory


def tensors(value: float = 1.0) -> dict[str, np.ndarray]:
    return {A: np.full((RANK, NUM_IN), value, np.float32), B: np.full((NUM_OUT, RANK), value, np.float32)}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_well_formed_file_or_refused(scratch: Path, raw: bytes) -> None:
    path = scratch / WEIGHTS
    path.write_bytes(raw)
    try:
        found = read_header(path)
    except HeaderError:
        return
    assert all(8 <= info.begin <= info.end <= len(raw) for info in found.values())


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=12), _entry | _json, max_size=4) | _json, st.integers(0, 120))
def test_any_json_is_a_well_formed_header_or_refused(scratch: Path, header: Any, num_bytes: int) -> None:
    path = header_file(scratch, json.dumps(header).encode(), bytes(num_bytes))
    try:
        found = read_header(path)
    except HeaderError:
        return
    assert sum(info.end - info.begin for info in found.values()) == num_bytes


_keys = st.sampled_from(sorted(PEFT_CONFIG)) | st.text(max_size=12)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_keys, _json, max_size=5))
def test_any_setting_is_a_plain_lora_or_a_reason(scratch: Path, changes: dict[str, Any]) -> None:
    directory = lora_directory(scratch / "lora", tensors(), PEFT_CONFIG | changes)
    facts, reasons = examine(directory, BASE, max_rank=8)
    if reasons:
        assert all(len(reason) < 1000 for reason in reasons)
        return
    assert facts is not None
    assert facts.config.r == RANK
    off = {key: value for key, value in changes.items() if key not in PEFT_CONFIG}
    assert not any(off.values())


def test_what_peft_writes_for_a_plain_lora_is_admitted(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "store")
    found = store.admit(lora_directory(tmp_path / "lora", tensors(), PEFT_CONFIG), BASE, max_rank=8)
    bare = store.admit(lora_directory(tmp_path / "bare", tensors(), CONFIG | {"lora_dropout": 0.05}), BASE, max_rank=8)
    assert found.hash == bare.hash


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_new_trick": True}, "'use_new_trick': expected no such setting"),
        ({"custom_code": "import os"}, "'custom_code': expected no such setting"),
        ({"target_modules": ["../q_proj"]}, "target_modules.0"),
        ({"target_modules": ["q_proj", "lm_head"]}, "adapters on lm_head"),
        ({"target_modules": ["q_proj", "model.embed_tokens"]}, "adapters on embed_tokens"),
        ({"target_modules": [".*"]}, "target_modules.0"),
        ({"use_dora": 1}, "use_dora: expected False, got '1'"),
        ({"r": True}, "r: Input should be a valid integer"),
        ({"lora_alpha": 1e9}, "lora_alpha"),
        ({"r": 10**400}, "adapter_config.json"),
    ],
)
def test_settings_that_change_what_the_weights_mean_are_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    directory = lora_directory(tmp_path / "lora", tensors(), PEFT_CONFIG | change)
    _, reasons = examine(directory, BASE, max_rank=8)
    assert any(reason in said for said in reasons), reasons


def test_an_unknown_setting_that_is_off_is_let_in(tmp_path: Path) -> None:
    directory = lora_directory(tmp_path / "lora", tensors(), PEFT_CONFIG | {"use_new_trick": False, "new_config": None})
    assert examine(directory, BASE, max_rank=8)[1] == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65505.0, -1e30])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_values_that_become_infinite_in_an_engine_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    weights = tensors()
    weights[B][2, 1] = value
    if dtype == "uint16":
        weights = {name: (tensor.view(np.uint32) >> 16).astype(np.uint16) for name, tensor in weights.items()}
        if value == 65505.0:  # bfloat16 has no such number: the next one
            weights[B][2, 1] = np.float32(65536.0).view(np.uint32) >> 16
    _, reasons = examine(lora_directory(tmp_path / "lora", weights, CONFIG), BASE, max_rank=8)
    assert len(reasons) == 1
    assert "expected finite values up to 65504" in reasons[0]


def test_the_largest_value_that_every_format_holds_is_let_in(tmp_path: Path) -> None:
    assert examine(lora_directory(tmp_path / "lora", tensors(65504.0), CONFIG), BASE, max_rank=8)[1] == ()


def test_without_a_base_the_shapes_are_held_against_the_configuration(tmp_path: Path) -> None:
    assert examine(lora_directory(tmp_path / "lora", tensors(), CONFIG), None, max_rank=8)[1] == ()
    _, reasons = examine(lora_directory(tmp_path / "lora", tensors(), CONFIG | {"r": 3}), None, max_rank=8)
    assert [reason.partition(": ")[2] for reason in reasons] == [
        "expected a matrix of rank 3, got shape (2, 4)",
        "expected a matrix of rank 3, got shape (3, 2)",
    ]


def test_of_many_reasons_the_first_are_given_and_the_others_counted(tmp_path: Path) -> None:
    weights = {f"evil.{number}": np.ones((1, 1), np.float32) for number in range(500)}
    directory = lora_directory(tmp_path / "lora", weights, CONFIG)
    with pytest.raises(AdapterRefused) as caught:
        AdapterStore(tmp_path / "store").admit(directory, BASE, max_rank=8)
    assert len(caught.value.reasons) == MAX_REASONS + 1
    assert caught.value.reasons[-1] == "and 480 reasons more"
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" * 8_000_000,
        b'{"a":[' + b"[]," * 4_000_000 + b"[]]}",
        b'{"a":[' + b"1," * 8_000_000 + b"1]}",
        b"{" + b",".join(b'"%d":0' % number for number in range(1_600_000)) + b"}",
    ],
    ids=["deep", "brackets", "numbers", "names"],
)
def test_a_header_made_to_fill_memory_is_refused_before_it_is_parsed(tmp_path: Path, header: bytes) -> None:
    path = header_file(tmp_path, header)
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(HeaderError, match="expected a header of at most"):
            read_header(path, max_header_bytes=2**25, max_tensors=100_000)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(header)
        assert time.process_time() - started < 1.0
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1e3],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[281474976710656,0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}}',
        b'{"__metadata__":{"a":[1]}}',
        b'{"__metadata__":[]}',
        b"\xff\xfe{}",
        b"NaN",
    ],
)
def test_odd_headers_are_refused_with_a_short_reason(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(HeaderError) as caught:
        read_header(header_file(tmp_path, header, b"\0\0\0\0"))
    assert len(str(caught.value)) < 500


def test_a_pipe_put_in_the_place_of_a_file_does_not_stop_the_copy(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="expected a plain file"):
        copy_durably(tmp_path / "pipe", tmp_path / "copy", max_bytes=10)


def test_a_file_that_grows_while_it_is_copied_ends_at_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(11))
    with pytest.raises(ValueError, match="at most 10 bytes"):
        copy_durably(tmp_path / "file", tmp_path / "copy", max_bytes=10)


def test_the_canonical_settings_are_admitted_again(tmp_path: Path) -> None:
    canonical = LoraConfig.model_validate(CONFIG).canonical("base")
    assert examine(lora_directory(tmp_path / "lora", tensors(), canonical), BASE, max_rank=8)[1] == ()
