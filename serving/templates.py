"""How a model's conversations are written: by its chat template, learnt with sentinels, or as plain text."""

from __future__ import annotations

import re
from typing import Any, Protocol

from jinja2.exceptions import TemplateError

from memory.types import Record
from serving.thinking import Thinking
from serving.turns import Role

# A conversation's form: structure as text, and where the content of turn i goes, as the number i.
Skeleton = tuple[str | int, ...]

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
    takes_tools: bool = False
    thinking: Thinking | None = None


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
