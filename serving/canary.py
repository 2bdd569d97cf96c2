"""Fixed questions that a seat has to answer before it serves: does it answer, and with the adapter it should have?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from memory.types import Record
from mesh.engine import Engine, EngineError
from mesh.types import Completion, Member, Message, Part, Sampling

MAX_TOKENS = 12
_SAME_CHARS = 8


class CanaryError(RuntimeError):
    """A seat does not answer as it must to be used; the message names it and what it said."""


class CanaryAnswer(Record):
    """What one seat said to one canary."""

    prompt: str
    text: str
    adapter: str | None


async def check_seat(engine: Engine, member: Member, *, timeout_s: float = 60.0) -> tuple[CanaryAnswer, ...]:
    """Puts every canary to `member`, greedily; returns what it said.

    Raises:
        CanaryError: no answer in time, another adapter than the member's, nothing but white space, or one character
            over and over, which is what broken weights say.
    """
    try:
        async with asyncio.timeout(timeout_s):
            said = await asyncio.gather(*(_ask(engine, member, prompt) for prompt in CANARIES))
    except (EngineError, TimeoutError) as error:
        raise CanaryError(
            f"{member.name}: expected an answer to a canary, got {str(error) or 'none in time'}"
        ) from error
    reason = why_not([completion for completion in said], member.adapter)
    if reason is not None:
        raise CanaryError(f"{member.name}: {reason}")
    return tuple(
        CanaryAnswer(prompt=prompt, text=completion.text, adapter=completion.adapter)
        for prompt, completion in zip(CANARIES, said, strict=True)
    )


def why_not(said: Sequence[Completion], adapter: str | None) -> str | None:
    """What is wrong with these answers of a member with `adapter`; None: nothing. One good answer is enough."""
    strangers = [completion for completion in said if completion.adapter != adapter]
    if strangers:
        return f"expected answers of adapter {_short(adapter)}, got one of {_short(strangers[0].adapter)}"
    if any(completion.finish_reason == "error" for completion in said):
        return "expected answers to the canaries, got an error"
    texts = [completion.text.strip() for completion in said]
    if not any(texts):
        return "expected answers to the canaries, got empty ones"
    if all(not text or _is_stuck(text) for text in texts):
        return f"expected answers to the canaries, got one character over and over: {texts[0][:40]!r}"
    return None


def _is_stuck(text: str) -> bool:
    return len(text) >= _SAME_CHARS and len(set(text)) == 1


async def _ask(engine: Engine, member: Member, prompt: str) -> Completion:
    message = Message(role="user", parts=(Part(text=prompt),))
    completions, _ = await engine.complete(member, [message], Sampling(temperature=0.0, max_tokens=MAX_TOKENS))
    return completions[0]


def _short(adapter: str | None) -> str:
    return "none (the base model)" if adapter is None else adapter[:12]


CANARIES = (
    "What is 2 + 3? Answer with the number.",
    "Name the capital of France.",
    "Say the word ready.",
)
