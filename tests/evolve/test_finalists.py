"""Which arrangements go to the gate, and which of them is seated if several pass."""

from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import given

from evolve.gates.arrangements import Arrangement
from evolve.gates.finalists import Shown, finalists_of
from mesh.types import Member

ADA = Member(name="ada", engine="ada", family="alpha")
BEN = Member(name="ben", engine="ben", family="beta")
SEATS = (ADA, BEN)
A1, B1 = (m.model_copy(update={"name": n, "adapter": n * 8}) for m, n in ((ADA, "a1"), (BEN, "b1")))
FIRST = Arrangement(name="a1", seats=(A1, BEN), candidates=("a1",))
SECOND = Arrangement(name="b1", seats=(ADA, B1), candidates=("b1",))
BOTH = Arrangement(name="a1 and b1", seats=(A1, B1), candidates=("a1", "b1"))
SCORES = {"ada": (0.2,) * 40, "ben": (0.2,) * 40, "a1": (0.5,) * 40, "b1": (0.4,) * 40}


def right(count: int, n: int = 40) -> tuple[bool, ...]:
    return tuple(index < count for index in range(n))


def names(
    *gains: tuple[Arrangement, int],
    scores: dict[str, Sequence[float]] | None = None,
    at_most: int = 2,
) -> list[str]:
    """Finalists by name; each arrangement with how many of 40 problems its vote has right, the incumbents' with 8."""
    found = finalists_of(
        [Shown(one, (count - 8) / 40, () if one.endpoint == "council" else right(count)) for one, count in gains],
        scores or SCORES,
        SEATS,
        [f"c{index}" for index in range(40)],
        at_most=at_most,
        seed=0,
    )
    return [one.name for one in found]


def test_the_best_on_dev_comes_first_and_what_gained_nothing_does_not_come() -> None:
    assert names((SECOND, 9), (FIRST, 14)) == ["a1", "b1"]
    assert names((FIRST, 8), (SECOND, 7)) == []


def test_a_wider_mesh_comes_before_the_best_where_dev_cannot_tell_their_votes_apart() -> None:
    assert names((FIRST, 14), (SECOND, 13), (BOTH, 12)) == ["a1 and b1", "a1"], "and leaves the best as the other one"


def test_a_wider_mesh_whose_vote_is_shown_to_be_worse_waits() -> None:
    assert names((FIRST, 30), (BOTH, 12)) == ["a1", "a1 and b1"]


def test_a_wider_mesh_that_seats_someone_who_is_no_better_alone_waits() -> None:
    scores = SCORES | {"b1": (0.2,) * 40}
    assert names((FIRST, 14), (BOTH, 13), scores=scores) == ["a1", "a1 and b1"]


def test_a_mesh_without_the_best_is_no_wider_one() -> None:
    assert names((SECOND, 14), (FIRST, 14)) == ["b1", "a1"]


def test_a_critic_in_councils_is_never_weighed_against_a_vote() -> None:
    critic = BOTH.model_copy(update={"name": "critic", "endpoint": "council"})
    assert names((FIRST, 14), (critic, 12)) == ["a1", "critic"]


@given(st.permutations([(FIRST, 14), (SECOND, 12), (BOTH, 13)]), st.integers(1, 3))
def test_whatever_the_order_of_measuring_as_many_go_as_may_and_none_twice(
    order: list[tuple[Arrangement, int]], at_most: int
) -> None:
    found = names(*order, at_most=at_most)
    assert len(found) == len(set(found)) == at_most
    assert found[0] == "a1 and b1"
