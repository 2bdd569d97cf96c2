"""How a mesh deliberates: the tagged union of all protocols and patterns, and what a configuration asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from mesh.limits import Limits
from mesh.patterns.hierarchical import HierarchicalConfig
from mesh.patterns.parallel import ParallelConfig
from mesh.patterns.review import ReviewConfig
from mesh.patterns.sequential import SequentialConfig
from mesh.patterns.step import Step
from mesh.protocols.council import CouncilConfig
from mesh.protocols.debate import DebateConfig
from mesh.protocols.escalate import EscalateConfig
from mesh.protocols.mixture import MixtureConfig, SelfMixtureConfig
from mesh.protocols.rank import RankConfig
from mesh.protocols.self_consistency import SelfConsistencyConfig
from mesh.protocols.single import SingleConfig
from mesh.protocols.switch import SwitchConfig
from mesh.protocols.vote import VoteConfig

ProtocolConfig = Annotated[
    SingleConfig
    | VoteConfig
    | SwitchConfig
    | CouncilConfig
    | EscalateConfig
    | RankConfig
    | SelfConsistencyConfig
    | SelfMixtureConfig
    | MixtureConfig
    | DebateConfig
    | SequentialConfig
    | ParallelConfig
    | HierarchicalConfig
    | ReviewConfig,
    Field(discriminator="kind"),
]

for _nested in (Step, HierarchicalConfig, ReviewConfig, SequentialConfig, ParallelConfig):
    _nested.model_rebuild(_types_namespace={"ProtocolConfig": ProtocolConfig})


def parts_of(config: Limits) -> Iterator[Limits]:
    """A configuration and all that it is made of, outermost first."""
    yield config
    match config:
        case SequentialConfig():
            inner = [step.protocol for step in config.steps]
        case ParallelConfig():
            inner = [step.protocol for step in config.branches]
        case HierarchicalConfig():
            inner = [config.worker]
        case ReviewConfig():
            inner = [config.produce]
        case _:
            inner = []
    for part in inner:
        yield from parts_of(part)


def members_named(config: Limits) -> Iterator[str]:
    """Names of members that a configuration refers to, here and in its parts."""
    for part in parts_of(config):
        for field in ("member", "aggregator", "planner", "synthesiser"):
            name = getattr(part, field, None)
            if name is not None:
                yield name
        yield from getattr(part, "first", None) or ()
        yield from getattr(part, "reviewers", ())
