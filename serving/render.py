"""Messages to token ids: structure comes from the model's own chat template, content can never become structure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from mesh.text import well_formed
from mesh.types import Message, Part
from serving.templates import (
    PlainWriter,
    RenderError,
    Role,
    Skeleton,
    TemplateFacts,
    TemplateWriter,
    Tokenizer,
    Writer,
    control_ids,
    probe,
)

TURN_BREAK = "\n\n"
Turn = tuple[Role, tuple[Part, ...]]


class Renderer:
    """Writes conversations for one tokenizer, whose template is probed once.

    The content of every turn, whoever wrote it, is encoded with control tokens switched off; only what the template
    puts around the turns is encoded with them. Markers of the template that are ordinary text (`[INST]`,
    `### Human:`, a plain `Answer:` at the start of a line) are broken up where they occur in untrusted parts.
    Not promised: that a model, shown text which merely talks about its markers, keeps its head.
    """

    def __init__(self, tokenizer: Tokenizer, *, extra_stop_ids: Iterable[int] = ()) -> None:
        """`extra_stop_ids`: further end tokens that the model's generation settings name."""
        self._tokenizer = tokenizer
        self._control_ids = control_ids(tokenizer)
        self._writer: Writer = TemplateWriter(tokenizer) if tokenizer.chat_template else PlainWriter()
        self._skeleton = lru_cache(maxsize=256)(self._writer.skeleton)
        self._structure_ids = lru_cache(maxsize=256)(self._encode_structure)
        self.facts: TemplateFacts = probe(tokenizer, extra_stop_ids)
        self._markers = _marker_pattern(self.facts)

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
            return self.render(messages), self.encode_content(answer)
        turns = self._turns(messages)
        *before, opening, _, _ = self._skeleton((*_roles(turns), "assistant"))
        blank = " " if str(opening).endswith(" ") else ""
        texts = [self._text(parts) for _, parts in turns]
        return self._ids((*before, str(opening).removesuffix(" ")), texts), self.encode_content(blank + answer)

    def _ids(self, skeleton: Skeleton, texts: Sequence[str]) -> list[int]:
        if not self.facts.has_template:
            # Encoded in one piece, so that words get the tokens they have in running text.
            text = "".join(piece if isinstance(piece, str) else texts[piece] for piece in skeleton)
            bos = self._tokenizer.bos_token_id
            return ([] if bos is None else [bos]) + self.encode_content(text)
        ids: list[int] = []
        blank = ""
        for piece in skeleton:
            if isinstance(piece, int):
                ids += self.encode_content(blank + texts[piece])
                continue
            # A blank before content belongs to the content's first word in most vocabularies.
            blank = " " if piece.endswith(" ") else ""
            ids += self._structure_ids(piece.removesuffix(" "))
        return ids

    def encode_content(self, text: str) -> list[int]:
        """Token ids of `text`, none of which is a control token, whatever `text` holds."""
        text = well_formed(text)
        ids = self._plain_ids(text)
        found = {number for number in ids if number in self._control_ids}
        if not found:
            return ids
        # Added tokens that are not registered as special are still read whole: encode their first sign apart.
        contents = sorted((str(self._tokenizer.decode([number])) for number in found), key=len, reverse=True)
        cut = re.compile("|".join(f"(?<={re.escape(c[0])})(?={re.escape(c[1:])})" for c in contents if len(c) > 1))
        ids = [number for piece in cut.split(text) for number in self._plain_ids(piece)]
        return [number for number in ids if number not in self._control_ids]

    def label_ids(self, label: str) -> tuple[int, ...]:
        """Single tokens that say `label`, with and without a blank before it; empty if there is none."""
        found = (self._plain_ids(text) for text in (label, f" {label}"))
        return tuple(dict.fromkeys(ids[0] for ids in found if len(ids) == 1 and ids[0] not in self._control_ids))

    def _plain_ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []

    def _encode_structure(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False)) if text else ()

    def _turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Turns as the template takes them: a refused system turn joins the user's, same roles merge if they must."""
        turns: list[Turn] = []
        joins_next = False
        for message in messages:
            is_folded = message.role == "system" and not self.facts.accepts_system
            role: Role = "user" if is_folded else message.role
            if turns and turns[-1][0] == role and (joins_next or self.facts.needs_alternation):
                turns[-1] = (role, (*turns[-1][1], Part(text=TURN_BREAK), *message.parts))
            else:
                turns.append((role, message.parts))
            joins_next = is_folded
        return turns

    def _text(self, parts: Sequence[Part]) -> str:
        """The text of a turn, markers in runs of untrusted parts broken up."""
        text, untrusted = "", ""
        for part in (*parts, Part(text="")):
            if part.trusted:
                text += self._defused(untrusted, after=text) + part.text
                untrusted = ""
            else:
                untrusted += part.text
        return text

    def _defused(self, untrusted: str, *, after: str) -> str:
        """`untrusted` without a whole marker in it, not even one that begins in the text before it."""
        if self._markers is None or not untrusted:
            return untrusted
        line = after[after.rfind("\n") + 1 :]
        start = len(line)

        def defuse(match: re.Match[str]) -> str:
            if match.end() <= start:
                return match.group()
            if match.start() < start:
                return f"{line[match.start() :]} {match.group()[start - match.start() :]}"
            return _broken(match.group())

        return self._markers.sub(defuse, line + untrusted)[start:]


def _roles(turns: Sequence[Turn]) -> tuple[Role, ...]:
    return tuple(role for role, _ in turns)


def _marker_pattern(facts: TemplateFacts) -> re.Pattern[str] | None:
    if not facts.markers:
        return None
    either = "|".join(re.escape(marker) for marker in sorted(facts.markers, key=len, reverse=True))
    # In plain text a marker counts at the start of a line only: "the answer: 4" is ordinary prose.
    return re.compile(either) if facts.has_template else re.compile(rf"^[^\S\n]*(?:{either})", re.MULTILINE)


def _broken(marker: str) -> str:
    """The marker, readable but no longer itself."""
    if marker.endswith(":"):
        return f"{marker[:-1]} -"
    sign = len(marker) - len(marker.lstrip()) + 1
    return f"{marker[:sign]} {marker[sign:]}"


__all__ = ["RenderError", "Renderer"]
