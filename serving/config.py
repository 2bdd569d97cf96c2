"""What the serving side can be configured to run: model sources, engine specs and the cluster they stand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from memory.types import Record
from mesh.text import Text
from mesh.types import Tier

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

_CLOCK = r"^([01]\d|2[0-3]):[0-5]\d$"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]


class PackagedModel(Record):
    """Weights that an ordinary package ships, pinned by hash in `requirements/weights.lock`."""

    kind: Literal["packaged"] = "packaged"
    name: Literal["smollm2-135m-instruct", "gemma3-270m"] = Field(description="which of the shipped models")


class DirectoryModel(Record):
    """A Hugging Face model directory that is already on disk; used where it lies, never copied or changed."""

    kind: Literal["directory"] = "directory"
    path: Path = Field(description="directory with config.json, tokenizer files and *.safetensors")


class HubModel(Record):
    """A model of the Hugging Face hub; only `python -m serving.models prepare` opens the network for it."""

    kind: Literal["hub"] = "hub"
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="repository on the hub, e.g. 'Qwen/Qwen3-0.6B'")
    revision: str = Field(min_length=1, description="commit, tag or branch; a commit hash is the only one that repeats")


ModelSource = Annotated[PackagedModel | DirectoryModel | HubModel, Field(discriminator="kind")]


class _Spec(Record):
    """What every engine has, whatever runs it; the last three are handed on to the member that stands for it."""

    name: Name = Field(description="unique engine name; members refer to it")
    family: str = Field(min_length=1, description="model family; members of one family share blind spots")
    price_per_hour: float | None = Field(
        default=None, ge=0.0, description="money an hour of this engine costs, in any one currency; null: not counted"
    )
    replicas: int = Field(default=1, ge=1, le=1024, description="copies of this engine, each with its own device")
    node: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="custom Ray resource a node must offer to host it, e.g. 'big_gpu'; null: any node",
    )
    persona: Text = Field(default="", description="how its member should go about a task; empty: nothing is said")
    tiers: tuple[Tier, ...] = Field(
        default=(),
        description="work its member takes: extraction (reading answers, digests), reflection (critiques, votes, "
        "reviews), deep (proposals, revisions, synthesis); empty: all of it",
    )
    skills: tuple[str, ...] = Field(
        default=(), description="task types its member is preferred for where work is delegated"
    )


class VllmSpec(_Spec):
    """One vLLM engine with one base model and any number of LoRA adapters on it."""

    kind: Literal["vllm"] = "vllm"
    model: ModelSource = Field(description="where the base weights come from")
    max_model_len: int = Field(default=2048, ge=64, description="window, in tokens, prompt and answer together")
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        default=16, description="largest adapter rank this engine can load; vLLM accepts these values only"
    )
    max_loras: int = Field(default=4, ge=1, description="adapters that may be active in one batch")
    max_cpu_loras: int = Field(default=16, ge=1, description="adapters kept in memory; at least max_loras")
    max_num_seqs: int = Field(default=64, ge=1, description="sequences decoded at the same time")
    kv_cache_gib: float = Field(default=1.0, gt=0.0, description="room for keys and values, in GiB")
    cpu_cores: str | None = Field(
        default=None,
        pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$",
        description="cores this engine computes on when it runs on the CPU, e.g. '0' or '0-1'; null: vLLM decides",
    )
    num_gpus: float = Field(default=0.0, ge=0.0, description="GPUs this engine takes from the cluster; 0: CPU")
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs one copy of the model is spread over")
    quantization: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9_-]{1,32}$",
        description="how the weights are quantised, as vLLM names it, e.g. 'fp8'; null: as the model's files say",
    )
    sleeps: bool = Field(
        default=False, description="can give its GPU memory back while a specialist is trained; GPUs only"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="number format of the weights; auto: as stored, but float32 on a CPU without bfloat16 instructions",
    )
    enforce_eager: bool = Field(default=True, description="no graph compilation; LoRA on the CPU needs it")
    adapters: bool = Field(default=True, description="False: a plain engine that refuses adapters")
    thinks: bool = Field(
        default=True,
        description="False: a model that can think before it answers is asked to answer at once; others do not change",
    )
    tool_parser: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9_.-]{1,64}$",
        description="vLLM's reader of this model's tool calls, e.g. 'hermes', where a client asks the member alone "
        "and lets it use tools; null: it takes none",
    )
    reasoning_parser: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9_.-]{1,64}$",
        description="vLLM's reader of this model's thoughts, e.g. 'qwen3', for the same; null: thoughts are content",
    )

    @model_validator(mode="after")
    def _adapters_fit(self) -> VllmSpec:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError(f"max_cpu_loras ({self.max_cpu_loras}) must be at least max_loras ({self.max_loras})")
        if self.tensor_parallel > 1 and self.num_gpus != self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel={self.tensor_parallel} needs num_gpus={self.tensor_parallel}, got {self.num_gpus}"
            )
        return self


class ScriptedSkill(Record):
    """How good a scripted engine is at one kind of question."""

    operation: Literal["sum", "product", "gcd", "lcm", "other"] = Field(
        description="kind of question; 'other': anything it cannot read"
    )
    skill: float = Field(ge=0.0, le=1.0, description="probability that one sample is right")


class ScriptedSpec(_Spec):
    """A deterministic stand-in for a model: solves the sums it can read with a set probability."""

    kind: Literal["scripted"] = "scripted"
    skill: float = Field(default=0.5, ge=0.0, le=1.0, description="probability that one sample is right")
    operations: tuple[ScriptedSkill, ...] = Field(default=(), description="kinds of question with a skill of their own")
    adapter_gain: float = Field(
        default=0.1,
        ge=-1.0,
        le=1.0,
        description="added to `skill` for a member with an adapter of scale 1; negative: it hurts",
    )
    max_model_len: int = Field(default=2048, ge=64, description="window, in its own tokens")
    latency_s: float = Field(default=0.0, ge=0.0, description="seconds every call takes, whatever is said")
    latency_per_token_s: float = Field(
        default=0.0, ge=0.0, description="seconds more for every token of a call's longest sample"
    )
    num_slots: int | None = Field(
        default=None, ge=1, description="calls served at the same time, the others wait; null: all of them"
    )
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        default=16, description="largest adapter rank it accepts"
    )
    base_shape: Path | None = Field(
        default=None, description="model directory whose shapes adapters are checked against; null: not checked"
    )


class RemoteSpec(_Spec):
    """A member on any OpenAI-compatible server. Adapters cannot be loaded there."""

    kind: Literal["remote"] = "remote"
    base_url: str = Field(pattern=r"^https?://", description="root of the API, usually ending in /v1")
    model: str = Field(min_length=1, description="model name the server expects")
    api_key_env: str | None = Field(
        default=None, description="environment variable that holds the key; null: no key. A key is never a config value"
    )
    api: Literal["chat", "completions"] = Field(default="chat", description="which of the two endpoints to call")
    max_model_len: int = Field(default=4096, ge=64, description="window, in tokens; the server is not asked")
    timeout_s: float = Field(default=120.0, gt=0.0, description="seconds one request may take")
    num_retries: int = Field(default=2, ge=0, description="further tries after a refused connection, 429 or 5xx")
    max_concurrency: int = Field(default=8, ge=1, description="requests in flight at the same time")
    verify_tls: bool = Field(default=True, description="check the server's certificate")


EngineSpec = Annotated[VllmSpec | ScriptedSpec | RemoteSpec, Field(discriminator="kind")]


class RayConfig(Record):
    """The cluster the engines and training jobs stand on."""

    address: str | None = Field(
        default=None, description="running cluster to join; null: a private one on this machine"
    )
    num_cpus: int | None = Field(default=None, ge=1, description="CPUs a private cluster offers; null: all of them")
    object_store_mib: int = Field(default=256, ge=80, description="shared memory of a private cluster, in MiB")
    temp_dir: Path | None = Field(
        default=None, description="where a private cluster keeps sockets and logs; null: /tmp/ray"
    )


class TimeWindow(Record):
    """When work of one kind may run, by the clock of the machine that starts it."""

    who: Literal["batch", "evolve"] = Field(description="kind of work; what people wait for always runs")
    start: str = Field(pattern=_CLOCK, description="from this time of day on, e.g. '22:00'")
    end: str = Field(pattern=_CLOCK, description="until this one; earlier than `start`: of the next day")
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = Field(
        default=(), description="days on which it starts; empty: every day"
    )


class SeparatePool(Record):
    """Training has GPUs of its own."""

    kind: Literal["separate"] = "separate"


class SleepingEngines(Record):
    """Training takes the GPUs of engines that sleep meanwhile."""

    kind: Literal["sleep"] = "sleep"
    engines: tuple[Name, ...] = Field(min_length=1, description="engines with `sleeps` that make room")


TrainingPlace = Annotated[SeparatePool | SleepingEngines, Field(discriminator="kind")]


class FleetConfig(Record):
    """A fleet that `serve`, `batch` and `evolve` share, and how they share it."""

    directory: Path = Field(default=Path("runs/fleet"), description="where a running fleet publishes how to reach it")
    placement_timeout_s: float = Field(
        default=120.0, gt=0.0, description="seconds to wait for the cluster to make room for one replica"
    )
    max_pending: int = Field(
        default=1024, ge=1, description="requests one replica takes in before it says that it is busy"
    )
    min_free_memory_mib: int = Field(
        default=512, ge=0, description="free memory of a node below which its replicas take in nothing new"
    )
    windows: tuple[TimeWindow, ...] = Field(
        default=(), description="when batch and evolve may run; a kind without a window may always"
    )
    training: TrainingPlace = Field(default=SeparatePool(), description="where specialists are trained")


class ServingConfig(Record):
    """Which engines run, and on what."""

    engines: tuple[EngineSpec, ...] = Field(min_length=1, description="one entry per base model")
    model_store: Path = Field(default=Path("models"), description="directory of prepared model weights")
    in_process: bool = Field(
        default=False, description="True: no Ray, engines run in this process; for scripted and remote engines only"
    )
    ray: RayConfig = Field(default=RayConfig(), description="the cluster the engines stand on")
    start_timeout_s: float = Field(default=600.0, gt=0.0, description="seconds all engines together may take to start")
    call_timeout_s: float = Field(
        default=300.0, gt=0.0, description="seconds one request may take; also ends calls to an engine that restarts"
    )
    max_restarts: int = Field(default=3, ge=-1, description="times a dead engine is started again; -1: always")
    canary_interval_s: float = Field(
        default=30.0, ge=0.0, description="seconds between one-token probes that find a hung engine; 0: no probes"
    )

    fleet: FleetConfig = Field(default=FleetConfig(), description="a fleet that several commands share")
    channels: Path = Field(
        default=Path("channels"), description="directory of the channels: which seats are served under which name"
    )
    adapter_store: str = Field(
        default="channels/adapters",
        description="where promoted adapters are shared between nodes: a path, or a URL such as s3://bucket/adapters",
    )

    @field_validator("engines")
    @classmethod
    def _names_are_unique(cls, engines: tuple[EngineSpec, ...]) -> tuple[EngineSpec, ...]:
        names = [engine.name for engine in engines]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"engine names must be unique, got {', '.join(double)} more than once; rename all but one")
        return engines

    @model_validator(mode="after")
    def _vllm_needs_an_actor(self) -> ServingConfig:
        inside = [engine.name for engine in self.engines if self.in_process and engine.kind == "vllm"]
        if inside:
            raise ValueError(f"in_process allows scripted and remote engines only, got vllm: {', '.join(inside)}")
        return self

    @model_validator(mode="after")
    def _sleepers_can_sleep(self) -> ServingConfig:
        if isinstance(self.fleet.training, SleepingEngines):
            able = [engine.name for engine in self.engines if engine.kind == "vllm" and engine.sleeps]
            unable = [name for name in self.fleet.training.engines if name not in able]
            if unable:
                raise ValueError(
                    f"fleet.training: expected engines with `sleeps: true` ({', '.join(able) or 'there are none'}), "
                    f"got {', '.join(unable)}"
                )
        return self


def prices(config: ServingConfig) -> dict[str, float]:
    """Money per engine-hour by engine name, of the engines that have a price."""
    return {spec.name: spec.price_per_hour for spec in config.engines if spec.price_per_hour is not None}
