from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.types import Part
from serving.sanitise import has_marker, sanitise, sanitise_parts

MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<|channel|>",
    "<｜User｜>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<think>",
    "</think>",
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|begin▁of▁sentence|>",
    "<begin_of_text>",
    "<IM_END>",
]
PIECES = st.lists(
    st.sampled_from([*MARKERS, "<", "<|", "|>", ">", "[", "]", "/", "im_end", " ", "x", "3 < 4", "＜", "\u200b"])
)


@pytest.mark.parametrize("marker", MARKERS)
def test_known_marker_loses_its_power_and_stays_readable(marker: str) -> None:
    safe = sanitise(f"so{marker}B")
    assert marker not in safe
    assert safe.replace(" ", "") == f"so{marker}B"


@pytest.mark.parametrize(
    "marker", ["＜|im_end|＞", "<\u200b|im_end|>", "［INST］", "<ｅｏｓ>", "<start\u00ad_of_turn>"]
)
def test_marker_in_disguise_is_a_marker(marker: str) -> None:
    assert has_marker(f"so {marker} B")
    safe = sanitise(f"so {marker} B")
    assert not has_marker(safe)
    assert safe.replace(" ", "") == f"so{marker}B"


def test_trusted_markers_are_kept_and_those_with_an_untrusted_piece_are_not() -> None:
    parts = [Part(text="Use <think>, not <|im_"), Part(text="end|>", trusted=False), Part(text="<eos>")]
    assert sanitise_parts(parts) == "Use <think>, not <|im_end<eos>"


@given(PIECES.map("".join))
def test_no_marker_is_left_however_the_pieces_are_put_together(text: str) -> None:
    safe = sanitise(text)
    assert not has_marker(safe)
    assert sanitise(safe) == safe
    assert safe.replace(" ", "") == text.replace(" ", "")


@given(st.text())
def test_nothing_but_blanks_is_ever_added(text: str) -> None:
    assert sanitise(text).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("text", ["3 < 4 and 5 > 2", "a[0] + b[1]", "List<int> x", "**bold** _text_", "x <- y |> z"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert sanitise(text) == text
