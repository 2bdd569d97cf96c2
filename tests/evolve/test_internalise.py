"""Whether a later specialist solves alone what only the mesh solved: who is tried on what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from evolve.audit.internalise import Learned, Trial, tasks_trained_on, train_trials, try_audit_tasks, try_out
from evolve.audit.novelty import emergence_report
from evolve.audit.probe import Probe
from evolve.evaluate import Judgements
from evolve.lab import Lab
from evolve.lineage import Generation, Specialist, founders, successor
from evolve.problems.sealed import Asked
from mesh.types import Deliberation, Member
from tests.evolve.small_mesh import ADA, BEN, dealt, small_lab

FIRST, SECOND = "1" * 64, "2" * 64


def specialist(name: str, adapter: str, generation: int) -> tuple[Member, Specialist]:
    member = Member(name=name, engine="ada", family="alpha", adapter=adapter)
    born = Specialist(
        name=name,
        engine="ada",
        family="alpha",
        adapter=adapter,
        generation=generation,
        recipe=name,
        data_digest="",
        gate_digest="",
    )
    return member, born


def candidate(name: str, adapter: str, parents: tuple[str, ...] = ()) -> Any:
    recipe = SimpleNamespace(name=name, parents=parents)
    return SimpleNamespace(member=Member(name=name, engine="ada", family="alpha", adapter=adapter), recipe=recipe)


def a_round(
    generation: Generation, only_mesh: tuple[str, ...], candidates: list[Any], rows: dict[str, list[str]]
) -> Any:
    selections = {
        name: SimpleNamespace(rows=[SimpleNamespace(task_id=task_id) for task_id in ids]) for name, ids in rows.items()
    }
    return SimpleNamespace(
        generation=generation,
        problems=dealt(),
        probe=Probe(
            generation=generation.number,
            report=emergence_report([], []),
            probed=tuple(only_mesh[:1]),
            only_mesh=tuple(only_mesh),
        ),
        brood=SimpleNamespace(candidates=candidates, selections=selections, pair_selections={}),
    )


ALONE = {f"train-{number}": f"key {number}" for number in range(4)}


def a_run() -> tuple[list[Any], Generation]:
    """A specialist takes ada's seat after generation 0, one made from it after generation 1."""
    zero = founders([ADA, BEN])
    one_member, one_born = specialist("g1", FIRST, 1)
    one = successor(zero, (one_member, BEN), [one_born])
    two_member, two_born = specialist("g2", SECOND, 2)
    two = successor(one, (two_member, BEN), [two_born])
    rounds = [
        a_round(zero, ("train-0", "train-1"), [candidate("g1", FIRST)], {"g1": ["train-1"]}),
        a_round(one, ("train-2",), [candidate("g2", SECOND, (FIRST,))], {"g2": ["train-2"]}),
    ]
    return rounds, two


def test_each_task_is_tried_with_the_next_specialist_of_each_engine() -> None:
    rounds, last = a_run()
    trials = train_trials(rounds, last, 5, ALONE)
    told = [(t.generation, t.task_id, t.before.name, t.after.name, t.was_trained_on) for t in trials]
    assert told == [
        (0, "train-0", "ada", "g1", False),
        (0, "train-1", "ada", "g1", True),
        (1, "train-2", "g1", "g2", True),
    ]
    assert [t.task_id for t in train_trials(rounds, last, 1, ALONE)] == ["train-0", "train-2"]


def test_of_what_only_the_mesh_solved_those_that_were_probed_are_tried_first() -> None:
    found = Probe(generation=0, report=emergence_report([], []), probed=("c", "a"), only_mesh=("a", "b", "c"))
    assert found.known == ("c", "a", "b")


def test_a_near_duplicate_of_what_a_specialist_was_trained_on_does_not_count_as_held_out() -> None:
    rounds, last = a_run()
    alike = ALONE | {"train-0": "pair", "train-1": "pair"}
    trials = train_trials(rounds, last, 5, alike)
    assert {t.task_id: t.was_trained_on for t in trials} == {"train-0": True, "train-1": True, "train-2": True}
    assert not train_trials(rounds, last, 1, ALONE)[0].was_trained_on


def test_an_adapter_has_seen_what_the_adapters_it_was_made_from_have_seen() -> None:
    rounds, _ = a_run()
    assert tasks_trained_on(rounds) == {FIRST: {"train-1"}, SECOND: {"train-1", "train-2"}}


def test_without_a_later_specialist_nothing_is_tried(tmp_path: Path) -> None:
    zero = founders([ADA, BEN])
    rounds = [a_round(zero, ("train-0",), [], {})]
    assert train_trials(cast(Any, rounds), successor(zero, zero.seats), 5, ALONE) == []


def test_held_out_tasks_of_engines_without_a_specialist_are_not_tried(tmp_path: Path) -> None:
    async def judge(lab: Lab, stage: str, said: Sequence[Deliberation], items: Sequence[Asked]) -> Judgements:
        raise AssertionError("nobody is asked")

    async def go() -> list[Learned]:
        async with small_lab(tmp_path) as lab:
            items = dealt().audit
            return await try_audit_tasks(lab, [ADA, BEN], [ADA, BEN], ["audit-0"], items, {"audit-0": "c0"}, judge)

    assert asyncio.run(go()) == []


def test_train_tasks_are_drawn_anew_before_and_after(tmp_path: Path) -> None:
    zero = founders([ADA, BEN])
    next_ada = Member(name="ada-next", engine="ada", family="alpha")
    trial = Trial(generation=0, task_id="train-0", before=ADA, after=next_ada, was_trained_on=True)

    async def go() -> list[Learned]:
        async with small_lab(tmp_path, skills=(1.0, 0.0), emergence_samples=3) as lab:
            problems: dict[str, Asked] = {problem.task.id: problem for problem in dealt().train}
            return await try_out(lab, "tried", [trial], problems, {"train-0": "its key"}, None)

    (found,) = asyncio.run(go())
    assert (found.before, found.specialist, found.generation) == ("ada", "ada-next", zero.number)
    assert (found.solo.before, found.solo.after, found.solo.was_trained_on) == ((3, 3), (3, 3), True)
    assert found.solo.cluster == "c0"


def test_a_member_that_was_given_a_critic_is_drawn_once_as_the_one_it_proposes_as(tmp_path: Path) -> None:
    helped = ADA.model_copy(update={"phase_adapters": (("critique", FIRST),)})
    after = Member(name="ada-next", engine="ada", family="alpha")
    trials = [
        Trial(generation=number, task_id="train-0", before=before, after=after, was_trained_on=False)
        for number, before in enumerate((ADA, helped))
    ]

    async def go() -> list[Learned]:
        async with small_lab(tmp_path, emergence_samples=3) as lab:
            problems: dict[str, Asked] = {problem.task.id: problem for problem in dealt().train}
            return await try_out(lab, "tried", trials, problems, {"train-0": "its key"}, None)

    found = asyncio.run(go())
    assert [one.solo.before[1] for one in found] == [3, 3]
