from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evolve.problems.splits import Split, SplitShares, SplitSizes, derived_seed, is_reserved, normalised_text, split_of


@given(st.text(), st.integers(min_value=0, max_value=2**40))
def test_an_item_always_lands_in_the_same_split(key: str, seed: int) -> None:
    shares = SplitShares()
    assert split_of(key, seed, shares) is split_of(key, seed, shares)


def test_items_are_dealt_by_the_shares() -> None:
    shares = SplitShares(train=0.4, dev=0.3, gate=0.2, audit=0.1)
    dealt = Counter(split_of(f"item {number}", 0, shares) for number in range(20_000))
    for split in Split:
        assert dealt[split] / 20_000 == pytest.approx(shares.of(split), abs=0.015)


@given(st.text())
def test_a_split_without_a_share_gets_nothing(key: str) -> None:
    assert split_of(key, 3, SplitShares(train=0.0, dev=0.0, gate=1.0, audit=0.0)) is Split.GATE


def test_another_split_seed_deals_anew() -> None:
    keys = [f"item {number}" for number in range(400)]
    moved = sum(split_of(key, 0, SplitShares()) is not split_of(key, 1, SplitShares()) for key in keys)
    assert moved > 150


def test_splits_never_change_between_versions() -> None:
    keys = ["chain_sum|+1 +2", "gcd|12 18", "file|what is a mesh"]
    assert [split_of(key, 0, SplitShares()) for key in keys] == [Split.GATE, Split.TRAIN, Split.AUDIT]


def test_the_reserve_is_independent_of_the_splits() -> None:
    reserved = [key for key in (f"item {number}" for number in range(20_000)) if is_reserved(key, 0, 0.1)]
    assert len(reserved) / 20_000 == pytest.approx(0.1, abs=0.01)
    in_train = sum(split_of(key, 0, SplitShares()) is Split.TRAIN for key in reserved)
    assert in_train / len(reserved) == pytest.approx(0.5, abs=0.06)


def test_shares_must_add_up_to_one() -> None:
    with pytest.raises(ValidationError, match=r"add up to 1, got 1\.1"):
        SplitShares(train=0.6)


def test_sizes_are_read_by_split() -> None:
    assert [SplitSizes(train=1, dev=2, gate=3, audit=4).of(split) for split in Split] == [1, 2, 3, 4]


@given(st.text(), st.integers())
def test_derived_seeds_fit_what_numpy_takes(name: str, seed: int) -> None:
    assert 0 <= derived_seed(name, seed) < 2**32


def test_normalising_keeps_digits_apart() -> None:
    assert normalised_text("  What is\n 2 + 3?") == normalised_text("what IS 2 + 3?")
    assert normalised_text("2 + 3") != normalised_text("2 + 4")
    assert normalised_text("2²") != normalised_text("22")
