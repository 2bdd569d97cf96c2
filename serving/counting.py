"""How long a prompt is in a member's tokens, found without its engine: by the tokenizer of its weights alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mesh.engine import EngineError
from mesh.types import Member, Message
from serving.config import EngineSpec, ServingConfig, VllmSpec
from serving.models import ModelStore
from serving.render import Renderer, RenderError
from serving.scripted_engine import ScriptedEngine
from serving.weights import ModelError


class PromptCounter:
    """Counts as the engines of a configuration do; a tokenizer is read when it is first needed."""

    def __init__(self, config: ServingConfig) -> None:
        self._specs = {spec.name: spec for spec in config.engines}
        self._store = ModelStore(config.model_store)
        self._renderers: dict[str, Renderer | None] = {}

    async def __call__(self, member: Member, messages: Sequence[Message]) -> int | None:
        """Tokens of the rendered prompt. None: no such engine here, its weights are not prepared, or it is remote."""
        spec = self._specs.get(member.engine)
        if spec is None or spec.kind == "remote":
            return None
        try:
            if not isinstance(spec, VllmSpec):
                base = member.model_copy(update={"adapter": None})
                return await ScriptedEngine(spec).count_tokens(base, messages)
            renderer = await asyncio.to_thread(self._renderer, spec)
            return None if renderer is None else len(_render(renderer, spec, messages))
        except (EngineError, RenderError):
            return None

    def _renderer(self, spec: VllmSpec) -> Renderer | None:
        if spec.name not in self._renderers:
            self._renderers[spec.name] = _read_renderer(spec, self._store)
        return self._renderers[spec.name]


def _read_renderer(spec: EngineSpec, store: ModelStore) -> Renderer | None:
    from transformers import AutoTokenizer

    assert isinstance(spec, VllmSpec)
    try:
        return Renderer(AutoTokenizer.from_pretrained(store.path(spec.model), local_files_only=True))
    except (ModelError, OSError, ValueError):
        return None


def _render(renderer: Renderer, spec: VllmSpec, messages: Sequence[Message]) -> list[int]:
    if spec.thinks or not renderer.facts.thinking:
        return renderer.render(messages)
    return renderer.render_with_answer(messages, "")[0]
