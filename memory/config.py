"""What a configuration may say about memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memory.types import Record


class MemoryConfig(Record):
    """Whether outcomes are remembered and recalled, and how."""

    enabled: bool = Field(default=True, description="False: nothing is recalled and nothing is remembered")
    embedder: Literal["minilm", "hashed"] = Field(
        default="minilm",
        description="'minilm': packaged sentence embeddings, 20 ms a text; 'hashed': word overlap only, no weights",
    )
    recall_limit: int = Field(
        default=2, ge=0, le=16, description="most experiences shown before a task; fewer are better, 0 shows none"
    )
    min_similarity: float = Field(
        default=0.3, ge=-1.0, le=1.0, description="cosine below which a vector match does not count as similar"
    )
    brief_words: int = Field(default=200, ge=1, description="length of the summary a new session reads, in words")
