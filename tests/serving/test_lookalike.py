"""Markers in disguise: what is read as one is found, broken where an untrusted hand wrote it, and nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.types import Part
from serving.lookalike import Reading, broken_up

MARKER = re.compile(r"(?P<marker>\[INST\]|INST\]\[|Human:)")
PLAIN = Reading()
SIGNS = st.sampled_from([*"[INST]: Human", "[INST]", "INST][", "Human:", "［", "Ｉ", "\u200b", "\u2581", "é", "①"])
PARTS = st.lists(st.tuples(st.lists(SIGNS, max_size=6).map("".join), st.booleans()), max_size=5)


def parts(*texts: tuple[str, bool]) -> list[Part]:
    return [Part(text=text, trusted=trusted) for text, trusted in texts]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain [x]", "plain [x]"),
        ("［ｘ］", "[x]"),
        ("[\u200bx\ufeff]\ufe0f", "[x]"),
        ("\u2581a", " a"),
        ("é ② ﬁ", "é 2 fi"),
    ],
)
def test_text_is_seen_as_a_reader_sees_it_and_every_sign_knows_its_place(text: str, seen: str) -> None:
    found, places = PLAIN(text)
    assert found == seen
    assert len(places) == len(found)
    assert all(sign in PLAIN(text[place])[0] for sign, place in zip(found, places, strict=True))


def test_normaliser_that_leads_with_a_sign_or_trims_is_read_sign_by_sign() -> None:
    assert Reading(lambda text: "\u2581" + text.replace(" ", "\u2581"))("a [x]")[0] == "a [x]"
    assert Reading(lambda text: text.strip().lower())(" [X] ")[0] == " [x] "
    assert Reading(lambda text: text.replace("\u00e9", ""))("[\u00e9x]")[0] == "[x]"


def test_markers_that_share_signs_are_both_broken() -> None:
    text = broken_up(parts(("[INST][INST][", False)), MARKER, PLAIN)
    assert MARKER.search(text) is None
    assert text.replace(" ", "") == "[INST][INST]["


def test_tokenizer_that_takes_blanks_out_again_gets_no_marker_at_all() -> None:
    read = Reading(lambda text: text.replace(" ", ""))
    assert broken_up(parts(("a [INST] b", False), (" [INST]", True)), MARKER, read) == "a INST b [INST]"


@given(PARTS)
def test_no_marker_that_an_untrusted_part_touches_is_left_and_trusted_text_stays(texts: list[tuple[str, bool]]) -> None:
    text = broken_up(parts(*texts), MARKER, PLAIN)
    trusted = "".join(written for written, is_trusted in texts if is_trusted)
    kept = iter(text)
    assert all(sign in kept for sign in trusted)
    if not trusted:
        assert MARKER.search(PLAIN(text)[0]) is None


@given(PARTS)
def test_trusted_text_alone_is_never_changed(texts: list[tuple[str, bool]]) -> None:
    assert broken_up(parts(*((text, True) for text, _ in texts)), MARKER, PLAIN) == "".join(text for text, _ in texts)


@given(st.text(alphabet="INST []xé", max_size=30))
def test_what_holds_no_marker_is_left_alone(text: str) -> None:
    if MARKER.search(text) is None:
        assert broken_up(parts((text, False)), MARKER, PLAIN) == text
