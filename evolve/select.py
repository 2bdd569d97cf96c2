"""Who is seated next: chosen on DEV, put to the gate, measured again, and kept in the archive of niches."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from evolve.archive import Archive, Elite, Niche, Update, bank_digest, update
from evolve.arrangements import Arrangement
from evolve.candidate import Candidate
from evolve.conjunction import ConjunctionRecord
from evolve.dev import DevRecord, compare_on_dev, measure_again
from evolve.gate import GateRecord
from evolve.gate_wear import Level
from evolve.gatekeeping import CouncilTest, chosen_of, hold_gate
from evolve.lab import Lab
from evolve.lineage import Generation, seat
from evolve.past import Past
from evolve.recipes import RowSelection
from evolve.remeasure import Remeasured
from evolve.sealed import SplitProblems
from evolve.shapley import to_retire
from memory.types import Record

PER_NICHE = 4


class Selection(Record):
    """What came of a generation's candidates."""

    dev: DevRecord
    level: Level | None = Field(default=None, description="of the gate; None: nothing was to be decided")
    conjunction: ConjunctionRecord | None = Field(default=None, description="every contest; None: no gate was held")
    gate: GateRecord | None = Field(default=None, description="the same in short; None: no gate was held")
    council: CouncilTest | None = Field(default=None, description="councils of the best finalist; decided nothing")
    chosen: Arrangement | None = Field(default=None, description="None: the incumbents stay seated")
    remeasured: Remeasured | None = Field(default=None, description="the chosen on fresh problems")
    archive: Update = Field(description="the archive of niches with this generation's measurements")
    retired: dict[str, str] = Field(
        default_factory=dict, description="specialists that are shown to take away from the vote, with the figures"
    )
    reason: str


async def select(
    lab: Lab,
    generation: Generation,
    candidates: Sequence[Candidate],
    selections: dict[str, RowSelection],
    problems: SplitProblems,
    past: Past,
) -> Selection:
    """Screen, halve, gate; then measure the winner again. The archive takes in whatever was measured in full.

    `candidates` are this generation's; specialists of the archive without a seat are tried again beside them, as many
    as `evaluation.max_elites` allows.
    """
    elites = _unseated(generation, past)[: lab.config.evaluation.max_elites]
    contenders = [*candidates, *elites]
    await lab.load_adapters(candidate.member for candidate in contenders)
    dev = await compare_on_dev(lab, generation, contenders, selections, problems)
    held = await hold_gate(lab, generation, dev, contenders, problems)
    chosen = chosen_of(dev, held)
    again = await measure_again(lab, generation, chosen, dev, problems) if chosen else None
    specialists = {member.name for member in generation.seats if member.adapter is not None}
    harmful = to_retire(dev.contributions) if dev.contributions else {}
    return Selection(
        dev=dev,
        level=held.level,
        conjunction=held.record,
        gate=held.record.gate_record() if held.record else None,
        council=held.council,
        chosen=chosen,
        remeasured=again,
        archive=archived(past.archive, generation, contenders, dev, seed=lab.config.seed),
        retired={name: reason for name, reason in harmful.items() if name in specialists},
        reason=_reason(dev, chosen, held.reason, gate_was_held=held.record is not None),
    )


def archived(
    archive: Archive, generation: Generation, candidates: Sequence[Candidate], dev: DevRecord, *, seed: int
) -> Update:
    """The archive with the seats and the candidates that saw all problems, each in a niche for every task type."""
    bred = {candidate.member.name: candidate for candidate in candidates}
    people = {member.name: member for member in (*seat(generation), *(c.member for c in candidates))}
    born = {s.name: s.generation for s in generation.specialists} | {n: c.generation + 1 for n, c in bred.items()}
    places = {
        task_type: [index for index, name in enumerate(dev.task_types) if name == task_type]
        for task_type in dict.fromkeys(dev.task_types)
    }
    banks = {task_type: bank_digest([dev.keys[index] for index in here]) for task_type, here in places.items()}
    measured = [
        Elite(
            name=one.name,
            adapter=people[one.name].adapter,
            niche=Niche(
                task_type=task_type,
                base=people[one.name].engine,
                role=bred[one.name].recipe.role if one.name in bred else "proposer",
            ),
            generation=born.get(one.name, 0),
            bank=banks[task_type],
            scores=tuple(one.scores[index] for index in here),
            num_samples=one.num_samples,
        )
        for one in dev.members
        for task_type, here in places.items()
    ]
    return update(archive, measured, banks, per_niche=PER_NICHE, seed=seed)


def _unseated(generation: Generation, past: Past) -> list[Candidate]:
    """Specialists of the archive without a seat, the most accurate in any niche first."""
    seated = {member.adapter for member in generation.seats}
    best: dict[str, float] = {}
    for elite in past.archive.elites:
        if elite.adapter is not None and elite.adapter not in seated:
            best[elite.adapter] = max(best.get(elite.adapter, 0.0), elite.accuracy)
    known = {candidate.member.adapter: candidate for candidate in past.elites}
    order = sorted(best, key=lambda adapter: (-best[adapter], adapter))
    return [known[adapter] for adapter in order if adapter in known]


def _reason(dev: DevRecord, chosen: Arrangement | None, why_not: str, *, gate_was_held: bool) -> str:
    if chosen is not None:
        return f"{chosen.name} passed the gate"
    if dev.finalists and gate_was_held:
        return "no finalist passed the gate"
    return f"nothing went to the gate: {why_not or dev.reason}"
