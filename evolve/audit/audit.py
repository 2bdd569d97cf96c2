"""The sealed report: every generation on the same AUDIT problems, from proposals nobody has chosen anything by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from pydantic import Field

from evolve.asks import first_of_each_type
from evolve.audit import internalise
from evolve.audit.audited import (
    AuditedRoster,
    AuditItems,
    FirstOf,
    Line,
    NamedGain,
    RosterAsk,
    Scores,
    cluster_labels,
    gains,
    gains_by_type,
    lines_of,
    vote_beside_rivals,
)
from evolve.audit.councils import hold_audit_councils, with_councils
from evolve.audit.draws import Measured, measure_rosters
from evolve.audit.failed import FailedCalls, failed_calls_of
from evolve.audit.internalise import Learned
from evolve.audit.novelty import Internalisation, internalised
from evolve.audit.probe import Probe, Solved, probe_audit
from evolve.audit.probe_alone import Asking
from evolve.audit.tables import before_and_after
from evolve.audit.tuning import Tuned
from evolve.audit.verdict import NoveltyVerdict, novelty_or_noise
from evolve.audit.vitals import SeatHealth, seat_health
from evolve.audit.wording import right_texts, vectors_of
from evolve.config import MAX_SEATS
from evolve.evaluate import Judgements, Pool, Precedence
from evolve.gates.shapley import Contributions, ballot_box, contributions
from evolve.harvest import Harvest
from evolve.lab import Lab
from evolve.lineage import Generation, seat
from evolve.problems.permits import AuditPermit
from evolve.problems.sealed import Asked, SealedProblem, SplitProblems
from evolve.problems.splits import Split
from evolve.report.data import AccuracyTable, ConstantAnswer
from evolve.selection.diversity import Diversity, describe
from evolve.ties import by_reliability
from memory.embed import Embedder
from memory.ledger import publish_json
from memory.types import Record
from mesh.reliability import judged_answers, seat_key
from mesh.types import Deliberation, Member

SCORES = "audit/scores.json"
"""Where in the run's directory `AuditScores` is published."""

Numbered = tuple[int, tuple[Member, ...]]
"""A generation's number and its seats."""


class Lived(internalise.Round, Protocol):
    """What the audit reads of a round."""

    @property
    def harvest(self) -> Harvest:
        """What it said on TRAIN."""
        ...


class AuditScores(Record):
    """What AUDIT found, problem by problem, without a text or a key."""

    items: AuditItems
    constant: Scores = Field(description="of the best constant answer of each type, found on TRAIN and DEV")
    rosters: tuple[AuditedRoster, ...] = Field(description="'generation N', in order; equal seats have equal scores")
    tuned: tuple[Tuned, ...] = Field(description="what DEV said of every member before AUDIT was asked")


class GenerationDiversity(Record):
    """How unlike one generation's seats are."""

    generation: int
    source: Literal["audit", "harvest"]
    diversity: Diversity


class GenerationShares(Record):
    """What each seat of one generation adds to its vote on AUDIT."""

    generation: int
    contributions: Contributions


class Audit(Record):
    """All that is reported of a run's generations, and the councils it was measured with."""

    table: AccuracyTable = Field(description="generation 0 and the last one, as one table")
    before: tuple[Deliberation, ...] = Field(description="AUDIT councils of generation 0")
    after: tuple[Deliberation, ...] = Field(description="AUDIT councils of the last; empty: the seats did not change")
    judged: Judgements
    scores: AuditScores
    lines: tuple[Line, ...] = Field(description="the table by generation")
    gains: tuple[NamedGain, ...] = Field(description="the last generation beside generation 0; the vote is primary")
    gains_by_type: tuple[NamedGain, ...] = ()
    rivals: tuple[NamedGain, ...] = Field(default=(), description="the last vote beside its own rivals")
    diversity: tuple[GenerationDiversity, ...] = ()
    shares: tuple[GenerationShares, ...] = ()
    health: tuple[SeatHealth, ...] = Field(default=(), description="collapse alarms and what they rest on")
    learned: tuple[Learned, ...] = Field(default=(), description="tasks only the mesh solved, alone before and after")
    internalised: tuple[Internalisation, ...] = ()
    probes: tuple[Probe, ...] = Field(default=(), description="what only the mesh solved of AUDIT")
    novelty: NoveltyVerdict
    failed: tuple[FailedCalls, ...] = Field(default=(), description="members whose calls failed; they count as wrong")


class _Constant(Record):
    scores: Scores


async def audit(
    lab: Lab,
    rounds: Sequence[Lived],
    last: Generation,
    problems: SplitProblems,
    constants: Mapping[str, ConstantAnswer],
) -> Audit:
    """Measure every generation's seats on the same AUDIT problems, and say what came of the run.

    Args:
        rounds: all of them, generation 0's first; at least one.
        last: the generation after the last round.
        problems: generation 0's, which hold the run's AUDIT problems.
        constants: best constant answers by task type, as the survey found them.
    """
    numbered = [(g.number, tuple(seat(g))) for g in (*(one.generation for one in rounds), last)]
    samples, seed = lab.config.evaluation.audit_samples_per_member, lab.config.seed
    items = problems.of(Split.AUDIT)
    measured = await measure_rosters(lab, "audit", _rosters(numbered, samples), items, problems.of(Split.DEV), _judge)
    some = first_of_each_type(items, lab.config.evaluation.audit_councils_per_type)
    first_seats, last_seats = numbered[0][1], numbered[-1][1]
    councils = await hold_audit_councils(lab, some, first_seats, last_seats, measured.tuned)
    talked = await _judge(lab, "audit councils", [one for group in councils.values() for one in group], items)
    judged = Judgements(outcomes=(*measured.judged.outcomes, *talked.outcomes))
    right, pool = judged.lookup(), Pool(measured.drawn)
    scores = AuditScores(
        items=_items(problems),
        constant=await _constant_scores(lab, items, constants),
        rosters=with_councils(measured.rosters, councils, right),
        tuned=tuple(measured.tuned.values()),
    )
    publish_json(lab.directory / SCORES, scores)
    sat = {"before": numbered[0][0], "after": numbered[-1][0]}
    probes = await _probed(
        lab, {sat[label]: group for label, group in councils.items()}, measured, items, scores, right
    )
    learned = [
        *await internalise.try_train_tasks(lab, rounds, last),
        *await internalise.try_audit_tasks(
            lab, first_seats, last_seats, probes[0].known, items, scores.items.clusters, _judge
        ),
    ]
    taken_in = internalised([one.solo for one in learned])
    compared = gains(scores.rosters[0], scores.rosters[-1], scores.items, seed=seed)
    encoder = None if lab.memory is None else lab.memory.embedder
    health = seat_health(numbered, pool, items, right, samples, scores.items.clusters)
    return Audit(
        table=before_and_after(
            scores.rosters[0], scores.rosters[-1], scores.items, constants, scores.constant, seed=seed
        ),
        before=tuple(councils["before"]),
        after=tuple(councils.get("after", ())),
        judged=judged,
        scores=scores,
        lines=_lines(numbered, scores),
        gains=compared,
        gains_by_type=gains_by_type(scores.rosters[0], scores.rosters[-1], scores.items, seed=seed),
        rivals=vote_beside_rivals(scores.rosters[-1], scores.constant, scores.items, seed=seed),
        diversity=(
            *_harvested_diversity(rounds, encoder, seed),
            *_audited_diversity(numbered, measured, encoder, seed),
        ),
        shares=_shares(numbered, scores, pool, items, right, by_reliability(measured.reliability, seat_key)),
        health=health,
        learned=tuple(learned),
        internalised=taken_in,
        probes=tuple(probes),
        novelty=novelty_or_noise(
            [probe.report for probe in (*(one.probe for one in rounds), *probes) if probe is not None],
            taken_in,
            compared,
            [one.health for one in health],
        ),
        failed=failed_calls_of([*measured.drawn, *(one for group in councils.values() for one in group)]),
    )


async def audit_rosters(
    lab: Lab, stage: str, rosters: Sequence[RosterAsk], problems: SplitProblems
) -> tuple[AuditedRoster, ...]:
    """Any rosters on a run's AUDIT problems, in their best ways on DEV, as the run's own generations are.

    Each distinct member is drawn once and replayed. `stage` names the journal's steps and the files, and the draws'
    seeds follow from it: with "audit", in a lab of its own with the run's seed, they are those of the run's own audit.

    Raises:
        ValueError: two different members have one name, in one roster or in two.
    """
    items, dev = problems.of(Split.AUDIT), problems.of(Split.DEV)
    return (await measure_rosters(lab, stage, rosters, items, dev, _judge)).rosters


async def _probed(
    lab: Lab,
    councils: Mapping[int, Sequence[Deliberation]],
    measured: Measured,
    items: Sequence[Asked],
    scores: AuditScores,
    right: Mapping[tuple[str, str], bool],
) -> list[Probe]:
    """What only the mesh solved, of the councils of each of these generations."""
    asking = Asking({name: one.sampled.way for name, one in measured.tuned.items()}, _judge)
    by_id, pool = {problem.task.id: problem for problem in items}, Pool(measured.drawn)
    return [
        await probe_audit(lab, number, Solved(group, by_id, scores.items.clusters, pool, right), asking)
        for number, group in councils.items()
    ]


async def _judge(lab: Lab, stage: str, deliberations: Sequence[Deliberation], problems: Sequence[Asked]) -> Judgements:
    """What the judge says of answers to AUDIT problems; nothing else in a run may ask."""
    return await lab.judge_all(stage, deliberations, problems, AuditPermit(stage))


def _rosters(numbered: Sequence[Numbered], samples: int) -> list[RosterAsk]:
    """Every generation at generation 0's number of votes, also where a seat was freed."""
    ballots = samples * len(numbered[0][1])
    return [
        RosterAsk(name=f"generation {number}", members=seats, samples_each=samples, ballots=ballots)
        for number, seats in numbered
    ]


def _items(problems: SplitProblems) -> AuditItems:
    items = problems.of(Split.AUDIT)
    clusters = {problem.task.id: problems.cluster_of(problem) for problem in items}
    return AuditItems(types={p.task.id: p.task.type for p in items}, clusters=cluster_labels(clusters))


async def _constant_scores(lab: Lab, items: Sequence[SealedProblem], constants: Mapping[str, ConstantAnswer]) -> Scores:
    """What each type's best constant answer scores on AUDIT."""
    answers = {task_type: constant.answer for task_type, constant in constants.items() if task_type}

    async def work() -> _Constant:
        permit = AuditPermit("audit constants")
        known = [problem for problem in items if problem.task.type in answers]
        pairs = [(problem, answers[problem.task.type]) for problem in known]
        await lab.consult("audit constants", pairs, permit=permit)
        said = [lab.judge.judge_sealed(problem, answer, permit) for problem, answer in pairs]
        return _Constant(scores={outcome.task_id: float(outcome.correct) for outcome in said})

    inputs = {"answers": answers, "problems": [problem.key for problem in items]}
    return (await lab.journal.record("audit-constants", inputs, _Constant, work)).scores


def _lines(numbered: Sequence[Numbered], scores: AuditScores) -> tuple[Line, ...]:
    return tuple(
        line
        for (number, _), roster in zip(numbered, scores.rosters, strict=True)
        for line in lines_of(number, roster, scores.constant, scores.items)
    )


def _harvested_diversity(rounds: Sequence[Lived], encoder: Embedder | None, seed: int) -> list[GenerationDiversity]:
    found = []
    for one in rounds:
        right = one.harvest.judged.lookup()
        answers = judged_answers(one.harvest.proposals, right)
        vectors = vectors_of(right_texts(one.harvest.proposals, right), encoder)
        diversity = describe(answers, vectors=vectors, seed=seed)
        found.append(GenerationDiversity(generation=one.generation.number, source="harvest", diversity=diversity))
    return found


def _audited_diversity(
    numbered: Sequence[Numbered], measured: Measured, encoder: Embedder | None, seed: int
) -> list[GenerationDiversity]:
    right = measured.judged.lookup()
    found = []
    for number, seats in numbered:
        proposers = [member.at("propose") for member in seats]
        mine = [trace for trace in measured.drawn if trace.members[0] in proposers]
        vectors = vectors_of(right_texts(mine, right), encoder)
        diversity = describe(judged_answers(mine, right), vectors=vectors, seed=seed)
        found.append(GenerationDiversity(generation=number, source="audit", diversity=diversity))
    return found


def _shares(
    numbered: Sequence[Numbered],
    scores: AuditScores,
    pool: Pool,
    items: Sequence[Asked],
    right: Mapping[tuple[str, str], bool],
    ties: Precedence,
) -> tuple[GenerationShares, ...]:
    """Exact Shapley values of every generation's vote; none where there are too many seats, or no problems."""
    clusters = [scores.items.clusters[problem.task.id] for problem in items]
    found = []
    for (number, seats), ask in zip(numbered, scores.rosters, strict=True):
        if len(seats) <= MAX_SEATS and items:
            counts = RosterAsk(name=ask.name, members=seats, samples_each=ask.samples_each, ballots=ask.ballots).shares
            box = ballot_box(FirstOf(pool, counts), seats, items, right, ties)
            found.append(GenerationShares(generation=number, contributions=contributions(box, clusters)))
    return tuple(found)
