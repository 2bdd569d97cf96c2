from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evolve.audit.measured import measure_run, open_judgements, publish_reliability, read_reliability
from evolve.config import ConfigError
from evolve.evaluate import Judgements
from memory.ledger import publish_json
from memory.types import Evidence
from mesh.config import VoteConfig
from mesh.deliberate import deliberate
from mesh.types import Deliberation, Member, Outcome, Task
from serving.config import ScriptedSpec
from serving.fleet import Fleet
from serving.scripted_engine import ScriptedEngine
from serving.traces import write_traces

SKILLS = {"able": 0.9, "poor": 0.2}
MEMBERS = tuple(Member(name=name, engine=name, family=name) for name in SKILLS)


def harvested(run: Path, stage: str, num_tasks: int, step: str = "") -> None:
    """Judged proposals of one stage, as a run leaves them; `step`: under which name they were judged."""
    engine = Fleet({n: ScriptedEngine(ScriptedSpec(name=n, family=n, skill=skill)) for n, skill in SKILLS.items()})

    async def hold(number: int) -> Deliberation:
        task = Task(id=f"{stage}{number}", question=f"What is {number} + 5?", type="sum", answer_kind="number")
        return await deliberate(task, MEMBERS, engine, VoteConfig(samples_per_member=2), seed=1)

    async def all_of_them() -> list[Deliberation]:
        return [await hold(number) for number in range(num_tasks)]

    traces = asyncio.run(all_of_them())
    write_traces(run / "generation-0" / f"{stage}.parquet", traces)
    outcomes = [
        Outcome(
            task_id=trace.task.id, task_type="sum", answer=answer,
            correct=answer == str(int(trace.task.id.removeprefix(stage)) + 5),
            evidence=Evidence(verifier="exact", verdict="passed", digest="0" * 64),
        )
        for trace in traces for answer in {p.answer for p in trace.proposals}
    ]  # fmt: skip
    publish_json(
        run / "steps" / f"judge-{step or f'generation-0-{stage}'}-0123456789ab.json",
        Judgements(outcomes=tuple(outcomes)),
    )


def test_members_are_measured_on_the_harvest_of_a_run(tmp_path) -> None:
    harvested(tmp_path, "harvest", 40)
    measured = measure_run(tmp_path)
    able, poor = (measured.accuracy(name, "sum") for name in ("able", "poor"))
    assert able.num_judged == poor.num_judged == 80
    assert able.mean > 0.7 > 0.4 > poor.mean
    assert measured.best_member(MEMBERS, "sum") == MEMBERS[0]
    assert measured.calibration is not None


def test_the_gate_stays_sealed(tmp_path) -> None:
    harvested(tmp_path, "harvest", 10)
    before = measure_run(tmp_path)
    harvested(tmp_path, "gate", 10)
    assert measure_run(tmp_path) == before


@pytest.mark.parametrize(
    "step",
    ["generation-0-gate", "generation-0-gate-councils", "audit", "internalisation-held-out", "internalisation", "tune"],
)
def test_only_what_a_harvest_or_dev_judged_is_read(tmp_path, step: str) -> None:
    harvested(tmp_path, "harvest", 10, step=step)
    assert open_judgements(tmp_path) == {}
    with pytest.raises(ConfigError, match="judged proposals"):
        measure_run(tmp_path)


@pytest.mark.parametrize("step", ["harvest", "councils", "dev-again", "dev-rung-1", "dev-councils-again-before"])
def test_every_open_stage_is_read(tmp_path, step: str) -> None:
    harvested(tmp_path, "harvest", 10, step=f"generation-12-{step}")
    assert len(open_judgements(tmp_path)) > 10


def test_what_is_measured_survives_the_file(tmp_path) -> None:
    harvested(tmp_path, "harvest", 5)
    measured = measure_run(tmp_path)
    publish_reliability(tmp_path / "reliability.json", measured)
    assert read_reliability(tmp_path / "reliability.json") == measured


def test_a_run_without_judged_proposals_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="judged proposals"):
        measure_run(tmp_path)


@pytest.mark.parametrize("text", ["", "{}x", '{"answers": 3}'])
def test_a_file_that_is_no_reliability_is_refused(tmp_path, text: str) -> None:
    path = tmp_path / "reliability.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"evomesh reliability RUN"):
        read_reliability(path)
