"""A run that is killed again and again, right after durable steps, ends like one that never was."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evolve.cli import app
from evolve.config import ConfigError, RunConfig, dump_config
from evolve.gates.gate_wear import WearLedger
from evolve.journal import JournalError
from evolve.lineage import Generation, Lineage, LineageError
from evolve.progress import Silent
from evolve.report.data import ReportData
from evolve.report.view import Facts
from evolve.run import check_free, run
from memory.ledger import AlreadyLocked, exclusive_lock, read_record
from scripts.kill_run import differences, memory_head
from tests.evolve.quick_run import ENGINES, Heard, quick_config

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def small_config(directory: Path, **changes: Any) -> RunConfig:
    """With a memory, elites measured again, and whatever else is the default at the gate."""
    other = {"skill": 0.3, "adapter_gain": 0.65, "price_per_hour": 0.0}  # no price: costs are clock times
    free = [engine | other for engine in ENGINES]
    plain = {
        "serving": {"in_process": True, "engines": free},
        "memory": {"embedder": "hashed"},
        "gate": {"samples_per_member": 1},
    }
    return quick_config(
        directory, sizes={"train": 6, "dev": 8, "gate": 24, "audit": 3}, grid=(20, 11), **(plain | changes)
    )


def two_generations(directory: Path) -> RunConfig:
    """With all controls at the gate: placebos, one more sample in the place of each candidate, the incumbents anew."""
    gate = {"required": ["placebo", "budget"], "aa_every": 1, "samples_per_member": 1}
    return small_config(directory, num_generations=2, gate=gate, recipes={"min_rows": 1, "placebo": True})


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


def run_until_a_kill(config: RunConfig) -> None:
    """Dies by itself right after every second step of the journal, or after 40 deliberations."""
    steps = deliberations = 0

    def perhaps_die(step: str) -> None:
        nonlocal steps, deliberations
        if ":" in step:
            deliberations += 1
        else:
            steps += 1
        if steps == 2 or deliberations == 40:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(run(config, Silent(), on_commit=perhaps_die))


def holdings_in(path: Path) -> list[tuple[int, tuple[str, ...], int]]:
    """Of a GATE set, without the run's own directory, which tells runs of one name apart."""
    return [(held.generation, held.keys, held.num_finalists) for held in WearLedger(path).holdings]


def test_run_killed_all_along_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = two_generations(tmp_path / "whole"), two_generations(tmp_path / "killed")
    # One task file for both, since its path is part of the configuration.
    killed = killed.model_copy(update={"problems": whole.problems})
    assert in_child(lambda: run_whole(whole)) == 0
    # The file's GATE items are worn by whoever holds a gate on them; the second run is to find them as the first did.
    wear = next((tmp_path / "whole").glob("*.gate-wear.jsonl"))
    first_wear = holdings_in(wear)
    wear.unlink()
    kills = 0
    while (status := in_child(lambda: run_until_a_kill(killed))) == -signal.SIGKILL:
        kills += 1
        assert kills < 200
    assert status == 0
    assert kills > 30
    # What differs by itself, being clock times, is named and left out by `snapshot`.
    assert differences(whole.run_dir, killed.run_dir) == []
    config_text = (whole.run_dir / "config.yaml").read_text().replace(str(whole.run_dir), "RUN")
    assert config_text == (killed.run_dir / "config.yaml").read_text().replace(str(killed.run_dir), "RUN")
    assert memory_head(whole) == memory_head(killed)
    assert holdings_in(wear) == first_wear
    steps = {json.loads(line)["payload"]["step"] for line in (killed.run_dir / "journal.jsonl").open()}
    assert {"train-placebos-generation-0", "admit-placebos-generation-1"} <= steps
    assert {"conjunction-generation-0", "ruling-generation-0", "conjunction-generation-1", "audit-proposals"} <= steps
    assert "promoted" in (killed.run_dir / "audit.jsonl").read_text()


def test_finished_run_answers_at_once_and_asks_nobody(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    first = asyncio.run(run(config, Silent()))
    journal = (config.run_dir / "journal.jsonl").read_bytes()

    def refuse(step: str) -> None:
        raise AssertionError(f"{step} was repeated")

    assert asyncio.run(run(config, Silent(), on_commit=refuse)) == first
    assert (config.run_dir / "journal.jsonl").read_bytes() == journal


def facts_of(config: RunConfig) -> Facts:
    return read_record(config.run_dir / "facts.json", Facts)


def test_facts_tell_the_end_once_however_the_run_came_to_it(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    data = asyncio.run(run(config, Silent()))
    facts = facts_of(config)
    assert facts.finished_at is not None
    assert (facts.finished_at, facts.peak_memory_gib) == (data.finished_at, data.peak_memory_gib)
    (config.run_dir / "report.json").unlink()  # as a kill after the facts leaves it
    again = asyncio.run(run(config, Silent()))
    assert facts_of(config) == facts
    assert (again.finished_at, again.peak_memory_gib) == (facts.finished_at, facts.peak_memory_gib)


def test_a_run_under_way_and_one_begun_anew_tell_no_end(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    data = asyncio.run(run(config, Silent()))
    for name in ("journal.jsonl", "report.json"):
        (config.run_dir / name).unlink()

    def stop(step: str) -> None:
        raise RuntimeError(step)

    with pytest.raises(RuntimeError):
        asyncio.run(run(config, Silent(), on_commit=stop))
    facts = facts_of(config)
    assert (facts.finished_at, facts.peak_memory_gib) == (None, None)
    assert facts.started_at > data.started_at


def test_a_run_whose_journal_was_thrown_away_is_another_run_to_the_gate(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    asyncio.run(run(config, Silent()))
    for name in ("journal.jsonl", "report.json"):
        (config.run_dir / name).unlink()
    asyncio.run(run(config, Silent()))
    names = [held.name for held in WearLedger(next(tmp_path.glob("*.gate-wear.jsonl"))).holdings]
    assert len(names) == len(set(names)) == 2


def test_a_run_begun_anew_keeps_the_lineage_of_the_one_before_it_apart(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    asyncio.run(run(config, Silent()))
    # Another lineage than the one that this configuration comes to, as other weights would make it.
    foreign = other_lineage(config)
    for name in ("journal.jsonl", "report.json"):
        (config.run_dir / name).unlink()
    heard = Heard()
    asyncio.run(run(config, heard))
    lineage = Lineage(config.run_dir / "generations.jsonl", readonly=True)
    assert lineage.verify() == 2
    assert lineage.latest() != foreign
    aside = config.run_dir / "earlier" / "1"
    assert Lineage(aside / "generations.jsonl", readonly=True).latest() == foreign
    assert (aside / "audit.jsonl").is_file()
    assert heard.said[0] == f"an earlier run lay here; its generations and decisions are kept in {aside}"


def test_a_lineage_that_holds_other_generations_than_the_journal_stops_the_run(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    asyncio.run(run(config, Silent()))
    (config.run_dir / "report.json").unlink()
    other_lineage(config)
    with pytest.raises(LineageError, match="generation 1: the lineage holds another one"):
        asyncio.run(run(config, Silent()))


def other_lineage(config: RunConfig) -> Generation:
    """In the place of the run's own; its last generation."""
    path = config.run_dir / "generations.jsonl"
    first = Lineage(path, readonly=True).generations()[0]
    path.unlink()
    lineage, other = Lineage(path), Generation(number=1, seats=first.seats[:1], parent=first.digest)
    lineage.append(first)
    lineage.append(other)
    return other


def test_second_driver_on_one_run_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.run_dir.mkdir()
    with exclusive_lock(config.run_dir / "driver"), pytest.raises(AlreadyLocked):
        asyncio.run(run(config, Silent()))


def test_a_run_that_another_process_drives_is_refused_before_anything_is_told_of_it(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(dump_config(config))
    config.run_dir.mkdir()
    with exclusive_lock(config.run_dir / "driver"):
        done = CliRunner().invoke(app, ["evolve", str(path)])
    assert done.exit_code != 0
    assert "Plan of" not in done.output
    assert "is locked by" in done.output + str(done.exception)
    check_free(config.run_dir)
    check_free(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_another_configuration_is_refused_on_an_existing_run(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    asyncio.run(run(config, Silent()))
    with pytest.raises(ConfigError, match=r"another configuration \(seed was 3 and is 4\)"):
        asyncio.run(run(config.model_copy(update={"seed": 4}), Silent()))
    copy = tmp_path / "copy"
    shutil.copytree(config.run_dir, copy)
    with pytest.raises(ConfigError, match=r"this is the run of .*, and a run is carried on where it began"):
        asyncio.run(run(config.model_copy(update={"run_dir": copy}), Silent()))


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
