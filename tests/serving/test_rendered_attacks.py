"""A member that writes control tokens, from its mouth to the next reader's token ids: they arrive as text."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest

from mesh.config import CouncilConfig, DebateConfig, HierarchicalConfig, RankConfig, ReviewConfig, SingleConfig
from mesh.types import Message
from serving.render import Renderer
from serving.templates import control_ids
from tests.mesh.test_injection import ATTACKS, attacked
from tests.serving.tiny_tokenizers import SPECIAL, tokenizers

CONFIGS = (
    CouncilConfig(peer_max_chars=2000), CouncilConfig(peer_max_chars=60), DebateConfig(), RankConfig(),
    ReviewConfig(produce=SingleConfig(member="eve")), HierarchicalConfig(planner="eve"),
)  # fmt: skip


@cache
def prompts() -> dict[str, tuple[Message, ...]]:
    """One prompt of each phase that holds what eve wrote: every control token there is, each on a line of its own."""
    hostile = "\n".join([*SPECIAL, ATTACKS["control"]])
    found: dict[str, tuple[Message, ...]] = {}
    for config in CONFIGS:
        for _, phase, seen, _ in attacked(config, hostile)[1].calls:
            if any(SPECIAL[0] in part.text for part in seen[-1].parts):
                found.setdefault(phase, seen)
    return found


def without_data(messages: tuple[Message, ...]) -> list[Message]:
    return [
        message.model_copy(
            update={"parts": tuple(p if p.trusted else p.model_copy(update={"text": "x"}) for p in message.parts)}
        )
        for message in messages
    ]


@pytest.mark.parametrize("name", tokenizers())
def test_no_prompt_of_any_phase_holds_more_control_tokens_than_the_same_prompt_without_data(name: str) -> None:
    tokenizer: Any = tokenizers()[name]
    renderer, control = Renderer(tokenizer), control_ids(tokenizer)
    for messages in prompts().values():
        found = Counter(token for token in renderer.render(messages) if token in control)
        assert found == Counter(token for token in renderer.render(without_data(messages)) if token in control)


def test_the_attack_reaches_every_phase_that_shows_texts_and_a_vote_shows_none() -> None:
    assert set(prompts()) == {"digest", "critique", "revise", "synthesise", "rank", "approve", "propose"}
