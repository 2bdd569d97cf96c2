"""The only way back: what passed the gate takes its seats, and the next generation is written into the lineage."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from evolve.candidate import Candidate
from evolve.gates.aa import AARecord
from evolve.governance.approvals import settle
from evolve.governance.audit_log import AuditEvent, AuditLog
from evolve.governance.governance import Proposed, Ruling
from evolve.lab import Lab
from evolve.learning.breed import Brood
from evolve.lineage import Generation, Lineage, Specialist, successor
from evolve.run_files import GENERATIONS
from evolve.selection.select import Selection
from memory.types import content_hash
from mesh.types import Member


class PromotionWaits(RuntimeError):
    """What passed the gate waits for people; the same command goes on once they have decided."""


def lineage_of(lab: Lab) -> Lineage:
    """The lineage of this run."""
    return Lineage(lab.directory / GENERATIONS)


def enter_first(lab: Lab, generation: Generation) -> None:
    """Write generation 0 into the lineage, unless it is there. Raises LineageError: another one is."""
    lineage_of(lab).enter(generation)


async def promote(
    lab: Lab,
    generation: Generation,
    brood: Brood,
    candidates: Sequence[Candidate],
    selection: Selection,
    aa: AARecord,
) -> tuple[Generation, Ruling | None]:
    """The next generation: the chosen arrangement's seats, or the incumbents' again, with the reason said aloud.

    Where no arrangement is seated, a specialist that is shown to take away from the vote gives its seat back to its
    engine's base model. Beside one it stays, for that was shown in other company, and no gate has seen the arrangement
    without it; the next generation asks again.

    Args:
        candidates: all that took part, those of the archive included.
        aa: the A/A arms of the run up to this gate. While they raise an alarm, what passed it is refused.

    Raises:
        PromotionWaits: somebody has to approve, or a veto window is open.
        LineageError: the lineage holds another generation of that number.
    """
    lab.observer.say(f"generation {generation.number}: {selection.reason}")
    _log(lab, generation, brood, selection)
    ruling = await _ruling(lab, generation, candidates, selection, aa.objection)
    takes_seats = ruling is not None and ruling.state == "granted"
    lineage = lineage_of(lab)
    # An elite that had a seat before keeps its record, which says when it was first seated and by which gate.
    before = lineage.specialists()
    taken = selection.chosen.seats if takes_seats and selection.chosen is not None else generation.seats
    retired = {} if takes_seats else selection.retired

    async def work() -> Generation:
        promoted: list[Specialist] = []
        if takes_seats and selection.chosen is not None:
            promoted = [
                _specialist(candidate, generation, selection)
                for candidate in candidates
                if candidate.member.name in selection.chosen.candidates and candidate.member.adapter not in before
            ]
        seats = _or_bases(taken, retired)
        return successor(generation, seats, promoted, returning=before.values())

    name = f"promote-generation-{generation.number}"
    inputs = {
        "generation": generation.digest,
        "selection": selection.model_dump(mode="json"),
        "ruling": None if ruling is None else ruling.model_dump(mode="json"),
    }
    following = await lab.journal.record(name, inputs, Generation, work)
    _log_retired(lab, generation, selection, retired)
    lineage.enter(following)
    return following, ruling


async def _ruling(
    lab: Lab, generation: Generation, candidates: Sequence[Candidate], selection: Selection, objection: str
) -> Ruling | None:
    """The last word on what passed the gate; None where nothing did."""
    chosen = selection.chosen
    if chosen is None:
        return None
    adapters = {candidate.member.name: candidate.member.adapter or "" for candidate in candidates}
    proposed = Proposed(
        run=lab.config.name,
        generation=generation.number,
        arrangement=chosen.name,
        adapters=tuple(adapters[name] for name in chosen.candidates),
        gate=content_hash(selection.gate),
        reason=next((r.reason for r in selection.gate.results if r.name == chosen.name), "") if selection.gate else "",
    )

    async def work() -> Ruling:
        ruling = settle(lab.directory, proposed, lab.config.governance.promotion, now=time.time(), objection=objection)
        if ruling.state == "waiting":
            raise PromotionWaits(
                f"{chosen.name} passed the gate of generation {generation.number}, and {ruling.reason}: "
                f"`evomesh lineage {lab.directory}` shows what the gate found; `evomesh approve {lab.directory} "
                f"--content {proposed.id}` or `evomesh veto` likewise, then the same command again"
            )
        return ruling

    inputs = {"proposed": proposed, "objection": objection}
    ruling = await lab.journal.record(f"ruling-generation-{generation.number}", inputs, Ruling, work)
    if ruling.state == "refused":
        lab.observer.say(f"generation {generation.number}: {chosen.name} is not seated: {ruling.reason}")
    return ruling


def _specialist(candidate: Candidate, generation: Generation, selection: Selection) -> Specialist:
    return Specialist(
        name=candidate.member.name,
        engine=candidate.member.engine,
        family=candidate.member.family,
        adapter=candidate.member.adapter or "",
        parents=candidate.parents,
        generation=generation.number + 1,
        recipe=candidate.recipe.name,
        data_digest=candidate.data_digest,
        gate_digest=content_hash(selection.gate),
        niche=candidate.recipe.task_types,
        role=candidate.recipe.role,
    )


def _or_bases(seats: Sequence[Member], retired: Collection[str]) -> list[Member]:
    """The seats, with its engine's base model for everybody who is retired."""
    taken, found = {one.name for one in seats}, []
    for member in seats:
        if member.name in retired:
            names = (member.engine, *(f"{member.engine}-{number}" for number in range(2, len(seats) + 2)))
            name = next(one for one in names if one not in taken)
            taken.add(name)
            member = member.model_copy(update={"adapter": None, "name": name})
        found.append(member)
    return found


def _log_retired(lab: Lab, generation: Generation, selection: Selection, retired: Mapping[str, str]) -> None:
    """Who gives a seat back to the base, in the audit log."""
    AuditLog(lab.directory).add(
        AuditEvent(
            kind="retired",
            subject=member.name,
            generation=generation.number,
            adapter=member.adapter,
            by="its share of the vote on DEV",
            reason=retired[member.name],
            evidence=content_hash(selection.dev.contributions),
            at=time.time(),
        )
        for member in generation.seats
        if member.name in retired
    )


def _log(lab: Lab, generation: Generation, brood: Brood, selection: Selection) -> None:
    """What became of every job and finalist, in the run's audit log; told again, nothing changes."""
    now, number = time.time(), generation.number
    events = []
    placebos = selection.placebos
    for report in (*brood.reports, *placebos.reports):
        bad = report.status != "ok"
        reason = report.reason if bad else ""
        kind = "quarantined" if bad else "trained"
        events.append(AuditEvent(kind=kind, subject=report.recipe, generation=number, reason=reason, at=now))
    admitted = {candidate.member.name for candidate in (*brood.candidates, *placebos.candidates)}
    tried = {report.recipe: report.status for report in (*brood.reports, *placebos.reports)}
    for name, reason in (brood.refused | placebos.refused).items():
        if name not in tried:
            events.append(AuditEvent(kind="not_trained", subject=name, generation=number, reason=reason, at=now))
        elif tried[name] == "ok" and name not in admitted:
            events.append(AuditEvent(kind="refused_admission", subject=name, generation=number, reason=reason, at=now))
    for name, reason in selection.dev.stopped.items():
        events.append(AuditEvent(kind="stopped_on_dev", subject=name, generation=number, reason=reason, at=now))
    for result in selection.gate.results if selection.gate else ():
        if result.kind == "candidate":
            events.append(
                AuditEvent(
                    kind="gate_passed" if result.passed else "gate_refused",
                    subject=result.name,
                    generation=number,
                    by="gate",
                    reason=result.reason,
                    evidence=content_hash(selection.gate),
                    at=now,
                )
            )
    AuditLog(lab.directory).add(events)
