"""What an operator may set about training: how adapters are trained, and on what terms workers run it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from memory.types import Record

BaseDtype = Literal["auto", "float32", "bfloat16"]


class LoraTraining(Record):
    """A LoRA adapter on the attention and feed-forward projections, trained with TRL and PEFT."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=512, description="LoRA rank; an engine's max_lora_rank is the limit")
    alpha: int = Field(default=32, gt=0, description="LoRA scale numerator: the update is weighted by alpha / rank")
    learning_rate: float = Field(default=3e-4, gt=0, lt=1, description="peak rate; LoRA wants 1e-4 to 5e-4, not 2e-5")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="shape of the rate after the warm-up"
    )
    warmup_share: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients longer than this are scaled down to it")
    num_epochs: int = Field(default=2, ge=1, description="passes over the rows, unless max_steps ends it earlier")
    max_steps: int | None = Field(default=None, ge=1, description="at most this many optimizer steps; None: no limit")
    batch_size: int = Field(default=16, ge=1, description="rows an optimizer step learns from")
    max_length: int = Field(default=384, ge=8, description="a row longer than this, in tokens, is left out and counted")
    max_packed_tokens: int = Field(
        default=4096,
        ge=1,
        description="rows of a batch share their common beginnings in one pass of at most this many tokens; "
        "1: every row alone, for models whose layers are not plain attention",
    )
    base_dtype: BaseDtype = Field(
        default="auto", description="number type of the frozen base; auto: bfloat16 where the hardware multiplies it"
    )
    num_threads: int = Field(default=2, ge=1, description="CPU threads of a training process, and CPUs it asks Ray for")


class ScriptedTraining(Record):
    """No learning: a tiny valid adapter, for simulations and tests with scripted engines."""

    kind: Literal["scripted"] = "scripted"
    rank: int = Field(default=1, ge=1, le=512, description="rank written into the adapter")
    diverges: bool = Field(default=False, description="True: every job is quarantined, to rehearse that path")


TrainingConfig = Annotated[LoraTraining | ScriptedTraining, Field(discriminator="kind")]


class WorkersConfig(Record):
    """The terms on which training jobs run as Ray tasks."""

    timeout_s: float = Field(default=3600.0, gt=0, description="a job running longer is stopped and quarantined")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs a job asks Ray for; 0: it trains on the CPU")
    max_concurrent: int = Field(default=1, ge=1, description="jobs at a time; one base never trains twice at once")
    num_retries: int = Field(default=1, ge=0, description="how often a job whose process died is started again")
    poll_s: float = Field(default=1.0, gt=0, description="seconds between two looks at a job's progress")


class RecipesConfig(Record):
    """Which adapters a generation tries to breed."""

    own: bool = Field(default=True, description="one recipe per engine on its own verified answers and corrections")
    cross_family: bool = Field(
        default=False, description="one more recipe per engine that adds the other families' verified answers"
    )
    per_task_type: bool = Field(default=False, description="one recipe per task type as well, a narrow specialist")
    placebo: bool = Field(
        default=False, description="one more recipe per engine whose targets are shuffled: it can learn form alone"
    )
    max_rows: int | None = Field(default=None, ge=1, description="at most this many rows a recipe; None: all")
    min_rows: int = Field(default=16, ge=1, description="a recipe with fewer rows is not trained, and that is reported")
