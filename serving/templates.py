"""How a model's conversations are written: its chat template, probed with sentinels, or plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, Protocol

from jinja2.exceptions import TemplateError

from memory.types import Record

Role = Literal["system", "user", "assistant"]
# A conversation's form: structure as text, and where the content of turn i goes, as the number i.
Skeleton = tuple[str | int, ...]

_MARKER_SIGNS = re.compile(r"[<>\[\]{}|#:]")
# An added token that looks like a marker is structure even where its tokenizer does not call it special.
_MARKER_SHAPE = re.compile(r"[<\[({|].*[>\])}|]", re.DOTALL)


class RenderError(ValueError):
    """The template cannot write this conversation."""


class Tokenizer(Protocol):
    """The few things asked of a Hugging Face tokenizer."""

    @property
    def chat_template(self) -> Any:
        """The template, None for a base model."""
        ...

    @property
    def bos_token_id(self) -> int | None:
        """Beginning of sequence."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """End of sequence."""
        ...

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens that have a name."""
        ...

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Added tokens, each with `content` and `special`."""
        ...

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        """Token ids of `text`."""
        ...

    def decode(self, token_ids: list[int], **kwargs: Any) -> Any:
        """Text of `token_ids`."""
        ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """A conversation as text."""
        ...


class TemplateFacts(Record):
    """What probing found out about a tokenizer's way to write a conversation."""

    has_template: bool
    accepts_system: bool
    needs_alternation: bool
    default_system: str = ""
    adds_bos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()


class Writer(Protocol):
    """Knows the form of a conversation of given roles."""

    def skeleton(self, roles: tuple[Role, ...]) -> Skeleton:
        """The form; ends with the call for an answer, or in the open last turn if that is the assistant's.

        Raises RenderError if a conversation of this form cannot be written.
        """
        ...


class PlainWriter:
    """Conversations of a base model, as text: `Question: ...` and `Answer: ...`, after what a system turn says."""

    def skeleton(self, roles: tuple[Role, ...]) -> Skeleton:
        """As `Writer.skeleton`."""
        pieces: list[str | int] = []
        for number, role in enumerate(roles):
            before, after = {"system": ("", "\n\n"), "user": ("Question: ", "\n"), "assistant": ("Answer: ", "\n\n")}[
                role
            ]
            pieces += [before, number, after]
        # No blank at the end: it belongs to the first token of the answer.
        return (*pieces[:-1], "") if roles[-1] == "assistant" else (*pieces, "Answer:")


class TemplateWriter:
    """Conversations as the tokenizer's chat template writes them, learnt by rendering sentinels."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def skeleton(self, roles: tuple[Role, ...]) -> Skeleton:
        """As `Writer.skeleton`; every turn must come out whole and once, in whatever order."""
        sentinels = [f"q7zx{number}vk9w" for number in range(len(roles))]
        conversation = [{"role": role, "content": text} for role, text in zip(roles, sentinels, strict=True)]
        is_open = roles[-1] == "assistant"
        try:
            text = self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=not is_open)
        except TemplateError as error:
            raise RenderError(f"the chat template refuses the turns {', '.join(roles)}: {error}") from error
        pieces: list[str | int] = []
        for piece in re.split("(" + "|".join(sentinels) + ")", text):
            pieces.append(sentinels.index(piece) if piece in sentinels else piece)
        written = [piece for piece in pieces if isinstance(piece, int)]
        if sorted(written) != list(range(len(roles))):
            raise RenderError(f"the chat template drops or repeats one of the turns {', '.join(roles)}")
        return (*pieces[: pieces.index(len(roles) - 1) + 1], "") if is_open else tuple(pieces)


def control_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that content must never hold: special tokens, and added tokens that look like markers."""
    added = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or _MARKER_SHAPE.fullmatch(token.content)
    }
    return frozenset(added) | frozenset(tokenizer.all_special_ids)


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
    return TemplateFacts(
        has_template=True,
        accepts_system=accepts_system,
        needs_alternation=not _can_write(writer, ("user", "user")),
        default_system=default_system,
        adds_bos=bool(opening) and opening[0] == tokenizer.bos_token_id,
        stop_token_ids=_without_gaps([*stop_ids, end_ids[0] if ends_in_token else None]),
        stop_strings=() if ends_in_token or not turn_end.strip() else (f"\n{turn_end.strip().splitlines()[0]}",),
        markers=_markers(tokenizer, [str(piece) for piece in long if isinstance(piece, str)], default_system),
    )


def _can_write(writer: Writer, roles: tuple[Role, ...]) -> bool:
    try:
        writer.skeleton(roles)
    except RenderError:
        return False
    return True


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
