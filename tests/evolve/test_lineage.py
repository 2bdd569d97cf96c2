from __future__ import annotations

import pytest
from pydantic import ValidationError

from evolve.lineage import Generation, Lineage, LineageError, Specialist, founders, seat, successor
from memory.ledger import LedgerError
from mesh.types import Member


def member(engine: str, adapter: str | None = None) -> Member:
    return Member(name=f"{engine}:{adapter or 'base'}", engine=engine, family=engine, adapter=adapter)


def specialist(adapter: str, generation: int, engine: str = "left", parents: tuple[str, ...] = ()) -> Specialist:
    return Specialist(
        name=f"s-{adapter}",
        engine=engine,
        family=engine,
        adapter=adapter,
        parents=parents,
        generation=generation,
        recipe="own",
        data_digest="d",
        gate_digest="g",
    )


@pytest.fixture
def line() -> list[Generation]:
    zero = founders([member("left"), member("right")])
    one = successor(zero, [member("left", "a1"), member("right")], [specialist("a1", 1)])
    two = successor(one, [member("left", "a2"), member("right")], [specialist("a2", 2, parents=("a1",))])
    three = successor(
        two,
        [member("left", "a2"), member("right", "b3")],
        [specialist("b3", 3, engine="right", parents=("a2", "a1"))],
    )
    return [zero, one, two, three]


def test_a_lineage_is_read_back_as_it_was_written(tmp_path, line):
    path = tmp_path / "lineage.jsonl"
    lineage = Lineage(path)
    for generation in line:
        lineage.append(generation)
    again = Lineage(path, readonly=True)
    assert again.generations() == line
    assert again.latest() == line[-1]
    assert again.verify() == 4


def test_seats_are_kept_in_order_and_only_seated_specialists_stay_in_a_generation(line):
    assert [m.adapter for m in seat(line[3])] == ["a2", "b3"]
    assert [s.adapter for s in line[2].specialists] == ["a2"]


def test_a_seat_with_a_critic_holds_its_specialist_too(line):
    helped = line[0].seats[0].model_copy(update={"phase_adapters": (("critique", "c1"),)})
    critic = specialist("c1", 1).model_copy(update={"role": "critic"})
    one = successor(line[0], [helped, line[0].seats[1]], [critic])
    assert one.specialists == (critic,)
    assert successor(one, one.seats).specialists == (critic,)
    with pytest.raises(LineageError, match="without a specialist"):
        successor(line[0], [helped, line[0].seats[1]])
    assert "role" not in specialist("a1", 1).model_dump(mode="json"), "a proposer's record keeps its hash"
    assert Specialist.model_validate_json(critic.model_dump_json()) == critic


def test_ancestors_are_found_nearest_first_and_each_once(tmp_path, line):
    lineage = Lineage(tmp_path / "lineage.jsonl")
    for generation in line:
        lineage.append(generation)
    assert [s.adapter for s in lineage.ancestors("b3")] == ["a2", "a1"]
    assert lineage.ancestors("a1") == []
    with pytest.raises(LineageError, match="expected the adapter of a specialist, got nobody"):
        lineage.ancestors("nobody")


def test_the_last_generation_may_be_appended_again_and_nothing_changes(tmp_path, line):
    path = tmp_path / "lineage.jsonl"
    lineage = Lineage(path)
    lineage.append(line[0])
    before = path.read_bytes()
    Lineage(path).append(line[0])
    assert path.read_bytes() == before


def test_a_generation_out_of_order_or_of_another_parent_is_refused(tmp_path, line):
    lineage = Lineage(tmp_path / "lineage.jsonl")
    lineage.append(line[0])
    with pytest.raises(LineageError, match="expected generation 1, got 2"):
        lineage.append(line[2])
    stranger = successor(founders([member("other")]), [member("other")])
    with pytest.raises(LineageError, match="expected parent"):
        lineage.append(stranger)


def test_a_specialist_that_was_recorded_otherwise_before_is_refused(tmp_path, line):
    lineage = Lineage(tmp_path / "lineage.jsonl")
    lineage.append(line[0])
    lineage.append(line[1])
    other = specialist("a1", 1).model_copy(update={"recipe": "another"})
    with pytest.raises(LineageError, match="specialist s-a1 was recorded otherwise before; records do not change"):
        lineage.append(
            successor(line[1], line[1].seats, returning=[other]).model_copy(update={"specialists": (other,)})
        )
    lineage.append(successor(line[1], line[1].seats))
    assert lineage.verify() == 3


def test_a_parent_that_never_had_a_seat_is_kept_and_no_ancestor(tmp_path, line):
    """Archive elites may be trained further or merged without ever having sat."""
    lineage = Lineage(tmp_path / "lineage.jsonl")
    lineage.append(line[0])
    lineage.append(successor(line[0], [member("left", "a1")], [specialist("a1", 1, parents=("elite",))]))
    assert lineage.specialists()["a1"].parents == ("elite",)
    assert lineage.ancestors("a1") == []


def test_a_changed_byte_is_found(tmp_path, line):
    path = tmp_path / "lineage.jsonl"
    lineage = Lineage(path)
    lineage.append(line[0])
    lineage.append(line[1])
    path.write_bytes(path.read_bytes().replace(b'"name":"left:base"', b'"name":"left:cafe"', 1))
    with pytest.raises(LedgerError):
        Lineage(path, readonly=True).verify()


def test_a_seated_adapter_needs_its_specialist(line):
    with pytest.raises(LineageError, match="without a specialist"):
        successor(line[0], [member("left", "zz")])
    with pytest.raises(ValidationError, match="a specialist for each seated adapter"):
        Generation(number=0, seats=(member("left", "zz"),))
    with pytest.raises(LineageError, match="expected generation 1, got 4"):
        successor(line[0], [member("left", "zz")], [specialist("zz", 4)])


def test_two_seats_cannot_have_one_name():
    with pytest.raises(ValidationError, match="seat names must be unique"):
        founders([member("left"), member("left")])


def test_the_roster_digest_tells_seats_apart_and_nothing_else(line):
    unchanged = successor(line[1], line[1].seats)
    assert unchanged.roster_digest == line[1].roster_digest
    assert unchanged.digest != line[1].digest
    assert line[0].roster_digest != line[1].roster_digest
