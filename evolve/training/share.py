"""One training job over several processes: each holds a part of the frozen base, and learns from a part of each pass.

The base is sharded by FSDP2 (`torch.distributed.fsdp.fully_shard`): a layer is whole only while it computes. Adapter
weights are small, so every process has all of them; their gradients are summed as they come, and the optimizers of all
processes take the same steps. Heavy to import: only a training process does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

Collate = Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]]
UNCOUNTED = -100
"""What the trainer does not count among labels."""


class Share:
    """This process's place among those of a job; by default it is alone, and nothing below does anything."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def is_first(self) -> bool:
        """The one process of a job that writes files and tells how far it is."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether the job has this process only."""
        return self.world == 1

    def examples_at_once(self, each: int, batch_size: int) -> int:
        """Examples of one pass over all processes, a divisor of `batch_size`, if one process takes `each`."""
        return max(size for size in range(1, batch_size + 1) if batch_size % size == 0 and size <= each * self.world)

    def collating(self, collate: Collate) -> Collate:
        """The same for this process's examples of a pass. One without any computes the first, which counts nothing:
        all have to take part whenever a layer is put together."""
        if self.is_alone:
            return collate

        def mine(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
            found = list(examples[self.rank :: self.world])
            if found:
                return collate(found)
            batch = collate([examples[0] | {"weight": 0.0}])
            uncounted = torch.full_like(batch["shift_labels"], UNCOUNTED)
            return batch | {"shift_labels": uncounted, "num_row_tokens": torch.tensor(0)}

        return mine

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes; every one has to ask for it."""
        if not self.is_alone:
            dist.all_reduce(value)
        return value

    def gathered(self, found: dict[int, float]) -> dict[int, float]:
        """What all processes found together."""
        if self.is_alone:
            return found
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, found)
        return {key: value for part in parts for key, value in part.items()}

    def spread(self, model: torch.nn.Module, device: torch.device) -> str:
        """Leave this process its part of the base, layer by layer, and sum the adapter's gradients from now on.

        Returns how much of the base this process holds, in a sentence.
        """
        adapter = {weight for weight in model.parameters() if weight.requires_grad}
        for weight in adapter:
            weight.data = weight.data.to(device)
        mesh = init_device_mesh(device.type, (self.world,))
        for layer in layers_of(model):
            fully_shard(layer, mesh=mesh, ignored_params=adapter)
        fully_shard(model, mesh=mesh, ignored_params=adapter)
        for weight in adapter:
            weight.register_hook(self.total)
        frozen = [weight for weight in model.parameters() if not weight.requires_grad]
        held = sum(weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel() for weight in frozen)
        return f"{self.world} processes: {held:,} of the base's {sum(map(torch.numel, frozen)):,} weights in the first"


def layers_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The layers that follow on each other: of all lists of modules the one with the most weights.

    Raises:
        ValueError: there is none.
    """
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    if not lists:
        raise ValueError(f"expected a base of layers in a list, got {type(model).__name__}, which cannot be sharded")
    return max(lists, key=lambda found: sum(cast(int, weight.numel()) for weight in found.parameters()))
