"""The chain of events: one order, one hash for one history, and a clock that may go anywhere."""

from __future__ import annotations

import pytest

from memory.database import FILE_NAME, StoreError, connect, transaction
from memory.events import all_events, append_event, event_hash, head_event, verify_events
from memory.ledger import GENESIS
from memory.store import Memory
from memory.types import Kind
from tests.memory.doubles import APPLES, EMBEDDER, PEARS, Clock, note, raw, shown, solved


@pytest.fixture
def connection(tmp_path):
    opened = connect(tmp_path, readonly=False)
    with transaction(opened):
        for number in range(4):
            append_event(opened, "remembered", {"number": number}, 10.0 * number)
    yield opened
    opened.close()


def test_events_count_up_and_the_head_is_the_last_hash(connection) -> None:
    events = list(all_events(connection))
    assert [(event.seq, event.payload["number"]) for event in events] == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert head_event(connection) == (4, event_hash(connection, 4))
    assert event_hash(connection, 0) == GENESIS
    assert event_hash(connection, 5) is None
    assert verify_events(connection) == 4


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        ("UPDATE events SET payload = '{}' WHERE seq = 2", 2),
        ("UPDATE events SET kind = 'erased' WHERE seq = 3", 3),
        ("UPDATE events SET hash = prev WHERE seq = 1", 1),
        ("UPDATE events SET prev = hash WHERE seq = 4", 4),
        ("DELETE FROM events WHERE seq = 2", 2),
        ("UPDATE events SET seq = 9 WHERE seq = 4", 4),
    ],
)
def test_a_changed_or_missing_event_is_found_at_its_place(connection, spoil, place) -> None:
    connection.execute(spoil)
    with pytest.raises(StoreError, match=f"event {place}: expected hash"):
        verify_events(connection)


def test_a_clock_that_goes_backwards_stands_still_and_nothing_is_lost(tmp_path) -> None:
    clock = Clock(1e9)
    with Memory.open(tmp_path, EMBEDDER, clock=clock) as memory:
        memory.remember(*solved(APPLES, "5"))
        clock.now = -5.0
        memory.remember(*solved(PEARS, "6", source="bob"))
        assert len(shown(memory, PEARS)) == 1
        clock.now = 2e9
        memory.remember([note(Kind.PROBLEM, "later")])
        with memory.reading() as connection:
            times = [event.created_at for event in all_events(connection)]
        assert times == [1e9, 1e9, 2e9]
        assert memory.check() == 3


def test_times_are_not_part_of_a_history(tmp_path) -> None:
    heads = set()
    for name, now in (("a", 0.0), ("b", 7e8)):
        with Memory.open(tmp_path / name, EMBEDDER, clock=Clock(now)) as memory:
            memory.remember(*solved(APPLES, "5"))
            heads.add(memory.head)
    assert len(heads) == 1


def test_no_event_holds_a_text(tmp_path) -> None:
    with Memory.open(tmp_path, EMBEDDER) as memory:
        memory.remember(*solved("Zanzibar", "quokka"))
        memory.erase(solved("Zanzibar", "quokka")[0][0].experience.id)
    connection = raw(tmp_path / FILE_NAME)
    assert not [text for (text,) in connection.execute("SELECT payload FROM events") if "anzibar" in text]
    connection.close()
