"""What DEV is divided into: problems to choose by, and problems that nothing may have been chosen by."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evolve.candidate import Candidate
from evolve.config import RunConfig
from evolve.gates.dev import compare_on_dev, divided, head_start
from evolve.gates.halving import balanced_order
from evolve.learning.recipes import Recipe
from evolve.lineage import founders
from evolve.problems.config import GymProblems
from evolve.training.config import Role, ScriptedTraining
from memory.ledger import Ledger
from mesh.seeds import derive_seed
from mesh.types import Member
from tests.evolve.small_mesh import ADA, BEN, dealt, small_lab, sums

PROBLEMS = dealt(num_dev=40)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_lab(tmp_path).config


def kept_in(config: RunConfig, generation: int) -> set[str]:
    return {problem.key for problem in divided(PROBLEMS, config, generation)[1]}


def test_what_is_kept_of_a_users_file_was_never_chosen_by_in_any_generation(config: RunConfig) -> None:
    chosen_by = {problem.key for number in range(6) for problem in divided(PROBLEMS, config, number)[0]}
    assert all(len(kept_in(config, number)) == 10 for number in range(6))
    assert not any(kept_in(config, number) & chosen_by for number in range(6))


def test_fresh_problems_are_divided_anew_in_every_generation(config: RunConfig) -> None:
    fresh = config.model_copy(update={"problems": GymProblems(families=[{"name": "chain_sum"}])})
    assert kept_in(fresh, 0) != kept_in(fresh, 1)
    assert not kept_in(fresh, 0) & {problem.key for problem in divided(PROBLEMS, fresh, 0)[0]}


def test_near_duplicates_of_what_chose_the_finalists_do_not_measure_the_winner(config: RunConfig) -> None:
    clusters = {f"dev-{n}": f"pair {n // 2}" for n in range(30)}
    twins = PROBLEMS.model_copy(update={"clusters": clusters})
    chosen_by, kept = divided(twins, config, 0)
    assert len(kept) == 10
    assert sorted(p.key for p in (*chosen_by, *kept)) == sorted(p.key for p in twins.dev)
    assert not {twins.cluster_of(p) for p in kept} & {twins.cluster_of(p) for p in chosen_by}


def test_where_every_item_stands_alone_the_last_quarter_of_a_balanced_order_is_kept(config: RunConfig) -> None:
    chosen_by, kept = divided(PROBLEMS, config, 0)
    dev = PROBLEMS.dev
    order = balanced_order([p.task.type for p in dev], [p.key for p in dev], derive_seed(config.seed, "dev order"))
    assert [p.key for p in (*chosen_by, *kept)] == [dev[index].key for index in order]
    assert len(kept) == 10


def test_ties_on_dev_do_not_fall_to_whoever_is_right_about_a_near_duplicate(tmp_path: Path) -> None:
    """Every question stands there twice, of a type with nothing else, and is answered alike by whoever is asked."""
    once = sums("dev", 60)
    dev = [
        one.model_copy(
            update={
                "task": one.task.model_copy(update={"id": f"{one.task.id}-{copy}", "type": one.task.id}),
                "key": f"{one.key}-{copy}",
            }
        )
        for one in once
        for copy in range(2)
    ]
    copied = PROBLEMS.model_copy(update={"dev": tuple(dev)})
    pairs = {one.task.id: one.task.type for one in dev}

    async def votes(name: str, clusters: dict[str, str]) -> tuple[float, float]:
        """How often the seats' vote is right: by their contributions, and beside the candidate."""
        problems = copied.model_copy(update={"clusters": clusters})
        async with small_lab(tmp_path / name, skills=(0.5, 0.5), temperature=0.0, remeasure_share=0.0) as lab:
            found = await compare_on_dev(lab, founders([ADA, BEN]), [candidate()], {}, problems)
        assert found.contributions is not None
        test = found.scores[0].test
        return found.contributions.accuracy, (test.both + test.losses) / test.n

    fair, flattered = (asyncio.run(votes(name, c)) for name, c in (("fair", pairs), ("flattered", {})))
    assert fair[0] < flattered[0] - 0.1
    assert fair[1] < flattered[1] - 0.1


def candidate(role: Role = "proposer") -> Candidate:
    recipe = Recipe(
        name="new", base="ada", family="alpha", mix=("own_correct",), training=ScriptedTraining(), seed=0, role=role
    )
    return Candidate(member=Member(name="new", engine="ada", family="alpha"), recipe=recipe, data_digest="d")


def drawn_ahead(path: Path) -> set[tuple[str, str]]:
    """Task and member of every deliberation that was held ahead; none where there is no such file."""
    entries = Ledger(path, readonly=True).entries() if path.exists() else ()
    held = [entry.payload["deliberation"] for entry in entries]
    return {(one["task"]["id"], member["name"]) for one in held for member in one["members"]}


def test_the_screen_is_drawn_while_others_train_and_nothing_of_it_is_asked_again(tmp_path: Path) -> None:
    problems, generation = dealt(num_dev=8), founders([ADA, BEN])

    async def calls(name: str, *, overlap: bool) -> tuple[int, int]:
        """Calls until DEV is measured: ahead of it, and in it."""
        async with small_lab(tmp_path / name, screen_items=3, dev_samples_per_member=2) as lab:
            if overlap:
                await head_start(lab, generation, problems)(candidate())
            ahead = lab.job.purse.spent.num_calls
            await compare_on_dev(lab, generation, [candidate()], {}, problems)
            return ahead, lab.job.purse.spent.num_calls - ahead

    (none, all_of_it), (ahead, rest) = (
        asyncio.run(calls(name, overlap=overlap)) for name, overlap in (("a", False), ("b", True))
    )
    screened = divided(problems, small_lab(tmp_path / "c").config, 0)[0][:3]
    assert drawn_ahead(tmp_path / "b" / "ahead.jsonl") == {(problem.task.id, "new") for problem in screened}
    assert drawn_ahead(tmp_path / "a" / "ahead.jsonl") == set()
    assert none == 0
    assert ahead >= 3
    assert ahead + rest == all_of_it


def test_a_critic_has_no_screen_to_draw_ahead(tmp_path: Path) -> None:
    async def work() -> None:
        async with small_lab(tmp_path) as lab:
            await head_start(lab, founders([ADA, BEN]), PROBLEMS)(candidate("critic"))

    asyncio.run(work())
    assert drawn_ahead(tmp_path / "ahead.jsonl") == set()
