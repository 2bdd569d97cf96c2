"""Rows that begin alike, laid out as one token tree, so that a shared beginning is computed once.

Few-shot prompts of one task type differ in the last question alone. A batch becomes a tree of tokens: a token sees its
ancestors only and keeps the position it has in its own row, so every row is computed exactly as if it stood alone (up
to rounding), and so is the gradient. Not covered: layers that are not attention (their state runs along the line), and
sliding windows shorter than the longest row (the mask here is causal only).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class TokenRow(NamedTuple):
    """One tokenised training row; the loss is over `token_ids[completion_start:]`."""

    token_ids: tuple[int, ...]
    completion_start: int
    weight: float = 1.0


class TokenPair(NamedTuple):
    """Two tokenised answers to one prompt, the better first."""

    chosen: TokenRow
    rejected: TokenRow
    weight: float = 1.0


class PackedRows(NamedTuple):
    """n tree nodes in an order in which parents come first, and m (position, next token) pairs to learn."""

    token_ids: NDArray[np.int64]
    """(n,)"""
    depths: NDArray[np.int64]
    """(n,) position of the token in its own row"""
    visible: NDArray[np.bool_]
    """(n, n): may node i see node j; True for i itself and its ancestors"""
    label_positions: NDArray[np.int64]
    """(m,) node whose output predicts the label; a node that ends several rows' prompts appears several times"""
    label_ids: NDArray[np.int64]
    """(m,)"""
    label_weights: NDArray[np.float32]
    """(m,) weight of the row that the label belongs to"""


def pack_rows(rows: Sequence[TokenRow]) -> PackedRows:
    """Merge `rows` into one tree.

    Raises:
        ValueError: no rows, or a row whose completion is empty or not preceded by a prompt token.
    """
    if not rows:
        raise ValueError("expected at least one row to pack, got none")
    children: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    labels: list[tuple[int, int, float]] = []
    for row in rows:
        if not 1 <= row.completion_start < len(row.token_ids):
            raise ValueError(
                f"expected a completion starting within 1..{len(row.token_ids) - 1}, got {row.completion_start}; "
                "drop rows with an empty prompt or completion before packing"
            )
        node = -1
        for depth, token in enumerate(row.token_ids):
            if depth >= row.completion_start:
                labels.append((node, token, row.weight))
            child = children.setdefault((node, token), len(tokens))
            if child == len(tokens):
                tokens.append(token)
                parents.append(node)
                depths.append(depth)
            node = child
    return PackedRows(
        token_ids=np.asarray(tokens, dtype=np.int64),
        depths=np.asarray(depths, dtype=np.int64),
        visible=_ancestors(parents),
        label_positions=np.asarray([position for position, _, _ in labels], dtype=np.int64),
        label_ids=np.asarray([token for _, token, _ in labels], dtype=np.int64),
        label_weights=np.asarray([weight for _, _, weight in labels], dtype=np.float32),
    )


def rows_per_pass(rows: Sequence[TokenRow], batch_size: int, max_packed_tokens: int, *, together: int = 1) -> int:
    """Examples a pass takes: the largest divisor of `batch_size` whose tree is within the limit, whichever they are.

    A tree of k rows has at most the tokens that several of all rows share, and k times the most that one row has to
    itself; so rows that begin alike fit in far greater numbers than their lengths suggest.

    Args:
        rows: all that are trained on.
        together: rows of one example, e.g. the two of a pair.
    """
    visits: Counter[int] = Counter()
    nodes: dict[tuple[int, int], int] = {}
    paths = []
    for row in rows:
        node, path = -1, []
        for token in row.token_ids:
            node = nodes.setdefault((node, token), len(nodes))
            path.append(node)
        visits.update(path)
        paths.append(path)
    shared = sum(count > 1 for count in visits.values())
    own = max(sum(visits[node] == 1 for node in path) for path in paths)
    longest = max(len(path) for path in paths)
    divisors = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    most = {size: size * together for size in divisors}
    return max(size for size, k in most.items() if size == 1 or min(k * longest, shared + k * own) <= max_packed_tokens)


def _ancestors(parents: Sequence[int]) -> NDArray[np.bool_]:
    visible = np.zeros((len(parents), len(parents)), dtype=np.bool_)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] = visible[parent]
        visible[node, node] = True
    return visible
