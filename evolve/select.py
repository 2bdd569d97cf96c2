"""Who is seated next: candidates compared with incumbents on DEV, the best of them put to the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from evolve.asks import proposal_asks
from evolve.audit import VOTE, Pair, table_rows
from evolve.breed import Candidate
from evolve.evaluate import Pool, member_scores, vote_scores
from evolve.gate import Arm, GateRecord, decide
from evolve.lab import Lab
from evolve.lineage import Generation, seat
from evolve.problem_types import ProblemSet
from evolve.report.data import AccuracyTable, ConstantAnswer
from evolve.report.measure import Comparison, compare
from evolve.splits import Split
from memory.types import Record
from mesh.types import Member


class Arrangement(Record):
    """A way to seat the mesh: today's seats with one or several candidates in their engines' places."""

    name: str
    seats: tuple[Member, ...]
    candidates: tuple[str, ...] = Field(description="names of the candidates that are seated")


class DevScore(Record):
    """One arrangement on DEV, beside the incumbents on the same problems."""

    arrangement: Arrangement
    vote: Comparison


class DevRecord(Record):
    """What DEV showed, and what goes to the gate because of it."""

    scores: tuple[DevScore, ...] = ()
    candidates: dict[str, Comparison] = Field(default_factory=dict, description="each candidate beside its incumbent")
    table: AccuracyTable = AccuracyTable(split="DEV")
    finalists: tuple[Arrangement, ...] = ()
    reason: str = Field(default="", description="why nothing goes to the gate; empty when something does")


class Selection(Record):
    """What came of a generation's candidates."""

    dev: DevRecord
    gate: GateRecord | None = Field(default=None, description="None: no finalist, so no gate was held")
    chosen: Arrangement | None = Field(default=None, description="None: the incumbents stay seated")
    reason: str


def arrangements(seats: Sequence[Member], candidates: Sequence[Candidate]) -> list[Arrangement]:
    """Each candidate alone in its engine's seat; then the first candidate of every engine together.

    `candidates` come best first, so the joint arrangement seats the best of each engine.
    """
    alone = [_seat_all(seats, [candidate]) for candidate in candidates]
    best = {candidate.member.engine: candidate for candidate in reversed(candidates)}
    return [*alone, _seat_all(seats, list(best.values()))] if len(best) > 1 else alone


async def compare_on_dev(
    lab: Lab,
    generation: Generation,
    candidates: Sequence[Candidate],
    problems: ProblemSet,
    constants: Mapping[str, ConstantAnswer],
) -> DevRecord:
    """Replay the vote with and without each candidate; only an arrangement that does better on DEV is a finalist."""
    if not candidates:
        return DevRecord(reason="no candidate was trained, admitted and loaded")
    items, number, settings = problems.of(Split.DEV), generation.number, lab.config.evaluation
    seats = seat(generation)
    stage = f"generation {number} dev"
    drawn = await lab.hold(
        stage,
        lab.directory / f"generation-{number}" / "dev.parquet",
        proposal_asks(
            lab.config, stage, items, [*seats, *(c.member for c in candidates)], settings.dev_samples_per_member
        ),
    )
    judged = (await lab.judge_all(stage, drawn, items)).lookup()
    pool = Pool(drawn)
    incumbent = {member.engine: member_scores(pool, member, items, judged) for member in seats}
    own = {c.member.name: member_scores(pool, c.member, items, judged) for c in candidates}
    ranked = sorted(candidates, key=lambda c: -sum(own[c.member.name]))
    base = vote_scores(pool, seats, items, judged)
    scores = [
        DevScore(arrangement=one, vote=compare(VOTE, base, vote_scores(pool, one.seats, items, judged)))
        for one in arrangements(seats, ranked)
    ]
    better = sorted((s for s in scores if _gain(s) > 0), key=lambda s: -_gain(s))[: lab.config.gate.max_finalists]
    ids = [problem.task.id for problem in items]
    methods: dict[str, Pair] = {
        f"{c.member.name} alone": (
            dict(zip(ids, incumbent[c.member.engine], strict=True)),
            dict(zip(ids, own[c.member.name], strict=True)),
        )
        for c in candidates
    }
    best = max(scores, key=_gain)
    after = vote_scores(pool, best.arrangement.seats, items, judged)
    methods[f"{VOTE}, {best.arrangement.name}"] = (
        dict(zip(ids, base, strict=True)),
        dict(zip(ids, after, strict=True)),
    )
    return DevRecord(
        scores=tuple(scores),
        candidates={
            c.member.name: compare(f"{c.member.name} alone", incumbent[c.member.engine], own[c.member.name])
            for c in candidates
        },
        table=AccuracyTable(
            split="DEV",
            rows=table_rows(items, methods, constants),
            note="Candidates were chosen by these figures, so they flatter the chosen; the gate uses other problems.",
        ),
        finalists=tuple(score.arrangement for score in better),
        reason="" if better else "no arrangement voted better than the incumbents on DEV",
    )


async def hold_gate(lab: Lab, generation: Generation, dev: DevRecord, problems: ProblemSet) -> Selection:
    """The paired test on GATE problems over fresh proposals; of those that pass, the best on DEV is chosen."""
    if not dev.finalists:
        return Selection(dev=dev, reason=f"nothing went to the gate: {dev.reason}")
    items, number = problems.of(Split.GATE), generation.number
    seats = seat(generation)
    members = list(dict.fromkeys([*seats, *(m for one in dev.finalists for m in one.seats)]))
    stage = f"generation {number} gate"
    drawn = await lab.hold(
        stage,
        lab.directory / f"generation-{number}" / "gate.parquet",
        proposal_asks(lab.config, stage, items, members, lab.config.gate.samples_per_member),
    )
    judged = (await lab.judge_all(stage, drawn, items)).lookup()
    pool = Pool(drawn)
    base = vote_scores(pool, seats, items, judged)
    types = [problem.task.type for problem in items]
    arms = [
        Arm(
            name=one.name,
            incumbent=tuple(score == 1.0 for score in base),
            candidate=tuple(score == 1.0 for score in vote_scores(pool, one.seats, items, judged)),
            task_types=tuple(types),
        )
        for one in dev.finalists
    ]
    record = decide(arms, lab.config.gate.alpha)
    passed = {result.name for result in record.results if result.passed}
    chosen = next((one for one in dev.finalists if one.name in passed), None)
    reason = f"{chosen.name} passed the gate" if chosen else "no finalist passed the gate"
    return Selection(dev=dev, gate=record, chosen=chosen, reason=reason)


def _seat_all(seats: Sequence[Member], candidates: Sequence[Candidate]) -> Arrangement:
    taking = {candidate.member.engine: candidate.member for candidate in candidates}
    names = tuple(member.name for member in taking.values())
    return Arrangement(name=" and ".join(names), seats=tuple(taking.get(m.engine, m) for m in seats), candidates=names)


def _gain(score: DevScore) -> float:
    return score.vote.difference.mean if score.vote.difference else 0.0
