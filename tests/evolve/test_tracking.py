"""Numbers for other tools: event files that TensorBoard reads, and a clear word where a library is missing."""

from __future__ import annotations

import asyncio
import importlib.util
import struct
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from evolve.config import ConfigError, TrackingConfig
from evolve.progress import Silent
from evolve.report.data import ReportData
from evolve.report.event_file import Scalar, crc32c, event_file
from evolve.report.tracking import check_tracking, scalars, track
from evolve.run import run
from tests.evolve.test_evolution import config_of


@pytest.fixture(scope="module")
def evolved() -> ReportData:
    spec = importlib.util.spec_from_file_location("evolved_run", Path(__file__).with_name("evolved_run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: ReportData = module.evolved()
    return made


def records(data: bytes) -> Iterator[bytes]:
    """The records of an event file, their check sums compared as TensorBoard does."""

    def unmasked(found: bytes) -> int:
        rotated = struct.unpack("<I", found)[0] - 0xA282EAD8 & 0xFFFFFFFF
        return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF

    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert unmasked(data[8:12]) == crc32c(data[:8])
        body, data = data[12 : 12 + length], data[12 + length :]
        assert unmasked(data[:4]) == crc32c(body)
        data = data[4:]
        yield body


def test_check_sums_match_published_values() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_an_event_file_holds_its_version_then_every_number() -> None:
    first, second = records(event_file([Scalar("a/b", 300, 0.5)], 2.0))
    assert first == b"\x09" + struct.pack("<d", 2.0) + b"\x1a\x0dbrain.Event:2"
    value = b"\x0a\x03a/b\x15" + struct.pack("<f", 0.5)
    assert second == b"\x09" + struct.pack("<d", 2.0) + b"\x10\xac\x02" + b"\x2a\x0c\x0a\x0a" + value


def test_tensorboard_itself_reads_the_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not among the requirements")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "events.out.tfevents.1.evomesh").write_bytes(event_file([Scalar("a", 0, 0.25), Scalar("a", 3, 1.5)], 9))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("a")] == [(0, 0.25), (3, 1.5)]


def test_a_run_leaves_one_event_file_that_is_the_same_every_time(evolved: ReportData, tmp_path: Path) -> None:
    track(evolved, tmp_path, TrackingConfig())
    (path,) = (tmp_path / "tensorboard").iterdir()
    content = path.read_bytes()
    track(evolved, tmp_path, TrackingConfig())
    assert path.read_bytes() == content
    assert len(list(records(content))) == 1 + len(list(scalars(evolved)))


def test_a_generation_leaves_its_file_when_it_ends_and_the_finished_run_one_for_all(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    left: list[set[str]] = []

    class Watching(Silent):
        def stage(self, name: str, total: int, unit: str = "") -> None:
            left.append({path.name.split(".", 4)[4] for path in (tmp_path / "run" / "tensorboard").glob("events*")})

    data = asyncio.run(run(config, Watching()))
    assert next(sorted(names) for names in left if names) == ["generation-0.evomesh"]
    assert left[-1] == {f"generation-{number}.evomesh" for number in range(config.num_generations)}
    (path,) = (config.run_dir / "tensorboard").iterdir()
    tags = {one.tag for one in scalars(data)}
    assert {tag.split("/")[0] for tag in tags} >= {"accuracy", "gate", "cost", "data", "loss"}
    assert len(list(records(path.read_bytes()))) == 1 + len(list(scalars(data)))


def test_numbers_cover_accuracy_gate_variety_cost_data_and_loss(evolved: ReportData) -> None:
    found = {one.tag for one in scalars(evolved)}
    assert {name.split("/")[0] for name in found} >= {
        "accuracy", "gate", "diversity", "emergence", "pass_at_k", "cost", "data", "loss",
    }  # fmt: skip
    assert "accuracy/mesh_s first-round vote" in found


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_missing_library_is_named_before_anything_is_spent() -> None:
    check_tracking(TrackingConfig())
    with pytest.raises(ConfigError, match="mlflow is not installed; run 'pip install mlflow'"):
        check_tracking(TrackingConfig(mlflow="file:///tmp/x"))


class Trackio(ModuleType):
    """Stands in for trackio, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = ModuleSpec("trackio", None)  # so that it is found like an installed one
        self.told: list[object] = []

    def init(self, **settings: object) -> None:
        self.told.append(settings)

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((values, step))

    def finish(self) -> None:
        self.told.append("finished")


def test_trackio_is_told_every_number(evolved: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = Trackio()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    track(evolved, tmp_path, TrackingConfig(tensorboard=False, trackio="nights"))
    assert trackio.told[0] == {"project": "nights", "name": evolved.run}
    assert trackio.told[-1] == "finished"
    assert len(trackio.told) == 2 + len(list(scalars(evolved)))
    assert not (tmp_path / "tensorboard").exists()
