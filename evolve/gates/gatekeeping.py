"""The gate of a generation: finalists and controls against their rivals, on problems nobody learned or chose by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from evolve.asks import first_of_each_type, proposal_asks
from evolve.evaluate import Pool, Precedence
from evolve.gates.aa import aa_is_due
from evolve.gates.arrangements import Arrangement, Endpoint, weakest_places
from evolve.gates.conjunction import ConjunctionRecord, Contest, Rival, RivalKind, hold
from evolve.gates.council_trials import Councils
from evolve.gates.dev import DevRecord, measure_twins
from evolve.gates.gate import ArmKind
from evolve.gates.gate_wear import (
    GateWear,
    Holding,
    Level,
    WearLedger,
    holding,
    level_after,
    run_of,
    wear_of,
    wear_path,
)
from evolve.gates.paired import PairedTest, paired_test
from evolve.gates.rivals import Seats, aa_seats, again, best_incumbent, contest_of, members_of, rival_seats
from evolve.gates.roles import council_rivals, helping
from evolve.gates.unanswered import LeftOut, Unanswered, left_out, unanswered
from evolve.identity import identity_of
from evolve.judging.panel_asking import gate_refusal
from evolve.judging.unchecked import GATE_LIMIT, all_unchecked
from evolve.lab import Lab
from evolve.learning.placebos import Placebos
from evolve.lineage import Generation, seat
from evolve.problems.config import FileProblems
from evolve.problems.permits import GatePermit
from evolve.problems.sealed import Asked, SealedProblem, SplitProblems
from evolve.problems.splits import Split
from evolve.ties import by_reliability
from memory.types import Record
from mesh.seeds import derive_seed
from mesh.types import Member


class CouncilTest(Record):
    """Full councils of today's seats and of an arrangement on the same GATE problems: told, and deciding nothing."""

    name: str
    test: PairedTest
    num_left_out: int = Field(default=0, description="problems that are not in it, since calls about them failed")

    @property
    def sentence(self) -> str:
        """For people."""
        low, high = 100 * self.test.difference.low, 100 * self.test.difference.high
        rest = f"; {self.num_left_out} more left out, since calls failed" if self.num_left_out else ""
        return (
            f"{self.name} in full councils: {self.test.wins} problems won and {self.test.losses} lost of {self.test.n} "
            f"({100 * self.test.gain:+.1f} points [{low:+.1f}, {high:+.1f}]{rest})"
        )


class GateHeld(Record):
    """What came of a generation's gate: the level it was held at, and every contest with its numbers."""

    level: Level
    record: ConjunctionRecord | None = None
    """None: it was not held; `reason` says why."""
    reason: str = ""
    council: CouncilTest | None = None
    """None: no councils were asked for, or there was no finalist."""
    placebos: Placebos = Placebos()


async def hold_gate(
    lab: Lab,
    generation: Generation,
    dev: DevRecord,
    problems: SplitProblems,
    bred_placebos: Callable[[], Awaitable[Placebos]],
    *,
    suspected: bool = False,
) -> GateHeld:
    """Fresh votes of every finalist, its rivals and the controls on GATE problems, at a level that wear leaves.

    Critics and synthesisers are held to the verdicts of full councils instead. Without a finalist it is held for the
    controls alone, in generations in which an A/A arm is due: as configured, and in all in which the gate is
    `suspected` because earlier A/A arms raised an alarm. `bred_placebos` trains the finalists' twins; it is called
    when it is certain that the gate is held and that they take part. Problems about which calls of any side failed are
    left out of a contest; where they are too many, the gate decides nothing.
    """
    items, number, settings = problems.of(Split.GATE), generation.number, lab.config.gate
    if refusal := await gate_refusal(lab):
        untouched = GateWear(num_items=len(items), num_used=0, num_holdings=0, num_tests=0)
        level = Level(alpha=None, wear=untouched, reason=refusal)
        return GateHeld(level=level, reason=f"no gate was held: {refusal}")
    level = await _level(lab, number, items, len(dev.finalists))
    if level.alpha is None:
        return GateHeld(level=level, reason=f"no gate was held: {level.reason}")
    with_controls = suspected or aa_is_due(number, settings.aa_every)
    if not items or not dev.members or not (dev.finalists or with_controls):
        return GateHeld(level=level, reason=dev.reason or "there are no GATE problems")
    seats = seat(generation)
    placebos = await bred_placebos() if with_controls or "placebo" in settings.required else Placebos()
    entries = _entries(seats, dev, placebos, settings.required, with_controls, number)
    by_vote = [entry for entry in entries if entry.endpoint == "vote"]
    stage = f"generation {number} gate"
    councils = Councils(
        lab,
        f"{stage} councils",
        lab.directory / f"generation-{number}" / "gate-councils",
        first_of_each_type(items, settings.councils_per_type),
        GatePermit(f"{stage} councils"),
    )
    drawn = await _by_vote(lab, generation, dev, placebos, by_vote, problems)
    drawn += [await _in_councils(entry, councils, problems) for entry in entries if entry not in by_vote]
    contests = [one for one in drawn if isinstance(one, Contest)]
    silent = [one for one in drawn if isinstance(one, str)]
    if broken := "; ".join(filter(None, (_broken(lab.directory, stage), *silent))):
        return GateHeld(level=level, reason=f"the gate decided nothing: {broken}", placebos=placebos)

    async def decide() -> ConjunctionRecord:
        assert level.alpha is not None, "checked above"
        seed = derive_seed(lab.config.seed, "gate", number)
        return hold(contests, level.alpha, required=("incumbent", *settings.required), seed=seed)

    inputs = {"entries": [entry.model_dump(mode="json") for entry in entries], "alpha": level.alpha}
    record = await lab.journal.record(f"conjunction-generation-{number}", inputs, ConjunctionRecord, decide)
    council = await _beside_the_vote(lab, generation, councils, dev, problems)
    return GateHeld(level=level, record=record, reason=dev.reason, council=council, placebos=placebos)


async def _by_vote(
    lab: Lab,
    generation: Generation,
    dev: DevRecord,
    placebos: Placebos,
    entries: Sequence[_Entry],
    problems: SplitProblems,
) -> list[Contest | str]:
    """Everybody's first proposals for the GATE problems, drawn once, and the contests replayed from them.

    A contest about whose problems too many calls failed is none: what is here instead says so.
    """
    items, stage = problems.of(Split.GATE), f"generation {generation.number} gate"
    people = _members(seat(generation), entries)
    drawn = await lab.hold(
        stage,
        lab.directory / f"generation-{generation.number}" / "gate.parquet",
        proposal_asks(lab.config, stage, items, people, lab.config.gate.samples_per_member),
    )
    judged = (await lab.judge_all(stage, drawn, items, GatePermit(stage))).lookup()
    twins = [one.member for one in placebos.everyone if one.member in people]
    ties = by_reliability(dev.standing.merge(await measure_twins(lab, generation, twins, problems)))
    pool, failed = Pool(drawn), unanswered(drawn)
    return [_contest(entry, pool, problems, judged, failed, ties) for entry in entries]


def _broken(directory: Path, stage: str) -> str:
    """Where the verifier broke over too many answers of a gate to be believed: what it says; empty: nowhere."""
    found = [one for one in all_unchecked(directory) if one.stage.startswith(stage)]
    return "; ".join(one.sentence for one in found if one.broken_share > GATE_LIMIT)


async def _beside_the_vote(
    lab: Lab, generation: Generation, councils: Councils, dev: DevRecord, problems: SplitProblems
) -> CouncilTest | None:
    """Councils of the best finalist beside its vote.

    None: none were asked for, or they are what it is held to, or calls failed about all problems.
    """
    if not councils.items or not dev.finalists or dev.finalists[0].endpoint == "council":
        return None
    best, seats = dev.finalists[0], tuple(seat(generation))
    before, after = await councils.right("before", seats), await councils.right("after", best.seats)
    without = _left_out_of(councils, [seats, best.seats])
    rest = without.rest(councils.items)
    if not rest:
        return None
    test = paired_test(
        _of(rest, councils, before),
        _of(rest, councils, after),
        [problems.cluster_of(item) for item in rest],
        seed=derive_seed(lab.config.seed, "gate councils", generation.number),
    )
    return CouncilTest(name=best.name, test=test, num_left_out=len(without.task_ids))


def _left_out_of(councils: Councils, arrangements: Sequence[Seats]) -> LeftOut:
    """The problems that councils of these seats are not compared on."""
    held = {seats: councils.of(seats) for seats in arrangements}
    names = {member.name for seats in held for member in seats}
    return left_out(unanswered(one for group in held.values() for one in group), councils.items, names)


def _of(rest: Sequence[Asked], councils: Councils, right: Sequence[bool]) -> tuple[bool, ...]:
    by_id = dict(zip((item.task.id for item in councils.items), right, strict=True))
    return tuple(by_id[item.task.id] for item in rest)


class _Entry(Record):
    """An arrangement that takes part, and whom it has to beat."""

    name: str
    kind: ArmKind = "candidate"
    endpoint: Endpoint = "vote"
    seats: tuple[Member, ...]
    rivals: dict[RivalKind, tuple[Member, ...]]
    form: str = Field(
        default="", description="name of the placebo among its rivals; empty: none, or it is told by seat"
    )
    exempt: tuple[RivalKind, ...] = ()


def _entries(
    seats: Sequence[Member],
    dev: DevRecord,
    placebos: Placebos,
    required: Sequence[RivalKind],
    with_controls: bool,
    number: int,
) -> list[_Entry]:
    scores = {one.name: one.scores for one in dev.members}
    best = best_incumbent(seats, scores)
    wanted = {"incumbent", *required}
    entries = []
    for finalist in dev.finalists:
        twin = placebos.twin_of(finalist.name)
        if finalist.endpoint == "council":
            rivals, form = council_rivals(seats, finalist, twin, best), twin.member.name if twin else ""
        else:
            rivals = rival_seats(seats, finalist.seats, placebos.twins, best, without=placebos.without)
            form = ""
        entries.append(
            _Entry(
                name=finalist.name,
                endpoint=finalist.endpoint,
                seats=finalist.seats,
                rivals={kind: against for kind, against in rivals.items() if kind in wanted},
                form=form,
                exempt=("placebo",) if set(finalist.candidates) <= set(placebos.without) else (),
            )
        )
    if with_controls:
        entries += _controls(seats, placebos, best, dev, str(number))
        if any(finalist.endpoint == "council" for finalist in dev.finalists):
            entries += _council_controls(seats, placebos, str(number))
    return entries


def _council_controls(seats: Sequence[Member], placebos: Placebos, label: str) -> list[_Entry]:
    """Where a critic or synthesiser is a finalist: the incumbents anew, and their twins, in full councils."""
    incumbents: dict[RivalKind, Seats] = {"incumbent": tuple(seats)}
    name = f"A/A {label} in councils"
    entries = [
        _Entry(name=name, kind="aa", endpoint="council", seats=aa_seats(seats, f"{label}-talk"), rivals=incumbents)
    ]
    for placebo in (twin for twin in placebos.everyone if twin.is_helper):
        form, name = helping(seats, placebo).seats, f"placebo {placebo.member.name}"
        entries.append(_Entry(name=name, kind="placebo", endpoint="council", seats=form, rivals=incumbents))
    return entries


def _controls(seats: Sequence[Member], placebos: Placebos, best: Member, dev: DevRecord, label: str) -> list[_Entry]:
    """The incumbents anew, each placebo in its twin's place, and one more sample of the best: none may ever pass."""
    incumbents: dict[RivalKind, Seats] = {"incumbent": tuple(seats)}
    places = (
        weakest_places(seats, {one.member: one.value for one in dev.contributions.members}) if dev.contributions else {}
    )
    entries = [_Entry(name=f"A/A {label}", kind="aa", seats=aa_seats(seats, label), rivals=incumbents)]
    taken = {m.name: place for one in reversed(dev.finalists) for place, m in enumerate(one.seats) if m not in seats}
    for name, placebo in placebos.twins.items():
        if name not in taken:  # of a critic or synthesiser: a control in councils
            continue
        alone = _with(seats, taken[name], placebo)
        entries.append(_Entry(name=f"placebo {placebo.name}", kind="placebo", seats=alone, rivals=incumbents))
    place = min(places.values(), key=lambda index: (seats[index].name == best.name, index), default=None)
    if place is not None:
        more = _with(seats, place, again(best, f"budget-{place}"))
        entries.append(_Entry(name=f"one more of {best.name}", kind="budget", seats=more, rivals=incumbents))
    return entries


def _with(seats: Sequence[Member], place: int, member: Member) -> Seats:
    return tuple(member if index == place else one for index, one in enumerate(seats))


def _members(seats: Sequence[Member], entries: Sequence[_Entry]) -> list[Member]:
    return members_of([tuple(seats), *(e.seats for e in entries), *(s for e in entries for s in e.rivals.values())])


def _contest(
    entry: _Entry,
    pool: Pool,
    problems: SplitProblems,
    judged: Mapping[tuple[str, str], bool],
    failed: Unanswered,
    ties: Precedence,
) -> Contest | str:
    items = problems.of(Split.GATE)
    without = left_out(failed, items, {member.name for member in _members(entry.seats, [entry])})
    if without.is_too_much:
        return f"{entry.name}: {without.sentence}"
    rest = without.rest(items)
    return contest_of(
        entry.name,
        pool,
        entry.seats,
        entry.rivals,
        rest,
        judged,
        ties=ties,
        kind=entry.kind,
        clusters=[problems.cluster_of(item) for item in rest],
        exempt=entry.exempt,
        num_left_out=len(without.task_ids),
    )


async def _in_councils(entry: _Entry, councils: Councils, problems: SplitProblems) -> Contest | str:
    labels = {"incumbent": "before", "placebo": f"placebo {entry.form}", "budget": f"{entry.name} budget"}
    against = {kind: await councils.right(labels[kind], seats) for kind, seats in entry.rivals.items()}
    right = await councils.right(entry.name, entry.seats)
    without = _left_out_of(councils, [entry.seats, *entry.rivals.values()])
    if without.is_too_much:
        return f"{entry.name} in councils: {without.sentence}"
    rest = without.rest(councils.items)
    rivals = [
        Rival(kind=kind, name=" and ".join(one.name for one in seats), right=_of(rest, councils, against[kind]))
        for kind, seats in entry.rivals.items()
    ]
    return Contest(
        name=entry.name,
        kind=entry.kind,
        endpoint="council",
        right=_of(rest, councils, right),
        rivals=tuple(rivals),
        task_types=tuple(item.task.type for item in rest),
        clusters=tuple(problems.cluster_of(item) for item in rest),
        num_left_out=len(without.task_ids),
    )


async def _level(lab: Lab, number: int, items: Sequence[SealedProblem], num_finalists: int) -> Level:
    """At what level the gate may be held on these items; the holding is written down before anything is judged."""
    config, keys = lab.config, [item.key for item in items]
    ledger, reused = WearLedger(wear_path(config.problems, lab.directory)), isinstance(config.problems, FileProblems)
    run = run_of(config.name, identity_of(lab.directory))

    def level_of(holdings: Sequence[Holding]) -> Level:
        wear = wear_of(keys, holdings, run=run, generation=number)
        return level_after(wear, config.gate.alpha, config.gate.wear, will_reuse=reused)

    async def work() -> Level:
        return ledger.decide(holding(run, number, keys, num_finalists), level_of)

    return await lab.journal.record(f"gate-level-generation-{number}", [keys, num_finalists], Level, work)


def chosen_of(dev: DevRecord, held: GateHeld) -> Arrangement | None:
    """Of the finalists that passed the one that DEV put first: only pass or fail leaves the gate."""
    passed = {result.name for result in held.record.promoted} if held.record else set()
    return next((one for one in dev.finalists if one.name in passed), None)
