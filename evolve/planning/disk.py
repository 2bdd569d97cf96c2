"""How much disk a run takes before it runs: adapters by the shapes of their bases, checkpoints, and what is said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from evolve.config import MeshConfig, RunConfig
from evolve.learning.merged_rank import merged_rank
from evolve.learning.recipes import Recipe
from evolve.training.config import LoraTraining, MergeTraining
from evolve.training.lora_files import TARGET_MODULES
from evolve.training.scripted_train import scripted_shape
from memory.types import Record
from serving.config import DirectoryModel, EngineSpec, HubModel, PackagedModel, ScriptedSpec, VllmSpec
from serving.models import ModelError, ModelStore
from serving.safetensors_header import TensorInfo, read_header

COPIES = 2
"""An adapter lies where it was trained and, admitted, in the run's store."""
CHECKPOINTS = 2
"""While one is written, the one before it is still there."""
STATES = 3
"""A checkpoint holds the trained weights and both of AdamW's moments."""
_ITEM_BYTES = 4
_HEADER_BYTES = 130
"""Of a tensor's name, type and place in a safetensors file."""


class BaseSize(Record):
    """What of a base model decides over the cost of running and training it."""

    num_weights: int = Field(description="0 for a made-up base")
    adapted_width: int = Field(description="inputs and outputs of all matrices an adapter is trained on, summed")
    num_adapted: int = Field(description="such matrices")

    def adapter_bytes(self, rank: int) -> int:
        """Size of an adapter's weights file, which is in float32 whatever the base is in."""
        return _ITEM_BYTES * rank * self.adapted_width + 2 * _HEADER_BYTES * self.num_adapted


Sizes = Mapping[str, BaseSize | None]
"""By engine; None: its weights are not on this machine, or somebody else's."""


def sizes_of(config: MeshConfig) -> Sizes:
    """Of every engine's base."""
    return {spec.name: size_of(spec, config.serving.model_store) for spec in config.serving.engines}


def size_of(spec: EngineSpec, store: Path) -> BaseSize | None:
    """Read off the headers of an engine's weights; None: they are not here."""
    if isinstance(spec, VllmSpec):
        return _size_in_store(store, spec.model)
    if isinstance(spec, ScriptedSpec):
        (shape,) = scripted_shape(spec.name).matrices.values()
        return BaseSize(num_weights=0, adapted_width=sum(shape), num_adapted=1)
    return None


def bytes_kept(config: RunConfig, recipes: Iterable[Recipe], sizes: Sizes) -> int:
    """What the adapters of these recipes leave behind, as far as their bases are known."""
    return COPIES * sum(_adapter_bytes(config, recipe, sizes) for recipe in recipes)


def bytes_in_passing(config: RunConfig, recipes: Iterable[Recipe], sizes: Sizes) -> int:
    """What checkpoints take at most while these recipes are trained; they go with the report of their job."""
    if config.workers.checkpoint_steps is None:
        return 0
    trained = [recipe for recipe in recipes if isinstance(recipe.training, LoraTraining)]
    largest = sorted((_adapter_bytes(config, recipe, sizes) for recipe in trained), reverse=True)
    return STATES * CHECKPOINTS * sum(largest[: config.workers.max_concurrent])


def rank_of(config: RunConfig, recipe: Recipe) -> int:
    """Rank of a recipe's adapter, where parents have the run's own."""
    training = recipe.training
    if isinstance(training, MergeTraining):
        return merged_rank([config.training.rank] * len(recipe.parents), training)
    return training.rank


def _adapter_bytes(config: RunConfig, recipe: Recipe, sizes: Sizes) -> int:
    size = sizes[recipe.base]
    return 0 if size is None else size.adapter_bytes(rank_of(config, recipe))


@lru_cache(maxsize=64)  # every file is hashed before it is believed, which takes a second for each GiB
def _size_in_store(store: Path, model: PackagedModel | HubModel | DirectoryModel) -> BaseSize | None:
    try:
        directory = ModelStore(store).path(model)
    except ModelError:
        return None
    tensors = {name: info for file in directory.glob("*.safetensors") for name, info in read_header(file).items()}
    adapted = [info for name, info in tensors.items() if _is_adapted(name, info)]
    return BaseSize(
        num_weights=sum(math.prod(info.shape) for info in tensors.values()),
        adapted_width=sum(sum(info.shape) for info in adapted),
        num_adapted=len(adapted),
    )


def _is_adapted(name: str, info: TensorInfo) -> bool:
    module, _, kind = name.rpartition(".")
    return kind == "weight" and len(info.shape) == 2 and module.rpartition(".")[2] in TARGET_MODULES
