"""What `lineage`, `approve` and `veto` do: show what descends from what, and let people decide."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from evolve.commands.general import OUT, print_json
from evolve.config import ConfigError
from evolve.governance.approvals import ApprovalDesk
from evolve.governance.demoting import standing_in
from evolve.governance.governance import Proposed
from evolve.governance.model_card import model_card
from evolve.governance.rosters import generations_of
from evolve.governance.specialists import SpecialistRecord, records_of
from evolve.lineage import Generation
from memory.ledger import publish_bytes
from memory.types import Record
from mesh.types import Member


def lineage_command(run: Path, start: str | None, card: Path | None, *, as_json: bool) -> None:
    """`evomesh lineage`."""
    generations = generations_of(run)
    records = records_of(run, generations)
    if start is None:
        if card is not None:
            raise ConfigError("--card: expected the adapter whose card to write; name it after the run")
        if as_json:
            proposals = [one.model_dump(mode="json") for one in proposals_of(run)]
            print_json({**_as_data(generations, records), "proposals": proposals})
            return
        for line in (*tree_lines(generations, records), *_proposal_lines(run)):
            _say(line)
        return
    record = _found(records, start)
    standing = standing_in(run, record.specialist)
    live = None if standing is None else standing.live
    text = model_card(record, live=live)
    if card is not None:
        publish_bytes(card, text.encode())
    if as_json:
        told = None if live is None else live.model_dump(mode="json")
        print_json({**record.model_dump(mode="json"), "status": record.status, "live": told})
    elif card is None:
        _say(text)
    else:
        _say(f"The card of {record.specialist.name} is in {card}")


def decide_command(
    run: Path, proposal: str | None, verdict: Literal["approved", "vetoed"], by: str | None, note: str,
    content: str | None, *, as_json: bool,
) -> None:  # fmt: skip
    """`evomesh approve` and `evomesh veto`."""
    if not run.is_dir():
        raise ConfigError(f"{run}: expected the directory of a run, found none")
    name = getpass.getuser() if by is None else by
    filed = ApprovalDesk(run).decide(proposal, verdict, by=name, at=time.time(), note=note, content=content)
    if as_json:
        print_json({"proposal": filed.proposed.model_dump(mode="json"), "verdict": verdict, "by": name})
        return
    _say(f"{filed.proposed.arrangement} (proposal {filed.proposed.id}) is {verdict} by {name}.")
    _say("A run that waits goes on with the same `evomesh evolve` command.")


class ProposalShown(Record):
    """What people were or are asked to agree to."""

    id: str
    proposed: Proposed
    said: dict[str, str] = Field(description="last word of everybody who spoke, by name")


def proposals_of(run: Path) -> list[ProposalShown]:
    """All of them, oldest first."""
    desk = ApprovalDesk(run)
    decisions = desk.decisions()
    return [
        ProposalShown(
            id=filed.proposed.id,
            proposed=filed.proposed,
            said={one.by: one.verdict for one in decisions if one.proposal == filed.proposed.content},
        )
        for filed in desk.all()
    ]


def _proposal_lines(run: Path) -> Iterator[str]:
    for one in proposals_of(run):
        told = ", ".join(f"{verdict} by {by}" for by, verdict in one.said.items()) or "nobody has said anything yet"
        yield f"proposal {one.id}, bred in generation {one.proposed.generation}: {one.proposed.arrangement}: {told}"
        yield f"   {one.proposed.reason}"


def tree_lines(generations: tuple[Generation, ...], records: tuple[SpecialistRecord, ...]) -> list[str]:
    """The family tree: base models, and below each what descends from it, then who sits in every generation."""
    by_adapter = {record.specialist.adapter: record for record in records}
    children: dict[str, list[SpecialistRecord]] = {}
    roots: dict[str, list[SpecialistRecord]] = {}
    for record in records:
        # Below its nearest relative on the same engine; learned from others', it stands below its own base model.
        own = [p for p in record.specialist.parents if _engine(by_adapter, p) == record.specialist.engine]
        if own:
            children.setdefault(own[0], []).append(record)
        else:
            roots.setdefault(record.specialist.engine, []).append(record)
    lines = []
    for engine in dict.fromkeys(member.engine for member in generations[0].seats):
        lines.append(f"{engine} (base model)")
        lines += _below(roots.get(engine, []), children, "")
    lines.append("")
    for generation in generations:
        seats = ", ".join(map(_seat, generation.seats))
        lines.append(f"generation {generation.number}: {seats}")
    return lines


def _seat(member: Member) -> str:
    adapter = "" if member.adapter is None else f" [{member.adapter[:8]}]"
    helpers = "".join(f" with {work} [{one[:8]}]" for work, one in member.phase_adapters)
    return f"{member.name}{adapter}{helpers}"


def _below(records: list[SpecialistRecord], children: dict[str, list[SpecialistRecord]], indent: str) -> list[str]:
    lines = []
    for place, record in enumerate(records):
        is_last = place == len(records) - 1
        lines.append(f"{indent}{'└─' if is_last else '├─'} {_told(record)}")
        further = f"{indent}{'   ' if is_last else '│  '}"
        lines += _below(children.get(record.specialist.adapter, []), children, further)
    return lines


def _told(record: SpecialistRecord) -> str:
    specialist, gate = record.specialist, record.gate
    won = "gate not kept" if gate is None else f"gate {gate.wins}:{gate.losses} of {gate.n}"
    niche = f", for {', '.join(specialist.niche)}" if specialist.niche else ""
    niche = niche if specialist.role == "proposer" else f", {specialist.role}{niche}"
    return (
        f"{specialist.name} [{specialist.adapter[:8]}] generation {specialist.generation}{niche}, "
        f"{record.num_rows} rows, {won}, {record.status}"
    )


def _engine(records: dict[str, SpecialistRecord], adapter: str) -> str | None:
    found = records.get(adapter)
    return None if found is None else found.specialist.engine


def _found(records: tuple[SpecialistRecord, ...], start: str) -> SpecialistRecord:
    """The specialist of this name, or whose adapter begins so. Raises ConfigError if it is none, or several."""
    named = [one for one in records if one.specialist.name == start]
    found = named or [one for one in records if start and one.specialist.adapter.startswith(start)]
    if len(found) != 1:
        known = ", ".join(f"{one.specialist.name} [{one.specialist.adapter[:8]}]" for one in records) or "none"
        raise ConfigError(f"expected one specialist that was seated in this run ({known}), got {start!r}")
    return found[0]


def _as_data(generations: tuple[Generation, ...], records: tuple[SpecialistRecord, ...]) -> dict[str, object]:
    return {
        "generations": [generation.model_dump(mode="json") for generation in generations],
        "specialists": [{**record.model_dump(mode="json"), "status": record.status} for record in records],
    }


def _say(text: str) -> None:
    OUT.print(text, markup=False, highlight=False, soft_wrap=True)
