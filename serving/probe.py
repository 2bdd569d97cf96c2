"""What a tokenizer's chat template does, found by rendering small conversations and never by a model's name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from jinja2.exceptions import TemplateError

from serving.templates import RenderError, TemplateFacts, TemplateWriter, Tokenizer, Writer, control_ids
from serving.thinking import Thinking, marks_around, pairs_of_marks, speaks_of_thinking
from serving.turns import Role

_MARKER_SIGNS = re.compile(r"[<>\[\]{}|#:]")
_THOUGHT, _ANSWER, _TOOL = "q7zxthoughtvk9w", "q7zxanswervk9w", "q7zxtoolvk9w"
_ASKED = {"role": "user", "content": "Hi"}
# The names under which templates look for what a model thought.
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
# The switches by which templates are told whether the model should think.
_SWITCHES = ("enable_thinking", "thinking")


def probe(tokenizer: Tokenizer, extra_stop_ids: Iterable[int] = ()) -> TemplateFacts:
    """What the template accepts and where its turns end, found by rendering small conversations.

    `extra_stop_ids`: further end tokens that the model's generation settings name.
    """
    stop_ids = [tokenizer.eos_token_id, *extra_stop_ids]
    if not tokenizer.chat_template:
        return TemplateFacts(
            has_template=False,
            accepts_system=True,
            needs_alternation=True,
            adds_bos=tokenizer.bos_token_id is not None,
            stop_token_ids=_without_gaps(stop_ids),
            stop_strings=("\nQuestion:",),
            markers=("Question:", "Answer:"),
        )
    writer, controls = TemplateWriter(tokenizer), control_ids(tokenizer)
    long = writer.skeleton(("user", "assistant", "user"))
    opening = tokenizer.encode(str(long[0]), add_special_tokens=False)
    turn_end = str(long[long.index(1) + 1])
    end_ids = tokenizer.encode(turn_end.lstrip(), add_special_tokens=False)
    ends_in_token = bool(end_ids) and end_ids[0] in controls
    accepts_system = _can_write(writer, ("system", "user"))
    default_system = _default_system(writer) if accepts_system else ""
    thinking = _thinking(tokenizer, str(writer.skeleton(("user",))[-1]))
    return TemplateFacts(
        has_template=True,
        accepts_system=accepts_system,
        needs_alternation=not _can_write(writer, ("user", "user")),
        default_system=default_system,
        adds_bos=bool(opening) and opening[0] == tokenizer.bos_token_id,
        stop_token_ids=_without_gaps([*stop_ids, end_ids[0] if ends_in_token else None]),
        stop_strings=() if ends_in_token or not turn_end.strip() else (f"\n{turn_end.strip().splitlines()[0]}",),
        markers=_markers(
            tokenizer,
            [str(piece) for piece in long if isinstance(piece, str)]
            + ([] if thinking is None else [thinking.opening, thinking.closing]),
            default_system,
        ),
        takes_tools=_takes_tools(tokenizer),
        thinking=thinking,
    )


def _can_write(writer: Writer, roles: tuple[Role, ...]) -> bool:
    try:
        writer.skeleton(roles)
    except RenderError:
        return False
    return True


def _takes_tools(tokenizer: Tokenizer) -> bool:
    """Whether a tool that is offered shows up in the prompt."""
    parameters = {"type": "object", "properties": {}}
    tool = {"type": "function", "function": {"name": _TOOL, "description": "Adds.", "parameters": parameters}}
    return _TOOL in _written(tokenizer, [_ASKED], tools=[tool])


def _thinking(tokenizer: Tokenizer, call_for_answer: str) -> Thinking | None:
    marks = _marks_of_a_thought(tokenizer) or _marks_of_the_switch(tokenizer) or _marks_by_their_words(tokenizer)
    if marks is None:
        return None
    opening, closing = marks
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return Thinking(
        opening=opening,
        closing=closing,
        starts_open=call_for_answer.rfind(opening) > call_for_answer.rfind(closing),
        is_special=opening in special or closing in special,
    )


def _marks_of_a_thought(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """What the template puts around a thought that comes with an answer, and not around the answer itself."""
    answer = {"role": "assistant", "content": _ANSWER, **dict.fromkeys(_THOUGHT_KEYS, _THOUGHT)}
    text = _written(tokenizer, [_ASKED, answer])
    before, found, after = text.partition(_THOUGHT)
    marks = marks_around(before, after) if found else None
    is_everywhere = marks is not None and text.partition(_ANSWER)[0].rstrip().endswith(marks[0])
    return None if is_everywhere else marks


def _marks_of_the_switch(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """A pair of marks of which there are more or fewer when the model is told not to think."""
    on, off = (
        _written(tokenizer, [_ASKED], add_generation_prompt=True, **dict.fromkeys(_SWITCHES, thinks))
        for thinks in (True, False)
    )
    differs = (pair for pair in pairs_of_marks([on, off]) if any(on.count(mark) != off.count(mark) for mark in pair))
    return next(differs, None)


def _marks_by_their_words(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """A pair that says what it is for, of which the template's source names one and the added tokens may name both."""
    source = str(tokenizer.chat_template)
    pairs = pairs_of_marks([source, *(str(token.content) for token in tokenizer.added_tokens_decoder.values())])
    named = (pair for pair in pairs if speaks_of_thinking(pair[0]) and any(mark in source for mark in pair))
    return next(named, None)


def _written(tokenizer: Tokenizer, conversation: list[dict[str, str]], **options: Any) -> str:
    """The conversation as the template writes it; "" where it refuses."""
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, **options))
    except (TemplateError, TypeError):
        # Templates add strings to whatever they are given.
        return ""


def _default_system(writer: TemplateWriter) -> str:
    """The system prompt that the template adds by itself, "" if none."""
    given, silent = writer.skeleton(("system", "user")), writer.skeleton(("user",))
    before, between = str(given[0]), str(given[2])
    opening = str(silent[0])
    is_framed = opening.startswith(before) and opening.endswith(between) and len(opening) > len(before) + len(between)
    return opening[len(before) : len(opening) - len(between)] if is_framed else ""


def _markers(tokenizer: Tokenizer, structure: list[str], default_system: str) -> tuple[str, ...]:
    """Text in the template's structure that marks turns without being a control token."""
    contents = [tokenizer.decode([number]) for number in control_ids(tokenizer)]
    tokens = "|".join(re.escape(str(content)) for content in sorted(contents, key=len, reverse=True) if content)
    found = []
    for text in structure:
        plain = text.replace(default_system, "\n") if default_system else text
        for fragment in (re.sub(tokens, "\n", plain) if tokens else plain).splitlines():
            marker = fragment.strip()
            if len(marker) >= 3 and _MARKER_SIGNS.search(marker):
                found.append(marker)
    return tuple(dict.fromkeys(found))


def _without_gaps(ids: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(number for number in ids if number is not None))
