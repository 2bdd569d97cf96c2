"""Fusion, what fits, how it ranks and what is chosen: pure functions over candidates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.config import MemoryConfig
from memory.recall import (
    Candidate,
    Classes,
    Fused,
    choose,
    fits,
    fuse,
    is_allowed,
    query_terms,
    ranked,
    recollection,
    weighted_overlap,
)
from memory.types import Kind, Level, Standing
from memory.utility import Tally
from tests.memory.doubles import cue, texts, thing

CONFIG = MemoryConfig()
DAY = 86_400.0
HARMFUL = Classes(similar_with=Tally(200, 20), similar_without=Tally(200, 180))

lanes = st.dictionaries(
    st.sampled_from(["fingerprint", "text", "vector", "graph"]), st.lists(st.integers(0, 9), unique=True, max_size=8)
)


def candidate(text: str, row: int = 1, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "fused": Fused(row, 0.5, {"text": 1}),
        "experience": (experience := changes.get("experience", thing(Kind.SOLUTION, text))),
        "id": experience.id,
        "standing": Standing(level=Level.VERIFIED, trust=0.5, num_passed=1),
        "similarity": None,
        "overlap": 0.5,
        "via": None,
    }
    return Candidate(**{**values, **changes})


def warning(text: str, row: int = 1) -> Candidate:
    return candidate(text, row, standing=Standing(level=Level.VERIFIED, warns=True, trust=0.5, num_failed=1))


# Fusion


def test_score_is_the_sum_of_reciprocal_ranks() -> None:
    fused = fuse({"text": [5, 7], "vector": [7, 9]})
    assert [entry.row for entry in fused] == [7, 5, 9]
    assert fused[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert fused[1].score == pytest.approx(1 / 61)
    assert [entry.lane for entry in fused] == ["both", "text", "vector"]


@given(lanes)
def test_fusion_keeps_every_row_once_and_orders_by_score_then_row(ranked) -> None:
    fused = fuse(ranked)
    assert sorted(entry.row for entry in fused) == sorted({row for rows in ranked.values() for row in rows})
    assert fused == sorted(fused, key=lambda entry: (-entry.score, entry.row))


@given(lanes)
def test_fusion_does_not_depend_on_the_order_of_the_lanes(ranked) -> None:
    assert fuse(dict(reversed(list(ranked.items())))) == fuse(ranked)


def test_a_lane_names_what_found_it_the_fingerprint_first_the_graph_last() -> None:
    by_row = {entry.row: entry.lane for entry in fuse({"fingerprint": [3], "text": [1, 3], "graph": [1, 2]})}
    assert by_row == {1: "text", 2: "graph", 3: "fingerprint"}


def test_query_terms_are_distinct_folded_and_bounded() -> None:
    assert query_terms("The APPLE, the 12-apple!") == ["the", "apple", "12"]
    assert len(query_terms(" ".join(f"w{number}" for number in range(1000)))) == 64
    assert query_terms('" ( * : ^') == []


def test_overlap_is_the_share_of_weight_not_of_words() -> None:
    assert weighted_overlap({"the": 0.1, "apple": 0.9}, "The pear") == pytest.approx(0.1)
    assert weighted_overlap({"the": 0.1, "apple": 0.9}, "apple pie") == pytest.approx(0.9)
    assert weighted_overlap({}, "anything") == 0.0


# What fits


@pytest.mark.parametrize(
    ("where", "asked", "is_fit"),
    [
        ({}, {}, True),
        ({"task_type": "sum"}, {"task_type": "sum"}, True),
        ({"task_type": "sum"}, {"task_type": "riddle"}, False),
        ({"error_code": "E501"}, {}, True),
        ({}, {"error_code": "E501"}, True),
        ({"error_code": "E501"}, {"error_code": "E501"}, True),
        ({"error_code": "E501"}, {"error_code": "OOM"}, False),
        ({"environment": (("vllm", "0.32"),)}, {}, True),
        ({}, {"environment": (("vllm", "0.32"),)}, True),
        ({"environment": (("vllm", "0.32"),)}, {"environment": (("python", "3.11"),)}, True),
        ({"environment": (("vllm", "0.32"),)}, {"environment": (("vllm", "0.31"),)}, False),
        (
            {"environment": (("a", "1"), ("vllm", "0.32"))},
            {"environment": (("vllm", "0.31"), ("a", "1"))},
            False,
        ),
    ],
)
def test_the_gate_refuses_another_value_and_only_where_both_name_one(where, asked, is_fit) -> None:
    assert fits(thing(Kind.SOLUTION, "x", **where), cue("x", **asked)) is is_fit


def test_what_is_like_a_harmful_class_is_not_shown_the_very_same_and_warnings_are() -> None:
    assert is_allowed(candidate("x"), Classes(), CONFIG)
    assert not is_allowed(candidate("x"), HARMFUL, CONFIG)
    assert is_allowed(candidate("x", same=True), HARMFUL, CONFIG)
    assert is_allowed(warning("x"), HARMFUL, CONFIG)
    assert is_allowed(candidate("x"), HARMFUL, MemoryConfig(similar="always"))
    assert not is_allowed(candidate("x"), Classes(), MemoryConfig(similar="never"))


# How it ranks


def order(*candidates: Candidate, now: float = 0.0) -> list[str]:
    return [one.experience.text for one in ranked(candidates, Classes(), now, CONFIG)]


def test_the_very_same_problem_ranks_before_everything() -> None:
    far = candidate("far", 2, same=True, fused=Fused(2, 0.001, {"graph": 9}))
    assert order(candidate("near"), far) == ["far", "near"]


def test_trust_gain_and_age_each_lower_a_rank() -> None:
    good = candidate("good", 2)
    doubted = Standing(level=Level.VERIFIED, trust=0.3, num_passed=1)
    useless = Standing(level=Level.VERIFIED, trust=0.5, gain=-0.4, num_uses=9)
    assert order(candidate("bad", standing=doubted), good) == ["good", "bad"]
    assert order(candidate("bad", standing=useless), good) == ["good", "bad"]
    assert order(candidate("old"), good._replace(confirmed_at=40 * DAY), now=40 * DAY) == ["good", "old"]


def test_what_nobody_checked_ranks_below_what_somebody_did_whatever_its_trust() -> None:
    unchecked = candidate("unchecked", standing=Standing(level=Level.CANDIDATE, trust=0.9))
    checked = candidate("checked", 2, standing=Standing(level=Level.VERIFIED, trust=0.1, num_passed=1))
    assert order(unchecked, checked) == ["checked", "unchecked"]


def test_equal_scores_go_by_the_order_of_writing_and_a_clock_set_back_is_no_youth() -> None:
    one, two = candidate("first", 1, confirmed_at=5 * DAY), candidate("second", 2, confirmed_at=0.0)
    assert order(two, one, now=0.0) == ["first", "second"]


# What is chosen


def test_failures_take_only_the_places_that_solutions_leave() -> None:
    solutions, failures = [candidate("good")], [warning("bad"), warning("worse")]
    two, one, none = (choose(solutions, failures, cue("q", limit=limit), CONFIG).shown for limit in (2, 1, 0))
    assert [(found.text, found.warning) for found in two] == [("good", False), ("bad", True)]
    assert texts(one) == ["good"]
    assert none == ()


def test_equal_texts_are_chosen_once() -> None:
    solutions = [candidate("same  text"), candidate("same text"), candidate("other")]
    chosen = choose(solutions, [warning("other")], cue("q", limit=5), CONFIG)
    assert texts(chosen.shown) == ["same  text", "other"]


def test_what_is_held_out_keeps_its_place_and_nothing_moves_up() -> None:
    candidates = [candidate(f"text {number}", number) for number in range(6)]
    everything = choose(candidates, [], cue("q"), CONFIG)
    seen = set()
    for number in range(60):
        found = choose(candidates, [], cue("q", episode=f"e{number}"), MemoryConfig(holdout_share=0.3))
        assert {*texts(found.shown), *texts(found.withheld)} == set(texts(everything.shown))
        seen.add(len(found.withheld))
    assert {0, 1} <= seen
    assert everything.withheld == ()


def test_a_source_gets_its_share_of_places_and_another_source_brings_it_in() -> None:
    mine = [candidate(f"mine {number}", number, sources=("ann",)) for number in range(4)]
    shared = candidate("shared", 8, sources=("ann", "bob"))
    nobodys = [candidate(f"nobody's {number}", 20 + number) for number in range(3)]
    assert texts(choose([*mine, shared], [], cue("q", limit=9), CONFIG).shown) == ["mine 0", "mine 1", "shared"]
    assert len(choose(nobodys, [], cue("q", limit=9), CONFIG).shown) == 3
    assert texts(choose(mine, [], cue("q", limit=9), MemoryConfig(max_per_source=1)).shown) == ["mine 0"]


def test_the_reason_names_standing_and_relevance() -> None:
    both = candidate("x", fused=Fused(1, 0.5, {"text": 1, "vector": 2}), similarity=0.831, overlap=0.5)
    assert recollection(both).why == (
        "solution verified by 1 check; "
        "its meaning is near (cosine 0.83) and it holds 50% of what the query's words say."
    )
    assert "failed 1 check" in recollection(warning("x")).why
    unverified = candidate("x", standing=Standing(level=Level.CANDIDATE))
    assert recollection(unverified).why.startswith("unverified solution (candidate)")
    retired = candidate("x", standing=Standing(level=Level.RETIRED, reason="superseded"))
    assert recollection(retired).why.startswith("retired solution: superseded")
    met = candidate("x", same=True, fused=Fused(1, 0.5, {"fingerprint": 1}))
    assert "the very same was met before" in recollection(met).why
    assert "in other words" in recollection(candidate("x", same=True)).why
