"""Bad input to a whole run: each ends in a defined state, says why, and leaves the incumbents seated."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands.codes import code_of
from evolve.config import ConfigError, RunConfig
from evolve.governance.audit_log import AuditLog
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.judging.scorer import GymScorer
from evolve.judging.survey import survey
from evolve.lab import Lab
from evolve.lineage import Lineage
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem, ProblemsError, ReasoningGymVerifier
from evolve.progress import Silent, merged_times, read_times
from evolve.stopped import why_stopped
from memory.ledger import Entry, Ledger
from memory.types import Record
from mesh.types import Task
from serving.adapters import AdapterCorrupt, AdapterMissing
from tests.evolve.quick_run import ENGINES, Heard, Stop, quick_config, ran, steps_of, stop_at

DYING = "import json, os, sys\nprint(json.dumps({'ready': True}), flush=True)\nsys.stdin.readline()\nos._exit(3)"
HANGING = "import json, sys, time\nprint(json.dumps({'ready': True}), flush=True)\nsys.stdin.readline()\ntime.sleep(60)"


def config_of(directory: Path, **changes: Any) -> RunConfig:
    """One generation of two scripted engines on sums in a file; a second or two."""
    plain = {"recipes": {"min_rows": 1, "placebo": False}, "tracking": {"tensorboard": False}}
    return quick_config(
        directory, sizes={"train": 6, "dev": 8, "gate": 16, "audit": 3}, grid=(10, 8), **(plain | changes)
    )


def promoting(directory: Path, **changes: Any) -> RunConfig:
    """The same on enough problems for the gate to see that the specialists are better."""
    directory.mkdir(exist_ok=True)
    settings = {"recipes": {"min_rows": 1, "placebo": False}, "gate": {"required": ["budget"]}} | changes
    return quick_config(directory, sizes={"train": 12, "dev": 12, "gate": 60, "audit": 3}, **settings)


def seated_adapters(config: RunConfig) -> list[str]:
    last = Lineage(config.run_dir / "generations.jsonl", readonly=True).latest()
    assert last is not None
    return [member.adapter for member in last.seats if member.adapter]


def test_where_nothing_right_is_harvested_the_incumbents_stay_and_the_report_says_why(tmp_path: Path) -> None:
    unable = [engine | {"skill": 0.0} for engine in ENGINES]
    config = config_of(tmp_path, serving={"in_process": True, "engines": unable})
    data = ran(config)
    assert seated_adapters(config) == []
    reasons = [candidate.reason for candidate in data.candidates]
    assert reasons
    assert all("0 rows, fewer than min_rows (1)" in reason for reason in reasons)
    assert "no candidate" in data.generations[-1].note


def test_a_verifier_that_always_says_yes_stops_the_run_before_anything_is_asked(tmp_path: Path) -> None:
    tasks = tmp_path / "yes.jsonl"
    rows = [{"question": f"{a} + 30 =", "check": ".*", "type": "sum"} for a in range(100)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = {"kind": "file", "path": str(tasks), "verifier": {"kind": "regex"}, "answer_kind": "number"}
    config = config_of(tmp_path, problems=problems)
    for _ in range(2):  # the second time as the first: nothing was accepted of it
        with pytest.raises(ProblemsError, match="the verifier of sum accepts whatever is said") as caught:
            ran(config)
        found = code_of(caught.value)
        assert found is not None
        assert found.name == "EM-PROBLEMS"
    assert steps_of(config.run_dir) == ["problems"]
    assert not (config.run_dir / "generation-0").exists()


class _Items:
    """Problems of one split, as `survey` asks for them."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems

    def of(self, _: object) -> list[Problem]:
        return self._problems


class _Desk:
    """What `survey` needs of a lab."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.journal, self.observer = judge, self, Silent()
        self.panel = None

    async def heard_out(self, _stage: str, work: Callable[[], Any]) -> Any:
        return work()

    async def record(self, _name: str, _inputs: object, _model: type[Record], work: Callable[[], Any]) -> Any:
        return await work()


@pytest.mark.parametrize(
    ("child", "reason"), [(DYING, r"the scorer died \(exit status 3\)"), (HANGING, "did not answer within 1 s")]
)
def test_a_verifier_that_crashes_or_hangs_stops_the_run_before_anything_is_asked(child: str, reason: str) -> None:
    verifier = ReasoningGymVerifier(family="made_up", entry="{}")
    items = [
        Problem(
            task=Task(id=f"t{n}", question="q?", type="made_up"),
            reference=str(n),
            verifier=verifier,
            key=f"made_up|{n}",
        )
        for n in range(50)
    ]
    items += [  # another type, which can be judged, does not hide it
        Problem(task=Task(id=f"s{n}", question="q?"), reference=str(n), verifier=ExactVerifier(), key=f"s{n}")
        for n in range(3)
    ]
    with (
        Judge(scorer=GymScorer(timeout_s=0.2, command=[sys.executable, "-c", child])) as judge,
        pytest.raises(ProblemsError, match=f"none of 3 of made_up could be judged: .*{reason}"),
    ):
        asyncio.run(survey(_Desk(judge), _Items(items)))  # type: ignore[arg-type]


def test_without_dev_items_nobody_is_chosen_and_the_run_ends(tmp_path: Path) -> None:
    config = quick_config(tmp_path, sizes={"train": 12, "dev": 0, "gate": 24, "audit": 3})
    data = ran(config)
    assert seated_adapters(config) == []
    assert "there are no DEV problems to choose by" in data.generations[-1].note


def test_an_adapter_damaged_after_training_is_refused_and_the_incumbents_stay(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(Stop):
        ran(config, stop_at("train-generation-0"))
    for weights in (config.run_dir / "generation-0" / "training").rglob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    data = ran(config)
    assert seated_adapters(config) == []
    reasons = [candidate.reason for candidate in data.candidates]
    assert reasons
    assert all("the adapter is not the one that was trained" in reason for reason in reasons)


def test_an_admitted_adapter_that_is_damaged_is_taken_from_where_it_was_trained(tmp_path: Path) -> None:
    config, spared = (promoting(tmp_path / name) for name in "ab")
    for one in (config, spared):
        with pytest.raises(Stop):
            ran(one, stop_at("admit-generation-0"))
    for record in (config.run_dir / "adapters").glob("*/adapter.json"):
        record.write_bytes(b"\0" * 100)
        weights = record.with_name("adapter_model.safetensors")
        weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    assert ran(config).generations[-1].number == 1
    ran(spared)
    assert seated_adapters(config) == seated_adapters(spared) != []
    assert [path.name for path in (config.run_dir / "adapters").iterdir() if path.name.startswith(".admit")] == []


def test_an_admitted_adapter_without_its_weights_is_taken_from_where_it_was_trained(tmp_path: Path) -> None:
    config = promoting(tmp_path)
    with pytest.raises(Stop):
        ran(config, stop_at("admit-generation-0"))
    for weights in (config.run_dir / "adapters").glob("*/adapter_model.safetensors"):
        weights.unlink()
    assert ran(config).generations[-1].number == 1
    assert seated_adapters(config)


def test_a_candidate_of_which_no_whole_copy_is_left_is_out_and_the_generation_ends(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(Stop):
        ran(config, stop_at("admit-generation-0"))
    damage_every_copy(config)
    data = ran(config)
    assert data.generations[-1].number == 1
    assert seated_adapters(config) == []
    reasons = [candidate.reason for candidate in data.candidates]
    assert reasons
    assert all("its adapter cannot be used" in reason for reason in reasons)
    assert "refused_admission" in {event.kind for event in AuditLog(config.run_dir).events()}


def test_a_seated_specialist_of_which_no_whole_copy_is_left_stops_the_run_and_restored_it_goes_on(
    tmp_path: Path,
) -> None:
    config = promoting(tmp_path, num_generations=2)
    with pytest.raises(Stop):
        ran(config, stop_at("generation-1-harvest"))
    seated = seated_adapters(config)
    assert seated
    kept = damage_every_copy(config)
    with pytest.raises((AdapterMissing, AdapterCorrupt)) as caught:
        ran(config)
    assert code_of(caught.value) is not None
    assert str(caught.value) in why_stopped(config.run_dir)
    told = CliRunner().invoke(app, ["report", str(config.run_dir)])
    assert told.exit_code == 2
    assert "it came to a stop (Adapter" in " ".join(told.stderr.split())
    for path, content in kept.items():
        path.write_bytes(content)
    assert ran(config).generations[-1].number == 2
    assert why_stopped(config.run_dir) == ""


def test_an_unseated_candidate_without_a_whole_copy_does_not_stop_a_run_that_goes_on(tmp_path: Path) -> None:
    config = config_of(tmp_path, num_generations=2)
    with pytest.raises(Stop):
        ran(config, stop_at("generation-1-harvest"))
    assert seated_adapters(config) == []
    damage_every_copy(config)
    assert ran(config).generations[-1].number == 2


def test_a_parent_whose_record_cannot_be_read_is_told_of_and_is_no_parent_also_once_it_is_back(tmp_path: Path) -> None:
    config = config_of(tmp_path, num_generations=2)
    with pytest.raises(Stop):
        ran(config, stop_at("promote-generation-0"))
    kept = {path: path.read_bytes() for path in config.run_dir.glob("adapters/*/adapter.json")}
    damage_every_copy(config)
    for path in kept:
        path.unlink()
    heard = Heard()
    with pytest.raises(Stop):
        ran(config, stop_at("ranks-generation-0"), heard)
    gone = [line for line in heard.said if "is no parent any more, its adapter cannot be read" in line]
    assert len(gone) == len(kept) > 0
    for path, content in kept.items():
        path.write_bytes(content)
    assert ran(config).generations[-1].number == 2
    read = [json.loads(path.read_text()) for path in config.run_dir.glob("steps/ranks-generation-*.json")]
    assert {} in [one["by_adapter"] for one in read]


def test_a_run_that_is_read_back_starts_no_engines(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    ran(config)
    started = len(_times_of(config, "start engines"))
    (config.run_dir / "report.json").unlink()
    ran(config)
    assert len(_times_of(config, "start engines")) == started == 1


def damage_every_copy(config: RunConfig) -> dict[Path, bytes]:
    """All weights of the run, as they were."""
    kept = {path: path.read_bytes() for path in config.run_dir.rglob("*.safetensors")}
    for path, content in kept.items():
        path.write_bytes(content[:-8] + b"\0" * 8)
    return kept


def test_a_kill_between_a_stage_and_its_times_does_not_make_its_tokens_free(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(Stop):
        ran(config, stop_at("generation-0-harvest"))
    assert not _tokens_of(config, "generation 0 harvest")
    ran(config)
    assert _tokens_of(config, "generation 0 harvest") > 0


def test_the_time_of_a_stage_that_was_cut_off_is_kept_beside_that_of_its_end(tmp_path: Path) -> None:
    config = config_of(tmp_path)

    def stop(accepted: str) -> None:
        if accepted.startswith("generation-0-harvest:"):
            raise Stop(accepted)

    with pytest.raises(Stop):
        ran(config, stop)
    (part,) = _times_of(config, "generation 0 harvest")
    assert part.kind == "part"
    assert part.payload["seconds"] > 0.0
    ran(config)
    cut, ended = _times_of(config, "generation 0 harvest")
    assert (cut, ended.kind) == (part, "stage")
    merged = merged_times(read_times(config.run_dir))["generation 0 harvest"]
    assert merged.seconds == part.payload["seconds"] + ended.payload["seconds"]
    assert merged.output_tokens == ended.payload["output_tokens"] > 0


def test_what_goes_on_for_long_is_timed_part_by_part_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolve.times.PART_S", 0.02)
    config = config_of(tmp_path)

    async def work() -> float:
        with Judge() as judge:
            journal = Journal(config.run_dir)
            async with Lab(config, journal=journal, judge=judge, memory=None, observer=Silent()) as lab:
                started = time.perf_counter()
                with lab.times.timed("waiting"):
                    await asyncio.sleep(0.3)
                return time.perf_counter() - started

    took = asyncio.run(work())
    entries = _times_of(config, "waiting")
    assert {entry.kind for entry in entries[:-1]} == {"part"}
    assert entries[-1].kind == "stage"
    total = sum(entry.payload["seconds"] for entry in entries)
    assert total + 0.15 >= 0.3
    assert total <= took


def _times_of(config: RunConfig, stage: str) -> list[Entry]:
    entries = Ledger(config.run_dir / "times.jsonl", readonly=True).entries()
    return [entry for entry in entries if entry.payload["stage"] == stage]


def _tokens_of(config: RunConfig, stage: str) -> int:
    entries = Ledger(config.run_dir / "times.jsonl", readonly=True).entries()
    return sum(entry.payload["output_tokens"] for entry in entries if entry.payload["stage"] == stage)


def test_what_a_kill_left_half_written_is_swept_and_nothing_else(tmp_path: Path) -> None:
    half, today = ".a.json.12.0123abcd.tmp", tmp_path / "generation-0"
    left = [tmp_path / half, tmp_path / "steps" / half, today / half, today / "gate-councils" / half]
    others = [today / "notes.tmp", tmp_path / "arms" / "rft" / half, today / "training" / "g1-ada-own" / half]
    for path in [*left, *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Journal(tmp_path)
    assert [path for path in [*left, *others] if path.exists()] == others


def test_a_changed_configuration_is_refused_and_the_old_one_goes_on(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(Stop):
        ran(config, stop_at("judge-generation-0-harvest"))
    journal = (config.run_dir / "journal.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="another configuration"):
        ran(config.model_copy(update={"seed": 4}))
    assert (config.run_dir / "journal.jsonl").read_bytes() == journal
    assert ran(config).generations[-1].number == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield disk
    finally:
        # Lazily, since a ledger of the run that failed may still be open in its traceback.
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """A file that takes all room of the disk but `leave` bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(b"\0" * (shutil.disk_usage(disk).free - leave))
    return filler


@pytest.mark.parametrize("step", ["generation-0-harvest", "pair-generation-0", "judge-generation-0-dev-seats"])
def test_a_full_disk_stops_the_run_and_with_room_the_same_command_goes_on(
    tmp_path: Path, small_disk: Path, step: str
) -> None:
    config = config_of(tmp_path, run_dir=str(small_disk / "run"))
    whole = ran(config.model_copy(update={"run_dir": tmp_path / "whole"}))
    next(tmp_path.glob("*.gate-wear.jsonl")).unlink(missing_ok=True)

    def fill_at(accepted: str) -> None:
        if accepted.startswith(step) and not (small_disk / "filler").exists():
            fill(small_disk, leave=0)

    with pytest.raises((OSError, RuntimeError), match="No space left on device") as caught:
        ran(config, fill_at)
    found = code_of(caught.value)
    assert found is not None
    assert found.name == "EM-DISK-FULL"
    assert str(small_disk) in str(caught.value)
    (small_disk / "filler").unlink()
    data = ran(config)
    assert [one.note for one in data.generations] == [one.note for one in whole.generations]
    assert (config.run_dir / "journal.jsonl").read_bytes() == (tmp_path / "whole" / "journal.jsonl").read_bytes()


def test_a_disk_that_is_full_while_a_candidate_trains_quarantines_it_and_the_run_ends(
    tmp_path: Path, small_disk: Path
) -> None:
    """Training results lie on a small disk of their own, as shared storage does."""
    config = config_of(tmp_path)
    (config.run_dir / "generation-0").mkdir(parents=True)
    (config.run_dir / "generation-0" / "training").symlink_to(small_disk)
    fill(small_disk, leave=0)
    data = ran(config)
    assert seated_adapters(config) == []
    assert all("quarantined" in one.reason and os.strerror(errno.ENOSPC) in one.reason for one in data.candidates)
    assert "no candidate" in data.generations[-1].note
