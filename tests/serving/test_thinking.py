"""Thoughts: their marks are found in templates and texts of every make, and answers come without them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.types import Message, Part
from serving.render import Renderer
from serving.thinking import Thinking, cut_at, thinking_in
from tests.serving.tiny_tokenizers import CHATML, LLAMA3, TEXT_MARKERS, THINKS, tiny_tokenizer

PLAIN = Thinking(opening="<think>", closing="</think>")
OPEN = PLAIN.model_copy(update={"starts_open": True})
OPENS_BY_ITSELF = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
SWITCHED = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if thinking is defined and thinking %}[IDEA]{% else %}[/IDEA]{% endif %}{% endif %}",
)
CHANNELS = (
    "{% for m in messages %}{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "{% endif %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
)
HI = [Message(role="user", parts=(Part(text="Hi"),))]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>2 and 2</think>\n\nAnswer: 4", "Answer: 4"),
        ("\n<think></think>4", "4"),
        ("4", "4"),
        ("so <think>a</think> then <think>b</think> 4", "so  then  4"),
        ("it was open</think> 4", "4"),
        ("it was open</think> 4 <think>hm</think>!", "4 !"),
        ("<think>for ever", None),
        ("4 <think>or is it", "4"),
        ("<think>a</think>", ""),
        ("", ""),
    ],
)
def test_answer_is_what_is_said_outside_the_marks(text: str, answer: str | None) -> None:
    assert PLAIN.answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("hm</think> 4", "4"), ("<think>hm</think> 4", "4"), ("hm 4", None), ("", None), ("</think>4", "4")],
)
def test_thought_that_the_prompt_opened_must_be_closed(text: str, answer: str | None) -> None:
    assert OPEN.answer(text) == answer


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "4", "\n"]), max_size=12).map("".join))
def test_no_opening_mark_survives_in_an_answer(text: str) -> None:
    for thinking in (PLAIN, OPEN):
        assert "<think>" not in (thinking.answer(text) or "")


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("<think>x</think>y", ("<think>", "</think>")),
        (" <seed:think>x", ("<seed:think>", "</seed:think>")),
        ("[THINK]x[/THINK]y", ("[THINK]", "[/THINK]")),
        ("<|begin_of_thought|>x<|end_of_thought|>", ("<|begin_of_thought|>", "<|end_of_thought|>")),
        ("<|START_THINKING|>x", ("<|START_THINKING|>", "<|END_THINKING|>")),
        ("x</think>y", ("<think>", "</think>")),
        ("4 <reason>as seen</reason>", None),
        ("I <b>think</b> [x]", None),
        ("The tag <think> opens a thought", None),
        ("", None),
    ],
)
def test_marks_of_an_unknown_model_are_known_by_their_shape(text: str, marks: tuple[str, str] | None) -> None:
    found = thinking_in(text)
    assert (found and (found.opening, found.closing)) == marks


@pytest.mark.parametrize(
    ("template", "added", "expected"),
    [
        (THINKS, ("<think>", "</think>"), PLAIN),
        (THINKS, (), PLAIN),
        (THINKS.replace("think>", "ponder>"), (), Thinking(opening="<ponder>", closing="</ponder>")),
        (OPENS_BY_ITSELF, ("<think>", "</think>"), OPEN),
        (SWITCHED, (), Thinking(opening="[IDEA]", closing="[/IDEA]")),
        (CHATML, ("<think>", "</think>"), None),
        (CHANNELS, (), None),
        (LLAMA3, (), None),
        (TEXT_MARKERS, (), None),
        (None, ("<think>", "</think>"), None),
    ],
)
def test_marks_are_found_by_what_the_template_does(
    template: str | None, added: tuple[str, ...], expected: Thinking | None
) -> None:
    assert Renderer(tiny_tokenizer(template, added=added)).facts.thinking == expected


def test_marks_that_are_special_tokens_are_told_and_other_special_tokens_never_reach_an_answer() -> None:
    tokenizer = tiny_tokenizer(THINKS, added=())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    renderer = Renderer(tokenizer)
    assert renderer.facts.thinking == PLAIN.model_copy(update={"is_special": True})
    assert renderer.answer_in("<think>2<eos></think><|im_start|>4<eos>") == "4"
    assert renderer.answer_in("<think>2<eos>") is None


def test_model_without_thoughts_is_taken_at_its_word() -> None:
    assert Renderer(tiny_tokenizer(CHATML)).answer_in(" <think>4</think> ") == "<think>4</think>"


def test_answer_at_once_stands_after_an_empty_thought_where_the_template_writes_one() -> None:
    thinks, opens = tiny_tokenizer(THINKS), tiny_tokenizer(OPENS_BY_ITSELF)
    assert str(thinks.decode(Renderer(thinks).render_with_answer(HI, "")[0])).endswith("<think>\n\n</think>\n\n")
    assert str(opens.decode(Renderer(opens).render_with_answer(HI, "")[0])).endswith("assistant\n")


def test_template_with_a_place_for_tools_is_known() -> None:
    assert Renderer(tiny_tokenizer(THINKS)).facts.takes_tools
    assert not Renderer(tiny_tokenizer(CHATML)).facts.takes_tools
    assert not Renderer(tiny_tokenizer(None)).facts.takes_tools


def test_text_is_cut_at_the_first_stop() -> None:
    assert cut_at("a; b. c", (".", ";", "")) == ("a", True)
    assert cut_at("a", (".",)) == ("a", False)
