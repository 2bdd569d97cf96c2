from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from evolve.audit.novelty import Alone, MeshSolution, Solo, emergence_report, emergent, internalised, luck

BITS = tuple(0.5 + 0.01 * index for index in range(30))


def alone(member: str, right: int = 0, samples: int = 30, tokens: int = 900, bits: float | None = 0.9) -> Alone:
    return Alone(member=member, num_samples=samples, num_right=right, tokens=tokens, own_bits=BITS, solution_bits=bits)


def solution(task: str = "t", *, right: bool = True, tokens: int = 900) -> MeshSolution:
    return MeshSolution(task_id=task, is_right=right, tokens=tokens, members=("a", "b"))


def test_verified_out_of_reach_and_improbable_under_every_member_is_emergent() -> None:
    found = emergent(solution(), [alone("a"), alone("b")])
    assert (found.finding, found.reasons) == ("emergent", ())
    assert found.upper_bound == pytest.approx(0.095, abs=0.001)


def test_the_percentile_is_the_members_own_and_reaching_it_is_enough() -> None:
    usual = float(np.quantile(BITS, 0.95))
    assert emergent(solution(), [alone("a", bits=usual), alone("b")]).finding == "emergent"
    below = emergent(solution(), [alone("a", bits=usual - 1e-6), alone("b")])
    assert below.finding == "not emergent"
    assert "a finds it probable" in below.reasons[0]


@pytest.mark.parametrize(
    ("case", "others", "reason"),
    [
        (solution(right=False), [alone("a"), alone("b")], "not verified"),
        (solution(), [alone("a", right=1), alone("b")], "a alone is right in 1 of 30"),
        (solution(), [alone("a", right=1, samples=2, tokens=1, bits=None)], "a alone is right in 1 of 2"),
    ],
)
def test_what_speaks_against_it_decides(case: MeshSolution, others: list[Alone], reason: str) -> None:
    found = emergent(case, others)
    assert found.finding == "not emergent"
    assert reason in found.reasons[0]


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([alone("a")], "b was not asked alone"),
        ([alone("a"), alone("b", samples=29)], "b has 29 samples alone, 30 are needed"),
        ([alone("a"), alone("b", tokens=899)], "b spent 899 tokens alone, the mesh 900"),
        ([alone("a"), alone("b", bits=None)], "the surprise of b was not measured"),
    ],
)
def test_what_is_missing_leaves_it_unmeasured(others: list[Alone], reason: str) -> None:
    found = emergent(solution(), others)
    assert found.finding == "not measured"
    assert reason in found.reasons[0]


def test_luck_is_the_share_of_orders_that_look_like_emergence() -> None:
    assert luck([[(0, 30)]]) == 0.0
    assert luck([[(1, 30)]]) == pytest.approx(1 / 30)
    assert luck([[(2, 30)]]) == 0.0
    assert luck([[(1, 60)]]) == pytest.approx(0.5 * 1 / 30)
    assert luck([[(1, 30), (1, 30)]]) == pytest.approx(1 / 900)
    assert luck([]) == 0.0
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(4000):
        row = rng.permutation([True] * 3 + [False] * 37)
        hits += bool(not row[:30].any() and row[30])
    assert luck([[(3, 40)]]) == pytest.approx(hits / 4000, abs=0.004)


def test_emergence_that_luck_explains_is_not_claimed() -> None:
    cases = [(solution(str(index), right=index < 2), [alone("a"), alone("b")]) for index in range(40)]
    lucky = emergence_report(cases, [[(1, 30)]] * 40)
    assert (lucky.num_emergent, lucky.num_measured) == (2, 40)
    assert lucky.sentence.startswith("it is not shown")
    real = emergence_report(cases, [[(0, 30)]] * 39 + [[(1, 30)]])
    assert real.p_luck < 0.01
    assert real.sentence.startswith("the mesh finds what no member finds alone: 2 of 40")
    assert real.interval.low < 0.05 < real.interval.high
    nothing = emergence_report([(solution(), [])], [])
    assert nothing.sentence.endswith("was not measured")


def solved(task: int, *, right: bool, size: int, measured: bool = True) -> tuple[MeshSolution, list[Alone]]:
    """A task of a cluster of `size` neighbours."""
    case = solution(str(task), right=right).model_copy(update={"cluster": f"c{task // size}"})
    return case, [alone("a"), alone("b")] if measured else [alone("a")]


def test_near_duplicates_that_only_the_mesh_solves_are_one_find() -> None:
    """Five tasks of forty, at a luck of 1.25% a task; they may be one question asked five times."""
    counts = [[(1, 30)]] * 15 + [[(0, 30)]] * 25
    alone_each = emergence_report([solved(i, right=i < 5, size=1) for i in range(40)], counts)
    copies = emergence_report([solved(i, right=i < 5, size=5) for i in range(40)], counts)
    assert (alone_each.num_draws, copies.num_draws) == (40, 8)
    assert alone_each.num_emergent == copies.num_emergent == 5
    assert alone_each.p_luck < 0.001
    assert copies.p_luck == pytest.approx(1 - (1 - 5 * copies.luck) ** 8)
    assert "5 of 40 attempts at 8 different tasks (near duplicates count as one)" in copies.sentence
    assert copies.sentence.startswith("it is not shown")
    assert copies.interval.width > 1.5 * alone_each.interval.width
    unsaid = alone_each.model_copy(update={"clusters": ()})
    assert (unsaid.p_luck, unsaid.interval) == (alone_each.p_luck, alone_each.interval)


def test_a_cluster_of_which_nothing_was_measured_is_no_draw() -> None:
    cases = [solved(i, right=True, size=2, measured=i not in (0, 1, 2)) for i in range(8)]
    assert (found := emergence_report(cases, [])).num_measured == 5
    assert found.num_draws == 3, "one is gone, one is half there"


@pytest.mark.parametrize("is_alike", [True, False])
def test_luck_passes_for_novelty_no_more_often_than_the_level_in_clusters(*, is_alike: bool) -> None:
    rng, claimed = np.random.default_rng(3), 0
    for _ in range(400):
        lucky = np.repeat(rng.random(30) < 1 / 30, 4) if is_alike else rng.random(120) < 1 / 30
        cases = [solved(i, right=bool(hit), size=4) for i, hit in enumerate(lucky)]
        claimed += emergence_report(cases, [[(1, 30)]] * 120).p_luck <= 0.05
    assert claimed <= 30


def solo(index: int, before: int, after: int, *, trained: bool = False) -> Solo:
    return Solo(task_id=str(index), was_trained_on=trained, before=(before, 30), after=(after, 30))


def test_internalisation_is_told_apart_from_memory_and_from_the_bases_own_luck() -> None:
    rows = [solo(i, 0, 6, trained=True) for i in range(10)] + [solo(20 + i, i % 3, (i + 1) % 3) for i in range(12)]
    memory, transfer = internalised(rows)
    assert (memory.kind, memory.num_tasks, memory.is_shown) == ("trained on", 10, True)
    assert memory.gain == pytest.approx(0.2)
    assert memory.num_solved == 10
    assert (transfer.kind, transfer.is_shown) == ("held out", False)
    assert transfer.difference.low < 0 < transfer.difference.high
    assert internalised([]) == ()


def test_a_task_that_several_engines_tried_is_one_task() -> None:
    rows = [solo(i, 0, after) for i in range(3) for after in (6, 0)]
    [found] = internalised(rows)
    assert (found.num_tasks, found.num_better, found.num_worse, found.num_solved) == (3, 3, 0, 3)
    assert found.gain == pytest.approx(0.1)


def test_tasks_of_one_cluster_count_as_one() -> None:
    rows = [solo(i, 0, 5 + i % 3) for i in range(30)]
    copies = [row.model_copy(update={"cluster": str(i % 3)}) for i, row in enumerate(rows)]
    alone, clustered = internalised(rows)[0], internalised(copies)[0]
    assert clustered.difference.width > 3 * alone.difference.width
    assert (alone.p, clustered.p) == (pytest.approx(2.0**-30), pytest.approx(2.0**-3))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValidationError, match="at most 3 right"):
        alone("a", right=4, samples=3)
    with pytest.raises(ValueError, match="samples before and after"):
        internalised([Solo(task_id="t", was_trained_on=False, before=(0, 0), after=(1, 2))])
