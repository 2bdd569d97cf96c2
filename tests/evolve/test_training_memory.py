from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from evolve.config import ConfigError, RunConfig
from evolve.planning.disk import BaseSize
from evolve.planning.training_memory import GIB, Room, engine_bytes, memory_of, room_of, too_large
from evolve.preflight import check
from evolve.training.config import LoraTraining

SEVEN_BILLION = BaseSize(num_weights=6_738_415_616, adapted_width=32 * 78_080, num_adapted=224)
GPU = Room(device="gpu", num_bytes=80 * GIB, has_bf16=True)


def base(directory: Path, *, hidden: int = 4096, inner: int = 11_008, num_layers: int = 32) -> Path:
    """A model as large as can be read off its headers; its file is a hole."""
    shapes = {
        f"model.layers.{n}.{name}.weight": shape
        for n in range(num_layers)
        for name, shape in {
            **dict.fromkeys((f"self_attn.{x}_proj" for x in "qkvo"), (hidden, hidden)),
            **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (inner, hidden)),
            "mlp.down_proj": (hidden, inner),
        }.items()
    }
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    directory.mkdir()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_text("{}")
    return directory


def config_of(directory: Path, model: Path, **changes: Any) -> RunConfig:
    tasks = directory / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"question": f"Word {n}?", "answer": "x"}) + "\n" for n in range(40)))
    engine = {"kind": "vllm", "name": "big", "family": "llama", "model": {"kind": "directory", "path": str(model)}}
    settings = {
        "name": "x",
        "run_dir": str(directory / "run"),
        "serving": {"engines": [engine]},
        "problems": {"kind": "file", "path": str(tasks)},
    }
    return RunConfig.model_validate(settings | changes)


def test_a_job_takes_its_base_its_adapter_and_what_a_row_keeps() -> None:
    need = memory_of("big", SEVEN_BILLION, LoraTraining(rank=16, max_length=1024), has_bf16=True)
    assert need.weight_bytes == 2 * SEVEN_BILLION.num_weights
    assert need.adapter_bytes == 16 * 16 * SEVEN_BILLION.adapted_width
    assert need.activation_bytes == 4 * 1024 * SEVEN_BILLION.adapted_width
    assert 20 * GIB < need.num_bytes < 26 * GIB


@pytest.mark.parametrize(
    ("dtype", "has_bf16", "num_bytes"),
    [("auto", True, 2), ("auto", False, 4), ("float32", True, 4), ("bfloat16", False, 2)],
)
def test_the_base_is_loaded_in_the_type_that_was_asked_for(dtype: Any, has_bf16: bool, num_bytes: int) -> None:
    need = memory_of("big", SEVEN_BILLION, LoraTraining(base_dtype=dtype), has_bf16=has_bf16)
    assert need.weight_bytes == num_bytes * SEVEN_BILLION.num_weights


def test_a_base_that_does_not_fit_on_one_gpu_is_refused_with_its_numbers(tmp_path: Path) -> None:
    config = config_of(tmp_path, base(tmp_path / "base"))
    assert too_large(config, GPU) == ""
    reason = too_large(config, GPU.model_copy(update={"num_bytes": 16 * GIB}))
    assert reason.startswith(
        "training an adapter on big (6.48 billion weights) takes at least 22.2 GiB: the base 12.1 GiB"
    )
    assert "rank 16 with its moments 0.6 GiB, a row of 1024 tokens 9.5 GiB; its GPU has 16.0 GiB" in reason
    assert "Spread the base over several GPUs (workers.num_shards), lower training.max_length or rank" in reason


def test_shorter_rows_and_a_smaller_rank_make_it_fit(tmp_path: Path) -> None:
    config = config_of(tmp_path, base(tmp_path / "base"), training={"kind": "lora", "rank": 8, "max_length": 256})
    assert too_large(config, GPU.model_copy(update={"num_bytes": 16 * GIB})) == ""


def test_where_nothing_is_known_or_nothing_is_learned_nothing_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, base(tmp_path / "base"))
    tiny = GPU.model_copy(update={"num_bytes": 1})
    assert too_large(config, None) == ""
    gone = config_of(tmp_path, tmp_path / "nothing here")
    assert too_large(gone, tiny) == ""
    scripted = {"engines": [{"kind": "scripted", "name": "ada", "family": "alpha"}]}
    assert too_large(config_of(tmp_path, tmp_path, serving=scripted, training={"kind": "scripted"}), tiny) == ""


def test_engines_on_the_cpu_take_their_part_of_the_machine_and_those_on_gpus_do_not(tmp_path: Path) -> None:
    config = config_of(tmp_path, base(tmp_path / "base", num_layers=1))
    (engine,) = config.serving.engines
    num_weights = 4 * 4096 * 4096 + 3 * 4096 * 11_008
    assert engine_bytes(config) == 2 * num_weights + GIB
    on_gpu = config.serving.model_copy(update={"engines": (engine.model_copy(update={"num_gpus": 1.0}),)})
    assert engine_bytes(config.model_copy(update={"serving": on_gpu})) == 0


def test_machines_of_a_cluster_are_not_judged_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = config_of(tmp_path, base(tmp_path / "base", num_layers=1))
    here = room_of(config)
    assert here is not None
    assert here.device == "machine"
    ray = config.serving.ray.model_copy(update={"address": "10.0.0.5:6379"})
    assert room_of(config.model_copy(update={"serving": config.serving.model_copy(update={"ray": ray})})) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert room_of(config) is None


def test_a_run_stops_at_such_a_base_before_anything_starts_and_a_study_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    endless = {"kind": "lora", "max_length": 10**10}
    config = config_of(tmp_path, base(tmp_path / "base", num_layers=1), training=endless)
    with pytest.raises(ConfigError, match=r"on big \(0\.20 billion weights\) takes at least .* of 10000000000 tokens"):
        check(config)
    assert not config.run_dir.exists()
    check(config, trains=False)
