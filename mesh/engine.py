"""The one seam between a deliberation and whatever runs the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mesh.types import Completion, Member, Message, Profile, Sampling, Score


class EngineError(RuntimeError):
    """The engine could not answer this request: dead, timed out, refused. The request may be tried again."""


@runtime_checkable
class Engine(Protocol):
    """Answers for one or many members. Every implementation passes `tests/contract/engine_contract.py`."""

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """`sampling.num_samples` continuations of `messages`, and the number of prompt tokens.

        Raises:
            EngineError: unknown member or adapter, a prompt longer than the window, or a dead engine.
        """
        ...

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        """Probability of each label as the next thing said, normalised over `labels` (they sum to 1).

        `labels` are distinct capital letters. Raises EngineError as `complete` does.
        """
        ...

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        """How likely the member finds `text` as the next thing said; one prefill, nothing is sampled.

        `text` is data: none of it is read as structure. Raises EngineError as `complete` does, for an empty text,
        and where `Profile.can_score` is False.
        """
        ...

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """Length of the rendered prompt, in this member's tokens."""
        ...

    async def profile(self, member: Member) -> Profile:
        """What probing found out about the member's model."""
        ...
