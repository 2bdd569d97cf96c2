"""What a run recalls before a stage and remembers after it: journalled, within its namespace, and never twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evolve.config import RunConfig
from evolve.evaluate import Judgements
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Ask, Lab
from evolve.problems.config import ExactVerifier
from evolve.problems.types import Problem
from evolve.progress import Silent
from evolve.remembering import recall_all, reflect_all, remember, remember_patterns
from memory.config import MemoryConfig
from memory.embed import HashedNgramEmbedder
from memory.store import Memory
from memory.types import Cue, Kind, Level, Recall
from mesh.config import VoteConfig
from mesh.types import Deliberation, Member, Task

MEMBERS = tuple(Member(name=name, engine=name, family=name) for name in ("ada", "ben"))


def _config(directory: Path, **memory: object) -> RunConfig:
    tasks = directory / "tasks.jsonl"
    tasks.write_text(json.dumps({"question": "1 + 1 =", "answer": "2"}) + "\n")
    engines = [{"kind": "scripted", "name": m.name, "family": m.family, "skill": 1.0} for m in MEMBERS]
    return RunConfig.model_validate(
        {
            "name": "small",
            "run_dir": str(directory / "run"),
            "serving": {"in_process": True, "engines": engines},
            "problems": {"kind": "file", "path": str(tasks), "verifier": {"kind": "numeric"}},
            "training": {"kind": "scripted"},
            "memory": {"embedder": "hashed", **memory},
        }
    )


@contextmanager
def _lab(directory: Path, **memory: object) -> Iterator[Lab]:
    config = _config(directory, **memory)
    with Memory.open(directory / "memory", HashedNgramEmbedder(), config=config.memory) as store, Judge() as judge:
        yield Lab(config, journal=Journal(config.run_dir), judge=judge, memory=store, observer=Silent())


def _problem(first: int, second: int = 30) -> Problem:
    question = f"{first} + {second} ="
    task = Task(id=f"sum-{first}-{second}", question=question, type="sum", answer_kind="number")
    return Problem(task=task, reference=str(first + second), verifier=ExactVerifier(), key=task.id)


async def _held(lab: Lab, stage: str, problems: list[Problem], recalled=None) -> tuple[list[Deliberation], Judgements]:
    asks = [
        Ask(key=p.task.id, task=p.task, members=MEMBERS, protocol=VoteConfig(), seed=1,
            recalled=recalled.of(p) if recalled else Recall())
        for p in problems
    ]  # fmt: skip
    held = await lab.hold(stage, lab.directory / f"{stage}.parquet", asks)
    return held, await lab.judge_all(stage, held, problems)


def _run(lab: Lab, work) -> object:
    async def whole() -> object:
        async with lab:
            return await work(lab)

    return asyncio.run(whole())


def test_what_one_stage_remembers_the_next_recalls_and_its_use_is_stored(tmp_path: Path) -> None:
    problems = [_problem(11), _problem(12)]

    async def work(lab: Lab) -> None:
        held, judged = await _held(lab, "first", problems)
        written = await remember(lab, "first", held, judged)
        assert (written.num_observations, written.num_uses) == (8, 0)
        recalled = await recall_all(lab, "second", problems)
        for problem in problems:
            note = recalled.of(problem).shown[0]
            assert (note.kind, note.same, note.level) == (Kind.SOLUTION, True, Level.VERIFIED)
            assert note.text == f"{problem.task.question}\nAnswer: {problem.reference}"
        held, judged = await _held(lab, "second", problems, recalled)
        written = await remember(lab, "second", held, judged)
        assert (written.num_observations, written.num_uses) == (0, 2)
        stats = lab.memory.stats()
        assert (stats.num_uses, stats.by_namespace) == (2, {"default/default/small": 8})
        for deliberation in held:
            standing = lab.memory.standing(deliberation.recalled[0].experience_id)
            assert (standing.num_passed, standing.num_uses) == (1, 1)

    with _lab(tmp_path, holdout_share=0.0) as lab:
        _run(lab, work)


def test_what_is_held_out_is_recalled_again_alike_and_nobody_reads_it(tmp_path: Path) -> None:
    problems = [_problem(n) for n in range(11, 19)]

    async def work(lab: Lab) -> None:
        held, judged = await _held(lab, "first", problems)
        await remember(lab, "first", held, judged)
        recalled = await recall_all(lab, "second", problems)
        assert any(recalled.of(p).withheld for p in problems)
        assert any(recalled.of(p).shown for p in problems)
        cues = [
            Cue(
                text=p.task.question, namespaces=lab.reads, task_type="sum", splits=("train",),
                episode=f"default/default/small/second/{p.task.id}", limit=2,
            )
            for p in problems
        ]  # fmt: skip
        assert [lab.memory.recall(cue) for cue in cues] == [recalled.of(p) for p in problems]
        held, judged = await _held(lab, "second", problems, recalled)
        assert [(d.recalled, d.withheld) for d in held] == [
            (recalled.of(p).shown, recalled.of(p).withheld) for p in problems
        ]
        await remember(lab, "second", held, judged)
        assert lab.memory.stats().num_uses == len(problems)

    with _lab(tmp_path, holdout_share=0.5) as lab:
        _run(lab, work)


def test_a_recall_is_journalled_so_that_a_continued_run_recalls_the_same(tmp_path: Path) -> None:
    problems = [_problem(11)]

    async def first(lab: Lab) -> None:
        assert (await recall_all(lab, "councils", problems)).of(problems[0]) == Recall()
        held, judged = await _held(lab, "later", problems)
        await remember(lab, "later", held, judged)

    async def again(lab: Lab) -> None:
        assert (await recall_all(lab, "councils", problems)).of(problems[0]) == Recall()
        assert (await recall_all(lab, "others", problems)).of(problems[0]) != Recall()

    for work in (first, again):
        with _lab(tmp_path, holdout_share=0.0) as lab:
            _run(lab, work)


def test_remembering_again_after_a_lost_journal_changes_nothing(tmp_path: Path) -> None:
    problems = [_problem(n) for n in (11, 12, 13)]
    heads = []

    async def work(lab: Lab) -> None:
        held, judged = await _held(lab, "first", problems)
        await remember(lab, "first", held, judged)
        recalled = await recall_all(lab, "second", problems)
        held, judged = await _held(lab, "second", problems, recalled)
        await remember(lab, "second", held, judged)
        await remember_patterns(lab, "second", held, judged)
        heads.append(lab.memory.stats().head)
        lab.journal = Journal(tmp_path / "another journal")
        await remember(lab, "first", held, judged)
        await remember(lab, "second", held, judged)
        await remember_patterns(lab, "second", held, judged)
        heads.append(lab.memory.stats().head)

    with _lab(tmp_path, holdout_share=0.0) as lab:
        _run(lab, work)
    assert heads[0] == heads[1]


def test_patterns_of_a_stage_are_verified_by_several_problems(tmp_path: Path) -> None:
    problems = [_problem(n) for n in (11, 12, 13)]

    async def work(lab: Lab) -> None:
        held, judged = await _held(lab, "first", problems)
        written = await remember_patterns(lab, "first", held, judged)
        assert written.num_observations == 3
        (found,) = lab.memory.search("The right answer is one whole number.", [str(lab.namespace)], limit=1)
        assert (found.kind, found.level) == (Kind.PATTERN, Level.VERIFIED)

    with _lab(tmp_path) as lab:
        _run(lab, work)


def test_members_reflect_only_where_the_configuration_says_so_and_drops_are_kept_as_data(tmp_path: Path) -> None:
    problems = [_problem(11)]

    async def work(lab: Lab) -> tuple[int, int]:
        held, judged = await _held(lab, "first", problems)
        written = await reflect_all(lab, "first", held, judged)
        assert written == await reflect_all(lab, "first", held, judged)
        return len(written.kept), len(written.dropped)

    (tmp_path / "on").mkdir()
    with _lab(tmp_path) as lab:
        assert _run(lab, work) == (0, 0)
    with _lab(tmp_path / "on", reflect=True) as lab:
        kept, dropped = _run(lab, work)
        assert kept + dropped == 1


@pytest.mark.parametrize("limit", [0, 1])
def test_a_run_without_memory_or_with_a_limit_of_none_recalls_and_remembers_nothing(tmp_path: Path, limit: int) -> None:
    problems = [_problem(11)]

    async def work(lab: Lab) -> None:
        if limit:
            lab.memory = None
        held, judged = await _held(lab, "first", problems)
        await remember(lab, "first", held, judged)
        await remember_patterns(lab, "first", held, judged)
        assert (await recall_all(lab, "second", problems)).of(problems[0]) == Recall()

    with _lab(tmp_path, recall_limit=limit) as lab:
        _run(lab, work)


def test_the_defaults_hold_some_recalls_out() -> None:
    assert MemoryConfig().holdout_share > 0.0
