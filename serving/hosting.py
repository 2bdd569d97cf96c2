"""What an engine is to the process that hosts it: how it is built from its spec, started, and how it dies."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mesh.engine import Engine, EngineError
from serving.adapters import AdapterHost, AdapterStore
from serving.config import EngineSpec, VllmSpec
from serving.ticket import RankedEngine

PLUGIN_NAME = "evomesh_cpu_lora"


class EngineDied(EngineError):
    """The engine is gone for good; only a new process helps."""


class EngineBusy(EngineError):
    """The engine takes in nothing new for the moment. `retry_after_s`: seconds after which it is worth asking again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineLost(EngineError):
    """The process that worked on a request is gone or out of reach; another one may be asked with the same id.

    `died` False: nobody knows whether the request was served.
    """

    def __init__(self, message: str, *, died: bool) -> None:
        super().__init__(message)
        self.died = died


class HostedEngine(RankedEngine, Engine, AdapterHost, Protocol):
    """An engine with a life cycle, whose requests carry a rank."""

    async def start(self) -> None:
        """Makes the engine ready. Raises EngineError if it cannot be."""
        ...

    async def shutdown(self) -> None:
        """Frees everything, child processes included. A second call does nothing."""
        ...

    async def probe(self) -> None:
        """Asks the model something small that has one right answer.

        Raises:
            EngineDied: it is gone, or what it says is garbage. One that hangs does not return.
        """
        ...

    async def sleep(self) -> None:
        """Gives its GPU memory back once nothing is under way, and refuses requests meanwhile; twice is once.

        Raises:
            EngineError: this engine cannot sleep.
        """
        ...

    async def wake(self) -> None:
        """Serves again, with the adapters it had. One that is awake stays so. Raises as `probe` does."""
        ...


def build_engine(spec: EngineSpec, model_dir: Path | None, adapters: AdapterStore) -> HostedEngine:
    """The engine of a spec, not yet started. `model_dir`: prepared weights; None for engines that need none."""
    if isinstance(spec, VllmSpec):
        if model_dir is None:
            raise ValueError(f"engine {spec.name!r}: expected a model directory, got none; prepare the model first")
        # vLLM is imported in the process that runs it, and in no other: that takes many seconds.
        from serving.vllm_engine import VllmEngine

        return VllmEngine(spec, model_dir, adapters)
    if spec.kind == "scripted":
        from serving.scripted_engine import ScriptedEngine

        return ScriptedEngine(spec)
    from serving.remote_engine import RemoteEngine

    return RemoteEngine(spec)


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Environment variables that the engine's process must have before vLLM is imported."""
    if not isinstance(spec, VllmSpec):
        return {}
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Names the only plugin that may run: any installed package could bring one.
        "VLLM_PLUGINS": PLUGIN_NAME,
    }
    if spec.num_gpus == 0 and spec.cpu_cores is not None:
        # The default would put every engine of a machine on the same cores.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = spec.cpu_cores
    return environment
