"""Take the power out of control markers in untrusted text, for servers that accept text and not token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mesh.types import Part
from serving.lookalike import Reading, broken_up

# What the templates of the common families use as structure. A server tokenises the whole prompt with special tokens
# on, so a marker in a peer's answer would end the reader's turn and open another one. The list cannot be complete: it
# is why a remote member's profile says `token_exact=False`.
_MARKER = re.compile(
    r"""(?P<marker>
      <[|｜][^<>]{0,60}?[|｜]?>                       # <|im_end|> <|eot_id|> <|channel|> <｜User｜> <|end>
    | </?(?:s|bos|eos|pad|unk|mask|sep|cls)>
    | </?(?:start|end)_of_(?:turn|image|role|text|utterance)>
    | </?(?:begin|end)_of_\w{1,20}>
    | </?(?:think|thinking|tool_calls?|tool_responses?|tools|function_calls?|im_start|im_end|turn)>
    | <<\s?/?\s?SYS\s?>>
    | \[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK)\]
    | \[(?:PREFIX|MIDDLE|SUFFIX|IMG)\]
    )""",
    re.IGNORECASE | re.VERBOSE,
)


_READ = Reading()


def sanitise(text: str) -> str:
    """`text` with a space put after the opening bracket of every known control marker; nothing is removed.

    The result holds no known marker and stays as it is when sanitised again; people still read what was said. A marker
    in full-width letters, or with invisible signs in it, is one: some servers normalise what they are sent.
    """
    return sanitise_parts([Part(text=text, trusted=False)])


def sanitise_parts(parts: Sequence[Part]) -> str:
    """The parts as one text, sanitised wherever an untrusted one had a hand in a marker; trusted text is kept."""
    return broken_up(parts, _MARKER, _READ)


def has_marker(text: str) -> bool:
    """Whether a known control marker is in `text`."""
    return _MARKER.search(_READ(text)[0]) is not None
