"""What an operator may set about training: which adapters are bred, how they are trained, and on what terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    max_length: int = Field(default=1024, ge=8, description="longer rows, in tokens, are left out and counted")
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
    preference: PreferenceTraining | None = Field(
        default=None, description="what is learned from chosen and rejected answers after the rows; null: nothing"
    )


class PreferenceTraining(Record):
    """Learning from pairs after the rows: the chosen text becomes likelier than the rejected one (DPO)."""

    beta: float = Field(default=0.1, gt=0, description="how closely the adapter is held to what the rows made of it")
    learning_rate: float = Field(default=5e-5, gt=0, lt=1, description="peak rate; a fifth or less of the rows' rate")
    num_epochs: int = Field(default=1, ge=1, description="passes over the pairs, unless max_steps ends it earlier")
    max_steps: int | None = Field(default=None, ge=1, description="at most this many optimizer steps; None: no limit")
    batch_size: int = Field(default=8, ge=1, description="pairs an optimizer step learns from")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="assumed share of pairs that are the wrong way round"
    )
    nll_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the chosen texts' own likelihood in the loss, mean per token; DPO alone may lower it",
    )
    min_pairs: int = Field(
        default=16, ge=1, description="with fewer pairs this stage is left out, and that is reported"
    )


class ScriptedTraining(Record):
    """No learning: a tiny valid adapter, for simulations and tests with scripted engines."""

    kind: Literal["scripted"] = "scripted"
    rank: int = Field(default=1, ge=1, le=512, description="rank written into the adapter")
    diverges: bool = Field(default=False, description="True: every job is quarantined, to rehearse that path")


class MergeTraining(Record):
    """No learning: parents of one base are merged on what they add to its weights."""

    kind: Literal["merge"] = "merge"
    method: Literal["cat", "svd", "ties", "dare"] = Field(
        default="svd",
        description="cat: the exact weighted sum, its rank the sum of ranks; svd: the nearest to it of `rank`; "
        "ties: entries trimmed, signs elected, then svd; dare: entries dropped at random, then svd",
    )
    weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(), description="of each parent, in order; empty: the same for all, 1 together"
    )
    rank: int | None = Field(default=None, ge=1, le=512, description="of the result; null: the largest parent's")
    density: float = Field(
        default=0.5, gt=0, le=1, description="share of entries that stay (ties: the largest, dare: a random choice)"
    )
    min_energy: float = Field(
        default=0.0, ge=0, le=1, description="a merge whose rank keeps a smaller share of the update is quarantined"
    )


TrainingConfig = Annotated[LoraTraining | ScriptedTraining, Field(discriminator="kind")]
"""What a run may say under `training`."""

RecipeTraining = Annotated[LoraTraining | ScriptedTraining | MergeTraining, Field(discriminator="kind")]
"""How one recipe makes its adapter."""


class WorkersConfig(Record):
    """The terms on which training jobs run as Ray tasks."""

    timeout_s: float = Field(default=3600.0, gt=0, description="a job running longer is stopped and quarantined")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs a job asks Ray for; 0: it trains on the CPU")
    num_shards: int = Field(
        default=1,
        ge=1,
        description="processes that train one job together under Ray Train, with a GPU each if num_gpus is 1: for a "
        "base that is too large for one GPU, of which each holds a part (FSDP2)",
    )
    max_concurrent: int = Field(
        default=1, ge=1, description="jobs at a time, or processes if warm; one base never trains twice at once"
    )
    num_retries: int = Field(default=1, ge=0, description="how often a job whose process died is started again")
    overlap: bool = Field(
        default=False,
        description="a candidate's first DEV problems are drawn while others still train; worth it where training has "
        "processors of its own",
    )
    warm: bool = Field(
        default=True, description="one process per base model trains all its jobs and loads it once; else one per job"
    )
    checkpoint_steps: int | None = Field(
        default=20,
        ge=1,
        description="optimizer steps between checkpoints, from which a job goes on if its process died; null: none",
    )
    store: Path | None = Field(
        default=None,
        description="directory of finished trainings by the hash of what determines them, shared by runs: a job that "
        "any of them has done is free; null: none",
    )
    poll_s: float = Field(default=1.0, gt=0, description="seconds between two looks at a job's progress")

    @model_validator(mode="after")
    def _a_shard_has_a_whole_gpu(self) -> WorkersConfig:
        if self.num_shards > 1 and self.num_gpus not in (0.0, 1.0):
            raise ValueError(
                f"workers.num_shards is {self.num_shards}, and each of these processes takes one GPU: expected "
                f"workers.num_gpus: 1 (or 0 for the CPU), got {self.num_gpus:g}"
            )
        return self


Role = Literal["proposer", "critic", "synthesiser"]
"""What a specialist is bred for: first answers, objections to others' answers, or one answer out of several."""


class MutationConfig(Record):
    """Within which bounds hyper-parameters are changed. A value outside is brought to the nearest bound first."""

    num_changes: int = Field(default=2, ge=1, le=5, description="hyper-parameters that one mutation changes, at most")
    step: float = Field(default=0.5, gt=0, le=3, description="typical change of the logarithm of a rate")
    learning_rate: tuple[float, float] = Field(default=(3e-5, 1.5e-3), description="least and largest peak rate")
    weight_decay: tuple[float, ...] = Field(default=(0.0, 0.01, 0.05), description="values it may take, rising")
    rank: tuple[int, ...] = Field(default=(8, 16, 32), description="values it may take, rising; engines limit it too")
    alpha_ratio: tuple[float, ...] = Field(default=(1.0, 2.0, 4.0), description="values of alpha / rank, rising")
    num_epochs: tuple[int, ...] = Field(default=(1, 2, 3, 4), description="values it may take, rising")
    batch_size: tuple[int, ...] = Field(default=(8, 16, 32), description="values it may take, rising")

    @model_validator(mode="after")
    def _ladders_rise(self) -> MutationConfig:
        for name in ("learning_rate", "weight_decay", "rank", "alpha_ratio", "num_epochs", "batch_size"):
            values: tuple[float, ...] = getattr(self, name)
            if not values or list(values) != sorted(set(values)) or min(values) < 0 or max(values) > 1e6:
                raise ValueError(f"{name}: expected rising values from 0 on, got {list(values)}; sort them")
        if self.learning_rate[0] <= 0:
            raise ValueError(f"learning_rate: expected a lower bound above 0, got {self.learning_rate[0]}")
        return self


class WarmStart(Record):
    """How an adapter is trained further: a short way on, on the rows there are by then."""

    mix: Literal["own", "cross"] = Field(
        default="own", description="own: its engine's own verified answers; cross: the other families' as well"
    )
    num_parents: int = Field(default=1, ge=1, description="of each engine, the seated specialist first")
    num_epochs: int | None = Field(default=None, ge=1, description="passes over the rows; null: training.num_epochs")
    learning_rate: float | None = Field(default=None, gt=0, lt=1, description="peak rate; null: training's")


class BanditConfig(Record):
    """Which kinds of recipe are tried, learned from how earlier generations' candidates did."""

    method: Literal["thompson", "ucb"] = Field(default="thompson", description="how an arm is chosen")
    num_recipes: int = Field(default=2, ge=1, description="recipes chosen for every engine")
    discount: float = Field(
        default=0.8, gt=0, le=1, description="weight of a result against one of a generation later: what pays changes"
    )
    exploration: float = Field(default=1.0, ge=0, description="ucb: width of the bonus for arms seldom tried")
    full_gain: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="gain over the incumbents on DEV, as a share of problems, that counts as 1",
    )


class RecipesConfig(Record):
    """Which adapters a generation tries to breed."""

    own: bool = Field(default=True, description="one recipe per engine on its own verified answers and corrections")
    cross_family: bool = Field(
        default=False, description="one more recipe per engine that adds the other families' verified answers"
    )
    distil: bool = Field(
        default=False, description="one more recipe per engine on the other families' verified answers alone"
    )
    per_task_type: bool = Field(default=False, description="one recipe per task type as well, a narrow specialist")
    roles: tuple[Role, ...] = Field(
        default=("proposer",),
        description="what specialists are bred for; critic and synthesiser add one recipe per engine each, and are "
        "measured in councils (gate.councils_per_type)",
    )
    warm_start: WarmStart | None = Field(
        default=None, description="one more recipe per parent adapter that trains it further; null: none"
    )
    merges: tuple[MergeTraining, ...] = Field(
        default=(), description="one more recipe per engine with enough parent adapters for each of these merges"
    )
    merge_parents: int = Field(default=2, ge=1, description="parents that a merge without weights takes")
    mutations: int = Field(
        default=0, ge=0, description="so many more recipes per engine like `own`, with changed hyper-parameters"
    )
    mutation: MutationConfig = Field(default=MutationConfig(), description="how they are changed")
    placebo: bool = Field(
        default=True,
        description="every finalist's twin is trained alike on shuffled targets, so that it can learn form alone, and "
        "stands against it at the gate; a merge, which learns from no rows, has none",
    )
    bandit: BanditConfig | None = Field(
        default=None, description="which of all these are bred in a generation; null: every one"
    )
    max_rows: int | None = Field(default=None, ge=1, description="at most this many rows a recipe; None: all")
    min_rows: int = Field(default=16, ge=1, description="a recipe with fewer rows is not trained, and that is reported")
