"""A run that is killed after every durable step ends like one that never was."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from evolve.config import ConfigError, RunConfig
from evolve.journal import JournalError, timeless
from evolve.progress import Silent
from evolve.report.data import ReportData
from evolve.run import run
from evolve.run_memory import open_memory
from memory.ledger import AlreadyLocked, exclusive_lock
from serving.traces import read_traces

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

TIMES = {"times.jsonl", "facts.json", "report.html", "driver.lock"}


def small_config(directory: Path) -> RunConfig:
    """Two scripted engines, forty sums in a file: a whole run in half a second."""
    tasks = directory / "tasks.jsonl"
    rows = [
        {"question": f"{a} + {b} =", "answer": str(a + b), "type": "sum"} for a in range(11, 19) for b in range(30, 35)
    ]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunConfig.model_validate(
        {
            "name": "small",
            "run_dir": str(directory / "run"),
            "seed": 3,
            "serving": {
                "in_process": True,
                "engines": [
                    {"kind": "scripted", "name": "ada", "family": "alpha", "skill": 0.4, "adapter_gain": 0.5},
                    {"kind": "scripted", "name": "ben", "family": "beta", "skill": 0.3, "adapter_gain": 0.6},
                ],
            },
            "problems": {"kind": "file", "path": str(tasks), "verifier": {"kind": "numeric"}, "answer_kind": "number"},
            "training": {"kind": "scripted"},
            "memory": {"embedder": "hashed"},
            "harvest": {"problems_per_type": 4, "samples_per_member": 2, "councils_per_type": 2},
            "evaluation": {"audit_councils_per_type": 1},
            "recipes": {"min_rows": 1},
            "concurrency": 4,
        }
    )


def in_child(work: Callable[[], None]) -> int:
    """Exit status of `work` in a forked process; negative: the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_whole(config: RunConfig) -> None:
    asyncio.run(run(config, Silent()))


def run_until_next_step(config: RunConfig) -> None:
    def die(_: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(run(config, Silent(), on_commit=die))


def snapshot(directory: Path) -> dict[str, object]:
    """Every file of a run with its content; times left out, databases and Parquet read."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if not path.is_file() or path.name in TIMES or name.startswith("memory/") or path.suffix == ".lock":
            continue
        if path.suffix == ".parquet":
            found[name] = timeless([trace.model_dump(mode="json") for trace in read_traces(path)])
        elif path.name in ("training_report.json", "report.json") or name.startswith("steps/"):
            found[name] = without_times(json.loads(path.read_bytes()))
        else:
            found[name] = path.read_bytes()
    return found


def without_times(value: object) -> object:
    if isinstance(value, dict):
        timed = {"started_at", "finished_at", "stages", "hot_load_ms", "config", "peak_memory_gib"}
        return {key: without_times(item) for key, item in value.items() if key not in timed and "seconds" not in key}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def memory_head(config: RunConfig) -> str:
    with open_memory(config.run_dir, config.memory, readonly=True) as memory:
        return memory.stats().head


def test_run_killed_after_every_step_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = small_config(tmp_path / "whole"), small_config(tmp_path / "killed")
    # One task file for both, since its path is part of the configuration.
    killed = killed.model_copy(update={"problems": whole.problems})
    assert in_child(lambda: run_whole(whole)) == 0
    kills = 0
    while (status := in_child(lambda: run_until_next_step(killed))) == -signal.SIGKILL:
        kills += 1
        assert kills < 2000
    assert status == 0
    assert kills > 50
    config_text = (whole.run_dir / "config.yaml").read_text().replace(str(whole.run_dir), "RUN")
    assert config_text == (killed.run_dir / "config.yaml").read_text().replace(str(killed.run_dir), "RUN")
    first, second = snapshot(whole.run_dir), snapshot(killed.run_dir)
    first.pop("config.yaml"), second.pop("config.yaml")
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert memory_head(whole) == memory_head(killed)


def test_finished_run_answers_at_once_and_asks_nobody(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    first = asyncio.run(run(config, Silent()))
    journal = (config.run_dir / "journal.jsonl").read_bytes()

    def refuse(step: str) -> None:
        raise AssertionError(f"{step} was repeated")

    assert asyncio.run(run(config, Silent(), on_commit=refuse)) == first
    assert (config.run_dir / "journal.jsonl").read_bytes() == journal


def test_second_driver_on_one_run_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.run_dir.mkdir()
    with exclusive_lock(config.run_dir / "driver"), pytest.raises(AlreadyLocked):
        asyncio.run(run(config, Silent()))


def test_another_configuration_is_refused_on_an_existing_run(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    asyncio.run(run(config, Silent()))
    with pytest.raises(ConfigError, match="another configuration"):
        asyncio.run(run(config.model_copy(update={"seed": 4}), Silent()))


def test_changed_result_of_an_accepted_step_is_noticed(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    asyncio.run(run(config, Silent()))
    (config.run_dir / "report.json").unlink()
    step = next((config.run_dir / "steps").glob("judge-generation-0-harvest-*.json"))
    step.write_text(step.read_text().replace('"correct": false', '"correct": true', 1))
    with pytest.raises(JournalError, match="changed after it was accepted"):
        asyncio.run(run(config, Silent()))


def test_report_says_what_was_promoted_or_why_nothing_was(tmp_path: Path) -> None:
    data: ReportData = asyncio.run(run(small_config(tmp_path), Silent()))
    assert data.generations[-1].number == 1
    assert data.generations[-1].note
    assert data.overall is not None
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
