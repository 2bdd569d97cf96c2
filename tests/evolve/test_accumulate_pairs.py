"""Which pairs of all generations are learned from, and why the others are not."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from evolve.learning.accumulate_pairs import AccumulatedPairs, PairRow, accumulate_pairs, pair_rows
from evolve.learning.config import AccumulationConfig
from evolve.learning.preferences import ORIGINS, ChosenRejected, Origin

TRAINED = "a" * 64


def pair(
    task: str, rejected: str, *, adapter: str | None = None, origin: Origin = "own_samples", family: str = "f"
) -> ChosenRejected:
    return ChosenRejected(
        task_id=task,
        task_type="sums",
        member="ada",
        family=family,
        author="ada",
        author_family=family,
        adapter=adapter,
        origin=origin,
        messages=(),
        chosen="right",
        rejected=rejected,
    )


def rows(generation: int, *pairs: ChosenRejected) -> tuple[PairRow, ...]:
    return pair_rows(pairs, generation, {one.task_id: f"key-{one.task_id}" for one in pairs})


def held(earlier: tuple[PairRow, ...], fresh: tuple[PairRow, ...], **settings: object) -> AccumulatedPairs:
    held_out = settings.pop("held_out", ())
    config = AccumulationConfig.model_validate(settings)
    return accumulate_pairs(earlier, fresh, config, held_out=held_out, seed=3)  # type: ignore[arg-type]


def reasons(found: AccumulatedPairs) -> dict[str, str]:
    """Rejected text of each unused pair to why."""
    by_id = {row.id: row for row in found.all}
    return {by_id[drop.row].pair.rejected: drop.reason for drop in found.drops}


def test_pairs_of_earlier_generations_are_learned_from_beside_todays() -> None:
    first = held((), rows(0, pair("t", "4")))
    second = held(first.all, rows(1, pair("u", "5")))
    assert [one.rejected for one in second.pairs] == ["4", "5"]
    assert [row.generation for row in second.all] == [0, 1]


def test_every_pair_is_used_or_dropped_for_one_reason() -> None:
    earlier = rows(0, pair("t", "4"), pair("gate", "8"), pair("u", "6"))
    found = held(earlier, rows(1, pair("t", "4"), pair("u", "7")), max_per_problem=1, held_out=("key-gate",))
    assert reasons(found) == {"4": "duplicate", "8": "contaminated", "6": "cap_per_problem"}
    assert [(row.generation, row.pair.rejected) for row in found.used if row.pair.rejected in "47"] == [
        (row.generation, row.pair.rejected) for row in found.all if row.generation == 1
    ], "the newest stays: it holds today's mistakes"


def test_a_problem_may_have_as_many_pairs_for_every_family_they_teach() -> None:
    found = held((), rows(0, pair("t", "4"), pair("t", "5", family="g")), max_per_problem=1)
    assert len(found.used) == 2


def test_trained_members_right_answers_stay_within_what_the_anchors_allow() -> None:
    fresh = rows(1, *(pair(f"t{n}", f"{n}", adapter=TRAINED) for n in range(9)))
    found = held(rows(0, pair("t", "base")), fresh, anchor_share=0.25)
    assert sum(row.is_anchor for row in found.used) == 1
    assert len(found.used) == 4
    assert set(reasons(found).values()) == {"anchor_share"}
    assert held((), fresh, anchor_share=0.0).used == tuple(sorted(fresh, key=lambda row: row.id))


def test_where_room_is_short_the_anchors_that_the_others_need_stay() -> None:
    old = rows(0, *(pair(f"t{n}", f"old {n}") for n in range(40)))
    new = rows(1, *(pair(f"u{n}", f"new {n}", adapter=TRAINED) for n in range(40)))
    found = held(old, new, max_rows=40, anchor_share=0.25)
    assert (len(found.used), sum(row.is_anchor for row in found.used)) == (40, 10)
    again = rows(1, *(pair(f"t{n}", f"new {n} {i}", adapter=TRAINED) for n in range(10) for i in range(4)))
    crowded = held(old[:10], again, anchor_share=0.25)
    assert (len(crowded.used), sum(row.is_anchor for row in crowded.used)) == (40, 10)


def test_where_room_is_short_the_better_origin_stays() -> None:
    fresh = rows(0, *(pair(f"t{n}", origin, origin=origin) for n, origin in enumerate(reversed(ORIGINS))))
    found = held((), fresh, max_rows=2)
    assert {one.origin for one in found.pairs} == {"own_samples", "own_revision"}
    assert set(reasons(found).values()) == {"max_rows"}


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from("abcd"), st.booleans(), st.sampled_from("fg")),
        max_size=40,
        unique=True,
    ),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.one_of(st.none(), st.integers(1, 12)),
    st.frozensets(st.sampled_from(["key-t0", "key-t1", "key-t2"]), max_size=2),
    st.randoms(use_true_random=False),
)
def test_the_same_pairs_give_the_same_set_in_any_order_and_the_shares_hold(
    drawn: list[tuple[int, int, str, bool, str]],
    cap: int,
    share: float,
    most: int | None,
    held_out: frozenset[str],
    rng: random.Random,
) -> None:
    everything = [
        rows(generation, pair(f"t{task}", text, adapter=TRAINED if trained else None, family=family))[0]
        for generation, task, text, trained, family in drawn
    ]
    settings = {"max_per_problem": cap, "anchor_share": share, "max_rows": most, "held_out": held_out}
    found = held((), tuple(everything), **settings)
    rng.shuffle(everything)
    cut = rng.randint(0, len(everything))
    assert held(tuple(everything[:cut]), tuple(everything[cut:]), **settings) == found
    assert len(found.used) + len(found.drops) == len(found.all)
    of_a_problem = Counter((row.key, row.pair.family) for row in found.used)
    assert max(of_a_problem.values(), default=0) <= cap
    contaminated = {drop.row for drop in found.drops if drop.reason == "contaminated"}
    assert contaminated == {row.id for row in found.all if row.key in held_out}
    if found.used:
        assert sum(row.is_anchor for row in found.used) >= share * len(found.used)
        assert most is None or len(found.used) <= most
