"""What LoRA adapters cost a running engine: loading one against a start, the first token, and many in one batch.

    python scripts/bench_adapters.py [--config configs/quickstart.yaml] [--engine smollm2] [--adapters 8] [--rounds 5]

Aims: hot-load over engine start at most 1/100; from a trainer's directory to the first token at most 2 s; tokens a
second with several adapters in the batch over the base model's at least 0.60 on a CPU, 0.70 on a GPU. The base is
measured twice: on the same engine, and on one that takes no adapters at all, which is the harder comparison. Every
request gives exactly as many tokens as any other.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from real_fleet import on, random_adapter, real_fleet, settings

from evolve.config import RunConfig
from memory.ledger import publish_json
from mesh.types import Member, Message, Part, Sampling
from serving.adapters import Adapter, AdapterStore
from serving.admission import BaseModelShape
from serving.cluster import RayFleet
from serving.config import VllmSpec
from serving.models import ModelStore

PROMPT = "A story about the number {} begins on a cold morning in the harbour, where"
QUESTION = (Message(role="user", parts=(Part(text="What is 3 + 4?"),)),)


@dataclass(frozen=True)
class Load:
    """One adapter on its way into a running engine."""

    adapter: Adapter
    admit_s: float
    load_s: float
    first_token_s: float
    """From the trainer's directory to the first token."""


async def bring(fleet: RayFleet, name: str, store: AdapterStore, made: Path, base: BaseModelShape, rank: int) -> Load:
    """Admit, load, ask."""
    started = time.perf_counter()
    adapter = store.admit(made, base, max_rank=rank)
    admitted = time.perf_counter()
    await fleet.load_adapter(name, adapter)
    loaded = time.perf_counter()
    member = Member(name="new", engine=name, family="any", adapter=adapter.hash)
    await fleet.complete(member, QUESTION, Sampling(max_tokens=1))
    return Load(adapter, admitted - started, loaded - admitted, time.perf_counter() - started)


async def rates(
    fleet: RayFleet, name: str, mixes: dict[str, list[str | None]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Tokens a second of each mix, the mixes taking turns."""
    found: dict[str, list[float]] = {mix: [] for mix in mixes}
    prompts = [PROMPT.format(number) for number in range(options.requests)]
    for number in range(options.rounds + 1):
        for mix, adapters in mixes.items():
            dealt = [adapters[place % len(adapters)] for place in range(options.requests)]
            traffic = await on(fleet, name, "burst", prompts, dealt, options.tokens)
            if number:  # the first round warms up
                found[mix].append(traffic.output_tokens / traffic.seconds)
    return found


async def without_adapters(config: RunConfig, options: argparse.Namespace) -> list[float]:
    """Tokens a second of an engine that takes none."""
    specs = tuple(spec.model_copy(update={"adapters": False}) for spec in config.serving.engines)
    plain = config.model_copy(update={"serving": config.serving.model_copy(update={"engines": specs})})
    with tempfile.TemporaryDirectory() as scratch:
        async with real_fleet(plain, AdapterStore(Path(scratch))) as fleet:
            return (await rates(fleet, options.engine, {"base": [None]}, options))["base"]


async def run(options: argparse.Namespace) -> dict[str, float]:
    """Both engines, one after the other."""
    places = {"max_loras": options.adapters, "max_cpu_loras": max(16, options.adapters)}
    config = settings(options.config, [options.engine], **places)
    (spec,) = config.serving.engines
    assert isinstance(spec, VllmSpec)
    plain = median(await without_adapters(config, options))
    base = BaseModelShape.from_directory(ModelStore(config.serving.model_store).path(spec.model))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        store = AdapterStore(root / "store")
        made = [
            random_adapter(root / f"a{seed}", base, rank=options.rank, seed=seed) for seed in range(options.adapters)
        ]
        async with real_fleet(config, store) as fleet:
            start_s: float = await on(fleet, options.engine, "start_seconds")
            loads = [await bring(fleet, options.engine, store, one, base, spec.max_lora_rank) for one in made]
            hashes: list[str | None] = [load.adapter.hash for load in loads]
            mixes: dict[str, list[str | None]] = {
                "base": [None],
                "1 adapter": hashes[:1],
                "2 adapters": hashes[:2],
                f"{len(hashes) // 2} adapters and base": [None, *hashes[: len(hashes) // 2]],
                f"{len(hashes)} adapters": hashes,
            }
            found = {
                mix: median(values) for mix, values in (await rates(fleet, options.engine, mixes, options)).items()
            }
    load_s, first_s = median(load.load_s for load in loads[1:]), median(load.first_token_s for load in loads)
    print(f"engine start {start_s:.1f} s; hot-load {1000 * load_s:.0f} ms (first {1000 * loads[0].load_s:.0f} ms): "
          f"{load_s / start_s:.5f} of a start (aim 0.01)")  # fmt: skip
    print(f"publish to first token {first_s:.2f} s, worst {max(load.first_token_s for load in loads):.2f} s (aim 2), "
          f"of it admission {1000 * median(load.admit_s for load in loads):.0f} ms")  # fmt: skip
    print(f"{options.requests} requests of {options.tokens} tokens, rank {options.rank}; no LoRA {plain:.0f} tok/s")
    for mix, rate in found.items():
        print(f"  {mix:24} {rate:6.0f} tok/s, {rate / found['base']:.2f} of the base, {rate / plain:.2f} of no LoRA")
    mixed = found[f"{len(hashes)} adapters"]
    return {
        "hot_load_over_start": load_s / start_s,
        "publish_to_first_token_s": first_s,
        "mix_over_base": mixed / found["base"],
        "mix_over_engine_without_lora": mixed / plain,
    }


def main() -> None:
    """Prints the figures and their aims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--engine", default="smollm2")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32, help="in one burst")
    parser.add_argument("--tokens", type=int, default=32, help="of every request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    found = asyncio.run(run(options))
    if options.json is not None:
        publish_json(options.json, found)


if __name__ == "__main__":
    main()
