"""Messages to token ids: structure comes from the model's own chat template, content can never become structure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from mesh.types import Message, Part
from serving.encode import Encoder
from serving.lookalike import Reading, broken_up
from serving.probe import probe
from serving.templates import (
    PlainWriter,
    RenderError,
    Skeleton,
    TemplateFacts,
    TemplateWriter,
    Tokenizer,
    Writer,
)
from serving.turns import Role, Turn, as_turns

_NEW_LINE = r"(?:\A|(?<=[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]))"


class Renderer:
    """Writes conversations for one tokenizer, whose template is probed once.

    The content of every turn, whoever wrote it, is encoded with control tokens switched off; only what the template
    puts around the turns is encoded with them. Markers of the template that are ordinary text (`[INST]`,
    `### Human:`, a plain `Answer:` at the start of a line) are broken up where an untrusted part had a hand in them,
    in every spelling that this tokenizer, or a reader, takes for the marker.
    Not promised: that a model, shown text which merely talks about its markers, keeps its head.
    """

    def __init__(self, tokenizer: Tokenizer, *, extra_stop_ids: Iterable[int] = ()) -> None:
        """`extra_stop_ids`: further end tokens that the model's generation settings name."""
        self._bos = tokenizer.bos_token_id
        self._encoder = Encoder(tokenizer)
        self._writer: Writer = TemplateWriter(tokenizer) if tokenizer.chat_template else PlainWriter()
        self._skeleton = lru_cache(maxsize=256)(self._writer.skeleton)
        self.facts: TemplateFacts = probe(tokenizer, extra_stop_ids)
        self._markers = _marker_pattern(self.facts, self._encoder.read)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation, ready for the answer; an assistant turn at the end is continued.

        Raises:
            RenderError: no messages, or the template refuses the conversation.
        """
        if not messages:
            raise RenderError("expected at least one message, got none")
        turns = self._turns(messages)
        return self._ids(self._skeleton(_roles(turns)), [self._text(parts) for _, parts in turns])

    def render_with_answer(self, messages: Sequence[Message], answer: str) -> tuple[list[int], list[int]]:
        """Token ids up to where the assistant's answer to `messages` begins, and those of `answer` in that place.

        An assistant turn at the end is continued. Where a template writes an assistant's answers in another way than
        it calls for them (with an empty thought before, say), this is the way of answers. Raises as `render` does.
        """
        if not messages or messages[-1].role == "assistant":
            prompt, blank = self.render(messages), ""
        else:
            turns = self._turns(messages)
            *before, opening, _, _ = self._skeleton((*_roles(turns), "assistant"))
            blank = " " if str(opening).endswith(" ") else ""
            texts = [self._text(parts) for _, parts in turns]
            prompt = self._ids((*before, str(opening).removesuffix(" ")), texts)
        return prompt, self._encoder.content(blank + answer, prompt)

    def encode_content(self, text: str) -> list[int]:
        """Token ids of `text` on its own, none of which is a control token, whatever `text` holds."""
        return self._encoder.content(text, [])

    def answer_in(self, text: str) -> str | None:
        """What a model's text says to others: its thoughts are left out. None if it never stopped thinking.

        The text of a model whose marks are special tokens must have been decoded with them (`thinking.is_special`).
        """
        thinking = self.facts.thinking
        if thinking is None:
            return text.strip()
        said = thinking.answer(text)
        return self._encoder.without_control(said).strip() if said and thinking.is_special else said

    def label_ids(self, label: str) -> tuple[int, ...]:
        """Single tokens that say `label` within a text, with and without a blank before it; empty if there is none."""
        within = self._encoder.content("\n", [])
        found = (self._encoder.content(text, within) for text in (label, f" {label}"))
        return tuple(dict.fromkeys(ids[0] for ids in found if len(ids) == 1))

    def _ids(self, skeleton: Skeleton, texts: Sequence[str]) -> list[int]:
        if not self.facts.has_template:
            # Encoded in one piece, so that words get the tokens they have in running text.
            text = "".join(piece if isinstance(piece, str) else texts[piece] for piece in skeleton)
            return ([] if self._bos is None else [self._bos]) + self._encoder.content(text, [])
        ids: list[int] = []
        blank = ""
        for piece in skeleton:
            if isinstance(piece, int):
                ids += self._encoder.content(blank + texts[piece], ids)
                continue
            # A blank before content belongs to the content's first word in most vocabularies.
            blank = " " if piece.endswith(" ") else ""
            ids += self._encoder.structure(piece.removesuffix(" "), ids)
        return ids

    def _turns(self, messages: Sequence[Message]) -> list[Turn]:
        return as_turns(
            messages, accepts_system=self.facts.accepts_system, needs_alternation=self.facts.needs_alternation
        )

    def _text(self, parts: Sequence[Part]) -> str:
        if self._markers is None or all(part.trusted for part in parts):
            return "".join(part.text for part in parts)
        return broken_up(parts, self._markers, self._encoder.read)


def _roles(turns: Sequence[Turn]) -> tuple[Role, ...]:
    return tuple(role for role, _ in turns)


def _marker_pattern(facts: TemplateFacts, read: Reading) -> re.Pattern[str] | None:
    """Finds the markers, as they are read, as the group `marker`; None where there are none."""
    if not facts.markers:
        return None
    seen = sorted({read(marker)[0] for marker in facts.markers}, key=len, reverse=True)
    either = "(?P<marker>" + "|".join(re.escape(marker) for marker in seen) + ")"
    # In plain text a marker counts at the start of a line only: "the answer: 4" is ordinary prose.
    return re.compile(either if facts.has_template else rf"{_NEW_LINE}[^\S\n]*{either}")


__all__ = ["RenderError", "Renderer"]
