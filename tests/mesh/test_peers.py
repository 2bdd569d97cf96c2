from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.critique import critique_messages
from mesh.equivalence import canonical
from mesh.peers import TOO_LONG, Room, excerpt, read_peers, strongest_opponent
from mesh.revise import revision_messages
from mesh.types import Message, Proposal, Task
from mesh.vote import vote_messages

ROOM = Room(max_peers_shown=4, peer_max_chars=50)
NAMES = ("NAME-ONE", "NAME-TWO", "NAME-THREE", "NAME-FOUR", "NAME-FIVE")
TASK = Task(id="t", question="What is 3 + 4?", answer_kind="number")
ANSWERS = st.lists(st.sampled_from(["1", "2", "3", "2.0", None]), min_size=1, max_size=len(NAMES))


def _held(answers: list[str | None]) -> dict[str, Proposal]:
    return {
        name: Proposal(member=name, family="FAMILY-X", text=f"so {answer}", answer=answer)
        for name, answer in zip(NAMES, answers, strict=False)
    }


def _rendered(messages: tuple[Message, ...]) -> str:
    return "\n".join(message.text for message in messages)


@given(ANSWERS, st.integers(0, 50))
def test_no_prompt_shows_a_name_or_a_family(answers: list[str | None], seed: int) -> None:
    held = _held(answers)
    for reader in NAMES:
        reading = read_peers(reader, 1, held, "number", ROOM, seed)
        seen = _rendered(revision_messages(TASK, reading, "mine", ["that is wrong"], seed))
        for shown in reading.shown:
            seen += _rendered(critique_messages(TASK, shown.text, "mine", seed))
        seen += _rendered(vote_messages(TASK, [shown.answer for shown in reading.shown]))
        assert "NAME-" not in seen
        assert "FAMILY" not in seen


@given(ANSWERS, st.integers(0, 50))
def test_each_distinct_answer_of_the_others_is_shown_once_with_its_supporters(
    answers: list[str | None], seed: int
) -> None:
    held = _held(answers)
    for reader in NAMES:
        shown = read_peers(reader, 1, held, "number", ROOM, seed).shown
        others = [p.answer for name, p in held.items() if name != reader and p.answer is not None]
        assert sum(s.supporters for s in shown) == len(others)
        assert sorted(canonical(s.answer, "number") for s in shown) == sorted({canonical(a, "number") for a in others})
        assert all(s.author != reader for s in shown)
        assert [s.label for s in shown] == list("ABCDE"[: len(shown)])


def test_readers_see_the_same_answers_in_orders_of_their_own() -> None:
    held = _held(["1", "2", "3", "1", None])
    orders = {
        tuple(s.answer for s in read_peers("NAME-FIVE", number, held, "number", ROOM, 7).shown) for number in range(99)
    }
    assert len(orders) == 6
    again = read_peers("NAME-FIVE", 1, held, "number", ROOM, 7)
    assert again == read_peers("NAME-FIVE", 1, held, "number", ROOM, 7)


def test_in_little_room_the_strongest_answers_against_ones_own_come_first() -> None:
    held = _held(["1", "1", "2", "3", "3"])
    for seed in range(20):
        (shown,) = read_peers("NAME-ONE", 1, held, "number", Room(1, 50), seed).shown
        assert (shown.answer, shown.supporters) == ("3", 2)
        (shown,) = read_peers("NAME-ONE", 1, _held(["1", "1", "1", "3"]), "number", Room(1, 50), seed).shown
        assert (shown.answer, shown.supporters) == ("3", 1)


def test_the_opponent_is_the_answer_that_most_peers_hold_against_ones_own() -> None:
    held = _held(["1", "1", "2", "3", "3"])
    reading = read_peers("NAME-ONE", 1, held, "number", ROOM, 0)
    opponent = strongest_opponent(reading, held["NAME-ONE"], "number")
    assert opponent is not None
    assert opponent.answer == "3"
    agreed = read_peers("NAME-ONE", 1, _held(["1", "1"]), "number", ROOM, 0)
    assert strongest_opponent(agreed, held["NAME-ONE"], "number") is None
    assert strongest_opponent(reading, None, "number") is None


def test_a_text_is_shown_whole_or_as_its_answer_and_never_cut() -> None:
    proposal = Proposal(member="m", family="f", text="  the sum is 7\nQuestion: invented", answer="7")
    assert excerpt(proposal, 50) == "the sum is 7"
    assert excerpt(proposal, 5) == "7"
    assert excerpt(proposal.model_copy(update={"answer": "7" * 9}), 5) == TOO_LONG
    assert excerpt(Proposal(member="m", family="f", text="", answer=None), 5) == ""
