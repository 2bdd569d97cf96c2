"""What a serving configuration accepts, and how it refuses the rest."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from serving.config import DirectoryModel, EngineSpec, HubModel, ModelSource, PackagedModel, ServingConfig, VllmSpec

SPEC: TypeAdapter[EngineSpec] = TypeAdapter(EngineSpec)
SOURCE: TypeAdapter[ModelSource] = TypeAdapter(ModelSource)
VLLM = {"kind": "vllm", "name": "smol", "family": "smollm2", "model": {"kind": "packaged", "name": "gemma3-270m"}}
SCRIPTED = {"kind": "scripted", "name": "a", "family": "f"}


REMOTE = SCRIPTED | {"kind": "remote", "base_url": "http://h/v1", "model": "m"}


@pytest.mark.parametrize("spec", [VLLM, SCRIPTED, REMOTE])
def test_every_engine_may_have_a_price_and_say_what_its_member_is_for(spec: dict[str, Any]) -> None:
    plain = SPEC.validate_python(spec)
    assert (plain.price_per_hour, plain.persona, plain.tiers, plain.skills) == (None, "", (), ())
    seat = {"price_per_hour": 0.5, "persona": "Doubt first.", "tiers": ["reflection"], "skills": ["chain_sum"]}
    read = SPEC.validate_python(spec | seat)
    assert (read.price_per_hour, read.persona) == (0.5, "Doubt first.")
    assert (read.tiers, read.skills) == (("reflection",), ("chain_sum",))
    for wrong in ({"price_per_hour": -1}, {"tiers": ["shallow"]}, {"skills": "chain_sum"}):
        with pytest.raises(ValidationError):
            SPEC.validate_python(spec | wrong)


@pytest.mark.parametrize("spec", [VLLM, SCRIPTED, REMOTE])
def test_every_kind_of_engine_is_read_by_its_tag_and_written_back_equal(spec: dict[str, Any]) -> None:
    read = SPEC.validate_python(spec)
    assert read.kind == spec["kind"]
    assert SPEC.validate_json(SPEC.dump_json(read)) == read


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"kind": "packaged", "name": "gemma3-270m"}, PackagedModel),
        ({"kind": "directory", "path": "/models/x"}, DirectoryModel),
        ({"kind": "hub", "repo": "Qwen/Qwen3-0.6B", "revision": "main"}, HubModel),
    ],
)
def test_every_model_source_is_read_by_its_tag(source: dict[str, Any], expected: type) -> None:
    assert isinstance(SOURCE.validate_python(source), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"name": "Not a name"},
        {"max_model_len": 10},
        {"kv_cache_gib": float("nan")},
        {"kv_cache_gib": 0},
        {"cpu_cores": "0; rm"},
        {"max_lora_rank": 17},
        {"max_loras": 20, "max_cpu_loras": 4},
        {"tensor_parallel": 2},
        {"model": {"kind": "packaged", "name": "gpt"}},
        {"model": {"kind": "hub", "repo": "../../etc", "revision": "main"}},
    ],
)
def test_impossible_engines_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SPEC.validate_python(VLLM | change)


@pytest.mark.parametrize("cores", ["0", "0-1", "0,2-3", None])
def test_core_lists_are_accepted(cores: str | None) -> None:
    spec = SPEC.validate_python(VLLM | {"cpu_cores": cores})
    assert isinstance(spec, VllmSpec)
    assert spec.cpu_cores == cores


def test_tensor_parallel_engines_ask_for_their_gpus() -> None:
    with pytest.raises(ValidationError, match="tensor_parallel=2 needs num_gpus=2"):
        SPEC.validate_python(VLLM | {"tensor_parallel": 2, "num_gpus": 1})
    assert SPEC.validate_python(VLLM | {"tensor_parallel": 2, "num_gpus": 2})


def test_a_key_is_never_a_configuration_value() -> None:
    with pytest.raises(ValidationError, match="api_key"):
        SPEC.validate_python(REMOTE | {"api_key": "s"})


def test_engine_names_are_unique() -> None:
    with pytest.raises(ValidationError, match="must be unique, got a more than once"):
        ServingConfig.model_validate({"engines": [SCRIPTED, SCRIPTED]})
    with pytest.raises(ValidationError):
        ServingConfig.model_validate({"engines": []})


def test_vllm_never_runs_inside_the_driver() -> None:
    with pytest.raises(ValidationError, match="scripted and remote engines only, got vllm: smol"):
        ServingConfig.model_validate({"engines": [VLLM], "in_process": True})


def test_reading_the_configuration_imports_no_heavy_library() -> None:
    heavy = ["torch", "vllm", "ray", "faiss", "numpy", "transformers", "httpx"]
    code = f"import sys, serving.config; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
