"""Quotas: what is counted, when it begins anew, and what a restart and a kill leave of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.types import Usage
from serving.endpoint.keys import ANONYMOUS, Caller, Period, Quota
from serving.endpoint.quota import QuotaBook, QuotaExceeded, period_end, period_start

NOON = datetime(2026, 2, 28, 12, 30, tzinfo=UTC).timestamp()
BILLING = Caller(key_id="a" * 12, team="billing", quota=Quota(tokens=100, per="day"))
TEN = Usage(prompt_tokens=7, output_tokens=3)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> QuotaBook:
    return QuotaBook(tmp_path / "spent.json", clock=clock)


def test_a_spent_quota_is_refused_until_the_day_ends(book: QuotaBook, clock: Clock) -> None:
    for _ in range(10):
        book.check(BILLING)
        book.spend(BILLING, TEN)
    with pytest.raises(QuotaExceeded, match="at most 100 tokens per day, 100 are spent") as caught:
        book.check(BILLING)
    assert caught.value.retry_after_s == 11.5 * 3600
    clock.now += caught.value.retry_after_s
    book.check(BILLING)
    assert book.left(BILLING) == 100


def test_prompt_and_output_tokens_both_count(book: QuotaBook) -> None:
    book.spend(BILLING, TEN)
    assert book.left(BILLING) == 90


def test_one_keys_spending_leaves_anothers_alone(book: QuotaBook) -> None:
    other = BILLING.model_copy(update={"key_id": "b" * 12})
    book.spend(BILLING, Usage(prompt_tokens=1000))
    book.check(other)
    assert book.left(other) == 100


def test_who_has_no_quota_is_never_refused_nor_counted(book: QuotaBook, tmp_path: Path) -> None:
    book.spend(ANONYMOUS, Usage(prompt_tokens=10**9))
    book.check(ANONYMOUS)
    assert book.left(ANONYMOUS) is None
    book.close()
    assert not (tmp_path / "spent.json").exists()


def test_a_restart_goes_on_from_what_was_spent(book: QuotaBook, clock: Clock, tmp_path: Path) -> None:
    for _ in range(10):
        book.spend(BILLING, TEN)
    book.close()
    with pytest.raises(QuotaExceeded):
        QuotaBook(tmp_path / "spent.json", clock=clock).check(BILLING)


def test_a_kill_forgets_less_than_a_second(book: QuotaBook, clock: Clock, tmp_path: Path) -> None:
    for _ in range(30):
        book.spend(BILLING, Usage(prompt_tokens=1))
        clock.now += 0.25
    left = QuotaBook(tmp_path / "spent.json", clock=clock).left(BILLING)
    assert left is not None
    assert 70 <= left <= 74


def test_a_quota_changed_from_days_to_months_and_back_keeps_what_the_shorter_period_counted(book: QuotaBook) -> None:
    monthly = BILLING.model_copy(update={"quota": Quota(tokens=1000, per="month")})
    book.spend(BILLING, TEN)
    assert book.left(monthly) == 990


def test_a_damaged_book_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "spent.json").write_text('{"by_key": {"a": {"since": 1, "tokens": -4}}}')
    with pytest.raises(ValueError, match=r"spent\.json"):
        QuotaBook(tmp_path / "spent.json")


def test_periods_over_a_month_ago_are_dropped_from_the_file(book: QuotaBook, clock: Clock, tmp_path: Path) -> None:
    book.spend(BILLING, TEN)
    clock.now += 40 * 86_400
    book.spend(BILLING.model_copy(update={"key_id": "b" * 12}), TEN)
    book.close()
    assert "a" * 12 not in (tmp_path / "spent.json").read_text()


@given(st.sampled_from(("hour", "day", "month")), st.floats(min_value=0, max_value=4e9))
def test_every_moment_lies_in_its_own_period(per: Period, now: float) -> None:
    start, end = period_start(per, now), period_end(per, now)
    assert start <= now < end
    assert period_start(per, end) == end
    assert period_start(per, end - 1) == start
