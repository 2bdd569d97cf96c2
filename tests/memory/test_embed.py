"""One contract over every embedder, and what each adds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from memory.embed import (
    Embedder,
    EmbedderError,
    HashedNgramEmbedder,
    MiniLmEmbedder,
    checked_vectors,
    embedder_named,
)
from tests.contract.embedder_contract import CONTRACT, QUESTION, Check


@pytest.fixture(scope="module", params=["hashed", "minilm"])
def embedder(request) -> Embedder:
    return embedder_named(request.param)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_every_embedder_keeps_the_contract_bit_for_bit(embedder: Embedder, check: Check) -> None:
    check(embedder, 0.0)


def test_minilm_knows_a_paraphrase_without_common_words() -> None:
    query, paraphrase, other = MiniLmEmbedder().embed([QUESTION, "Seven apples, two eaten: what remains?", "12 + 5 ="])
    assert query @ paraphrase > 0.75
    assert query @ other < 0.4


def test_minilm_gives_the_published_numbers() -> None:
    # First numbers of sentence-transformers' own vector for this sentence, computed once with torch.
    expected = [0.04153877, 0.00874846, -0.02394944, 0.10813881, -0.05028479]
    assert MiniLmEmbedder().embed([QUESTION])[0][:5] == pytest.approx(expected, abs=1e-5)


def test_minilm_imports_no_torch() -> None:
    script = "import sys; from memory.embed import *; MiniLmEmbedder().embed(['x']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_hashed_vectors_are_the_same_in_every_process() -> None:
    script = "from memory.embed import *; print(HashedNgramEmbedder().embed(['seven apples']).tobytes().hex())"
    runs = {subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(2)}
    assert runs == {HashedNgramEmbedder().embed(["seven apples"]).tobytes().hex().encode() + b"\n"}


def test_missing_or_damaged_weights_are_named(tmp_path) -> None:
    with pytest.raises(EmbedderError, match=r"model\.safetensors: expected MiniLM's file"):
        MiniLmEmbedder(tmp_path).embed(["x"])
    (tmp_path / "model.safetensors").write_bytes(b"not these")
    with pytest.raises(EmbedderError, match="expected sha256 53aa5117"):
        MiniLmEmbedder(tmp_path).embed(["x"])


class Liar:
    """An embedder that breaks the contract the way it is told to."""

    id = "liar"
    dim = 4

    def __init__(self, answer: np.ndarray) -> None:
        self.answer = answer

    def embed(self, texts):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (np.full((1, 4), np.nan, np.float32), "length nan"),
        (np.array([[np.inf, 0, 0, 0]], np.float32), "length inf"),
        (np.zeros((1, 4), np.float32), r"length 0\.0"),
        (np.array([[1, 0, 0]], np.float32), r"shape \(1, 4\)"),
        (np.array([[1, 0, 0, 0]], np.float64), "float64"),
        (np.zeros((0, 4), np.float32), r"\(0, 4\)"),
    ],
)
def test_vectors_that_break_the_contract_are_refused(answer, match) -> None:
    with pytest.raises(EmbedderError, match=match):
        checked_vectors(Liar(answer), ["x"])
