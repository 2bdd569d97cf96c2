"""One run, read from top to bottom: deliberate, judge, learn, compare, gate, seat, and at the end report."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic import Field

from evolve.audit.audit import Audit, audit
from evolve.audit.contamination import Contamination
from evolve.audit.exposure import check_contamination
from evolve.audit.probe import Probe, probe_emergence
from evolve.candidate import Candidate
from evolve.evaluate import Judgements
from evolve.gates.aa import AARecord, aa_record
from evolve.gates.dev import head_start
from evolve.governance.governance import Ruling
from evolve.governance.promote import enter_first, promote
from evolve.harvest import Harvest, gather, last_councils
from evolve.judging.survey import Survey, survey
from evolve.lab import Lab
from evolve.learning.breed import Brood, breed
from evolve.learning.past import Past
from evolve.lineage import Generation, founders
from evolve.planning.spending import Purse
from evolve.problems.config import FileProblems
from evolve.problems.curriculum import LevelStep
from evolve.problems.sealed import SplitProblems
from evolve.seats import base_seats
from evolve.selection.inherit import elites_of, inherited, level_steps, nothing_yet
from evolve.selection.select import Selection, select
from evolve.training.job import TrainingReport
from evolve.training.stage import ranks_of
from memory.types import Record
from mesh.types import Deliberation


class Round(Record):
    """One generation: what it said, what was bred from it, and what was chosen of that."""

    generation: Generation
    problems: SplitProblems = Field(description="what it was asked, chosen and gated on")
    harvest: Harvest
    probe: Probe
    brood: Brood
    selection: Selection
    ruling: Ruling | None = Field(default=None, description="the last word on what passed the gate; None: nothing did")
    levels: tuple[LevelStep, ...] = Field(default=(), description="where its TRAIN problems move next")

    @property
    def reports(self) -> tuple[TrainingReport, ...]:
        """Of every training job, those of placebos last."""
        return (*self.brood.reports, *self.selection.placebos.reports)

    @property
    def trained(self) -> tuple[Candidate, ...]:
        """Every adapter that was admitted, placebos last."""
        return (*self.brood.candidates, *self.selection.placebos.candidates)


class Run(Record):
    """A finished run; everything the report shows is derived from it."""

    problems: SplitProblems = Field(description="of generation 0, and AUDIT")
    survey: Survey
    rounds: tuple[Round, ...] = Field(min_length=1)
    last: Generation
    last_councils: tuple[Deliberation, ...]
    last_judged: Judgements
    audit: Audit
    contamination: Contamination
    stopped: str = Field(default="", description="why there are fewer generations than asked for; empty: there are not")


async def evolve(lab: Lab, on_round: Callable[[Round], None] = lambda _: None) -> Run:
    """The whole run. Every step that was accepted before is read back instead of repeated.

    Its budget is asked before every generation but the first: whoever starts a run asks `check_budget` for that. A
    generation for which the families have nothing left to ask, choose or gate on is not begun either.
    `on_round` hears of every generation that has ended, those read back included.

    Raises:
        PromotionWaits: what passed a gate waits for people; the same call goes on once they have decided.
    """
    problems = await lab.draw_problems()
    surveyed = await survey(lab, problems)
    generation = founders(base_seats(lab.config))
    enter_first(lab, generation)
    past, purse = nothing_yet(problems, lab.config), Purse(lab, problems)
    rounds: list[Round] = []
    stopped = ""
    for number in range(lab.config.num_generations):
        if rounds:
            stopped = await purse.objection([sum(job.flops for job in one.reports) for one in rounds])
        today = problems if stopped else await _todays(lab, number, problems, past)
        stopped = stopped or (today.nothing_left if today is not problems else "")
        if stopped:
            lab.observer.say(f"generation {number} is not begun: {stopped}")
            break
        this = await _round(lab, generation, today, past, suspected=aa_so_far(rounds).is_alarm)
        aa = aa_so_far([*rounds, this])
        generation, ruling = await promote(lab, generation, this.brood, _everybody(this, past), this.selection, aa)
        levels = level_steps(past, today, this.harvest, lab.config)
        rounds.append(this.model_copy(update={"ruling": ruling, "levels": levels}))
        on_round(rounds[-1])
        elites = elites_of(past, this.brood, this.selection, generation)
        ranks = await ranks_of(lab, f"ranks-generation-{number}", elites, generation)
        past = inherited(past, today, this.harvest, this.brood, this.selection, generation, lab.config, ranks)
    councils, judged = await last_councils(lab, generation, rounds[-1].problems)
    audited = await audit(lab, rounds, generation, problems, surveyed.constants)
    held = [*(council for one in rounds for council in one.harvest.councils), *councils]
    exposed = await check_contamination(lab, past.rows, past.pairs, held, [problems, *(one.problems for one in rounds)])
    return Run(
        problems=problems,
        survey=surveyed,
        rounds=tuple(rounds),
        last=generation,
        last_councils=tuple(councils),
        last_judged=judged,
        audit=audited,
        contamination=exposed,
        stopped=stopped,
    )


async def _round(lab: Lab, generation: Generation, problems: SplitProblems, past: Past, *, suspected: bool) -> Round:
    harvest = await gather(lab, generation, problems)
    probe = await probe_emergence(lab, generation, harvest, problems)
    ahead = head_start(lab, generation, problems) if lab.config.workers.overlap else None
    brood = await breed(lab, generation, harvest, problems, past, ahead=ahead)
    selection = await select(lab, generation, brood, problems, past, suspected=suspected)
    lab.forget_ahead()
    return Round(
        generation=generation, problems=problems, harvest=harvest, probe=probe, brood=brood, selection=selection
    )


def aa_so_far(rounds: Iterable[Round]) -> AARecord:
    """What the A/A arms of these rounds say of the gate."""
    held = (one.selection.conjunction for one in rounds)
    return aa_record(record for record in held if record is not None)


async def _todays(lab: Lab, number: int, problems: SplitProblems, past: Past) -> SplitProblems:
    """Fresh problems for every generation; a user's file has no others, and harvests take its TRAIN slice by slice."""
    if number == 0 or isinstance(lab.config.problems, FileProblems):
        return problems
    return await lab.draw_generation(number, past.seen_keys, past.levels)


def _everybody(this: Round, past: Past) -> tuple[Candidate, ...]:
    """Whoever may have passed the gate: this generation's candidates, and specialists of the archive."""
    return (*this.brood.candidates, *past.elites)
