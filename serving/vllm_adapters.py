"""The LoRA adapters of one vLLM engine: any number are known, those in use are in memory, each is tried first."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from mesh.engine import EngineError
from serving.adapters import Adapter, AdapterCorrupt, AdapterMissing, AdapterStore
from serving.admission import BaseModelShape
from serving.config import VllmSpec
from serving.garbage import Fingerprint, broken, shifted
from serving.hosting import EngineDied
from serving.hot_adapters import HotAdapters

Ask = Callable[[LoRARequest, Fingerprint], Awaitable[Fingerprint]]
"""What the engine says to the fixed prompt with an adapter: of the tokens of an earlier time; empty: the likeliest."""


class VllmAdapters:
    """Implements `AdapterHost` for one engine, and lends adapters to its requests."""

    def __init__(
        self, spec: VllmSpec, base: BaseModelShape, store: AdapterStore, running: Callable[[], AsyncLLM], ask: Ask
    ) -> None:
        """`running`: the engine, or an EngineError where there is none to be asked."""
        self._spec = spec
        self._base = base
        self._store = store
        self._running = running
        self._ask = ask
        self._known: set[str] = set()
        self._requests: dict[str, LoRARequest] = {}
        self._fingerprints: dict[str, Fingerprint] = {}
        self._ids = itertools.count(1)
        self._lock = asyncio.Lock()
        self.hot = HotAdapters(spec.max_cpu_loras, self._bring, self._send)

    async def load(self, adapter: Adapter) -> float:
        """As `AdapterHost.load_adapter`. The files are verified first: a bad one must not reach a running engine."""
        started = time.perf_counter()
        async with self._lock:
            if adapter.hash not in self._known:
                self._check_fits(adapter)
                self._request_for(adapter.hash)
                async with self.hot.held(adapter.hash):
                    self._known.add(adapter.hash)
        return time.perf_counter() - started

    async def retire(self, adapter_hash: str) -> None:
        """As `AdapterHost.retire_adapter`; returns when the requests under way have ended and it is out of memory.

        The files stay: vLLM may have them open.
        """
        async with self._lock:
            self._check_known(adapter_hash)
            self._known.remove(adapter_hash)
            self._fingerprints.pop(adapter_hash, None)
            await self.hot.retire(adapter_hash)

    @asynccontextmanager
    async def held(self, adapter_hash: str, rank: int = 0) -> AsyncIterator[LoRARequest]:
        """The adapter in the engine's memory while the context lasts. Raises EngineError if it is not known."""
        self._check_known(adapter_hash)
        async with self.hot.held(adapter_hash, rank):
            yield self._requests[adapter_hash]

    async def probe(self) -> None:
        """Asks with every adapter in memory. Raises EngineDied if one answers otherwise than it first did."""
        for adapter_hash in [*self.hot.warm]:
            if adapter_hash in self._known:
                before = self._fingerprints[adapter_hash]
                async with self.held(adapter_hash) as request:
                    reason = shifted(before, await self._ask(request, before))
                if reason:
                    raise EngineDied(f"engine {self._spec.name!r}, adapter {adapter_hash[:12]}: {reason}")

    def clear(self) -> None:
        """Forgets all of them, as the end of the engine does."""
        self._known.clear()
        self._fingerprints.clear()
        self.hot.clear()

    async def _bring(self, adapter_hash: str) -> None:
        # It may be hours since it was put out: the content is verified every time.
        request = self._request_for(adapter_hash)
        # vLLM reports a failed load as a bare Exception, so it is taken as a value.
        (result,) = await asyncio.gather(self._running().add_lora(request), return_exceptions=True)
        if result is not True:
            raise EngineError(f"engine {self._spec.name!r}: expected to load {adapter_hash[:12]}, got {result!r}")
        before = self._fingerprints.get(adapter_hash, {})
        found = await self._ask(request, before)
        if reason := shifted(before, found) if before else broken(found):
            await self._remove(request)
            raise EngineError(f"engine {self._spec.name!r}: adapter {adapter_hash[:12]} is not used: {reason}")
        self._fingerprints[adapter_hash] = before or found

    async def _send(self, adapter_hash: str) -> None:
        await self._remove(self._requests[adapter_hash])

    async def _remove(self, request: LoRARequest) -> None:
        await asyncio.gather(self._running().remove_lora(request.lora_int_id), return_exceptions=True)

    def _request_for(self, adapter_hash: str) -> LoRARequest:
        """vLLM's word for an adapter whose files are as they were admitted. Raises EngineError if they are not.

        Id, name and path stand for one content for ever: vLLM's caches go by them.
        """
        try:
            path = self._store.path(adapter_hash)
        except (AdapterMissing, AdapterCorrupt) as error:
            raise EngineError(f"engine {self._spec.name!r}: {error}") from error
        made = LoRARequest(adapter_hash, next(self._ids), str(path))
        return self._requests.setdefault(adapter_hash, made)

    def _check_known(self, adapter_hash: str) -> None:
        if adapter_hash not in self._known:
            raise EngineError(f"engine {self._spec.name!r} has no adapter {adapter_hash[:12]}; load it first")

    def _check_fits(self, adapter: Adapter) -> None:
        name = f"engine {self._spec.name!r}"
        if not self._spec.adapters:
            raise EngineError(f"{name} takes no adapters; set adapters: true in its spec")
        if adapter.base != self._base.fingerprint:
            raise EngineError(
                f"{name}: expected an adapter for {self._base.name} ({self._base.fingerprint[:12]}), got one for "
                f"{adapter.base[:12]}; load it into the engine of its own base"
            )
        if adapter.rank > self._spec.max_lora_rank:
            raise EngineError(f"{name}: expected rank at most {self._spec.max_lora_rank}, got {adapter.rank}")
