"""What DEV is divided into: problems to choose by, and problems that nothing may have been chosen by."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.config import RunConfig
from evolve.gates.dev import divided
from evolve.problems.config import GymProblems
from tests.evolve.small_mesh import dealt, small_lab

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
