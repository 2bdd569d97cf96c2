"""What `evomesh replay` does: hold a kept deliberation again, from its trace or by asking the engines once more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from evolve.cli import ExitCode
from evolve.commands.general import OUT, print_json, serving
from evolve.commands.replay_settings import settings_for
from evolve.commands.replaying import Replayed, ReplayError, Settings, compared, recall_of, replay_best
from evolve.commands.unasked import Repliers
from evolve.config import MeshConfig, load_mesh
from mesh.deliberate import deliberate
from mesh.job import Job
from mesh.text import well_formed
from mesh.types import Deliberation
from serving.adapters import AdapterStore
from serving.config import prices
from serving.counting import PromptCounter
from serving.kept_traces import KeptTrace, find_traces

MAX_CELL_CHARS = 200


@dataclass(frozen=True)
class ReplayOptions:
    """What the command line says beside the deliberation."""

    config: Path
    places: tuple[Path, ...] = ()
    protocol: str | None = None
    reliability: Path | None = None
    live: bool = False


def replay_command(wanted: str, options: ReplayOptions, *, as_json: bool) -> None:
    """`evomesh replay`; exit code 1 where something else came out."""
    config = load_mesh(options.config)
    found = find_one(wanted, places_of(config, options.places))
    replayed = asyncio.run(_replay(found, config, options, quiet=as_json))
    if as_json:
        print_json(replayed)
    else:
        _show(replayed, found.trace)
    if not replayed.same and not replayed.is_live:
        raise SystemExit(ExitCode.FAILED)


def places_of(config: MeshConfig, named: Sequence[Path]) -> tuple[Path, ...]:
    """Where traces are looked for: where the command line says, else the door's state and the run of the configuration.

    Raises FileNotFoundError for a named place that is not there.
    """
    for place in named:
        if not place.exists():
            raise FileNotFoundError(f"{place}: expected a directory or a file of traces, found nothing there")
    return tuple(named) or (config.endpoint.state, config.run_dir)


def find_one(wanted: str, places: Sequence[Path]) -> KeptTrace:
    """The one deliberation that is meant. Raises ReplayError for none, or for several."""
    path = Path(wanted)
    found = find_traces([path], "") if path.suffix in (".json", ".gz") and path.is_file() else []
    found = found or find_traces(places, wanted)
    listed = ", ".join(str(place) for place in places)
    if not found:
        raise ReplayError(
            f"expected the id of a deliberation (4 characters or more) or of a task that is kept in {listed}, got "
            f"{wanted!r}; say where to look with --in"
        )
    if len(found) > 1:
        lines = "".join(f"\n  {one.trace.id}  {one.trace.protocol} in {one.source}" for one in found[:20])
        raise ReplayError(f"{wanted!r} fits {len(found)} deliberations; give more of the id, or --in FILE:{lines}")
    return found[0]


async def _replay(found: KeptTrace, config: MeshConfig, options: ReplayOptions, *, quiet: bool) -> Replayed:
    candidates = list(settings_for(found, config, options.protocol, options.reliability))
    count = PromptCounter(config.serving)
    costs = prices(config.serving)
    again = await replay_best(found.trace, candidates, costs, str(found.source), count)
    if not options.live:
        return again
    chosen = next(
        one
        for one in candidates
        if (f"{found.trace.protocol}, {one.protocol_from}", one.weights_from) == (again.protocol, again.weights)
        and one.protocol.kind == found.trace.protocol
    )
    held = await _ask_again(found, chosen, config, quiet=quiet)
    return compared(found.trace, held, chosen, str(found.source), is_live=True)


async def _ask_again(found: KeptTrace, settings: Settings, config: MeshConfig, *, quiet: bool) -> Deliberation:
    trace = found.trace
    missing = sorted({member.engine for member in trace.members} - {spec.name for spec in config.serving.engines})
    if missing:
        raise ReplayError(
            f"expected a configuration with the engines of the trace, got one without {', '.join(missing)}; give the "
            "configuration of that day with --config"
        )
    job = Job(prices=prices(config.serving), reliability=settings.reliability, desk=Repliers(trace))
    async with serving(config, None, quiet=quiet) as (fleet, _):
        for member in trace.members:
            for adapter in member.adapters:
                await fleet.load_adapter(member.engine, _adapters(found, config, adapter).get(adapter))
        try:
            return await deliberate(
                trace.task, trace.members, fleet, settings.protocol,
                seed=trace.seed, recalled=recall_of(trace), job=job,
            )  # fmt: skip
        finally:
            await job.close()


def _adapters(found: KeptTrace, config: MeshConfig, adapter: str) -> AdapterStore:
    """The first store that holds the adapter; the configured run's if none does, so that it says what is missing."""
    roots = [config.run_dir / "adapters", *(directory / "adapters" for directory in found.source.parents[:3])]
    holding = [root for root in roots if (root / adapter).is_dir()]
    return AdapterStore((holding or roots)[0])


def _show(replayed: Replayed, trace: Deliberation) -> None:
    _say(f"Deliberation {replayed.deliberation} of task {replayed.task}, from {replayed.source}")
    exact = "" if replayed.is_exact else " (the settings are like those it was held under, not proven the same)"
    _say(f"Held as: {replayed.protocol}{exact}")
    _say(f"Weights: {replayed.weights}")
    if replayed.is_live:
        _say("The engines were asked again.")
    else:
        _say(f"{replayed.num_repeated} of {replayed.num_calls} calls were given back from the trace; nobody was asked.")
        if replayed.num_repeated < replayed.num_calls and not replayed.same:
            _say("This version of the program asks otherwise than the one that held it, or the settings are others.")
    if replayed.num_estimated:
        _say(f"{replayed.num_estimated} lengths of prompts were estimated: prepare the models for exact ones.")
    answer = "no answer" if trace.verdict.answer is None else trace.verdict.answer
    what = "answer" if replayed.is_live else "verdict"
    _say(f"The same {what} came out: {_cell(answer)}" if replayed.same else f"Another {what} came out.")
    if replayed.differences:
        table = Table("what", "then", "now")
        for one in replayed.differences:
            table.add_row(*(Text(_cell(text)) for text in (one.what, one.then, one.now)))
        OUT.print(table)


def _cell(text: str) -> str:
    line = " ".join(well_formed(text).split())
    shown = "".join(character if character.isprintable() else "·" for character in line)
    return shown if len(shown) <= MAX_CELL_CHARS else f"{shown[:MAX_CELL_CHARS]}..."


def _say(line: str) -> None:
    OUT.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
