"""Real engines for the benchmarks: vLLM in Ray actors that keep what they were asked, to be asked it again raw.

Not a script of its own; bench_orchestration.py, bench_adapters.py and bench_recovery.py use it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from evolve.config import RunConfig, load_config
from evolve.problems.draw import draw_problems
from evolve.problems.splits import Split
from memory.ledger import publish_json
from mesh.types import Member, Task
from serving import cluster
from serving.actor import EngineActor, RayEngine
from serving.adapters import AdapterStore
from serving.admission import BaseModelShape
from serving.cluster import RayFleet, start_fleet, stop_fleet
from serving.config import VllmSpec

CORE_NAME = "VLLM::EngineCore"


@dataclass(frozen=True)
class Asked:
    """One call of vLLM's `generate`, as the engine made it."""

    prompt: tuple[int, ...]
    params: Any
    adapter: str | None
    lengths: tuple[int, ...]
    """Tokens of every sample it gave."""
    num_cached: int
    """Prompt tokens that came out of the prefix cache."""


@dataclass(frozen=True)
class Traffic:
    """What an engine computed, or what a replay of it took."""

    num_calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    shareable_tokens: int = 0
    """Prompt tokens in whole blocks that an earlier call with the same adapter had in the same place."""
    seconds: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        """Two engines side by side: the slower one's time."""
        return Traffic(
            self.num_calls + other.num_calls,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.shareable_tokens + other.shareable_tokens,
            max(self.seconds, other.seconds),
        )


class BenchActor(EngineActor):
    """An engine's actor that can be looked into."""

    async def _started(self) -> Any:
        started = time.perf_counter()
        engine = await super()._started()
        self._start_seconds = time.perf_counter() - started
        return engine

    async def start_seconds(self) -> float:
        """What the start of the engine took, this process's own start left out."""
        await self._ready()
        return self._start_seconds

    async def processes(self) -> list[int]:
        """Process ids of the engine, vLLM's core first, the actor last."""
        await self._ready()
        me = psutil.Process()
        return [one.pid for one in engine_processes(me.pid)] + [me.pid]

    async def record(self) -> None:
        """Forgets what was asked and what the prefix cache holds; from now on every call is kept."""
        engine: Any = await self._ready()
        await engine._llm.reset_prefix_cache()
        self._asked: list[Asked] = []
        # The class's own function: a second call must not wrap the wrapper.
        generate = type(engine)._generate

        async def kept(prompt: list[int], params: Any, lora: Any, rank: int) -> Any:
            place = len(self._asked)
            self._asked.append(Asked((), None, None, (), 0))
            output = await generate(engine, prompt, params, lora, rank)
            lengths = tuple(len(one.token_ids) for one in output.outputs)
            adapter = None if lora is None else lora.lora_name
            self._asked[place] = Asked(tuple(prompt), params, adapter, lengths, output.num_cached_tokens or 0)
            return output

        engine._generate = kept

    async def recorded(self) -> Traffic:
        """What was asked since `record`."""
        engine: Any = await self._ready()
        block = engine._llm.vllm_config.cache_config.block_size
        return _traffic([one for one in self._asked if one.params is not None], block)

    async def replay(self, plain: bool) -> Traffic:
        """The recorded calls again, all handed to vLLM at once, every sample as long as it was.

        `plain`: without the seeds and label probabilities that orchestration wants; else with the same settings.
        """
        engine: Any = await self._ready()
        await engine._llm.reset_prefix_cache()
        calls = [one for one in self._asked if one.params is not None]
        started = time.perf_counter()
        cached = await asyncio.gather(
            *(self._again(engine._llm, one, length, plain) for one in calls for length in one.lengths)
        )
        traffic = _traffic(calls, 1)
        return Traffic(
            len(cached),
            sum(len(one.prompt) * len(one.lengths) for one in calls),
            traffic.output_tokens,
            sum(cached),
            0,
            time.perf_counter() - started,
        )

    async def burst(self, prompts: Sequence[str], adapters: Sequence[str | None], num_tokens: int) -> Traffic:
        """Prompts continued by exactly `num_tokens` each, all at once, each with its adapter (None: the base)."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        engine: Any = await self._ready()
        await engine._llm.reset_prefix_cache()
        params = SamplingParams(
            max_tokens=num_tokens, temperature=0.7, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY
        )

        async def one(place: int, text: str, adapter: str | None) -> int:
            ids = engine._renderer.encode_content(text)
            lora = None if adapter is None else engine._adapters._requests[adapter]
            prompt = TokensPrompt(prompt_token_ids=ids)
            async for _ in engine._llm.generate(prompt, params, f"burst{time.time_ns()}-{place}", lora_request=lora):
                pass
            return len(ids)

        started = time.perf_counter()
        asked = enumerate(zip(prompts, adapters, strict=True))
        sizes = await asyncio.gather(*(one(place, text, adapter) for place, (text, adapter) in asked))
        seconds = time.perf_counter() - started
        return Traffic(len(sizes), sum(sizes), len(sizes) * num_tokens, seconds=seconds)

    async def _again(self, llm: Any, asked: Asked, length: int, plain: bool) -> int:
        from vllm import TokensPrompt
        from vllm.lora.request import LoRARequest

        engine: Any = self._engine
        lora: LoRARequest | None = None if asked.adapter is None else engine._adapters._requests[asked.adapter]
        params = asked.params.clone()
        params.n, params.max_tokens, params.ignore_eos = 1, length, True
        params.stop, params.stop_token_ids, params._all_stop_token_ids = [], [], set()
        params.output_text_buffer_length = 0
        if plain:
            params.seed = params.logprob_token_ids = None
        prompt, cached = TokensPrompt(prompt_token_ids=list(asked.prompt)), 0
        async for output in llm.generate(prompt, params, f"raw{time.time_ns()}-{id(asked)}", lora_request=lora):
            cached = output.num_cached_tokens or 0
        return cached


def _traffic(calls: Sequence[Asked], block: int) -> Traffic:
    seen: set[int] = set()
    shareable = 0
    for one in calls:
        chain, is_shared = hash(one.adapter), True
        # The last token is always computed: its logits are what is wanted.
        for start in range(0, (len(one.prompt) - 1) // block * block, block):
            chain = hash((chain, one.prompt[start : start + block]))
            is_shared = is_shared and chain in seen
            shareable += block * is_shared
            seen.add(chain)
    return Traffic(
        len(calls),
        sum(len(one.prompt) for one in calls),
        sum(sum(one.lengths) for one in calls),
        sum(one.num_cached for one in calls),
        shareable,
    )


@asynccontextmanager
async def real_fleet(config: RunConfig, store: AdapterStore) -> AsyncIterator[RayFleet]:
    """The engines of `config`, each a `BenchActor`; ended with everything below them."""
    # The one name under which the fleet looks its actor up.
    cluster.EngineActor = BenchActor  # type: ignore[misc]
    fleet = await start_fleet(config.serving, store)
    assert isinstance(fleet, RayFleet)
    try:
        yield fleet
    finally:
        await stop_fleet(fleet)


async def everywhere(fleet: RayFleet, method: str, *arguments: object) -> Traffic:
    """The sum of what a `BenchActor`'s method gives on every engine, asked at the same time."""
    found = await asyncio.gather(*(on(fleet, name, method, *arguments) for name in fleet.engines))
    total = Traffic()
    for one in found:
        total = total + (one or Traffic())
    return total


async def on(fleet: RayFleet, name: str, method: str, *arguments: object) -> Any:
    """What a `BenchActor`'s method gives on one engine."""
    engine = fleet.engines[name]
    assert isinstance(engine, RayEngine)
    return await asyncio.wrap_future(getattr(engine.actor, method).remote(*arguments).future())


def settings(path: Path, engines: Sequence[str], **changes: object) -> RunConfig:
    """A run's configuration with some of its engines (none named: all), and `changes` in every one of them."""
    config = load_config(path)
    kept = [spec for spec in config.serving.engines if not engines or spec.name in engines]
    specs = tuple(spec.model_copy(update=changes) if isinstance(spec, VllmSpec) else spec for spec in kept)
    serving = config.serving.model_copy(update={"engines": specs, "start_timeout_s": 1800.0, "call_timeout_s": 900.0})
    return config.model_copy(update={"serving": serving})


def tasks_of(config: RunConfig, number: int) -> list[Task]:
    """TRAIN tasks of the run's own families."""
    problems = draw_problems(config.problems, config.seed).of(Split.TRAIN)
    if len(problems) < number:
        raise SystemExit(f"expected at least {number} problems, the configuration gives {len(problems)}")
    return [problem.task for problem in problems[:number]]


def members_of(config: RunConfig) -> tuple[Member, ...]:
    """One base member for every engine."""
    return tuple(Member(name=spec.name, engine=spec.name, family=spec.family) for spec in config.serving.engines)


def random_adapter(directory: Path, base: BaseModelShape, *, rank: int, seed: int) -> Path:
    """A LoRA adapter on every attention and feed-forward matrix, as a trainer leaves it."""
    dice = torch.Generator().manual_seed(seed)
    tensors, layers = {}, {name: shape for name, shape in base.matrices.items() if ".layers." in name}
    for module, (num_out, num_in) in layers.items():
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, num_in, generator=dice) * 0.05
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(num_out, rank, generator=dice) * 0.05
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.rpartition(".")[2] for name in layers})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "target_modules": targets}
    publish_json(directory / "adapter_config.json", config)
    return directory


def engine_processes(actor_pid: int) -> list[psutil.Process]:
    """vLLM's processes below an actor, the core first."""
    below = psutil.Process(actor_pid).children(recursive=True)
    return sorted(below, key=lambda process: (process.name() != CORE_NAME, process.pid))
