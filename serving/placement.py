"""Which replica goes on which node, decided before anything is started, or why it does not fit; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from memory.types import Record
from serving.config import EngineSpec, VllmSpec

GIB = 2**30
LABEL_SHARE = 0.001
"""What a replica takes of the resource that stands for its node: it is a label and not used up."""

_PROCESS_BYTES = 2 * GIB
"""vLLM's processes on a CPU before weights and keys and values: torch, the tokenizer, what a batch needs."""
_EPSILON = 1e-6


class Room(Record):
    """A node and what is free on it."""

    id: str = Field(description="as the cluster names it")
    address: str = ""
    num_gpus: float = Field(default=0.0, ge=0.0, description="GPUs it has")
    free_gpus: float = Field(default=0.0, ge=0.0, description="of these, not taken; a fraction is part of one GPU")
    gpu_bytes: int | None = Field(default=None, description="memory of its smallest GPU; null: not known")
    labels: tuple[str, ...] = Field(default=(), description="custom resources it offers")
    free_bytes: int | None = Field(default=None, description="main memory that is not taken; null: not known")


class GpuPlace(Record):
    """A node and GPUs of it that one engine has."""

    node: str = Field(description="id, as Ray names the node")
    gpus: tuple[str, ...] = Field(description="as CUDA_VISIBLE_DEVICES names them; empty: an engine on the CPU")


class Placed(Record):
    """One replica and its node."""

    engine: str
    replica: int
    needs: str = Field(description="what it asks of a node, in words")
    node: str | None = Field(default=None, description="id of its node; null: it fits nowhere")
    reason: str = Field(default="", description="why it fits nowhere, and what to do; empty: it fits")


class Placement(Record):
    """Every replica of a configuration, in its order."""

    replicas: tuple[Placed, ...]

    @property
    def fits(self) -> bool:
        """Every replica has a node."""
        return all(placed.node is not None for placed in self.replicas)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why replicas fit nowhere, each reason once."""
        return tuple(
            dict.fromkeys(f"engine {placed.engine!r}: {placed.reason}" for placed in self.replicas if placed.reason)
        )

    def node_of(self, engine: str, replica: int) -> str | None:
        """Id of the node of a replica; None: it fits nowhere."""
        return next((one.node for one in self.replicas if (one.engine, one.replica) == (engine, replica)), None)


@dataclass(frozen=True)
class _Need:
    engine: str
    replica: int
    gpus: float
    label: str | None
    host_bytes: int
    gpu_bytes: int

    def __str__(self) -> str:
        parts = [f"{self.gpus:g} GPU{'' if self.gpus == 1 else 's'}" if self.gpus else "no GPU"]
        if self.host_bytes:
            parts.append(f"{self.host_bytes / GIB:.1f} GiB of memory")
        if self.gpu_bytes:
            parts.append(f"{self.gpu_bytes / GIB:.1f} GiB on each GPU")
        return ", ".join([*parts, *([f"a node with {self.label!r}"] if self.label else [])])


@dataclass(frozen=True)
class _Node:
    room: Room
    devices: tuple[float, ...]
    """Free share of every GPU that has any; 2.5 free on a node may be three GPUs or five, and counts as three."""
    free_bytes: int | None
    hosted: Counter[str]

    def can_host(self, need: _Need) -> bool:
        """Everything asked for is free."""
        return (
            (need.label is None or need.label in self.room.labels)
            and _take(self.devices, need.gpus) is not None
            and (self.free_bytes is None or need.host_bytes <= self.free_bytes)
            and (self.room.gpu_bytes is None or need.gpu_bytes <= self.room.gpu_bytes)
        )

    def with_replica(self, need: _Need) -> _Node:
        """The node with less free."""
        devices = _take(self.devices, need.gpus)
        assert devices is not None, "only a node that can host is asked to"
        free_bytes = None if self.free_bytes is None else self.free_bytes - need.host_bytes
        return replace(self, devices=devices, free_bytes=free_bytes, hosted=self.hosted + Counter([need.engine]))


def plan(specs: Sequence[EngineSpec], rooms: Sequence[Room], weights: Mapping[str, int] | None = None) -> Placement:
    """A node for every replica. `weights`: bytes of an engine's model files by engine name; unknown ones count nothing.

    The most demanding replicas choose first, or small ones would leave no node whole. Replicas of one engine keep to
    different nodes where they can, so that a lost node takes one of them; then the node is taken that has least left.
    All GPUs of one replica are on one node.
    """
    needs = [
        _need(spec, replica, (weights or {}).get(spec.name, 0)) for spec in specs for replica in range(spec.replicas)
    ]
    nodes = [_Node(room, _devices(room.free_gpus), room.free_bytes, Counter()) for room in rooms]
    found: dict[tuple[str, int], Placed] = {}
    for need in sorted(needs, key=_demand, reverse=True):
        able = [index for index, node in enumerate(nodes) if node.can_host(need)]
        best = min(able, key=lambda index: _preference(nodes[index], need), default=None)
        if best is not None:
            nodes[best] = nodes[best].with_replica(need)
        found[need.engine, need.replica] = Placed(
            engine=need.engine,
            replica=need.replica,
            needs=str(need),
            node=None if best is None else nodes[best].room.id,
            reason="" if best is not None else _reason(need, nodes, rooms),
        )
    return Placement(replicas=tuple(found[need.engine, need.replica] for need in needs))


def gpus_of(spec: EngineSpec) -> float:
    """GPUs that one replica takes."""
    return spec.num_gpus if isinstance(spec, VllmSpec) else 0.0


def _need(spec: EngineSpec, replica: int, weight_bytes: int) -> _Need:
    gpus, host_bytes, gpu_bytes = gpus_of(spec), 0, 0
    if isinstance(spec, VllmSpec):
        # vLLM's kv_cache_memory_bytes is a share of each GPU; weights are cut into equal parts.
        kv_bytes = int(spec.kv_cache_gib * GIB)
        if gpus:
            gpu_bytes = int((weight_bytes / spec.tensor_parallel + kv_bytes) / min(1.0, gpus))
        else:
            host_bytes = weight_bytes + kv_bytes + _PROCESS_BYTES
    return _Need(spec.name, replica, gpus, spec.node, host_bytes, gpu_bytes)


def _demand(need: _Need) -> tuple[float, bool, int]:
    return need.gpus, need.label is not None, need.host_bytes


def _preference(node: _Node, need: _Need) -> tuple[float, ...]:
    siblings, gpus_left = node.hosted[need.engine], sum(node.devices) - need.gpus
    if need.gpus:
        return siblings, gpus_left
    # A replica without a GPU is better off where nobody's GPUs, and few others, are.
    return siblings, node.room.num_gpus, node.hosted.total(), -(node.free_bytes or 0)


def _devices(free: float) -> tuple[float, ...]:
    whole, part = divmod(free + _EPSILON, 1.0)
    return (*[1.0] * int(whole), *([part] if part > 2 * _EPSILON else []))


def _take(devices: tuple[float, ...], gpus: float) -> tuple[float, ...] | None:
    """The free shares that are left; None: not that much is free. A share of a GPU is never put together from two."""
    if gpus < 1.0 - _EPSILON:
        fits = [share for share in devices if share + _EPSILON >= gpus]
        if not gpus:
            return devices
        return None if not fits else _replaced(devices, min(fits), min(fits) - gpus)
    whole = [share for share in devices if share > 1.0 - _EPSILON]
    count = round(gpus)
    if len(whole) < count:
        return None
    return (*whole[count:], *(share for share in devices if share <= 1.0 - _EPSILON))


def _replaced(devices: tuple[float, ...], old: float, new: float) -> tuple[float, ...]:
    left = list(devices)
    left.remove(old)
    return tuple([*left, new] if new > _EPSILON else left)


def _reason(need: _Need, nodes: Sequence[_Node], rooms: Sequence[Room]) -> str:
    """The first thing that no node can give, judged one after the other."""
    if not rooms:
        return "the cluster has no node"
    labelled = [node for node in nodes if need.label is None or need.label in node.room.labels]
    if not labelled:
        return (
            f"no node offers the resource {need.label!r} ({_offered(rooms)}); start one with "
            f"`ray start --resources='{{\"{need.label}\": 1}}'`, or take `node` out of its spec"
        )
    with_gpus = [node for node in labelled if _take(node.devices, need.gpus) is not None]
    if not with_gpus:
        most = max(sum(node.devices) for node in labelled)
        has = max(node.room.num_gpus for node in labelled)
        if not has:
            return f"needs {need.gpus:g} GPU(s), no node has any; run it on the CPU with num_gpus: 0, or add GPU nodes"
        why = "no node has so many" if has + _EPSILON < need.gpus else "others take the rest"
        return (
            f"needs {need.gpus:g} GPU(s) on one node, the most that is free on one is {most:g} of {has:g}, {why}; "
            "lower num_gpus, tensor_parallel or replicas, end what takes them, or add nodes"
        )
    if all(node.room.gpu_bytes is not None and node.room.gpu_bytes < need.gpu_bytes for node in with_gpus):
        most_bytes = max(node.room.gpu_bytes or 0 for node in with_gpus)
        return (
            f"needs {need.gpu_bytes / GIB:.1f} GiB on each GPU for weights, keys and values, the largest has "
            f"{most_bytes / GIB:.1f} GiB; lower kv_cache_gib, raise tensor_parallel, or quantise"
        )
    most_bytes = max(node.free_bytes or 0 for node in with_gpus)
    return (
        f"needs about {need.host_bytes / GIB:.1f} GiB of memory, the most that is free on a node is "
        f"{most_bytes / GIB:.1f} GiB; lower kv_cache_gib or replicas, or add memory"
    )


def _offered(rooms: Iterable[Room]) -> str:
    labels = sorted({label for room in rooms for label in room.labels})
    return f"there are {', '.join(labels)}" if labels else "there are none"
