"""Merging the updates ΔW that adapters make to one layer: sums, TIES, DARE, and the best update of a given rank. Pure.

Factors of different adapters must not be averaged one by one: (B1 + B2)(A1 + A2) has cross terms that nobody trained.
Everything here works on ΔW = scale · B·A, or on forms that are equal to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolve.training.lora_files import Factors, Matrix

EXACT_SIDE = 2048
"""Up to this many rows or columns the best update of a rank is computed exactly; above, by random projection."""
_OVERSAMPLING = 32
_POWER_STEPS = 4


class Reduced(NamedTuple):
    """An update of a given rank in the place of another, and how much of that is kept."""

    factors: Factors
    energy: float
    """sum of squares of the whole update"""
    kept: float
    """sum of squares of what the factors give; the rest is at a right angle to it"""


def concatenate(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The weighted sum, exactly: factors side by side, of a rank that is the sum of the ranks.

    Parts of equal weight and scale are not touched at all: their share stays in the scale.
    """
    shares = [weight * part.scale for weight, part in zip(weights, parts, strict=True)]
    common = shares[0] if len(set(shares)) == 1 else 1.0
    down = np.concatenate([part.down for part in parts])
    ups = [
        part.up if share == common else part.up * np.float32(share) for part, share in zip(parts, shares, strict=True)
    ]
    return Factors(down, np.concatenate(ups, axis=1), common)


def reduce_factors(factors: Factors, rank: int) -> Reduced:
    """The best update of rank `rank` (singular value decomposition), without ever forming ΔW."""
    left, upper = np.linalg.qr(factors.up.astype(np.float64))
    right, lower = np.linalg.qr(factors.down.astype(np.float64).T)
    u, s, vt = np.linalg.svd(factors.scale * upper @ lower.T)
    s = s[: min(rank, len(s))]
    energy = float(np.sum(np.square(factors.scale * upper @ lower.T)))
    return Reduced(_balanced(left @ u[:, : len(s)], s, vt[: len(s)] @ right.T, rank), energy, float(np.sum(s**2)))


def reduce_dense(delta: Matrix, rank: int, seed: int = 0) -> Reduced:
    """The best update of rank `rank` to a full matrix (out, in).

    Exact where a side has up to `EXACT_SIDE` entries; above that found by random projection with power iterations
    (Halko, Martinsson and Tropp 2011), where `seed` matters. `kept` is what these factors keep either way.
    """
    if delta.shape[0] > delta.shape[1]:
        turned = reduce_dense(delta.T, rank, seed)
        down, up, scale = turned.factors
        return turned._replace(factors=Factors(up.T.copy(), down.T.copy(), scale))
    energy = float(np.sum(np.square(delta, dtype=np.float64)))
    if len(delta) <= EXACT_SIDE:
        wide = delta.astype(np.float64)
        # Eigenvectors come smallest first.
        basis: NDArray[np.floating] = np.linalg.eigh(wide @ wide.T)[1][:, ::-1][:, :rank]
    else:
        basis = _projected(delta, rank, seed)
    rows = basis.T @ delta
    sizes = np.linalg.norm(rows, axis=1)
    rows = rows / np.where(sizes > 0, sizes, 1.0)[:, None]
    return Reduced(_balanced(basis, sizes, rows, rank), energy, float(np.sum(np.square(sizes, dtype=np.float64))))


def ties(deltas: Sequence[Matrix], weights: Sequence[float], density: float) -> Matrix:
    """Trim, elect sign and merge (Yadav et al. 2023, TIES), layer by layer.

    Of each update the share `density` of largest entries is kept; each entry's sign is that of the weighted sum; the
    result is the weighted mean of the updates that have this sign there. One update at density 1 is itself.
    """
    total = np.zeros_like(deltas[0])
    trimmed = [_trim(delta, density) for delta in deltas]
    for weight, delta in zip(weights, trimmed, strict=True):
        total += np.float32(weight) * delta
    sign = np.sign(total)
    merged, mass = np.zeros_like(total), np.zeros_like(total)
    for weight, delta in zip(weights, trimmed, strict=True):
        agrees = (np.sign(delta) == sign) & (sign != 0)
        merged += np.where(agrees, np.float32(weight) * delta, np.float32(0))
        mass += np.where(agrees, np.float32(weight), np.float32(0))
    return np.divide(merged, mass, out=np.zeros_like(merged), where=mass > 0)


def dare(deltas: Sequence[Matrix], weights: Sequence[float], density: float, rng: np.random.Generator) -> Matrix:
    """Drop and rescale (Yu et al. 2024, DARE): each entry stays with chance `density` and then grows by 1 / `density`.

    The result is the weighted sum; its expectation is the sum of the updates themselves.
    """
    merged = np.zeros_like(deltas[0])
    for weight, delta in zip(weights, deltas, strict=True):
        stays = rng.random(delta.shape, dtype=np.float32) < density
        merged += np.where(stays, delta * np.float32(weight / density), np.float32(0))
    return merged


def _trim(delta: Matrix, density: float) -> Matrix:
    num_kept = max(1, round(density * delta.size))
    if num_kept >= delta.size:
        return delta
    sizes = np.abs(delta)
    least = np.partition(sizes, delta.size - num_kept, axis=None)[delta.size - num_kept]
    return np.where(sizes >= least, delta, np.float32(0))


def _balanced(
    left: NDArray[np.floating], sizes: NDArray[np.floating], right: NDArray[np.floating], rank: int
) -> Factors:
    """Factors of left · diag(sizes) · right of exactly `rank`, the sizes shared out evenly.

    A singular vector has no sign of its own: the largest entry of the left one is made positive, so that libraries
    which choose otherwise give the same adapter.
    """
    signs = np.sign(left[np.argmax(np.abs(left), axis=0), np.arange(left.shape[1])])
    roots = np.sqrt(sizes)
    down = np.zeros((rank, right.shape[1]), dtype=np.float32)
    up = np.zeros((left.shape[0], rank), dtype=np.float32)
    down[: len(sizes)] = (signs * roots)[:, None] * right
    up[:, : len(sizes)] = left * (signs * roots)
    return Factors(down, up)


def _projected(delta: Matrix, rank: int, seed: int) -> NDArray[np.floating]:
    """Orthonormal columns (out, rank) that span nearly the directions of most energy."""
    width = min(len(delta), rank + _OVERSAMPLING)
    basis = delta @ np.random.default_rng(seed).standard_normal((delta.shape[1], width), dtype=np.float32)
    for _ in range(_POWER_STEPS):
        basis = delta @ (delta.T @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    u, _, _ = np.linalg.svd(basis.T @ delta, full_matrices=False)
    return basis @ u[:, :rank]
