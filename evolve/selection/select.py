"""Who is seated next: chosen on DEV, put to the gate, measured again, and kept in the archive of niches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from evolve.candidate import Candidate
from evolve.gates.arrangements import Arrangement
from evolve.gates.conjunction import ConjunctionRecord
from evolve.gates.dev import DevRecord, compare_on_dev, measure_again
from evolve.gates.gate import GateRecord
from evolve.gates.gate_wear import Level
from evolve.gates.gatekeeping import CouncilTest, chosen_of, hold_gate
from evolve.gates.remeasure import Remeasured
from evolve.gates.shapley import to_retire
from evolve.lab import Lab
from evolve.learning.breed import Brood
from evolve.learning.past import Past
from evolve.learning.placebos import Placebos, breed_placebos
from evolve.lineage import Generation, seat
from evolve.problems.config import FileProblems
from evolve.problems.sealed import SplitProblems
from evolve.selection.archive import Archive, Elite, Niche, Update, bank_digest, preference, update
from evolve.training.config import Role
from evolve.training.stage import load_candidates
from memory.types import Record

PER_NICHE = 4


class Selection(Record):
    """What came of a generation's candidates."""

    dev: DevRecord
    level: Level | None = Field(default=None, description="of the gate; None: nothing was to be decided")
    conjunction: ConjunctionRecord | None = Field(default=None, description="every contest; None: no gate was held")
    gate: GateRecord | None = Field(default=None, description="the same in short; None: no gate was held")
    placebos: Placebos = Field(default=Placebos(), description="the finalists' twins")
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
    brood: Brood,
    problems: SplitProblems,
    past: Past,
    *,
    suspected: bool = False,
) -> Selection:
    """Screen, halve, gate; then measure the winner again. The archive takes in whatever was measured in full.

    Specialists of the archive without a seat are tried again beside the candidates, as many as `evaluation.max_elites`
    allows. `suspected`: A/A arms of earlier gates raised an alarm, so one rides along.
    """
    wanted = _unseated(generation, past)[: lab.config.evaluation.max_elites]
    elites, unusable = await load_candidates(lab, f"load-elites-generation-{generation.number}", wanted)
    contenders = [*brood.candidates, *elites]
    dev = await compare_on_dev(lab, generation, contenders, brood.selections, problems)
    dev = dev.model_copy(update={"stopped": unusable | dev.stopped})

    async def bred_placebos() -> Placebos:
        taught = past.taught | brood.taught
        return await breed_placebos(lab, generation.number, dev.finalists, contenders, taught, past.placebos)

    held = await hold_gate(lab, generation, dev, problems, bred_placebos, suspected=suspected)
    chosen = chosen_of(dev, held)
    again = await measure_again(lab, generation, chosen, dev, problems) if chosen else None
    # What is kept of a file for measuring winners again stays the same, so no parent may be chosen by it either.
    is_finite = isinstance(lab.config.problems, FileProblems)
    flattery = {} if chosen is None or again is None or is_finite else flattery_of(generation, chosen, dev, again)
    specialists = {member.name for member in generation.seats if member.adapter is not None}
    retired = to_retire(dev.contributions, specialists) if dev.contributions else {}
    return Selection(
        dev=dev,
        level=held.level,
        conjunction=held.record,
        gate=held.record.gate_record() if held.record else None,
        placebos=held.placebos,
        council=held.council,
        chosen=chosen,
        remeasured=again,
        archive=archived(past.archive, generation, contenders, dev, flattery, seed=lab.config.seed),
        retired=retired,
        reason=_reason(dev, chosen, held.reason, gate_was_held=held.record is not None),
    )


def flattery_of(generation: Generation, winner: Arrangement, dev: DevRecord, again: Remeasured) -> dict[str, float]:
    """Each candidate of the winner to its gain over its engine's seats on DEV, less that on fresh problems."""
    chosen_by = {one.name: sum(one.scores) / len(one.scores) for one in dev.members}
    found = {}
    for member in winner.seats:
        if member.name in winner.candidates:
            seats = [one.name for one in seat(generation) if one.engine == member.engine]
            before, after = (
                scores[member.name] - sum(scores[name] for name in seats) / len(seats)
                for scores in (chosen_by, again.alone)
            )
            found[member.name] = before - after
    return found


def archived(
    archive: Archive,
    generation: Generation,
    candidates: Sequence[Candidate],
    dev: DevRecord,
    flattery: Mapping[str, float] | None = None,
    *,
    seed: int,
) -> Update:
    """The archive with the seats and the candidates that saw all problems, each in a niche for every task type.

    Critics and synthesisers stand in niches of their own, for what councils came to with them.
    """
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
            niche=Niche(task_type=task_type, base=people[one.name].engine),
            generation=born.get(one.name, 0),
            measured=generation.number,
            bank=banks[task_type],
            scores=tuple(one.scores[index] for index in here),
            num_samples=one.num_samples,
            flattery=(flattery or {}).get(one.name, 0.0),
        )
        for one in dev.members
        for task_type, here in places.items()
    ]
    helpers, trials = _helpers(generation, candidates, dev)
    # Without councils today, or DEV problems of a family, nobody in those niches can be compared: they wait.
    idle = {elite.niche.trial: "" for elite in archive.elites}
    return update(archive, [*measured, *helpers], {**idle, **banks, **trials}, per_niche=PER_NICHE, seed=seed)


def _helpers(
    generation: Generation, candidates: Sequence[Candidate], dev: DevRecord
) -> tuple[list[Elite], dict[str, str]]:
    """What councils came to with each seated and each new critic and synthesiser; and on which problems, by niche."""
    trials = dev.trials
    if trials is None:
        return [], {}
    places: dict[str, list[int]] = {}
    for index, task_type in enumerate(trials.task_types):
        places.setdefault(task_type, []).append(index)

    def elites(name: str, engine: str, adapter: str, role: Role, born: int, right: Sequence[bool]) -> list[Elite]:
        return [
            Elite(
                name=name,
                adapter=adapter,
                niche=Niche(task_type=task_type, base=engine, role=role),
                generation=born,
                measured=generation.number,
                bank=bank_digest([trials.keys[index] for index in here]),
                scores=tuple(float(right[index]) for index in here),
                num_samples=1,
            )
            for task_type, here in places.items()
        ]

    found = []
    for s in generation.specialists:
        if s.role != "proposer":
            found += elites(s.name, s.engine, s.adapter, s.role, s.generation, trials.incumbents)
    bred = {candidate.member.name: candidate for candidate in candidates}
    for trial in trials.trials:
        c = bred[trial.arrangement.name]
        found += elites(
            c.member.name, c.member.engine, c.member.adapter or "", c.recipe.role, c.generation + 1, trial.right
        )
    return found, {elite.niche.trial: elite.bank for elite in found}


def _unseated(generation: Generation, past: Past) -> list[Candidate]:
    """Specialists of the archive without a seat, in the order in which the archive prefers them."""
    seated = {adapter for member in generation.seats for adapter in member.adapters}
    known = {candidate.member.adapter: candidate for candidate in past.elites}
    return [known[adapter] for adapter in preference(past.archive) if adapter in known and adapter not in seated]


def _reason(dev: DevRecord, chosen: Arrangement | None, why_not: str, *, gate_was_held: bool) -> str:
    if chosen is not None:
        return f"{chosen.name} passed the gate"
    if dev.finalists and gate_was_held:
        return "no finalist passed the gate"
    return f"nothing went to the gate: {why_not or dev.reason}"
