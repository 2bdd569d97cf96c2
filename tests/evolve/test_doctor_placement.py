"""What the doctor says about where engines would stand."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evolve.planning.doctor_placement import THIS_MACHINE, check_engine, check_placement, this_machine, weights_of
from serving.config import DirectoryModel, FleetConfig, PackagedModel, ScriptedSpec, ServingConfig, VllmSpec
from serving.fleet_record import FleetRecord, publish_fleet, record_path
from serving.placement import GIB, Room, plan
from serving.processes import mark_of

ADA = ScriptedSpec(name="ada", family="alpha", replicas=2)


def vllm(**settings: object) -> VllmSpec:
    model = PackagedModel(name="gemma3-270m")
    return VllmSpec.model_validate({"name": "big", "family": "f", "model": model} | settings)


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def config_of(directory: Path, *engines: ScriptedSpec | VllmSpec, **settings: object) -> ServingConfig:
    return ServingConfig.model_validate(
        {"engines": engines, "fleet": FleetConfig(directory=directory), "model_store": directory / "models"} | settings
    )


def test_engines_on_this_machine_are_shown_with_what_they_need(tmp_path: Path) -> None:
    (finding,) = check_placement(config_of(tmp_path, ADA))
    assert (finding.name, finding.level) == ("placement ada", "ok")
    assert finding.found == f"replica 0 on {THIS_MACHINE}: no GPU; replica 1 on {THIS_MACHINE}: no GPU"


def test_what_does_not_fit_says_why_and_what_to_do(tmp_path: Path) -> None:
    fine, bad = check_placement(config_of(tmp_path, ADA, ScriptedSpec(name="ben", family="b", node="far")))
    assert fine.level == "ok"
    assert (bad.level, bad.found) == ("fail", "1 of 1 replicas fit nowhere")
    assert "no node offers the resource 'far'" in bad.advice


def test_nodes_of_a_cluster_are_told_apart() -> None:
    rooms = (Room(id="0123456789", address="10.0.0.1"), Room(id="abcdef0123", address="10.0.0.2"))
    finding = check_engine("ada", plan([ADA], rooms), rooms)
    assert finding.found == "replica 0 on 10.0.0.1 (01234567): no GPU; replica 1 on 10.0.0.2 (abcdef01): no GPU"


def test_engines_in_process_need_no_place(tmp_path: Path) -> None:
    (finding,) = check_placement(config_of(tmp_path, ADA, in_process=True))
    assert (finding.level, finding.found) == ("ok", "all engines in the process of each command")


def test_a_fleet_that_is_up_is_compared_with_the_configuration(tmp_path: Path) -> None:
    config = config_of(tmp_path, ADA)
    record = FleetRecord(
        id="f",
        state="ready",
        host=socket.gethostname(),
        pid=os.getpid(),
        process_mark=mark_of(os.getpid()) or "",
        engines=(ADA,),
        adapter_root=tmp_path,
        started_at=datetime.now(UTC),
    )
    publish_fleet(config.fleet, record)
    (finding,) = check_placement(config)
    assert finding.level == "ok"
    assert finding.found.endswith("ready; it has these engines")
    (other,) = check_placement(config_of(tmp_path, ADA.model_copy(update={"skill": 0.1})))
    assert other.level == "fail"
    assert "skill is 0.5 there and 0.1 here" in other.advice


def test_a_record_nobody_can_read_is_a_finding(tmp_path: Path) -> None:
    config = config_of(tmp_path, ADA)
    record_path(config.fleet).write_text("[]")
    (finding,) = check_placement(config)
    assert (finding.level, finding.found) == ("fail", "not known")
    assert "expected the record of a fleet" in finding.advice


def test_this_machine_has_the_gpus_that_the_driver_shows_and_the_memory_of_the_smallest() -> None:
    room = this_machine(["NVIDIA H200, 143771 MiB", "NVIDIA A10, 23028 MiB"])
    assert (room.num_gpus, room.free_gpus, room.gpu_bytes) == (2, 2, 23028 * 2**20)
    assert this_machine([]).gpu_bytes is None
    assert (room.free_bytes or 0) > 0


def test_weights_on_this_machine_count_and_missing_ones_do_not(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "a.safetensors").write_bytes(b"x" * 100)
    (model / "b.safetensors").write_bytes(b"x" * 50)
    here = vllm(model=DirectoryModel(path=model))
    assert weights_of(config_of(tmp_path, here)) == {"big": 150}
    assert weights_of(config_of(tmp_path, vllm())) == {}
    assert weights_of(config_of(tmp_path, vllm(model=DirectoryModel(path=tmp_path / "none")))) == {}


def test_memory_that_is_not_there_is_said_in_gib(tmp_path: Path) -> None:
    rooms = (Room(id=THIS_MACHINE, free_bytes=4 * GIB),)
    finding = check_engine("big", plan([vllm(kv_cache_gib=3)], rooms), rooms)
    assert "needs about 5.0 GiB of memory, the most that is free on a node is 4.0 GiB" in finding.advice
