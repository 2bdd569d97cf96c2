"""Rosters: what makes two the same, who answers alone, and what none may hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mesh.reliability import AnswerCount, Reliability
from mesh.types import Member
from serving.roster import Roster, best_base

ADA, BEN = (Member(name=name, engine=name, family=name) for name in ("ada", "ben"))
TRAINED = Member(name="g1-ada", engine="ada", family="ada", adapter="a" * 64)


def measured(**right: int) -> Reliability:
    return Reliability(
        answers=tuple(
            AnswerCount(member=name, task_type="sum", num_judged=100, num_answered=100, num_correct=count)
            for name, count in right.items()
        )
    )


def test_the_same_seating_has_one_id_wherever_it_comes_from() -> None:
    one = Roster(channel="prod", seats=(ADA, BEN), safe="ada", source="runs/a@0")
    same = Roster(channel="test", seats=(ADA, BEN), safe="ada", source="runs/b@3")
    other = Roster(channel="prod", seats=(BEN, ADA), safe="ada", source="runs/a@0")
    assert one.id == same.id
    assert one.id != other.id


def test_a_roster_of_specialists_alone_keeps_a_base_member_to_answer_safely() -> None:
    roster = Roster(channel="prod", seats=(TRAINED,), bases=(ADA, BEN), safe="ben", source="r@1")
    assert roster.safe_member == BEN
    assert roster.everyone == (TRAINED, ADA, BEN)
    alone = roster.alone()
    assert (alone.seats, alone.bases, alone.adapters) == ((BEN,), (ADA,), ())
    assert alone.safe_member == BEN


@pytest.mark.parametrize(
    ("seats", "bases", "safe", "reason"),
    [
        ((ADA, ADA), (), "ada", "different names"),
        ((ADA,), (ADA,), "ada", "different names"),
        ((TRAINED,), (), "g1-ada", "on a base model"),
        ((TRAINED,), (ADA,), "nobody", "on a base model"),
        ((ADA,), (TRAINED,), "ada", "without an adapter"),
        ((), (ADA,), "ada", "at least 1"),
    ],
)
def test_what_cannot_be_served_is_no_roster(
    seats: tuple[Member, ...], bases: tuple[Member, ...], safe: str, reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        Roster(channel="prod", seats=seats, bases=bases, safe=safe, source="r@1")


def test_the_base_member_that_is_right_most_often_answers_alone() -> None:
    assert best_base([ADA, BEN], measured(ada=20, ben=60)) == "ben"
    assert best_base([ADA, BEN], measured(ada=20)) == "ada"  # nothing is known of ben himself
    assert best_base([ADA, BEN], None) == "ada"
    assert best_base([BEN, ADA], Reliability()) == "ben"
    with pytest.raises(ValueError, match="at least one"):
        best_base([], None)


def test_adapters_for_single_phases_are_served_too_but_not_to_answer_safely() -> None:
    helped = ADA.model_copy(update={"phase_adapters": (("critique", "c" * 64),)})
    roster = Roster(channel="prod", seats=(helped, BEN), safe="ada", source="r@1")
    assert roster.adapters == (("ada", "c" * 64),)
    assert roster.safe_member == ADA
    assert roster.alone().adapters == ()
    assert roster.model_copy(update={"safe": "ben"}).alone().bases == (ADA,)
    with pytest.raises(ValidationError, match="without an adapter"):
        Roster(channel="prod", seats=(TRAINED, BEN), bases=(helped,), safe="ben", source="r@1")


def test_an_adapter_of_two_seats_is_listed_once() -> None:
    twin = TRAINED.model_copy(update={"name": "twin"})
    roster = Roster(channel="prod", seats=(TRAINED, twin), bases=(ADA,), safe="ada", source="r@1")
    assert roster.adapters == (("ada", "a" * 64),)
