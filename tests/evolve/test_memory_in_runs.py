"""What a whole run does with memory: audits recall from a frozen copy, and an erase names what was trained."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from evolve.config import RunConfig
from evolve.progress import Silent
from evolve.run import run
from evolve.run_memory import open_memory
from memory.config import MemoryConfig
from memory.types import Kind
from serving.traces import read_traces
from tests.evolve.quick_run import quick_config


def small_config(home: Path, **memory: object) -> RunConfig:
    """Two scripted engines and two dozen sums that are all like one another."""
    tasks = home / "tasks.jsonl"
    rows = [{"question": f"{a} + {b} =", "answer": str(a + b), "type": "sum"} for a in range(11, 19) for b in (3, 4, 5)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = {"kind": "scripted", "adapter_gain": 0.5}
    return RunConfig.model_validate(
        {
            "name": "small",
            "run_dir": str(home / "run"),
            "seed": 3,
            "serving": {
                "in_process": True,
                "engines": [
                    {**engine, "name": "ada", "family": "alpha", "skill": 0.6},
                    {**engine, "name": "ben", "family": "beta", "skill": 0.5},
                ],
            },
            "problems": {"kind": "file", "path": str(tasks), "verifier": {"kind": "numeric"}, "answer_kind": "number"},
            "training": {"kind": "scripted"},
            "memory": {"embedder": "hashed", **memory},
            "harvest": {"problems_per_type": 4, "samples_per_member": 2, "councils_per_type": 2},
            "evaluation": {"audit_councils_per_type": 2},
            "recipes": {"min_rows": 1},
            "concurrency": 4,
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    directory = tmp_path_factory.mktemp("runs")
    config = small_config(directory, recall_for=["train", "audit"], directory=str(directory / "shared"))
    asyncio.run(run(config, Silent()))
    return config


def test_audit_councils_recall_what_train_taught_and_nothing_of_other_splits(finished: RunConfig) -> None:
    councils = list(read_traces(finished.run_dir / "audit" / "councils-before.parquet"))
    assert any(council.recalled for council in councils)
    frozen = finished.run_dir / "audit" / "memory"
    with open_memory(finished.run_dir, finished.memory.model_copy(update={"directory": frozen}), readonly=True) as held:
        for council in councils:
            for note in (*council.recalled, *council.withheld):
                found = held.get(note.experience_id)
                assert found is not None
                assert found.split == "train"


def test_councils_at_the_gate_recall_nothing_whatever_is_recalled_elsewhere(tmp_path: Path) -> None:
    memory = {"embedder": "hashed", "recall_for": ["train", "audit"]}
    gate = {"councils_per_type": 2, "samples_per_member": 1, "required": [], "aa_every": 0}
    config = quick_config(tmp_path, memory=memory, gate=gate)
    asyncio.run(run(config, Silent()))
    paths = sorted((config.run_dir / "generation-0" / "gate-councils").glob("*.parquet"))
    councils = [council for path in paths for council in read_traces(path)]
    assert councils
    assert not any(council.recalled or council.withheld for council in councils)


def test_without_being_asked_to_audits_recall_nothing(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    asyncio.run(run(config, Silent()))
    assert not any(c.recalled for c in read_traces(config.run_dir / "audit" / "councils-before.parquet"))
    assert not (config.run_dir / "audit" / "memory").exists()


def test_a_shared_memory_lies_where_the_configuration_says_and_holds_the_run_by_name(finished: RunConfig) -> None:
    assert not (finished.run_dir / "memory").exists()
    with open_memory(finished.run_dir, finished.memory, readonly=True) as memory:
        assert list(memory.stats().by_namespace) == ["default/default/small"]


def test_an_erase_names_the_datasets_and_adapters_that_were_made_from_it(finished: RunConfig, tmp_path: Path) -> None:
    from memory.upkeep import freeze

    with open_memory(finished.run_dir, finished.memory, readonly=True) as memory:
        freeze(memory, tmp_path / "copy")  # what other tests read stays whole
    with open_memory(finished.run_dir, MemoryConfig(embedder="hashed", directory=tmp_path / "copy")) as memory:
        solutions = [one for one in memory.search("+ =", limit=50) if one.kind is Kind.SOLUTION]
        erased = [memory.erase(one.experience_id) for one in solutions[:3]]
    kinds = {artefact.kind for erasure in erased for artefact in erasure.artefacts}
    assert kinds == {"dataset", "adapter"}
    adapters = {path.name for path in (finished.run_dir / "adapters").iterdir()}
    named = {a.id for erasure in erased for a in erasure.artefacts if a.kind == "adapter"}
    assert named <= adapters
