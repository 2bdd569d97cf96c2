from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.duplicates import (
    MIN_COSINE,
    MIN_JACCARD,
    Item,
    alike,
    candidate_pairs,
    canonical,
    find_duplicates,
    is_duplicate,
    similarity,
    sketch,
)
from memory.types import Kind

QUESTION = "Calculate the sum of the integers 12 and 5 and give the result as a single number."


def problem(row: int, text: str = QUESTION, **fields: Any) -> Item:
    return Item(row, f"id{row}", Kind.PROBLEM, text)._replace(**fields)


def merges(items: list[Item]) -> list[tuple[str, str]]:
    return [(merge.duplicate, merge.into) for merge in find_duplicates(items, {item.row for item in items})]


def test_duplicates_are_merged_into_the_oldest_of_their_chain() -> None:
    items = [
        problem(3, f"Please: {QUESTION}"),
        problem(1),
        problem(2, QUESTION.replace("integers", "numbers")),
        problem(4, QUESTION.replace("12", "13")),
    ]
    assert merges(items) == [("id2", "id1"), ("id3", "id1")]
    found = find_duplicates(items[1:3], {2})
    assert "same particulars" in found[0].reason


def test_only_pairs_with_a_new_row_are_judged() -> None:
    items = [problem(1), problem(2, f"{QUESTION} "), problem(3, f" {QUESTION}")]
    assert [merge.duplicate for merge in find_duplicates(items, {3})] == ["id3"]
    assert find_duplicates(items, set()) == []
    assert find_duplicates([], {1}) == []


@pytest.mark.parametrize(
    "other",
    [
        {"kind": Kind.SOLUTION},
        {"namespace": "a/b/c"},
        {"task_type": "sums"},
        {"split": "gate"},
        {"error_code": "E501"},
        {"environment": (("vllm", "0.32"),)},
        {"text": QUESTION.replace("12 and 5", "5 and 12")},
        {"text": QUESTION.replace("sum", "product")},
    ],
)
def test_other_circumstances_or_particulars_are_never_merged(other: dict[str, Any]) -> None:
    a, b = problem(1), problem(2, **other)
    assert merges([a, b]) == []
    assert not is_duplicate(a, b, 1.0, 1.0)


def test_the_wording_or_the_meaning_with_some_wording_makes_a_duplicate() -> None:
    assert alike(Kind.PROBLEM, MIN_JACCARD, None)
    assert not alike(Kind.PROBLEM, MIN_JACCARD - 0.01, None)
    assert alike(Kind.PROBLEM, MIN_JACCARD - 0.01, MIN_COSINE)
    assert not alike(Kind.PROBLEM, 0.0, 1.0)
    assert not alike(Kind.ERROR, MIN_JACCARD, 1.0)


def test_two_occurrences_of_an_error_are_one_and_two_errors_are_two() -> None:
    text = "{p}/a.py:{n}:1: E{c} line too long ({n} > 120)"
    first = Item(1, "a", Kind.ERROR, text.format(p="/x", n=5, c=501))
    assert merges([first, Item(2, "b", Kind.ERROR, text.format(p="/y/z", n=77, c=501))]) == [("b", "a")]
    assert merges([first, Item(2, "b", Kind.ERROR, text.format(p="/x", n=5, c=502))]) == []


def test_the_older_entry_stays() -> None:
    assert canonical(problem(2), problem(1)).row == 1


def test_a_sketch_is_the_same_in_every_process_and_defined_for_every_text() -> None:
    assert sketch("what is 12 - 5").dtype == np.uint32
    assert sketch("what is 12 - 5")[:3].tolist() == [177722943, 25725924, 54523575]
    for text in ("", "\ud800", "\x00" * 9, "a " * 9):
        assert sketch(text).shape == (64,)


def test_the_share_of_equal_hashes_estimates_the_share_of_common_triples() -> None:
    rng = random.Random(1)
    errors = []
    for _ in range(60):
        words = [f"w{rng.randrange(10**6)}" for _ in range(60)]
        other = words[: rng.randrange(1, 60)] + [f"v{rng.randrange(10**6)}" for _ in range(30)]
        first, second = ({tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in (words, other))
        estimate = similarity(sketch(" ".join(words)), sketch(" ".join(other)))
        errors.append(estimate - len(first & second) / len(first | second))
    assert abs(float(np.mean(errors))) < 0.03
    assert float(np.std(errors)) < 0.0625 * 1.3


def test_banding_finds_what_is_alike_and_little_else() -> None:
    rng = np.random.default_rng(2)
    sketches = rng.integers(0, 2**32, (2000, 64), dtype=np.uint32)
    sketches[1000:] = np.where(rng.random((1000, 64)) < 0.5, sketches[:1000], sketches[1000:])
    found = set(candidate_pairs(sketches))
    assert sum((i, i + 1000) in found for i in range(1000)) >= 990
    assert len(found) < 1010


def test_one_huge_bucket_stays_linear_and_is_merged_into_one() -> None:
    sketches = np.zeros((3000, 64), dtype=np.uint32)
    found = list(candidate_pairs(sketches))
    assert len(found) <= 9 * 3000
    assert {j for i, j in found if i == 0} == set(range(1, 3000))
    assert list(candidate_pairs(sketches, np.arange(3000))) == []


@settings(max_examples=30)
@given(st.permutations(range(6)))
def test_the_order_in_which_entries_are_given_does_not_count(order: list[int]) -> None:
    texts = [QUESTION, "12 minus 5", QUESTION.upper(), "12 - 5", f"Please {QUESTION}", "spell canroy"]
    items = [problem(row, text) for row, text in enumerate(texts)]
    assert find_duplicates([items[i] for i in order], set(range(6))) == find_duplicates(items, set(range(6)))
