"""The two quickstart families on real engines, started once for the whole session (about two minutes on two cores)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from memory.ledger import publish_json
from mesh.types import Member
from serving.adapters import Adapter, AdapterStore
from serving.admission import BaseModelShape
from serving.cluster import RayFleet, start_fleet, stop_fleet
from serving.config import PackagedModel, ServingConfig, VllmSpec
from serving.models import ModelStore

REPOSITORY = Path(__file__).parents[2]
MODELS = ModelStore(REPOSITORY / "models")
FAMILIES = {"smol": PackagedModel(name="smollm2-135m-instruct"), "gemma": PackagedModel(name="gemma3-270m")}
MEMBERS = tuple(Member(name=name, engine=name, family=name) for name in FAMILIES)
RANK = 8


def random_adapter(directory: Path, base: BaseModelShape, *, seed: int, strength: float = 0.2) -> Path:
    """A LoRA adapter on every attention and feed-forward matrix, strong enough to change what the model says."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (num_out, num_in) in base.matrices.items():
        if ".layers." in module:
            prefix = f"base_model.model.{module}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, num_in, generator=generator) * strength
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(num_out, RANK, generator=generator) * strength
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({module.rpartition(".")[2] for module in base.matrices if ".layers." in module})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
    publish_json(directory / "adapter_config.json", config)
    return directory


@pytest.fixture(scope="session")
def adapter_store(tmp_path_factory: pytest.TempPathFactory) -> AdapterStore:
    return AdapterStore(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def adapters(adapter_store: AdapterStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Adapter, ...]]:
    """Two admitted adapters for each engine, not loaded."""
    found = {}
    for name, source in FAMILIES.items():
        base = BaseModelShape.from_directory(MODELS.path(source))
        made = (random_adapter(tmp_path_factory.mktemp(name) / f"a{seed}", base, seed=seed) for seed in (1, 2))
        found[name] = tuple(adapter_store.admit(directory, base, max_rank=16) for directory in made)
    return found


@pytest.fixture(scope="session")
def many(adapter_store: AdapterStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, ...]:
    """More admitted adapters of the first family than its engine keeps in memory."""
    base, root = BaseModelShape.from_directory(MODELS.path(FAMILIES["smol"])), tmp_path_factory.mktemp("many")
    made = (random_adapter(root / f"a{seed}", base, seed=seed) for seed in range(11, 17))
    return tuple(adapter_store.admit(directory, base, max_rank=16) for directory in made)


@pytest.fixture(scope="session")
def absurd(adapter_store: AdapterStore, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """An admitted adapter of the largest weights that are admitted."""
    base, root = BaseModelShape.from_directory(MODELS.path(FAMILIES["smol"])), tmp_path_factory.mktemp("odd")
    directory = random_adapter(root / "huge", base, seed=3, strength=1e4)
    return adapter_store.admit(directory, base, max_rank=16)


@pytest.fixture(scope="session")
def fleet(adapter_store: AdapterStore) -> Iterator[RayFleet]:
    """Both families in Ray actors; afterwards not one of their processes is left."""
    # Two slots for two adapters: the last slot, whose weights the stock ops give to base rows, is then in use.
    slots = {"max_loras": 2, "max_cpu_loras": 4}
    specs = tuple(
        VllmSpec.model_validate(
            {"name": name, "family": name, "model": source, "cpu_cores": str(core % 2), "kv_cache_gib": 0.5}
            # The random adapters blow up every rounding: in bfloat16, which "auto" is on some CPUs, a row's
            # probabilities depend on its neighbours by more than what these tests look for.
            | {"max_model_len": 1024, "tool_parser": "hermes", "dtype": "float32"}
            | slots
        )
        for core, (name, source) in enumerate(FAMILIES.items())
    )
    config = ServingConfig(engines=specs, model_store=MODELS.root, start_timeout_s=1500, call_timeout_s=900)
    running = asyncio.run(start_fleet(config, adapter_store))
    assert isinstance(running, RayFleet)
    before = set(psutil.Process().children(recursive=True))
    yield running
    asyncio.run(stop_fleet(running))
    _, left = psutil.wait_procs(list(before), timeout=10)
    assert left == []
