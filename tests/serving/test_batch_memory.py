"""A batch that recalls: from one frozen memory, the same on every start."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory.embed import HashedNgramEmbedder
from memory.store import Memory
from memory.types import Edge, Evidence, Experience, Kind, Namespace, Observation, Relation
from memory.upkeep import freeze
from mesh.config import VoteConfig
from mesh.types import Deliberation, Member
from serving.batch import run_batch
from serving.batch_types import BatchError
from serving.config import ScriptedSpec
from serving.recalling import Recaller
from serving.scripted_engine import ScriptedEngine
from serving.traces import read_traces
from tests.serving.batches import mesh_of, plan_of

OURS, THEIRS = Namespace(team="ours"), Namespace(team="theirs")
MEMBERS = (Member(name="ada", engine="alpha", family="script"),)


def solved(question: str, answer: str, namespace: Namespace) -> tuple[list[Observation], list[Edge]]:
    problem = Experience(kind=Kind.PROBLEM, text=question, task_type="sum", namespace=namespace)
    solution = Experience(
        kind=Kind.SOLUTION, text=f"{question}\nAnswer: {answer}", task_type="sum", namespace=namespace
    )
    passed = Evidence(verifier="exact", verdict="passed", digest="d")
    return [
        Observation(experience=problem, source="bob", episode="e"),
        Observation(experience=solution, source="bob", episode="e", evidence=passed),
    ], [Edge(source=problem.id, relation=Relation.RESOLVED_BY, target=solution.id)]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", HashedNgramEmbedder()) as opened:
        opened.remember(*solved("What is 1 + 5?", "6", OURS))
        opened.remember(*solved("What is 2 + 5?", "7", THEIRS))
        yield opened


def batch(tmp_path: Path, recaller: Recaller | None) -> list[Deliberation]:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(
        "".join(
            json.dumps({"id": f"t{n}", "question": f"What is {n} + 5?", "type": "sum", "answer_kind": "number"}) + "\n"
            for n in (1, 2)
        )
    )
    engine = ScriptedEngine(ScriptedSpec(name="alpha", family="script"))
    mesh = mesh_of(engine, MEMBERS, recaller=recaller)
    asyncio.run(run_batch(tasks, tmp_path / "out", plan_of(VoteConfig(), seed=1), mesh))
    return list(read_traces(tmp_path / "out" / "traces.parquet"))


def test_tasks_are_told_what_their_own_namespace_knows_and_nothing_of_another(tmp_path: Path, memory: Memory) -> None:
    known, foreign = batch(tmp_path, Recaller(memory, ["ours/*/*"], 3))
    assert [(note.text, note.same) for note in known.recalled] == [("What is 1 + 5?\nAnswer: 6", True)]
    # The other team's answer stays there; what is similar at home may come.
    assert all("7" not in note.text for note in foreign.recalled)


def test_the_copy_that_a_batch_reads_does_not_change_and_another_is_refused(tmp_path: Path, memory: Memory) -> None:
    freeze(memory, tmp_path / "frozen")
    memory.remember(*solved("What is 2 + 5?", "7", OURS))
    with Memory.open(tmp_path / "frozen", HashedNgramEmbedder(), readonly=True) as frozen:
        before = batch(tmp_path, Recaller(frozen, ["ours/*/*"], 3))
        assert batch(tmp_path, Recaller(frozen, ["ours/*/*"], 3)) == before
    assert all("7" not in note.text for note in before[1].recalled)
    with pytest.raises(BatchError, match="memory"):
        batch(tmp_path, Recaller(memory, ["ours/*/*"], 3))
