"""How many floating-point operations a training took, estimated from shapes and token counts. Pure.

A matrix product of a weight takes 2 operations a weight and token forward, and 2 more backward for the gradient of its
input. The gradient of the weight itself, another 2, is only taken for adapters: the base is frozen. Attention takes 4
operations forward for each pair of a token and a position of the row it is computed with (scores and mixture), a head
width at a time, and twice that backward. Left out: norms, activations, softmax and the optimizer, about 1%.
"""

from __future__ import annotations

from typing import NamedTuple

FORWARD = 2
FROZEN = 4
TRAINED = 6
ATTENTION_FORWARD = 4
ATTENTION = 12


class ModelSize(NamedTuple):
    """What of a model costs operations."""

    num_body: int
    """weights of the layers that every computed token passes"""
    num_head: int
    """weights of the head, which learned positions alone pass"""
    num_adapter: int = 0
    """trained weights"""
    attention_width: int = 0
    """query heads times head width, summed over layers"""


class TokenCounts(NamedTuple):
    """What was computed with it."""

    computed: int
    """tokens that went through the layers"""
    learned: int
    """positions that went through the head"""
    attended: int = 0
    """pairs of positions in attention: n * n for a pass of n tokens, masked ones included, as kernels compute them"""


def training_flops(size: ModelSize, tokens: TokenCounts) -> float:
    """Operations of passes forward and backward."""
    weights = FROZEN * (size.num_body * tokens.computed + size.num_head * tokens.learned)
    adapter = TRAINED * size.num_adapter * tokens.computed
    return float(weights + adapter + ATTENTION * size.attention_width * tokens.attended)


def forward_flops(size: ModelSize, tokens: TokenCounts) -> float:
    """Operations of passes forward only, such as those of a reference."""
    weights = FORWARD * (size.num_body + size.num_adapter) * tokens.computed + FORWARD * size.num_head * tokens.learned
    return float(weights + ATTENTION_FORWARD * size.attention_width * tokens.attended)
