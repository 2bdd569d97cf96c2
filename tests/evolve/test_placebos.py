"""Twins of what goes to the gate: who has one, what it is made of, and why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from evolve.candidate import Candidate
from evolve.gates.arrangements import Arrangement
from evolve.lab import Lab
from evolve.learning import placebos as module
from evolve.learning.placebos import Placebos, breed_placebos, twin_job
from evolve.learning.recipe_rows import PairSelection, PreferenceRow, RowSelection, TrainingRow
from evolve.learning.recipes import Recipe
from evolve.learning.taught import Taught
from evolve.training.config import MergeTraining, RecipesConfig, ScriptedTraining
from evolve.training.job import TrainingJob, TrainingReport, quarantined
from evolve.training.stage import admit_jobs, job_of, train_jobs
from mesh.types import Member, Message, Part
from tests.evolve.small_mesh import ADA, BEN, small_lab


def rows(name: str) -> tuple[TrainingRow, ...]:
    return tuple(
        TrainingRow(
            task_id=f"{name}-{number}",
            task_type="sum",
            messages=(Message(role="user", parts=(Part(text=f"{number}?"),)),),
            completion=f"{name} says {number}",
        )
        for number in range(6)
    )


def taught(name: str) -> Taught:
    pairs = tuple(
        PreferenceRow(
            task_id=row.task_id, task_type="sum", messages=row.messages, chosen="yes", rejected=f"no {number}"
        )
        for number, row in enumerate(rows(name))
    )
    return Taught(rows=RowSelection(rows=rows(name), adapters=("teacher",)), pairs=PairSelection(pairs=pairs))


NAMES = ("g1-ada-own", "g1-ada-cross", "g1-ben-own")
TAUGHT = {name: taught(name) for name in NAMES}


async def candidates(lab: Lab) -> tuple[Candidate, ...]:
    """One trained and admitted for each name."""
    jobs = {}
    for seed, name in enumerate(NAMES):
        engine = name.split("-")[1]
        recipe = Recipe(
            name=name, base=engine, family="alpha", mix=("own_correct",), training=ScriptedTraining(), seed=seed,
            arm=f"{engine}/own",
        )  # fmt: skip
        out = lab.directory / "generation-0" / "training" / name
        jobs[name] = job_of(lab, recipe, TAUGHT[name].rows.rows, TAUGHT[name].pairs.pairs, out_dir=out)
    reports = await train_jobs(lab, "train", list(jobs.values()))
    return (await admit_jobs(lab, "admit", jobs, reports)).candidates


def finalist(*found: Candidate) -> Arrangement:
    taking = {candidate.member.engine: candidate.member for candidate in found}
    seats: list[Member] = [taking.get(seat.engine, seat) for seat in (ADA, BEN)]
    names = tuple(candidate.member.name for candidate in found)
    return Arrangement(name=" and ".join(names), seats=tuple(seats), candidates=names)


def bred(
    directory: Path, going: Sequence[str], *, placebo: bool = True, known: Sequence[Candidate] = ()
) -> tuple[tuple[Candidate, ...], Placebos]:
    """All candidates, and the twins of those that go to the gate, each on its own."""

    async def work() -> tuple[tuple[Candidate, ...], Placebos]:
        async with lab_in(directory, placebo) as lab:
            found = await candidates(lab)
            finalists = [finalist(one) for one in found if one.member.name in going]
            return found, await breed_placebos(lab, 0, finalists, found, TAUGHT, known)

    return asyncio.run(work())


def lab_in(directory: Path, placebo: bool = True) -> Lab:
    lab = small_lab(directory)
    recipes = RecipesConfig(min_rows=1, placebo=placebo)
    lab.config = lab.config.model_copy(update={"recipes": recipes})
    return lab


def test_a_twin_is_its_candidate_in_everything_but_what_the_targets_say(tmp_path: Path) -> None:
    async def jobs() -> tuple[TrainingJob, TrainingJob]:
        async with lab_in(tmp_path) as lab:
            one, *_ = await candidates(lab)
            real = job_of(lab, one.recipe, TAUGHT[NAMES[0]].rows.rows, out_dir=tmp_path / "x")
            assert real.data_digest != one.data_digest  # of rows and pairs
            return real, twin_job(lab, one, TAUGHT[NAMES[0]])

    real, twin = asyncio.run(jobs())
    assert [row.messages for row in twin.rows] == [row.messages for row in real.rows]
    assert sorted(row.completion for row in twin.rows) == sorted(row.completion for row in real.rows)
    assert all(new.completion != old.completion for new, old in zip(twin.rows, real.rows, strict=True))
    assert {pair.chosen for pair in twin.pairs} > {"yes"}
    assert (twin.seed, twin.parents, twin.base_fingerprint) == (real.seed, real.parents, real.base_fingerprint)
    assert twin.recipe.training == real.recipe.training


def test_the_twin_of_an_adapter_that_was_trained_further_starts_from_the_same_parent(tmp_path: Path) -> None:
    async def parents() -> tuple[str, ...]:
        async with lab_in(tmp_path) as lab:
            one, *_ = await candidates(lab)
            further = one.recipe.model_copy(update={"name": "g2-ada-warm", "parents": (one.member.adapter,)})
            twin = twin_job(lab, one.model_copy(update={"recipe": further}), TAUGHT[NAMES[0]])
            assert (twin.recipe.start, twin.recipe.parents) == ("warm", (one.member.adapter,))
            assert twin.parents == job_of(lab, further, (), out_dir=tmp_path / "x").parents
            return tuple(parent.adapter for parent in twin.parents)

    assert len(asyncio.run(parents())) == 1


def test_only_what_goes_to_the_gate_has_a_twin(tmp_path: Path) -> None:
    found, twins = bred(tmp_path, ["g1-ada-cross", "g1-ben-own"])
    assert list(twins.twins) == ["g1-ada-cross", "g1-ben-own"]
    assert [report.recipe for report in twins.reports] == ["g1-ada-cross-placebo", "g1-ben-own-placebo"]
    assert {one.adapter for one in twins.twins.values()}.isdisjoint(one.member.adapter for one in found)
    assert {one.parents for one in twins.candidates} == {("teacher",)}
    directory = tmp_path / "generation-0" / "training"
    assert {path.name for path in directory.glob("*-placebo")} == {report.recipe for report in twins.reports}
    assert bred(tmp_path, []) == (found, Placebos())
    assert bred(tmp_path, ["g1-ben-own"], placebo=False)[1] == Placebos()


def test_a_twin_that_there_is_from_an_earlier_generation_is_not_trained_again(tmp_path: Path) -> None:
    _, first = bred(tmp_path, ["g1-ada-own"])
    _, second = bred(tmp_path, ["g1-ada-own"], known=first.candidates)
    assert (second.twins, second.reports, second.candidates) == (first.twins, (), ())
    assert bred(tmp_path, ["g1-ben-own"], known=first.candidates)[1].earlier == ()


def test_a_merge_has_no_twin_and_nothing_is_trained_for_it(tmp_path: Path) -> None:
    async def work() -> Placebos:
        async with lab_in(tmp_path) as lab:
            one, _, other = await candidates(lab)
            merge = one.model_copy(update={"recipe": one.recipe.model_copy(update={"training": MergeTraining()})})
            return await breed_placebos(lab, 0, [finalist(merge, other)], [merge, other], TAUGHT)

    found = asyncio.run(work())
    assert found.without == ("g1-ada-own",)
    assert list(found.twins) == ["g1-ben-own"]


def test_a_twin_that_comes_to_nothing_leaves_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(lab: Lab, name: str, jobs: Sequence[TrainingJob], *, stage: str) -> tuple[TrainingReport, ...]:
        return tuple(quarantined(job, "loss is nan") for job in jobs)

    monkeypatch.setattr(module, "train_jobs", failing)
    _, found = bred(tmp_path, ["g1-ada-own"])
    assert (found.twins, found.refused) == ({}, {"g1-ada-own-placebo": "quarantined: loss is nan"})


def test_a_parent_that_is_lost_leaves_a_finalist_without_its_twin(tmp_path: Path) -> None:
    async def work() -> Placebos:
        async with lab_in(tmp_path) as lab:
            one, *_ = await candidates(lab)
            orphan = one.model_copy(update={"recipe": one.recipe.model_copy(update={"parents": ("ab" * 32,)})})
            return await breed_placebos(lab, 0, [finalist(orphan)], [orphan], TAUGHT)

    found = asyncio.run(work())
    assert found.reports == ()
    assert "a parent adapter cannot be used" in found.refused["g1-ada-own-placebo"]
