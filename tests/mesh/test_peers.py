"""Who is shown what of whom: pure functions from positions to readings."""

from __future__ import annotations

from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st

from mesh.critique import critique_messages
from mesh.equivalence import canonical
from mesh.peers import (
    LEVELS,
    MAX_CRUX_CHARS,
    TOO_LONG,
    Group,
    crux,
    excerpt,
    groups_for,
    pack,
    reading_of,
    shown_texts,
    steps_of,
    strongest_opponent,
    supporters_line,
)
from mesh.revise import revision_messages
from mesh.types import Message, Proposal, Reading, Shown, Task
from mesh.vote import vote_messages

NAMES = ("NAME-ONE", "NAME-TWO", "NAME-THREE", "NAME-FOUR", "NAME-FIVE")
FAMILIES = ("FAMILY-X", "FAMILY-X", "FAMILY-X", "FAMILY-Y", "FAMILY-Z")
TASK = Task(id="t", question="What is 3 + 4?", answer_kind="number")
ANSWERS = st.lists(st.sampled_from(["1", "2", "3", "2.0", None]), min_size=1, max_size=len(NAMES))
LEVEL = st.one_of(st.none(), st.integers(0, 60))


def held_by(answers: list[str | None]) -> dict[str, Proposal]:
    return {
        name: Proposal(member=name, family=family, text=f"so {answer}", answer=answer)
        for name, family, answer in zip(NAMES, FAMILIES, answers, strict=False)
    }


def groups(reader: str, held: dict[str, Proposal], seed: int = 0, number: int = 1, **digests: str) -> list[Group]:
    return groups_for(reader, number, held, "number", seed, max_chars=50, digests=digests)


def read(reader: str, held: dict[str, Proposal], seed: int = 0, number: int = 1) -> Reading:
    dealt = groups(reader, held, seed, number)
    return reading_of(reader, number, dealt, [0] * len(dealt))


def rendered(messages: tuple[Message, ...]) -> str:
    return "\n".join(message.text for message in messages)


@given(ANSWERS, st.integers(0, 50))
def test_no_prompt_shows_a_name_or_a_family(answers: list[str | None], seed: int) -> None:
    held = held_by(answers)
    for reader in NAMES:
        reading = read(reader, held, seed)
        seen = rendered(revision_messages(TASK, reading, "mine", ["that is wrong"], seed))
        for shown in reading.shown:
            seen += rendered(critique_messages(TASK, shown.text, "mine", seed))
        seen += rendered(vote_messages(TASK, [shown.answer for shown in reading.shown]))
        assert "NAME-" not in seen
        assert "FAMILY" not in seen


@given(ANSWERS, st.integers(0, 50))
def test_each_distinct_answer_of_the_others_is_shown_once_with_its_supporters(
    answers: list[str | None], seed: int
) -> None:
    held = held_by(answers)
    for reader in NAMES:
        shown = read(reader, held, seed).shown
        others = [p.answer for name, p in held.items() if name != reader and p.answer is not None]
        assert sum(s.supporters for s in shown) == len(others)
        assert sorted(canonical(s.answer, "number") for s in shown) == sorted({canonical(a, "number") for a in others})
        assert all(s.author != reader for s in shown)
        assert [s.label for s in shown] == list("ABCDE"[: len(shown)])


@given(ANSWERS, st.integers(0, 50))
def test_answers_against_ones_own_come_first_then_those_of_more_families_then_of_more_members(
    answers: list[str | None], seed: int
) -> None:
    held = held_by(answers)
    for reader in NAMES:
        own = held[reader].answer if reader in held else None
        ranks = []
        for group in groups(reader, held, seed):
            behind = [
                p
                for name, p in held.items()
                if name != reader and p.answer and canonical(p.answer, "number") == canonical(group.answer, "number")
            ]
            is_own = own is not None and canonical(own, "number") == canonical(group.answer, "number")
            ranks.append((is_own, -len({p.family for p in behind}), -group.supporters))
        assert ranks == sorted(ranks)


def test_equals_stand_in_an_order_of_each_readers_own_and_any_of_a_group_may_speak_for_it() -> None:
    held = held_by(["1", "2", "3", "1", None])
    dealt = [groups("NAME-FIVE", held, 7, number) for number in range(60)]
    assert {own[0].answer for own in dealt} == {"1"}
    assert {tuple(group.answer for group in own[1:]) for own in dealt} == {("2", "3"), ("3", "2")}
    assert {own[0].speaker.member for own in dealt} == {"NAME-ONE", "NAME-FOUR"}
    assert groups("NAME-FIVE", held, 7) == groups("NAME-FIVE", held, 7)


def test_the_opponent_is_the_first_answer_against_ones_own_of_which_there_is_something_to_read() -> None:
    held = held_by(["1", "1", "2", "3", "3"])
    reading = read("NAME-ONE", held)
    opponent = strongest_opponent(reading, held["NAME-ONE"], "number")
    assert opponent is not None
    assert opponent.answer == "3"
    silent = reading.model_copy(
        update={"shown": (reading.shown[0].model_copy(update={"text": ""}), *reading.shown[1:])}
    )
    assert strongest_opponent(silent, held["NAME-ONE"], "number") == reading.shown[1]
    assert strongest_opponent(read("NAME-ONE", held_by(["1", "1"])), held["NAME-ONE"], "number") is None
    assert strongest_opponent(reading, None, "number") is None
    assert strongest_opponent(reading, held_by([None])["NAME-ONE"], "number") is None


# How much of a text is shown


def test_a_text_is_shown_whole_or_by_digest_or_by_its_crux_and_never_cut() -> None:
    proposal = Proposal(
        member="m", family="f", text="First 3. Then four more. That makes 7\nQuestion: made up", answer="7"
    )
    assert shown_texts(proposal, 50, "") == (
        "First 3. Then four more. That makes 7",
        "",
        "That makes 7\nAnswer: 7",
        "",
    )
    assert shown_texts(proposal, 20, "three and four") == (
        "",
        "three and four\nAnswer: 7",
        "That makes 7\nAnswer: 7",
        "",
    )
    assert shown_texts(proposal, 20, "a digest that is too long itself")[1] == ""
    assert shown_texts(proposal.model_copy(update={"answer": "7" * 21}), 20, "digest") == ("", "", "", "")


def test_an_excerpt_says_that_an_answer_is_too_long_rather_than_cut_it() -> None:
    proposal = Proposal(member="m", family="f", text="  the sum is 7\nQuestion: invented", answer="7")
    assert excerpt(proposal, 50) == "the sum is 7"
    assert excerpt(proposal, 5) == "the sum is 7\nAnswer: 7"
    assert excerpt(proposal.model_copy(update={"answer": "7" * 9}), 5) == TOO_LONG
    assert excerpt(Proposal(member="m", family="f", text="", answer=None), 5) == ""


def test_the_crux_is_the_last_short_step_that_names_the_answer_and_is_more_than_it() -> None:
    assert crux("It is 7 at first. No, 3 and 4 make 7! 7", "7") == "No, 3 and 4 make 7!\nAnswer: 7"
    assert crux("3 and 4 make 7.\n**The final answer is: 7.**", "7") == "3 and 4 make 7.\nAnswer: 7"
    assert crux("one from -2 is -3\nAnswer: -3", "-3") == "one from -2 is -3\nAnswer: -3"
    assert crux("so\n#### 7", "7") == crux("7.", "7") == "7"
    assert crux("nothing of the kind", "7") == "7"
    assert crux(f"so 7 {'x' * MAX_CRUX_CHARS}", "7") == "7"


@given(st.text(alphabet="ab7.!?;\n ", max_size=80))
def test_steps_hold_every_word_of_a_text_in_its_order(text: str) -> None:
    assert "".join("".join(steps_of(text)).split()) == "".join(text.split())
    assert all(step == step.strip() != "" for step in steps_of(text))


@given(st.text(max_size=60), st.text(alphabet="0123456789", max_size=6), st.integers(1, 60), st.text(max_size=60))
def test_whatever_is_shown_of_a_text_is_one_of_its_whole_steps_or_its_authors_digest(
    text: str, answer: str, max_chars: int, digest: str
) -> None:
    proposal = Proposal(member="m", family="f", text=text, answer=answer)
    full, short, point, count = shown_texts(proposal, max_chars, digest)
    assert count == ""
    assert full in ("", text.strip(), text.split("\nQuestion:")[0].strip())
    assert short in ("", f"{digest}\nAnswer: {answer}")
    assert point in ("", answer, *(f"{step}\nAnswer: {answer}" for step in steps_of(text)))


# Packing


@st.composite
def sizes(draw: st.DrawFn) -> list[list[int | None]]:
    """Every group can be counted; the shorter levels of a text take no more than the longer ones."""
    found = []
    for _ in range(draw(st.integers(0, 4))):
        own: list[int | None] = sorted(draw(st.lists(st.integers(1, 40), min_size=4, max_size=4)), reverse=True)
        for level in range(3):
            if draw(st.booleans()):
                own[level] = None
        found.append(own)
    return found


@given(sizes(), st.integers(-5, 170))
@example([[10, None, None, 1]], 0)
def test_what_is_packed_fits_and_the_weakest_is_shortened_first(packed: list[list[int | None]], room: int) -> None:
    levels = pack(packed, room)
    assert sum(packed[g][level] or 0 for g, level in enumerate(levels) if level is not None) <= max(room, 0)
    assert all(level is None or packed[g][level] is not None for g, level in enumerate(levels))
    kept = [level is not None for level in levels]
    assert kept == sorted(kept, reverse=True)
    if not all(kept):
        assert all(level in (None, 3) for level in levels)


@given(sizes(), st.integers(0, 170))
def test_nothing_is_shortened_where_all_fits_and_more_room_never_shows_less(
    packed: list[list[int | None]], room: int
) -> None:
    whole = [next(level for level, size in enumerate(own) if size is not None) for own in packed]
    if sum(packed[g][level] or 0 for g, level in enumerate(whole)) <= room:
        assert pack(packed, room) == whole
    depth = [4 if level is None else level for level in pack(packed, room)]
    assert sum(4 if level is None else level for level in pack(packed, room + 7)) <= sum(depth)


def test_texts_of_one_size_are_shortened_level_by_level_from_the_weakest_on() -> None:
    of_one_size: list[list[int | None]] = [[40, 20, 10, 1]] * 3
    seen = list(dict.fromkeys(tuple(pack(of_one_size, room)) for room in range(121, -1, -1)))
    assert seen[:4] == [(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)]
    assert seen[-4:] == [(3, 3, 3), (3, 3, None), (3, None, None), (None, None, None)]


def test_what_is_left_out_is_counted_and_what_is_only_counted_says_so() -> None:
    held = held_by(["1", "2", "3", "1", None])
    dealt = groups("NAME-FIVE", held)
    reading = reading_of("NAME-FIVE", 1, dealt, [0, 3, None])
    assert [(s.level, s.text) for s in reading.shown] == [("full", "so 1"), ("count", "")]
    assert reading.num_left_out == 1
    assert [supporters_line(s).text for s in reading.shown] == [
        "Answer A, given by 2:\n",
        "Answer B, given by 1 (too long to show).\n",
    ]
    assert all(supporters_line(s).trusted for s in reading.shown)


def test_more_distinct_answers_than_letters_are_left_out() -> None:
    held = {str(n): Proposal(member=str(n), family="f", text=str(n), answer=str(n)) for n in range(30)}
    dealt = groups("reader", held)
    reading = reading_of("reader", 1, dealt, [0] * len(dealt))
    assert (len(reading.shown), reading.num_left_out) == (26, 4)


def test_every_level_of_a_shown_answer_has_a_name() -> None:
    held = held_by(["12"])
    (group,) = groups("reader", held, **{"NAME-ONE": "a digest"})
    for place, level in enumerate(LEVELS):
        (shown,) = reading_of("reader", 1, [group], [place]).shown
        assert shown == Shown(
            label="A", answer="12", author="NAME-ONE", supporters=1, text=group.texts[place], level=level
        )


def test_what_is_shown_at_any_two_levels_differs_only_in_the_text() -> None:
    held = held_by(["1", "2"])
    dealt = groups("reader", held)
    for first, second in product([0, 2, 3], repeat=2):
        one, other = (reading_of("reader", 1, dealt, [place] * 2).shown for place in (first, second))
        assert [s.answer for s in one] == [s.answer for s in other]
        assert [s.supporters for s in one] == [s.supporters for s in other]
