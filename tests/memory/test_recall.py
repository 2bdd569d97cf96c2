"""Fusion and choice: pure functions over ranked candidates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.recall import (
    Candidate,
    Fused,
    choose,
    fuse,
    query_terms,
    recollection,
    weighted_overlap,
)
from memory.types import Evidence, Experience, Kind

lanes = st.dictionaries(
    st.sampled_from(["text", "vector", "graph"]), st.lists(st.integers(0, 9), unique=True, max_size=8)
)


def candidate(text: str, row: int = 1, verdict: str = "passed", **changes) -> Candidate:
    experience = Experience(
        kind=Kind.SOLUTION,
        text=text,
        evidence=Evidence.model_validate({"verifier": "exact", "verdict": verdict, "digest": "d"}),
    )
    values = {
        "fused": Fused(row, 0.5, {"text": 1}),
        "experience": experience,
        "similarity": None,
        "overlap": 0.5,
        "via": None,
    }
    return Candidate(**{**values, **changes})


def test_score_is_the_sum_of_reciprocal_ranks() -> None:
    fused = fuse({"text": [5, 7], "vector": [7, 9]})
    assert [entry.row for entry in fused] == [7, 5, 9]
    assert fused[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert fused[1].score == pytest.approx(1 / 61)
    assert [entry.lane for entry in fused] == ["both", "text", "vector"]


@settings(deadline=None)
@given(lanes)
def test_fusion_keeps_every_row_once_and_orders_by_score_then_row(ranked) -> None:
    fused = fuse(ranked)
    assert sorted(entry.row for entry in fused) == sorted({row for rows in ranked.values() for row in rows})
    assert fused == sorted(fused, key=lambda entry: (-entry.score, entry.row))


@settings(deadline=None)
@given(lanes)
def test_fusion_does_not_depend_on_the_order_of_the_lanes(ranked) -> None:
    assert fuse(dict(reversed(list(ranked.items())))) == fuse(ranked)


def test_only_what_the_graph_alone_found_is_of_the_graph_lane() -> None:
    by_row = {entry.row: entry.lane for entry in fuse({"text": [1], "vector": [], "graph": [1, 2]})}
    assert by_row == {1: "text", 2: "graph"}


def test_query_terms_are_distinct_folded_and_bounded() -> None:
    assert query_terms("The APPLE, the 12-apple!") == ["the", "apple", "12"]
    assert len(query_terms(" ".join(f"w{number}" for number in range(1000)))) == 64
    assert query_terms('" ( * : ^') == []


def test_overlap_is_the_share_of_weight_not_of_words() -> None:
    assert weighted_overlap({"the": 0.1, "apple": 0.9}, "The pear") == pytest.approx(0.1)
    assert weighted_overlap({"the": 0.1, "apple": 0.9}, "apple pie") == pytest.approx(0.9)
    assert weighted_overlap({}, "anything") == 0.0


def test_failures_take_only_the_places_that_solutions_leave() -> None:
    solutions, failures = [candidate("good")], [candidate("bad", verdict="failed"), candidate("worse")]
    assert [(one.text, one.warning) for one in choose(solutions, failures, 2)] == [("good", False), ("bad", True)]
    assert [one.text for one in choose(solutions, failures, 1)] == ["good"]
    assert choose(solutions, failures, 0) == []


def test_equal_texts_are_shown_once() -> None:
    chosen = choose([candidate("same  text"), candidate("same text"), candidate("other")], [candidate("other")], 5)
    assert [one.text for one in chosen] == ["same  text", "other"]


def test_reason_names_standing_and_relevance() -> None:
    both = candidate("x", fused=Fused(1, 0.5, {"text": 1, "vector": 2}), similarity=0.831, overlap=0.5)
    why = recollection(both, warning=False).why
    assert why == (
        "solution verified by exact; its meaning is near (cosine 0.83) and it holds 50% of what the query's words say."
    )
    assert "failed the check exact" in recollection(candidate("x", verdict="failed"), warning=True).why
    assert recollection(candidate("x", verdict="unknown"), warning=False).why.startswith("unverified solution")
