from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.learning.accumulate import Accumulated, AccumulationConfig, SetRow, accumulate, set_rows
from evolve.learning.curate import Example
from evolve.learning.label_source import LabelSource


def example(task: str, text: str = "7", member: str = "m", adapter: str | None = None) -> Example:
    return Example(
        task_id=task, task_type="sums", member=member, family=member[0], adapter=adapter, source="own_correct",
        messages=(), completion=text,
    )  # fmt: skip


def row(task: str, text: str = "7", generation: int = 0, label: LabelSource = "verifier", **changes: Any) -> SetRow:
    return SetRow(example=example(task, text, **changes), generation=generation, label=label, key=f"key-{task}")


def run(earlier: list[SetRow], fresh: list[SetRow], held_out: tuple[str, ...] = (), **config: Any) -> Accumulated:
    return accumulate(earlier, fresh, AccumulationConfig(**config), held_out=held_out, seed=0)


def reasons(found: Accumulated) -> dict[str, int]:
    return dict(Counter(drop.reason for drop in found.drops))


def test_earlier_rows_stay_beside_fresh_ones() -> None:
    found = run([row("a")], [row("b", generation=1, adapter="x")])
    assert [r.key for r in found.all] == [r.key for r in found.used] == ["key-a", "key-b"]
    assert found.drops == ()


def test_what_is_known_already_is_not_learned_twice_and_stays_on_record() -> None:
    found = run([row("a", "3 + 4 = 7")], [row("a", "3 + 4 = 7", 1), row("a", "so 3+4=7", 1)])
    assert (len(found.all), len(found.used), reasons(found)) == (3, 1, {"duplicate": 1, "same_path": 1})


def test_what_two_families_wrote_in_the_same_words_is_the_own_answer_of_both() -> None:
    found = run([], [row("a", "3 + 4 = 7", member="ada"), row("a", "3 + 4 = 7", member="ben")], max_per_problem=1)
    assert (len(found.used), reasons(found)) == (2, {})


def test_a_problem_gives_only_so_many_rows_over_all_generations() -> None:
    rows = [row("a", f"{n} + 0 = {n}", n) for n in range(6)]
    found = run(rows[:3], rows[3:], max_per_problem=2)
    assert (len(found.used), reasons(found)) == (2, {"cap_per_problem": 4})


def test_rows_of_held_out_problems_are_never_used() -> None:
    found = run([row("a")], [row("b")], held_out=("key-a",))
    assert ([r.key for r in found.used], reasons(found)) == (["key-b"], {"contaminated": 1})


def test_only_labels_that_are_trusted_are_used_and_the_better_one_stays() -> None:
    unverified = row("a", "7 it is", 1, label="consensus")
    assert reasons(run([row("b")], [unverified])) == {"unlabelled": 1}
    both = run([unverified], [row("a", "seven: 7", 1)], labels=("verifier", "consensus"), max_per_problem=1)
    assert [r.label for r in both.used] == ["verifier"]


def test_specialists_rows_are_cut_down_until_the_anchor_share_holds() -> None:
    anchors = [row(f"a{n}") for n in range(3)]
    trained = [row(f"t{n}", generation=1, adapter="x") for n in range(20)]
    found = run(anchors, trained, anchor_share=0.25)
    assert (len(found.used), found.anchor_share, reasons(found)) == (12, 0.25, {"anchor_share": 11})
    assert run([], trained, anchor_share=0.25).used == ()
    assert len(run([], trained, anchor_share=0.0).used) == 20


def test_a_limit_of_rows_keeps_every_generation_and_the_anchor_share() -> None:
    anchors = [row(f"a{n}") for n in range(30)]
    trained = [row(f"t{g}-{n}", generation=g, adapter="x") for g in (1, 2, 3) for n in range(30)]
    found = run(anchors, trained, max_rows=24, anchor_share=0.25)
    assert Counter(r.generation for r in found.used) == {0: 6, 1: 6, 2: 6, 3: 6}
    assert reasons(found) == {"max_rows": 96}


def test_one_author_does_not_drown_the_others() -> None:
    rows = [row(f"a{n}", member="loud") for n in range(40)] + [row(f"b{n}", member="quiet") for n in range(10)]
    found = run(rows, [], max_source_share=0.6)
    assert Counter(r.example.member for r in found.used) == {"loud": 15, "quiet": 10}
    assert len(run(rows[:40], [], max_source_share=0.6).used) == 40  # one author alone: there is nobody to protect


def test_examples_become_rows_of_their_problem_and_strangers_are_left_out() -> None:
    rows = set_rows([example("a"), example("zz")], 2, {"a": "key-a"})
    assert [(r.key, r.generation, r.label) for r in rows] == [("key-a", 2, "verifier")]
    assert set_rows([example("a")], 0, {"a": "k"}, {("a", "7"): "cross_family"})[0].label == "cross_family"


drawn = st.lists(
    st.builds(
        row,
        st.sampled_from([f"p{n}" for n in range(6)]), st.sampled_from(["1 + 6 = 7", "7", "2 + 5 = 7"]),
        st.integers(0, 3), st.sampled_from(["verifier", "cross_family"]), member=st.sampled_from(["m", "n"]),
        adapter=st.sampled_from([None, "x"]),
    ),
    max_size=25,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    drawn, drawn, st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from([None, 3, 8]), st.randoms(use_true_random=False)
)
def test_every_row_is_used_or_dropped_once_and_order_does_not_matter(
    earlier: list[SetRow], fresh: list[SetRow], share: float, limit: int | None, shuffler: random.Random
) -> None:
    config: dict[str, Any] = {
        "anchor_share": share,
        "max_rows": limit,
        "max_source_share": 0.7,
        "held_out": ("key-p0",),
    }
    found = run(earlier, fresh, **config)
    used, dropped = {r.id for r in found.used}, {d.row for d in found.drops}
    assert used | dropped == {r.id for r in (*earlier, *fresh)}
    assert not used & dropped
    assert len(found.drops) == len(dropped)
    assert not found.used or found.anchor_share >= share - 1e-9
    assert limit is None or len(found.used) <= limit
    mixed = [*earlier, *fresh]
    shuffler.shuffle(mixed)
    assert run(mixed, [], **config) == found


@pytest.mark.parametrize("generation", [1, 2])
def test_nothing_is_ever_lost_from_the_record(generation: int) -> None:
    first = run([], [row("a"), row("b")], max_rows=1)
    later = run(list(first.all), [row("c", generation=generation, adapter="x")], max_rows=1)
    assert {r.id for r in first.all} <= {r.id for r in later.all}
