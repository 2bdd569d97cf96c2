"""What a deliberation may have been held under: every protocol and every measurement that is known of its time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from evolve.audit.measured import RELIABILITY, read_reliability
from evolve.commands.protocols import KINDS, chosen_protocol
from evolve.commands.replaying import Settings
from evolve.config import ConfigError, MeshConfig, RunConfig
from evolve.problems.config import FileProblems
from evolve.run_files import CONFIG
from memory.ledger import LedgerError
from mesh.config import CouncilConfig, ProtocolConfig, VoteConfig
from mesh.reliability import Reliability
from serving.batch_ladder import ladder_of
from serving.channels import Channel, ChannelError
from serving.kept_traces import KeptTrace

Protocols = Iterator[tuple[ProtocolConfig, str]]
Weights = Iterator[tuple[Reliability | None, str]]


def settings_for(
    found: KeptTrace, config: MeshConfig, protocol: str | None = None, reliability: Path | None = None
) -> Iterator[Settings]:
    """What `found` may have been held under, the likeliest first.

    `protocol` and `reliability` are what the command line names; None: nothing is named. Raises ConfigError if what it
    names cannot be read.
    """
    weights = list(_weights(found, config, reliability))
    if found.protocol is not None:
        for measured, where in weights:
            yield Settings(found.protocol, "as it was kept with the trace", measured, where, is_known=True)
        return
    for candidate, place in _protocols(found, config, protocol):
        for measured, where in weights:
            yield Settings(candidate, place, measured, where)


def _protocols(found: KeptTrace, config: MeshConfig, named: str | None) -> Protocols:
    if named is not None:
        yield chosen_protocol(config, named), f"as --protocol {named} says"
    run = _run_of(found.source)
    if run is not None:
        yield from _of_run(found, run)
    for mesh in (config, *([run] if run is not None else [])):
        for one, where in _of_mesh(mesh):
            for rung, cheaper in enumerate(ladder_of(one)):
                yield cheaper, where if rung == 0 else f"{where}, {rung} steps cheaper"


def _of_mesh(config: MeshConfig) -> Protocols:
    yield chosen_protocol(config, None), f"the protocol of {config.name}"
    yield config.deliberation, f"the council of {config.name}"
    for name, one in config.endpoint.protocols.items():
        yield one, f"{name!r} of endpoint.protocols"
    for kind in KINDS:
        try:
            yield chosen_protocol(config, kind), f"{kind} with the sampling of {config.name}"
        except ConfigError:
            continue  # it needs settings of its own


def _of_run(found: KeptTrace, run: RunConfig) -> Protocols:
    """As `evolve/asks.py` makes them from the run's configuration: each problem has an answer length of its own."""
    problems = run.problems
    lengths = (
        {problems.max_tokens} if isinstance(problems, FileProblems) else {one.max_tokens for one in problems.families}
    )
    shared = {"call_timeout_s": run.deliberation.call_timeout_s, "budget": run.deliberation.budget}
    talk = run.deliberation.model_dump(exclude={"kind", "sampling", "call_timeout_s", "budget"})
    num_samples = max((proposal.sample + 1 for proposal in found.trace.proposals), default=1)
    for length in sorted(lengths):
        sampling = run.deliberation.sampling.model_copy(update={"max_tokens": length})
        yield VoteConfig(samples_per_member=num_samples, sampling=sampling, **shared), f"first proposals of {run.name}"
        yield CouncilConfig(**talk, sampling=sampling, **shared), f"the council of {run.name}"


def _run_of(source: Path) -> RunConfig | None:
    """The configuration of the run that a file of traces belongs to; None: it is none's, or cannot be read any more."""
    for directory in source.parents[:3]:
        try:
            return RunConfig.model_validate(yaml.safe_load((directory / CONFIG).read_text("utf-8")))
        except (OSError, yaml.YAMLError, ValidationError):
            continue
    return None


def _weights(found: KeptTrace, config: MeshConfig, named: Path | None) -> Weights:
    if named is not None:
        yield read_reliability(named), f"measured, {named}"
        return
    if found.roster is not None:
        yield found.roster.reliability, f"roster {found.roster.id}"
    if found.kept is not None:
        yield from _of_channel(found.kept.channel, found.kept.roster, config)
    yield None, "equal"
    for directory in dict.fromkeys([config.run_dir, *found.source.parents[:3]]):
        path = directory / RELIABILITY
        if path.is_file():
            yield read_reliability(path), f"measured, {path}"


def _of_channel(channel: str, roster: str, config: MeshConfig) -> Weights:
    try:
        yield Channel(config.serving.channels, channel).roster(roster).reliability, f"roster {roster} of {channel}"
    except (ChannelError, LedgerError, OSError, ValueError):
        return
