"""One run, read from top to bottom: deliberate, judge, learn, compare, gate, seat, and at the end report."""

from __future__ import annotations

from evolve.audit import Audit, audit
from evolve.breed import Brood, breed
from evolve.evaluate import Judgements
from evolve.harvest import Harvest, gather, last_councils
from evolve.lab import Lab
from evolve.lineage import Generation, founders
from evolve.problem_types import ProblemSet
from evolve.promote import enter_first, promote
from evolve.seats import base_seats
from evolve.select import Selection, compare_on_dev, hold_gate
from evolve.survey import Survey, survey
from memory.types import Record
from mesh.types import Deliberation


class Round(Record):
    """One generation: what it said, what was bred from it, and what was chosen of that."""

    generation: Generation
    harvest: Harvest
    brood: Brood
    selection: Selection


class Run(Record):
    """A finished run; everything the report shows is derived from it."""

    problems: ProblemSet
    survey: Survey
    rounds: tuple[Round, ...]
    last: Generation
    last_councils: tuple[Deliberation, ...]
    last_judged: Judgements
    audit: Audit


async def evolve(lab: Lab) -> Run:
    """The whole run. Every step that was accepted before is read back instead of repeated."""
    problems = await lab.draw_problems()
    surveyed = await survey(lab, problems)
    generation = founders(base_seats(lab.config))
    enter_first(lab, generation)
    rounds = []
    for _ in range(lab.config.num_generations):
        harvest = await gather(lab, generation, problems)
        brood = await breed(lab, generation, harvest, problems)
        dev = await compare_on_dev(lab, generation, brood.candidates, problems, surveyed.constants)
        selection = await hold_gate(lab, generation, dev, problems)
        rounds.append(Round(generation=generation, harvest=harvest, brood=brood, selection=selection))
        generation = await promote(lab, generation, brood, selection)
    councils, judged = await last_councils(lab, generation, problems)
    audited = await audit(lab, rounds[0].generation, generation, problems, surveyed.constants)
    return Run(
        problems=problems,
        survey=surveyed,
        rounds=tuple(rounds),
        last=generation,
        last_councils=tuple(councils),
        last_judged=judged,
        audit=audited,
    )
