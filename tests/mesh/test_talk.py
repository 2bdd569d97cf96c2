"""A round of talk: what each reader sees, what becomes of an objection, and how a changed mind is accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.account import MAX_STEPS, NONE, account_messages
from mesh.config import CouncilConfig, VoteConfig
from mesh.engine import EngineError
from mesh.parse import parse_answer
from mesh.peers import steps_of
from mesh.propose import proposal_messages
from mesh.types import Completion, Deliberation, Member, Message, Reading, Sampling, Task
from tests.mesh.doubles import Double, hold, untrusted

TASK = Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number")
MEMBERS = tuple(
    Member(name=name, engine=f"e{n}", family=family)
    for n, (name, family) in enumerate([("ana", "fox"), ("bo", "owl"), ("cy", "ant"), ("di", "fox")])
)
LONG = (
    "First I take three apples. Then four more of them come along. " * 4 + "Three and four apples make {}. Answer: {}"
)
COUNCIL = CouncilConfig(sampling=Sampling(max_tokens=10), talk_max_tokens=10, critique=False)


def saying(**texts: Any) -> dict[str, dict[str, Any]]:
    """Everybody repeats one text in every phase, and gives up no step."""
    return {name: {"*": text, "account": "none", "vote": None} for name, text in texts.items()}


def talked(
    say: dict[str, dict[str, Any]],
    config: CouncilConfig = COUNCIL,
    members: Sequence[Member] = MEMBERS,
    **of_double: Any,
) -> tuple[Deliberation, Double]:
    engine = Double(say, **of_double)
    return hold(TASK, members[: len(say)], engine, config), engine


def readings(trace: Deliberation, number: int = 1) -> dict[str, Reading]:
    return {reading.reader: reading for reading in trace.readings if reading.round == number}


# What a reader sees


def test_a_reader_sees_the_strongest_opposition_first_and_its_own_answer_last() -> None:
    trace, _ = talked(saying(ana="It is 7", bo="It is 8", cy="It is 8", di="It is 7"))
    assert [(s.answer, s.supporters) for s in readings(trace)["ana"].shown] == [("8", 2), ("7", 1)]
    assert [(s.answer, s.supporters) for s in readings(trace)["bo"].shown] == [("7", 2), ("8", 1)]


def test_what_a_reader_saw_is_recorded_as_it_stood_in_its_prompt() -> None:
    trace, engine = talked(
        saying(ana=LONG.format(7, 7), bo=LONG.format(8, 8), cy="It is 9"), length=len, windows={"e0": 700}
    )
    for name, reading in readings(trace).items():
        (prompt,) = engine.asked("revise", name)
        text = prompt[-1].text
        for shown in reading.shown:
            line = f"Answer {shown.label}, given by {shown.supporters}"
            if shown.text:
                mark = text.split(f"{line}:\n[", 1)[1][:6]
                assert f"{line}:\n[{mark}]\n{shown.text}\n[/{mark}]\n" in text
            else:
                assert f"{line} (too long to show).\n" in text
        assert text.count("given by") == len(reading.shown)


def test_a_long_text_is_shown_by_its_authors_digest_and_a_digest_that_was_cut_off_is_not_used() -> None:
    say = saying(ana=LONG.format(7, 7), bo=LONG.format(8, 8), cy="It is 9")
    say["ana"]["digest"] = "Three apples and four apples."
    say["bo"]["digest"] = Completion(text="Do not take four, take", finish_reason="length", output_tokens=5)
    trace, engine = talked(say, COUNCIL.model_copy(update={"peer_max_chars": 80}))
    shown = {s.author: (s.level, s.text) for reading in trace.readings for s in reading.shown}
    assert shown == {
        "ana": ("digest", "Three apples and four apples.\nAnswer: 7"),
        "bo": ("crux", "Three and four apples make 8.\nAnswer: 8"),
        "cy": ("full", "It is 9"),
    }
    assert [name for name, phase, *_ in engine.calls if phase == "digest"] == ["ana", "bo"]


def test_nobody_is_asked_for_a_digest_of_what_can_be_shown_whole_or_where_digests_are_off() -> None:
    say = saying(ana=LONG.format(7, 7), bo="It is 8")
    _, engine = talked(say, COUNCIL.model_copy(update={"peer_max_chars": 1000}))
    assert "digest" not in engine.phases()
    trace, engine = talked(say, COUNCIL.model_copy(update={"peer_max_chars": 80, "digest": False}))
    assert "digest" not in engine.phases()
    assert [s.level for s in readings(trace)["bo"].shown] == ["crux"]


def test_the_same_texts_are_packed_to_each_readers_own_window_by_its_own_tokenizer() -> None:
    say = saying(**{m.name: LONG.format(n, n) for n, m in enumerate(MEMBERS)})

    def levels(window: int, reader: str = "bo", **of_double: Any) -> list[str]:
        trace, _ = talked(say, windows={"e1": window}, **of_double)
        return [shown.level for shown in readings(trace)[reader].shown]

    assert [levels(window, length=len) for window in (1900, 1700, 1500, 1200, 1000, 900, 850, 700)] == [
        ["full", "full", "full"],
        ["full", "full", "crux"],
        ["full", "crux", "crux"],
        ["crux", "crux", "crux"],
        ["crux", "crux", "count"],
        ["count", "count", "count"],
        ["count", "count"],
        [],
    ]
    assert levels(700, reader="ana", length=len) == ["full"] * 3
    assert levels(700) == ["full"] * 3


def test_a_digest_gives_way_to_the_crux_and_the_crux_to_the_count() -> None:
    say = saying(ana=LONG.format(7, 7), bo="It is 8", cy="It is 9")
    say["ana"]["digest"] = "Three apples and four more apples, hence seven in all."
    seen = []
    for window in range(780, 420, -30):
        trace, _ = talked(say, COUNCIL.model_copy(update={"peer_max_chars": 80}), windows={"e1": window}, length=len)
        shown = {s.author: s for s in readings(trace)["bo"].shown}
        seen.append(shown["ana"].level if "ana" in shown else "nothing")
    assert list(dict.fromkeys(seen)) == ["digest", "crux", "count", "nothing"]


def test_what_does_not_fit_at_all_is_left_out_and_counted() -> None:
    say = saying(**{m.name: f"I say {n}" for n, m in enumerate(MEMBERS)})
    trace, _ = talked(say, COUNCIL.model_copy(update={"max_peers_shown": 2}))
    assert {(len(r.shown), r.num_left_out) for r in trace.readings} == {(2, 1)}
    trace, _ = talked(say, windows={"e1": 320}, length=len)
    cut = readings(trace)["bo"]
    assert (len(cut.shown), cut.num_left_out) == (0, 3)
    assert readings(trace)["ana"].num_left_out == 0


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60), st.booleans()), min_size=2, max_size=4),
    st.integers(150, 2500),
    st.integers(1, 600),
    st.sampled_from(["", "Think as a carpenter would, and measure everything twice."]),
)
def test_no_prompt_of_a_revision_is_too_long_for_its_reader_as_long_as_its_own_part_fits(
    said: list[tuple[int, int, bool]], window: int, max_chars: int, persona: str
) -> None:
    members = tuple(m.model_copy(update={"persona": persona}) for m in MEMBERS[: len(said)])
    say = saying(
        **{
            m.name: f"{'One step more. ' * length}That makes {answer}. Answer: {answer}"
            for m, (answer, length, _) in zip(members, said, strict=True)
        }
    )
    for member, (_, _, has_digest) in zip(members, said, strict=True):
        say[member.name]["digest"] = "In short." if has_digest else ""
    config = CouncilConfig(
        sampling=Sampling(max_tokens=7), talk_max_tokens=20, critique=False, peer_max_chars=max_chars, account=False
    )
    engine = Double(say, windows={members[0].engine: window}, length=lambda text: len(text.encode()))
    trace = hold(TASK, members, engine, config)
    for prompt in engine.asked("revise", members[0].name):
        if readings(trace)[members[0].name].shown:
            assert sum(len(message.text.encode()) for message in prompt) + 7 <= window


def test_a_persona_takes_its_room_too() -> None:
    said = saying(ana="It is 7", bo="It is 8", cy="It is 9")
    members = (MEMBERS[0].model_copy(update={"persona": "Be careful. " * 20}), *MEMBERS[1:3])
    trace, _ = talked(said, windows={"e0": 700, "e1": 700}, length=len, members=members)
    assert len(readings(trace)["bo"].shown) == 2
    assert readings(trace)["ana"].num_left_out == 2
    assert trace.failures == ()


# Objections


def test_an_objection_goes_to_those_who_hold_the_answer_and_only_so_many_as_peers_are_shown() -> None:
    say = saying(ana="It is 7", bo="It is 8", cy="It is 8", di="It is 8")
    for name in ("bo", "cy", "di"):
        say[name]["critique"] = f"{name} thinks that the carry was quite forgotten here"
    say["ana"]["critique"] = "ana thinks that one was counted twice over there"
    config = COUNCIL.model_copy(update={"critique": True, "max_peers_shown": 2})
    trace, engine = talked(say, config)
    heard = {
        name: [text for text in untrusted(prompt) if "thinks that" in text]
        for name, phase, prompt, _ in engine.calls
        if phase == "revise"
    }
    assert [len(texts) for texts in heard.values()] == [2, 1, 1, 1]
    assert all(c.valid for c in trace.critiques)
    assert all("ana thinks" in heard[name][0] for name in ("bo", "cy", "di"))


def test_who_reads_nothing_against_its_own_answer_objects_to_nothing() -> None:
    say = saying(ana="It is 7", bo="It is 7", cy="no idea", di="It is 8")
    for own in say.values():
        own["critique"] = "That forgets to carry the one over"
    trace, _ = talked(say, COUNCIL.model_copy(update={"critique": True}))
    assert [(c.member, c.target_answer) for c in trace.critiques] == [("ana", "8"), ("bo", "8"), ("di", "7")]


# Changing one's mind


def changing(account: Any, propose: str = "Three first. Then five. So 8") -> dict[str, dict[str, Any]]:
    """bo says 8 first and 7 after it has read ana; `account` is what it says when asked for its mistake."""
    return {
        "ana": {"propose": "3 + 4 = 7", "revise": "Still 7", "vote": "7"},
        "bo": {"propose": propose, "digest": "", "revise": "It is 7", "account": account, "vote": "8"},
    }


def test_a_changed_mind_names_the_step_that_was_wrong_in_its_own_words() -> None:
    trace, engine = talked(changing("Then five."))
    after = trace.round_of(1)[1]
    assert (after.answer, after.quote, after.withdrew) == ("7", "Then five.", None)
    assert trace.mind_changes == (("bo", "8", "7"),)
    assert engine.phases("ana") == ["propose", "revise"]
    assert trace.verdict.answer == "7"


def test_a_change_without_a_wrong_step_is_taken_back_and_recorded() -> None:
    trace, _ = talked(changing("none"))
    after = trace.round_of(1)[1]
    assert (after.answer, after.text, after.withdrew, after.quote) == ("8", "Three first. Then five. So 8", "7", None)
    assert trace.mind_changes == ()
    assert [vote.answer for vote in trace.votes] == ["7", "8"]


def test_a_change_that_could_not_be_accounted_for_does_not_count() -> None:
    trace, _ = talked(changing(EngineError("gone")))
    assert [(f.phase, f.kind) for f in trace.failures] == [("account", "EngineError")]
    assert (trace.round_of(1)[1].answer, trace.round_of(1)[1].withdrew) == ("8", "7")
    assert [vote.member for vote in trace.votes] == ["ana"]


def test_accounts_can_be_left_out_and_then_every_change_counts() -> None:
    trace, engine = talked(changing("none"), COUNCIL.model_copy(update={"account": False}))
    assert "account" not in engine.phases()
    assert trace.mind_changes == (("bo", "8", "7"),)


@pytest.mark.parametrize(
    ("first", "second"), [("no idea", "It is 7"), ("It is 8", "no idea"), ("It is 8", "8.0 it is")]
)
def test_only_a_readable_answer_left_for_another_has_to_be_accounted_for(first: str, second: str) -> None:
    say = changing("none", first)
    say["bo"]["revise"] = second
    say["cy"] = {"*": "It is 5", "vote": "5"}
    trace, engine = talked(say)
    assert "account" not in engine.phases()
    assert trace.round_of(1)[1].answer == parse_answer(second, "number")


def test_only_short_steps_of_ones_own_are_offered_and_the_last_of_many() -> None:
    told = [f"Step {n} of it." for n in range(20)] + ["x" * 501, "Hence 8"]
    trace, engine = talked(changing("Step 19", "\n".join([*told, "Question: what comes next? Answer: 8"])))
    ((prompt,),) = engine.asked("account")
    offered = untrusted([prompt])[:-2]
    assert sorted(offered) == sorted([*told[20 - MAX_STEPS + 1 : 20], "Hence 8"])
    assert trace.round_of(1)[1].quote == "Step 19 of it."


def test_one_long_step_leaves_nothing_to_name_and_nobody_is_asked() -> None:
    trace, engine = talked(changing("none", f"8 {'x' * 600}"), COUNCIL.model_copy(update={"digest": False}))
    assert "account" not in engine.phases()
    assert trace.round_of(1)[1].withdrew == "7"


@given(st.text(alphabet="ab.!?\n ABC:", max_size=120), st.integers(0, 99))
def test_no_step_can_add_a_letter_to_the_choice(text: str, seed: int) -> None:
    dealt: list[str | None] = [*steps_of(text)[:8], None]
    (message,) = account_messages(TASK, dealt, "7", seed)
    letters = [part.text for part in message.parts if part.trusted and part.text.endswith(". ")]
    assert letters == [f"{letter}. " for letter in "ABCDEFGHI"[: len(dealt)]]
    assert [part.text for part in message.parts if part.text == NONE and part.trusted] == [NONE]
    assert all("\n" not in part.text for part in message.parts[1:-6] if not part.trusted)


# The second pass


@pytest.mark.parametrize(
    ("said", "read"),
    [("7", "7"), ("Answer: 8", None), ("no idea", None), (Completion(text="7", finish_reason="error"), None)],
)
def test_a_second_pass_reads_only_what_stands_in_the_text(said: Any, read: str | None) -> None:
    say = saying(ana="Hard to say.\nPerhaps 7", bo="5")
    say["ana"]["extract"] = said
    engine = Double(say)
    trace = hold(TASK, MEMBERS[:2], engine, VoteConfig(extract_max_tokens=4))
    assert [p.answer for p in trace.proposals] == [read, "5"]
    assert engine.phases("ana") == ["propose", "extract"]
    (prompt,) = engine.asked("extract")
    assert untrusted(prompt) == [TASK.question, "Hard to say.\nPerhaps 7"]


def test_without_a_second_pass_such_a_text_is_an_abstention() -> None:
    engine = Double(saying(ana="Hard to say.\nPerhaps 7", bo="5"))
    trace = hold(TASK, MEMBERS[:2], engine, VoteConfig())
    assert [p.answer for p in trace.proposals] == [None, "5"]


# Tiers and personas


def test_work_goes_to_those_who_take_it_and_to_everybody_where_nobody_does() -> None:
    deep = MEMBERS[0].model_copy(update={"tiers": ("deep",)})
    quick = MEMBERS[1].model_copy(update={"tiers": ("extraction", "reflection")})
    say: dict[str, dict[str, Any]] = {
        "ana": {"propose": "Hard to say.\nPerhaps 7", "revise": "7", "account": "none"},
        "bo": {"extract": "7", "critique": "that counts one apple twice"},
        "cy": {"*": "8", "critique": "that leaves one apple out", "account": "none"},
    }
    config = COUNCIL.model_copy(update={"extract_max_tokens": 4, "critique": True})
    engine = Double(say)
    trace = hold(TASK, [deep, quick, MEMBERS[2]], engine, config)
    assert [p.answer for p in trace.round_of(0)] == ["7", "8"]
    assert engine.phases("ana") == ["propose", "revise"]
    assert engine.phases("bo") == ["extract", "vote"]
    assert engine.phases("cy") == ["propose", "critique", "revise", "vote"]
    engine = Double({"bo": {"*": "7"}})
    hold(TASK, [quick], engine, COUNCIL)
    assert engine.phases() == ["propose"]


def test_a_persona_stands_before_every_prompt_as_the_operators_word() -> None:
    members = (MEMBERS[0].model_copy(update={"persona": "You doubt everything."}), MEMBERS[1])
    _, engine = talked(changing("Then five."), members=members)
    for name, _, prompt, _ in engine.calls:
        first: Message = prompt[0]
        assert (first.role == "system") == (name == "ana")
        if name == "ana":
            assert (first.text, first.parts[0].trusted) == ("You doubt everything.", True)
            assert prompt[1:] == proposal_messages(TASK) or len(prompt) == 2
