"""A generation is bred in a simulation: every recipe ends in a candidate or a reason, whatever fails on the way."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from evolve.candidate import Candidate
from evolve.config import RunConfig
from evolve.evaluate import Judgements
from evolve.harvest import Harvest, gather
from evolve.journal import Journal
from evolve.judging.judge import Judge
from evolve.lab import Lab
from evolve.learning.bandit import ArmResult
from evolve.learning.breed import Brood, breed
from evolve.learning.manifests import read_manifest
from evolve.learning.past import Past
from evolve.learning.recipes import Parent
from evolve.lineage import Generation, Specialist, founders
from evolve.progress import Silent
from evolve.seats import base_seats
from evolve.training import train_here
from evolve.training.job import TrainingJob, TrainingReport
from memory.types import Evidence
from mesh.types import Outcome


def config(directory: Path, **changes: Any) -> RunConfig:
    tasks = directory / "tasks.jsonl"
    rows = [
        {"question": f"{a} + {b} =", "answer": str(a + b), "type": "sum"} for a in range(11, 19) for b in range(30, 35)
    ]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = {
        "name": "small",
        "run_dir": str(directory / "run"),
        "seed": 3,
        "serving": {
            "in_process": True,
            "engines": [
                {"kind": "scripted", "name": "ada", "family": "alpha", "skill": 0.6, "adapter_gain": 0.3},
                {"kind": "scripted", "name": "ben", "family": "beta", "skill": 0.5, "adapter_gain": 0.4},
            ],
        },
        "problems": {"kind": "file", "path": str(tasks), "verifier": {"kind": "numeric"}, "answer_kind": "number"},
        "training": {"kind": "scripted"},
        "memory": {"enabled": False},
        "harvest": {"problems_per_type": 12, "samples_per_member": 2, "councils_per_type": 6},
        "recipes": {"min_rows": 1},
        "concurrency": 4,
    }
    return RunConfig.model_validate(plain | changes)


@asynccontextmanager
async def opened(settings: RunConfig) -> AsyncIterator[Lab]:
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with Judge() as judge:
        journal = Journal(settings.run_dir)
        async with Lab(settings, journal=journal, judge=judge, memory=None, observer=Silent()) as lab:
            yield lab


Ahead = Callable[[Lab, Candidate], Any]


def bred(settings: RunConfig, past: Past | None = None, *, ahead: Ahead | None = None, **changes: Any) -> Brood:
    async def work() -> Brood:
        async with opened(settings) as lab:
            problems = await lab.draw_problems()
            generation = founders(base_seats(settings))
            harvest = await gather(lab, generation, problems)
            harvest = harvest.model_copy(update=changes)

            async def go(candidate: Candidate) -> None:
                assert ahead is not None
                await ahead(lab, candidate)

            return await breed(lab, generation, harvest, problems, past or Past(), ahead=None if ahead is None else go)

    return asyncio.run(work())


def following(settings: RunConfig, first: Brood, **changes: Any) -> Brood:
    """Generation 1, in which the first engine's specialist sits."""

    async def work() -> Brood:
        async with opened(settings) as lab:
            problems = await lab.draw_problems()
            founded = founders(base_seats(settings))
            candidate = first.candidates[0]
            specialist = Specialist(
                name=candidate.member.name,
                engine=candidate.member.engine,
                family=candidate.member.family,
                adapter=candidate.member.adapter or "",
                generation=1,
                recipe=candidate.recipe.name,
                data_digest=candidate.data_digest,
                gate_digest="g",
            )
            seats = (candidate.member, *founded.seats[1:])
            generation = Generation(number=1, seats=seats, specialists=(specialist,), parent=founded.digest)
            harvest = await gather(lab, generation, problems)
            past = Past(rows=first.accumulated.all, pairs=first.pairs.all, **changes)
            return await breed(lab, generation, harvest, problems, past)

    return asyncio.run(work())


def parent(candidate: Candidate) -> Parent:
    return Parent(name=candidate.member.name, adapter=candidate.member.adapter or "", engine="ada", rank=1)


def test_every_engine_has_a_candidate(tmp_path):
    found = bred(config(tmp_path))
    assert [candidate.member.name for candidate in found.candidates] == ["g1-ada-own", "g1-ben-own"]
    assert (found.refused, found.reason) == ({}, "")
    assert {candidate.generation for candidate in found.candidates} == {0}
    assert [candidate.job for candidate in found.candidates] == [report.job for report in found.reports]


def test_a_candidate_differs_from_its_engines_seat_in_its_adapter_alone(tmp_path):
    settings = config(tmp_path)
    ada, ben = settings.serving.engines
    told = ada.model_copy(update={"persona": "Be brief.", "tiers": ("deep", "reflection"), "skills": ("sum",)})
    serving = settings.serving.model_copy(update={"engines": (told, ben)})
    settings = settings.model_copy(update={"serving": serving})
    for candidate in bred(settings).candidates:
        seated = next(one for one in base_seats(settings) if one.engine == candidate.member.engine)
        # As where it is retired and the base takes its seat back: AUDIT refuses two members of one name.
        assert candidate.member.model_copy(update={"name": seated.name, "adapter": None}) == seated


def test_sets_cards_and_the_reason_of_every_drop_are_left_as_files(tmp_path):
    found = bred(config(tmp_path))
    directory = tmp_path / "run" / "generation-0"

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]

    assert [row["id"] for row in lines("set-all")] == [row.id for row in found.accumulated.all]
    assert len(lines("set-used")) == sum(row["used"] for row in lines("set-all")) == len(found.accumulated.used)
    assert {row["reason"] for row in lines("set-all") if not row["used"]} == {
        drop.reason for drop in found.accumulated.drops
    }
    assert len(lines("examples")) == len(found.curated.examples)
    assert [row["id"] for row in lines("pairs")] == [row.id for row in found.pairs.all] != []
    assert sum(row["used"] for row in lines("pairs")) == len(found.pairs.used) > 0
    assert all(row["reason"] for row in lines("pairs") if not row["used"])
    assert [card.name for card in found.cards] == ["generation-0", *found.selections]
    assert "Digest" in (directory / "cards" / "generation-0.md").read_text()
    assert {phase.phase for phase in found.phases} >= {"propose", "revise", "vote"}


def test_a_second_run_reads_everything_back_and_gives_the_same(tmp_path):
    settings = config(tmp_path)
    first = bred(settings)
    journal = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert bred(settings) == first
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == journal


def test_rows_of_earlier_generations_are_learned_from_and_held_out_ones_never(tmp_path):
    settings = config(tmp_path)
    first = bred(settings)
    key = first.accumulated.used[0].key
    second = following(settings, first, held_out=(key,))
    assert {row.generation for row in second.accumulated.all} == {0, 1}
    assert {row.id for row in first.accumulated.all} <= {row.id for row in second.accumulated.all}
    assert all(row.key != key for row in second.accumulated.used)
    assert "contaminated" in {drop.reason for drop in second.accumulated.drops}
    assert {row.generation for row in second.pairs.used} == {0, 1}
    assert all(row.key != key for row in second.pairs.used)
    taught = second.selections["g2-ada-own"]
    seated = first.candidates[0].member.adapter
    assert len(taught.rows) > len(first.selections["g1-ada-own"].rows)
    assert taught.adapters == (seated,)
    assert second.candidates[0].parents == (seated,)
    assert second.candidates[1].parents == ()


def test_parents_are_trained_further_and_merged_and_become_parents_of_the_candidate(tmp_path):
    settings = config(
        tmp_path,
        recipes={"min_rows": 1, "warm_start": {"num_parents": 2}, "merges": [{"kind": "merge", "weights": [1, 2]}]},
    )
    first = bred(settings)
    adapter = first.candidates[0].member.adapter
    other = bred(config(tmp_path, seed=4, run_dir=str(tmp_path / "other"))).candidates[0]
    store = tmp_path / "run" / "adapters"
    (tmp_path / "other" / "adapters" / str(other.member.adapter)).rename(store / str(other.member.adapter))
    second = following(settings, first, parents=(parent(first.candidates[0]), parent(other)))
    by_name = {candidate.member.name: candidate for candidate in second.candidates}
    assert set(by_name) == {"g2-ada-own", "g2-ada-warm", "g2-ada-warm-2", "g2-ada-merge-svd", "g2-ben-own"}
    assert by_name["g2-ada-merge-svd"].parents == (adapter, other.member.adapter)
    assert by_name["g2-ada-warm-2"].parents == (other.member.adapter, adapter)


def test_a_parent_that_is_lost_costs_its_recipe_and_nothing_else(tmp_path):
    settings = config(tmp_path, recipes={"min_rows": 1, "warm_start": {}})
    first = bred(settings)
    gone = parent(first.candidates[0]).model_copy(update={"adapter": "ab" * 32})
    second = following(settings, first, parents=(gone,))
    assert [candidate.member.name for candidate in second.candidates] == ["g2-ada-own", "g2-ben-own"]
    assert "a parent adapter cannot be used" in second.refused["g2-ada-warm"]


def test_a_bandit_breeds_what_paid(tmp_path):
    recipes = {"min_rows": 1, "cross_family": True, "distil": True, "bandit": {"num_recipes": 1, "method": "ucb"}}
    arms = tuple(
        ArmResult(arm=f"{engine}/{arm}", recipe=f"g0-{engine}-{arm}-{n}", generation=0, reward=float(arm == "cross"))
        for engine in ("ada", "ben")
        for arm in ("own", "cross", "distil")
        for n in range(50)
    )
    found = bred(config(tmp_path, recipes=recipes), Past(arms=arms))
    assert [recipe.name for recipe in found.recipes] == ["g1-ada-cross", "g1-ben-cross"]


def test_nothing_harvested_ends_in_no_candidate_with_the_reason_of_every_recipe(tmp_path):
    found = bred(config(tmp_path), proposals=(), councils=(), judged=Judgements(outcomes=()))
    assert (found.candidates, found.reports, found.pairs.all) == ((), (), ())
    assert set(found.refused) == {recipe.name for recipe in found.recipes}
    assert "0 rows, fewer than min_rows (1)" in found.reason
    assert "0 rows to learn from" in found.reason


def test_all_jobs_quarantined_ends_in_no_candidate_with_the_reasons(tmp_path):
    found = bred(config(tmp_path, training={"kind": "scripted", "diverges": True}))
    assert found.candidates == ()
    assert {report.status for report in found.reports} == {"quarantined"}
    assert "g1-ada-own: quarantined: loss is nan at step 0" in found.reason


def test_a_full_disk_during_training_quarantines_the_job_that_met_it(tmp_path, monkeypatch):
    train = train_here.train_scripted

    def full(job: TrainingJob) -> TrainingReport:
        if job.recipe.name == "g1-ada-own":
            raise OSError(errno.ENOSPC, "No space left on device")
        return train(job)

    monkeypatch.setattr(train_here, "train_scripted", full)
    found = bred(config(tmp_path))
    assert [candidate.member.name for candidate in found.candidates] == ["g1-ben-own"]
    assert found.refused["g1-ada-own"] == ("quarantined: its results could not be written: No space left on device")


def test_an_adapter_that_was_damaged_after_training_is_refused(tmp_path, monkeypatch):
    train = train_here.train_scripted

    def damaging(job: TrainingJob) -> TrainingReport:
        report = train(job)
        if job.recipe.name == "g1-ada-own":
            (job.adapter_dir / "adapter_model.safetensors").write_bytes(b"\0" * 64)
        return report

    monkeypatch.setattr(train_here, "train_scripted", damaging)
    found = bred(config(tmp_path))
    assert [candidate.member.name for candidate in found.candidates] == ["g1-ben-own"]
    assert "the adapter is not the one that was trained" in found.refused["g1-ada-own"]


def test_a_candidate_goes_ahead_while_another_trains_and_the_brood_is_the_same(tmp_path, monkeypatch):
    went, train, waited = threading.Event(), train_here.train_scripted, []
    seen: list[str] = []

    def waiting(job: TrainingJob) -> TrainingReport:
        if job.recipe.name == "g1-ben-own":
            waited.append(went.wait(timeout=30))
        return train(job)

    async def ahead(lab: Lab, candidate: Candidate) -> None:
        seen.append(candidate.member.name)
        went.set()

    monkeypatch.setattr(train_here, "train_scripted", waiting)
    found = bred(config(tmp_path), ahead=ahead)
    assert waited == [True]
    assert sorted(seen) == sorted(candidate.member.name for candidate in found.candidates)
    calm = config(tmp_path, run_dir=str(tmp_path / "calm"))
    assert bred(calm) == found
    assert (tmp_path / "calm/journal.jsonl").read_bytes() == (tmp_path / "run/journal.jsonl").read_bytes()


def test_what_fails_ahead_is_not_swallowed(tmp_path):
    async def ahead(lab: Lab, candidate: Candidate) -> None:
        raise RuntimeError("the engine is gone")

    with pytest.raises(RuntimeError, match="the engine is gone"):
        bred(config(tmp_path), ahead=ahead)


def test_where_the_verifier_broke_down_only_trusted_agreement_teaches(tmp_path):
    def unknown(harvest: Harvest) -> Judgements:
        outcomes = tuple(
            o.model_copy(update={"correct": False, "evidence": o.evidence.model_copy(update={"verdict": "unknown"})})
            for o in harvest.judged.outcomes
        )
        return Judgements(outcomes=outcomes)

    def learned(directory: Path, labels: list[str]) -> Brood:
        directory.mkdir()
        settings = config(directory, accumulation={"labels": labels})

        async def work() -> Brood:
            async with opened(settings) as lab:
                problems = await lab.draw_problems()
                generation = founders(base_seats(settings))
                harvest = await gather(lab, generation, problems)
                broken = harvest.model_copy(update={"judged": unknown(harvest)})
                return await breed(lab, generation, broken, problems, Past())

        return asyncio.run(work())

    assert learned(tmp_path / "strict", ["verifier"]).accumulated.all == ()
    trusting = learned(tmp_path / "trusting", ["verifier", "cross_family", "consensus"]).accumulated
    assert {row.label for row in trusting.used} <= {"cross_family", "consensus"}
    assert trusting.used


def test_an_answer_that_nobody_could_judge_is_not_taught_as_wrong(tmp_path):
    def paired(directory: Path, *, judged_wrong: bool) -> Brood:
        directory.mkdir()
        settings = config(directory)

        def kept(harvest: Harvest) -> Judgements:
            outcomes = tuple(
                o if o.correct or judged_wrong else o.model_copy(update={"evidence": unsure(o)})
                for o in harvest.judged.outcomes
            )
            return Judgements(outcomes=outcomes)

        async def work() -> Brood:
            async with opened(settings) as lab:
                problems = await lab.draw_problems()
                generation = founders(base_seats(settings))
                harvest = await gather(lab, generation, problems)
                harvest = harvest.model_copy(update={"judged": kept(harvest)})
                return await breed(lab, generation, harvest, problems, Past())

        return asyncio.run(work())

    def unsure(outcome: Outcome) -> Evidence:
        return outcome.evidence.model_copy(update={"verdict": "unknown"})

    assert paired(tmp_path / "judged", judged_wrong=True).pairs.all
    assert paired(tmp_path / "unjudged", judged_wrong=False).pairs.all == ()


def test_every_candidate_has_a_manifest_of_the_very_rows_and_pairs_it_names(tmp_path):
    found = bred(config(tmp_path))
    for candidate in found.candidates:
        manifest = read_manifest(tmp_path / "run" / "generation-0", candidate.recipe.name)
        assert manifest is not None
        assert manifest.rows
        assert manifest.digest == candidate.data_digest
    assert len({candidate.data_digest for candidate in found.candidates}) == len(found.candidates)
