"""Which speeds are assumed where nothing was measured: those of a machine that multiplies as this one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.config import RunConfig
from evolve.planning.machine import Machine, arithmetic_of, machine_of
from evolve.planning.rates import OTHER_CORES, UNLIKE, assumed_for
from tests.evolve.quick_run import quick_config

MODERN = "avx2 avx512f avx512_bf16 amx_tile amx_bf16"


def cpuinfo(directory: Path, flags: str) -> Path:
    path = directory / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags\t\t: fpu {flags}\n")
    return path


def vllm(directory: Path, **more: object) -> RunConfig:
    engine = {"kind": "vllm", "name": "v", "family": "f", "model": {"kind": "directory", "path": str(directory)}}
    settings = quick_config(directory).model_dump(mode="json")
    return RunConfig.model_validate(settings | {"serving": {"engines": [engine | more]}, "training": {"kind": "lora"}})


@pytest.mark.parametrize(
    ("flags", "arithmetic"),
    [
        (MODERN, "amx"),
        ("avx2 avx512f avx512_bf16", "bf16"),
        ("avx2 avx512f", "float32"),
        ("avx2", "float32"),
        ("sse2", None),
    ],
)
def test_the_arithmetic_follows_from_what_the_kernel_says_of_the_cpu(
    tmp_path: Path, flags: str, arithmetic: str | None
) -> None:
    assert arithmetic_of(cpuinfo(tmp_path, flags)) == arithmetic
    assert machine_of(vllm(tmp_path), cpuinfo(tmp_path, flags)).arithmetic == arithmetic
    assert arithmetic_of(tmp_path / "none") is None


def test_engines_told_to_compute_in_float32_are_as_slow_on_any_cpu(tmp_path: Path) -> None:
    assert machine_of(vllm(tmp_path, dtype="float32"), cpuinfo(tmp_path, MODERN)).arithmetic == "float32"


def test_nothing_is_known_of_gpus_of_servers_and_of_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cpuinfo(tmp_path, MODERN)
    assert machine_of(vllm(tmp_path, num_gpus=1), here) == Machine()
    server = {"kind": "remote", "name": "r", "family": "f", "base_url": "http://h/v1", "model": "m"}
    settings = vllm(tmp_path).model_dump(mode="json") | {"serving": {"engines": [server]}}
    assert machine_of(RunConfig.model_validate(settings), here) == Machine()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert machine_of(vllm(tmp_path), here) == Machine()


def test_a_model_whose_weights_are_not_here_is_not_like_those_that_were_timed(tmp_path: Path) -> None:
    assert not machine_of(vllm(tmp_path), cpuinfo(tmp_path, MODERN)).has_timed_models


def test_less_is_claimed_the_less_a_machine_is_like_those_that_were_timed(tmp_path: Path) -> None:
    config = vllm(tmp_path)
    timed = Machine(arithmetic="amx", num_cores=2, has_timed_models=True)
    amx, old, newer = (
        assumed_for(config, timed.model_copy(update={"arithmetic": kind})) for kind in ("amx", "float32", "bf16")
    )
    assert "with AMX" in amx.source
    assert "in float32" in old.source
    assert "bfloat16 instructions but no AMX" in newer.source
    assert old.rates.proposal_pace > amx.rates.proposal_pace > newer.rates.proposal_pace
    assert old.rates.trained_tokens_per_s < amx.rates.trained_tokens_per_s < newer.rates.trained_tokens_per_s
    assert 1.0 < amx.spread < old.spread == newer.spread
    assert assumed_for(config, timed.model_copy(update={"num_cores": 16})).spread == OTHER_CORES
    for unlike in (timed.model_copy(update={"has_timed_models": False}), Machine()):
        basis = assumed_for(config, unlike)
        assert basis.spread == basis.training_spread == UNLIKE
        assert "unlike those" in basis.sentence
    assert "unlike" not in amx.sentence
