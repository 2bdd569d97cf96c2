"""From a generation of a run to a roster: its seats, the base members beside them, and what is measured of all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evolve.audit.measured import RELIABILITY, measure_run, read_reliability
from evolve.config import ConfigError, MeshConfig
from evolve.lineage import Generation, Lineage
from evolve.run_files import GENERATIONS
from mesh.reliability import Reliability
from mesh.types import Member
from serving.adapters import Adapter, AdapterStore, BaseModelShape
from serving.config import EngineSpec, VllmSpec
from serving.models import ModelError, ModelStore
from serving.roster import Roster, best_base

ADAPTERS = "adapters"


@dataclass(frozen=True)
class Target:
    """Which generation of which run."""

    run: Path
    number: int | None
    """None: the last one."""

    @staticmethod
    def parse(text: str) -> Target:
        """`RUN@GENERATION`, or `RUN` for the last one. Raises ConfigError."""
        run, at, number = text.rpartition("@")
        if not at or Path(text).is_dir():
            return Target(Path(text), None)
        if not number.isdecimal() or not number.isascii():
            raise ConfigError(f"expected RUN@GENERATION such as runs/quickstart@1, got {text!r}")
        return Target(Path(run), int(number))


def generations_of(run: Path) -> tuple[Generation, ...]:
    """Generations of a run, oldest first. Raises ConfigError if it has none yet, LedgerError if they were changed."""
    try:
        found = tuple(Lineage(run / GENERATIONS, readonly=True).generations())
    except FileNotFoundError:
        raise ConfigError(f"{run}: expected the directory of a run ({GENERATIONS}), found none") from None
    if not found:
        raise ConfigError(f"{run}: expected a run with generations, found none yet; let `evomesh evolve` begin it")
    return found


def roster_of(target: Target, channel: str) -> Roster:
    """The roster of one generation.

    Base members that lost their seat stay with it: `--safe` needs one of them, and callers may ask any by name.

    Raises:
        ConfigError: no such run or generation.
    """
    generations = generations_of(target.run)
    number = len(generations) - 1 if target.number is None else target.number
    if number >= len(generations):
        raise ConfigError(f"{target.run}: expected one of its generations 0 to {len(generations) - 1}, got {number}")
    seats, measured = generations[number].seats, measured_in(target.run)
    bases = bases_beside(seats, generations[0].seats)
    return Roster(
        channel=channel,
        seats=seats,
        bases=bases,
        safe=best_base([member for member in (*seats, *bases) if member.adapter is None], measured),
        source=f"{target.run}@{number}",
        reliability=measured,
    )


def bases_beside(seats: tuple[Member, ...], founders: tuple[Member, ...]) -> tuple[Member, ...]:
    """Founders on a base model whose name no seat has taken."""
    names = {seat.name for seat in seats}
    return tuple(member for member in founders if member.adapter is None and member.name not in names)


def measured_in(run: Path) -> Reliability | None:
    """What is measured of a run's members: its published file, else its judged traces; None: neither is there."""
    if (run / RELIABILITY).exists():
        return read_reliability(run / RELIABILITY)
    try:
        return measure_run(run)
    except ConfigError:
        return None


def check_engines(roster: Roster, config: MeshConfig, store: AdapterStore) -> None:
    """Raises ConfigError for a member or an adapter that the engines of `config` could not serve.

    The base model itself is looked at where its weights are here.
    """
    specs = {spec.name: spec for spec in config.serving.engines}
    for member in roster.everyone:
        spec = specs.get(member.engine)
        if spec is None or spec.family != member.family:
            raise ConfigError(
                f"{member.name}: expected an engine {member.engine!r} of family {member.family!r} in the "
                f"configuration, which has {', '.join(f'{one.name} ({one.family})' for one in specs.values())}"
            )
        for adapter in member.adapters:
            _check_adapter(store.get(adapter), spec, member, config.serving.model_store)


def adapter_store_of(run: Path) -> AdapterStore:
    """Where a run keeps what it admitted."""
    return AdapterStore(run / ADAPTERS)


def _check_adapter(adapter: Adapter, spec: EngineSpec, member: Member, models: Path) -> None:
    if spec.kind == "remote" or (spec.kind == "vllm" and not spec.adapters):
        raise ConfigError(f"{member.name}: engine {spec.name!r} takes no adapters; seat its base model instead")
    if adapter.rank > spec.max_lora_rank:
        raise ConfigError(
            f"{member.name}: its adapter has rank {adapter.rank}, engine {spec.name!r} takes at most "
            f"{spec.max_lora_rank}; raise max_lora_rank"
        )
    if not isinstance(spec, VllmSpec):
        return
    try:
        base = BaseModelShape.from_directory(ModelStore(models).path(spec.model))
    except ModelError:
        return  # weights are on the nodes that serve
    if base.fingerprint != adapter.base:
        raise ConfigError(
            f"{member.name}: its adapter was made for base {adapter.base[:12]}, engine {spec.name!r} runs "
            f"{base.name} ({base.fingerprint[:12]}); serve the model it was trained on"
        )
