"""The configuration of a run: what is served, what is asked, how it is learned from, and what may be promoted."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from evolve.gates.gate_wear import WearConfig
from evolve.governance.config import GovernanceConfig
from evolve.learning.config import AccumulationConfig, CurationConfig, QualityConfig
from evolve.problems.config import FileProblems, ProblemsConfig
from evolve.training.config import LoraTraining, RecipesConfig, TrainingConfig, WorkersConfig
from memory.config import MemoryConfig
from memory.types import Record
from mesh.budget import Budget
from mesh.config import CouncilConfig, ProtocolConfig
from serving.config import ServingConfig, SleepingEngines
from serving.endpoint.config import EndpointConfig

_Config = TypeVar("_Config", bound="MeshConfig")


MAX_SEATS = 12
"""Shares in the vote are exact: over 4,096 coalitions, which each seat more would double."""
OUT_OF_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
"""Of pydantic's kinds of errors, those whose reason stands under the key."""


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the file, the key and what to do."""


class HarvestConfig(Record):
    """How a generation's traces come about."""

    samples_per_member: int = Field(default=8, ge=1, description="first proposals of each member for each problem")
    problems_per_type: int = Field(
        default=40, ge=1, description="TRAIN problems of each task type a generation draws on"
    )
    councils_per_type: int = Field(default=6, ge=0, description="of these, how many go through a full council as well")
    temperature: float | None = Field(
        default=None,
        ge=0.0,
        description="of these first proposals: warmer finds more different answers; null: deliberation.sampling's",
    )


class GateConfig(Record):
    """What a candidate has to show before it is seated."""

    samples_per_member: int = Field(default=2, ge=1, description="fresh first proposals of each seat for each problem")
    alpha: float = Field(
        default=0.05, gt=0.0, lt=0.5, description="chance of promoting what is no better, all finalists"
    )
    max_finalists: int = Field(
        default=3,
        ge=1,
        le=3,
        description="arrangements that may go to the gate, 1 to 3: they share alpha, so that each more makes a gain "
        "harder to show for all of them",
    )
    expected_discordance: float = Field(
        default=0.2, gt=0.0, le=1.0, description="share of problems expected to differ; for the plan, not the decision"
    )
    required: tuple[Literal["placebo", "budget"], ...] = Field(
        default=("placebo", "budget"),
        description="what a finalist must beat besides the incumbents. placebo: its twin, trained alike on shuffled "
        "targets (needs recipes.placebo; merges have none); budget: one more sample of the best incumbent in its place",
    )
    councils_per_type: int = Field(
        default=4,
        ge=0,
        description="GATE problems of each type that go through full councils of the seats and of the best finalist as "
        "well; reported beside the vote, deciding nothing. Critics and synthesisers (recipes.roles) are chosen by as "
        "many councils on DEV and held to these on GATE",
    )
    aa_every: int = Field(
        default=4,
        ge=0,
        description="an A/A arm, the incumbents anew, rides along in generation 0 and every so many, and in every one "
        "while these arms raise an alarm",
    )
    remeasure: bool = Field(
        default=True, description="the winner is measured again on DEV items kept for it, so that its gain is no luck"
    )
    wear: WearConfig = Field(default=WearConfig(), description="what a GATE set that was used before still proves")


class EvaluationConfig(Record):
    """How much is drawn for choosing and for reporting."""

    dev_samples_per_member: int = Field(default=2, ge=1, description="first proposals for each DEV problem")
    screen_items: int = Field(
        default=16, ge=0, description="DEV problems on which a candidate that is plainly broken is stopped; 0: none"
    )
    keep: float = Field(
        default=0.5, gt=0.0, lt=1.0, description="share of arrangements that see more DEV problems after each rung"
    )
    remeasure_share: float = Field(
        default=0.25,
        ge=0.0,
        lt=1.0,
        description="share of DEV problems kept from choosing, to measure the winner on; at most that, since near "
        "duplicates stay together",
    )
    max_elites: int = Field(
        default=1,
        ge=0,
        description="specialists of the archive without a seat that are measured on a generation's problems and tried "
        "again; with 0, nobody without a seat is ever compared with newer ones",
    )
    emergence_tasks: int = Field(
        default=12, ge=0, description="tasks only the mesh solved that members are asked alone, each generation"
    )
    emergence_samples: int = Field(default=30, ge=1, description="samples alone before a solution counts as emergent")
    tuning_items_per_type: int = Field(
        default=20, ge=1, description="DEV problems of each type on which ways of asking and the best single are chosen"
    )
    temperatures: tuple[float, ...] = Field(
        default=(),
        description="tried on DEV for every member before AUDIT, the best is audited; empty: the configured one. With "
        "each of these every number of demonstrations, instruction and stop below is tried",
    )
    demonstrations: tuple[Annotated[int, Field(ge=0, le=32)], ...] = Field(
        default=(), description="how many of a task's worked examples are shown, likewise; empty: all"
    )
    instructions: tuple[str, ...] = Field(
        default=(), description="how to answer, likewise, in place of the tasks' own instructions; empty: their own"
    )
    stops: tuple[tuple[Annotated[str, Field(min_length=1)], ...], ...] = Field(
        default=(), description="strings at which an answer ends, likewise; empty: the configured ones"
    )
    audit_samples_per_member: int = Field(default=2, ge=1, description="first proposals for each AUDIT problem")
    audit_councils_per_type: int = Field(default=15, ge=0, description="AUDIT problems of each type put to the council")


class RunBudget(Record):
    """What a run may cost. A generation that would exceed it is not begun: what there is is audited and reported."""

    output_tokens: int | None = Field(default=None, ge=1, description="tokens written, all stages; null: no limit")
    hours: float | None = Field(default=None, gt=0.0, description="time of all stages together; null: no limit")
    flops: float | None = Field(default=None, gt=0.0, description="of training; null: no limit")
    disk_gib: float | None = Field(default=None, gt=0.0, description="size of the run directory; null: no limit")
    cost: float | None = Field(
        default=None, gt=0.0, description="money, at the engines' price_per_hour; null: no limit"
    )


class TrackingConfig(Record):
    """Where numbers go besides the report."""

    tensorboard: bool = Field(default=True, description="event files in the run directory, under tensorboard/")
    trackio: str | None = Field(default=None, description="project of a local trackio; null: none")
    mlflow: str | None = Field(default=None, description="tracking URI of an MLflow server or file store; null: none")


REHEARSAL = "Every engine is simulated: this rehearses a run, and no figure here says anything about models."


class MeshConfig(Record):
    """A mesh that is served, asked and given batches; what every command but `evolve` needs."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", description="name of the run, in reports and memory"
    )
    seed: int = Field(default=0, ge=0, description="every draw of the run follows from it")
    run_dir: Path = Field(description="directory of everything the run leaves; the same command continues there")
    serving: ServingConfig = Field(description="engines and the cluster they stand on")
    seats_per_engine: int = Field(
        default=1,
        ge=1,
        le=6,
        description="seats of each engine, so that several specialists of one base can sit; at most 6, and 12 of all "
        "engines together, for a member's share in the vote is exact: every subset of the seats is replayed, and each "
        "seat more doubles them",
    )
    deliberation: CouncilConfig = Field(
        default=CouncilConfig(), description="the full council; its sampling and limits hold for every first proposal"
    )
    protocol: ProtocolConfig | None = Field(
        default=None,
        description="what `deliberate` and `batch` hold; null: escalate, which talks as `deliberation` does",
    )
    batch_budget: Budget = Field(default=Budget(), description="what one start of `batch` may cost, all tasks together")
    memory: MemoryConfig = Field(default=MemoryConfig(), description="what is remembered and recalled")
    endpoint: EndpointConfig = Field(default=EndpointConfig(), description="how the mesh is reached from outside")
    concurrency: int = Field(default=32, ge=1, description="deliberations in flight at the same time")

    @property
    def is_simulated(self) -> bool:
        """Whether no model answers at all: a rehearsal, whose figures say nothing about models."""
        return all(engine.kind == "scripted" for engine in self.serving.engines)


class RunConfig(MeshConfig):
    """One evolution run."""

    num_generations: int = Field(default=1, ge=1, description="rounds of learning; generation n+1 is seated after each")
    problems: ProblemsConfig = Field(description="where tasks come from")
    harvest: HarvestConfig = Field(default=HarvestConfig(), description="how many traces a generation gathers")
    curation: CurationConfig = Field(default=CurationConfig(), description="which of them are learned from")
    recipes: RecipesConfig = Field(default=RecipesConfig(), description="which specialists are bred")
    training: TrainingConfig = Field(default=LoraTraining(), description="how they are trained")
    workers: WorkersConfig = Field(default=WorkersConfig(), description="where they are trained")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="DEV and AUDIT")
    gate: GateConfig = Field(default=GateConfig(), description="the promotion test")
    accumulation: AccumulationConfig = Field(
        default=AccumulationConfig(), description="how training sets grow over generations"
    )
    quality: QualityConfig = Field(default=QualityConfig(), description="which texts disqualify a candidate")
    governance: GovernanceConfig = Field(
        default=GovernanceConfig(), description="who has the last word, and what live outcomes may take back"
    )
    budget: RunBudget = Field(default=RunBudget(), description="what the run may cost")
    tracking: TrackingConfig = Field(default=TrackingConfig(), description="where numbers go besides the report")

    @model_validator(mode="after")
    def _seats_can_be_told_apart(self) -> RunConfig:
        seats = self.seats_per_engine * len(self.serving.engines)
        if seats > MAX_SEATS:
            raise ValueError(
                f"expected at most {MAX_SEATS} seats, since a member's share in the vote is exact and every subset of "
                f"the seats is replayed for it ({2**MAX_SEATS:,} of {MAX_SEATS}, twice as many with each seat more), "
                f"got {seats}: {len(self.serving.engines)} engines with {self.seats_per_engine}; lower seats_per_engine"
            )
        return self

    @model_validator(mode="after")
    def _required_rivals_are_bred(self) -> RunConfig:
        if "placebo" in self.gate.required and not self.recipes.placebo:
            raise ValueError(
                "gate.required names placebo, but recipes.placebo is false, so that nothing could ever pass; set "
                "recipes.placebo: true, or take placebo out"
            )
        return self

    @model_validator(mode="after")
    def _examples_to_show_are_there(self) -> RunConfig:
        wanted = max(self.evaluation.demonstrations, default=0)
        problems = self.problems
        families = (problems,) if isinstance(problems, FileProblems) else problems.families
        most = max((family.num_demonstrations for family in families), default=0)
        if wanted > most:
            raise ValueError(
                f"evaluation.demonstrations would show {wanted} worked examples, but no task has more than {most}; "
                "raise num_demonstrations, or try fewer"
            )
        return self

    @model_validator(mode="after")
    def _shards_ask_for_gpus_of_their_own(self) -> RunConfig:
        if self.workers.num_shards > 1 and isinstance(self.serving.fleet.training, SleepingEngines):
            raise ValueError(
                "workers.num_shards takes GPUs of a separate pool, but serving.fleet.training has engines sleep for "
                "training; set its kind: separate, or num_shards: 1"
            )
        return self

    @model_validator(mode="after")
    def _roles_are_measured_at_their_work(self) -> RunConfig:
        helpers = [role for role in self.recipes.roles if role != "proposer"]
        if not helpers:
            return self
        names = " and ".join(helpers)
        for key, num, why in (
            ("harvest.councils_per_type", self.harvest.councils_per_type, "has nothing to learn from"),
            ("gate.councils_per_type", self.gate.councils_per_type, "cannot be measured at its work"),
        ):
            if not num:
                raise ValueError(f"recipes.roles breeds {names}, which {why} without councils; set {key} above 0")
        if "critic" in helpers and not self.deliberation.critique:
            raise ValueError("recipes.roles breeds critic, but deliberation.critique is false, so that none is asked")
        return self

    @model_validator(mode="after")
    def _nobody_is_asked_during_a_run(self) -> RunConfig:
        if self.deliberation.oversight is not None:
            raise ValueError("deliberation.oversight: an evolution run asks nobody; set protocol.oversight instead")
        return self

    @model_validator(mode="after")
    def _training_fits_the_engines(self) -> RunConfig:
        kinds = {engine.kind for engine in self.serving.engines}
        if self.training.kind == "lora":
            if "scripted" in kinds:
                raise ValueError("training.kind 'lora' cannot train a scripted engine; use training.kind 'scripted'")
            ranks = [engine.max_lora_rank for engine in self.serving.engines if engine.kind == "vllm"]
            if ranks and self.training.rank > min(ranks):
                raise ValueError(
                    f"training.rank is {self.training.rank}, but an engine takes max_lora_rank {min(ranks)}; "
                    "lower the one or raise the other"
                )
        elif kinds != {"scripted"}:
            raise ValueError("training.kind 'scripted' works with scripted engines only; use training.kind 'lora'")
        return self


def load_config(path: Path) -> RunConfig:
    """The configuration of a run in a YAML file; relative paths in it are relative to the current directory.

    Raises:
        ConfigError: not there, not YAML, an unknown key (the nearest known one is named), a wrong type, NaN.
    """
    return _validated(path, read_yaml(path), RunConfig)


def load_mesh(path: Path) -> MeshConfig:
    """The mesh in a YAML file, which may be a run's, or have no `problems` and nothing about learning.

    Raises ConfigError as `load_config` does.
    """
    data = read_yaml(path)
    return _validated(path, data, RunConfig if "problems" in data else MeshConfig)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, its numbers finite. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected a mapping of settings, got {type(data).__name__}; see configs/quickstart.yaml"
        )
    for where, value in settings_in(data):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{path}: {where}: expected a finite number, got {value}")
    return data


def _validated(path: Path, data: dict[str, Any], kind: type[_Config]) -> _Config:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(_sentences(error, data))) from error


def dump_config(config: MeshConfig) -> str:
    """The resolved configuration, every default filled in, as YAML."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True)


def required_files(config: RunConfig) -> list[Path]:
    """Files outside the run directory that the configuration names and that must exist."""
    return [config.problems.path] if isinstance(config.problems, FileProblems) else []


def settings_in(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every single setting of a configuration as read from YAML, by its path with dots."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not parts:
        yield ".".join(where), value
        return
    for key, item in parts:
        yield from settings_in(item, (*where, str(key)))


def _sentences(error: ValidationError, data: dict[str, Any]) -> Iterator[str]:
    for item in error.errors(include_url=False):
        where = [str(part) for part in item["loc"]]
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            nearest = _nearest_key(where)
            message = "unknown key" + (f"; did you mean '{nearest}'?" if nearest else "")
        elif item["type"] == "missing":
            message = "is required"
        elif not isinstance(item["input"], dict | list):
            message += f" (got {item['input']!r})"
        if item["type"] in OUT_OF_BOUNDS and (about := _description(where)):
            message += f"; {where[-1]}: {about}"
        yield f"  {'.'.join(_path_in(data, where)) or 'configuration'}: {message}"


def _description(where: list[str]) -> str:
    """The sentence under a key; empty where it has none."""
    fields = (model.model_fields.get(where[-1]) for model in _model_at(where[:-1]))
    return next((field.description for field in fields if field is not None and field.description), "")


def _path_in(data: Any, where: list[str]) -> list[str]:
    """`where` without the union tags that pydantic puts into it."""
    path = []
    for index, part in enumerate(where):
        if isinstance(data, dict) and part not in data and index + 1 < len(where):
            continue
        path.append(part)
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
    return path


def _nearest_key(where: list[str]) -> str | None:
    known = sorted(set(_known_keys(_model_at(where[:-1]))))
    close = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.4)
    return close[0] if close else None


def _known_keys(models: list[type[BaseModel]]) -> Iterator[str]:
    for model in models:
        yield from model.model_fields


def _model_at(where: list[str]) -> list[type[BaseModel]]:
    """The models that may stand at a place of the configuration; union tags narrow them."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in where:
        if part.isdigit():
            continue
        tagged = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        models = tagged or [
            inner for m in models if part in m.model_fields for inner in _models_in(m.model_fields[part].annotation)
        ]
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
