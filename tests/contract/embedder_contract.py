"""What every `Embedder` promises, as checks that take an embedder and how far rows of one text may be apart.

A test module runs them over its own embedder: `check(embedder, tolerance)` for each check of `CONTRACT`. The tolerance
is per component; 0 means bit for bit, and only an embedder that says so in its docstring may have more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from memory.embed import Embedder, checked_vectors

QUESTION = "How many apples are left if I eat two of seven?"
ANY_TEXTS = ("", " \n", "\0", "a\ud800b", "数学の問題", "x" * 200_000, "word " * 40_000, "🎲" * 500)

Check = Callable[[Embedder, float], None]


def check_rows_are_unit_float32_and_follow_the_texts(embedder: Embedder, tolerance: float) -> None:
    """Equal texts have equal rows, in the order of the texts."""
    vectors = checked_vectors(embedder, [QUESTION, "Paris", QUESTION])
    assert vectors.shape == (3, embedder.dim)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors[0], vectors[2], rtol=0, atol=tolerance)
    assert not np.allclose(vectors[0], vectors[1], rtol=0, atol=tolerance)
    assert isinstance(embedder, Embedder)


def check_a_row_depends_on_its_own_text_alone(embedder: Embedder, tolerance: float) -> None:
    """Neither longer neighbours nor many of them change a row."""
    alone = embedder.embed([QUESTION])[0]
    beside = embedder.embed(["a much longer text about something else " * 9, QUESTION])[1]
    among = embedder.embed([f"neighbour {number}" for number in range(20)] + [QUESTION])[20]
    assert np.allclose(alone, beside, rtol=0, atol=tolerance)
    assert np.allclose(alone, among, rtol=0, atol=tolerance)


def check_any_text_has_a_vector(embedder: Embedder, tolerance: float) -> None:
    """Empty, binary, half a character, no Latin letter, enormous: each has its row, alone and together."""
    together = checked_vectors(embedder, ANY_TEXTS)
    for text, row in zip(ANY_TEXTS, together, strict=True):
        assert np.allclose(checked_vectors(embedder, [text])[0], row, rtol=0, atol=tolerance)


def check_no_texts_give_no_rows(embedder: Embedder, tolerance: float) -> None:
    """An empty list is no error."""
    assert embedder.embed([]).shape == (0, embedder.dim)
    assert checked_vectors(embedder, []).shape == (0, embedder.dim)


def check_like_texts_are_nearer_than_unlike_ones(embedder: Embedder, tolerance: float) -> None:
    """The least that can be asked of a cosine."""
    near, far = "How many apples remain if I eat two of seven?", "The GPU ran out of memory"
    query, like, unlike = embedder.embed([QUESTION, near, far])
    assert query @ like > 0.6 > 0.3 > query @ unlike


CONTRACT: tuple[Check, ...] = (
    check_rows_are_unit_float32_and_follow_the_texts,
    check_a_row_depends_on_its_own_text_alone,
    check_any_text_has_a_vector,
    check_no_texts_give_no_rows,
    check_like_texts_are_nearer_than_unlike_ones,
)
