"""The gate of a generation: finalists and controls against their rivals, on problems nobody learned or chose by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evolve.aa import aa_is_due
from evolve.arrangements import Arrangement, weakest_places
from evolve.asks import council_asks, first_of_each_type, proposal_asks
from evolve.candidate import Candidate
from evolve.conjunction import ConjunctionRecord, Contest, RivalKind, hold
from evolve.dev import DevRecord
from evolve.evaluate import Pool, verdict_scores
from evolve.gate import ArmKind
from evolve.gate_wear import Level, WearLedger, holding, level_after, wear_of
from evolve.lab import Lab
from evolve.lineage import Generation, seat
from evolve.paired import PairedTest, paired_test
from evolve.permits import GatePermit
from evolve.problem_config import FileProblems
from evolve.rivals import Seats, aa_seats, again, best_incumbent, contest_of, members_of, rival_seats
from evolve.sealed import SealedProblem, SplitProblems
from evolve.splits import Split
from memory.types import Record, content_hash
from mesh.seeds import derive_seed
from mesh.types import Member

WEAR = "gate-wear.jsonl"


class CouncilTest(Record):
    """Full councils of today's seats and of an arrangement on the same GATE problems: told, and deciding nothing."""

    name: str
    test: PairedTest

    @property
    def sentence(self) -> str:
        """For people."""
        low, high = 100 * self.test.difference.low, 100 * self.test.difference.high
        return (
            f"{self.name} in full councils: {self.test.wins} problems won and {self.test.losses} lost of {self.test.n} "
            f"({100 * self.test.gain:+.1f} points [{low:+.1f}, {high:+.1f}])"
        )


class GateHeld(Record):
    """What came of a generation's gate: the level it was held at, and every contest with its numbers."""

    level: Level
    record: ConjunctionRecord | None = None
    """None: it was not held; `reason` says why."""
    reason: str = ""
    council: CouncilTest | None = None
    """None: no councils were asked for, or there was no finalist."""


async def hold_gate(
    lab: Lab,
    generation: Generation,
    dev: DevRecord,
    candidates: Sequence[Candidate],
    problems: SplitProblems,
) -> GateHeld:
    """Fresh votes of every finalist, its rivals and the controls on GATE problems, at a level that wear leaves.

    Without a finalist it is held for the controls alone, in generations in which an A/A arm is due.
    """
    items, number, settings = problems.of(Split.GATE), generation.number, lab.config.gate
    level = await _level(lab, number, items, len(dev.finalists))
    if level.alpha is None:
        return GateHeld(level=level, reason=f"no gate was held: {level.reason}")
    with_controls = aa_is_due(number, settings.aa_every)
    if not items or not (dev.finalists or with_controls):
        return GateHeld(level=level, reason=dev.reason or "there are no GATE problems")
    seats = seat(generation)
    entries = _entries(seats, dev, candidates, settings.required, with_controls, number)
    stage = f"generation {number} gate"
    drawn = await lab.hold(
        stage,
        lab.directory / f"generation-{number}" / "gate.parquet",
        proposal_asks(lab.config, stage, items, _members(seats, entries), settings.samples_per_member),
    )
    judged = (await lab.judge_all(stage, drawn, items, GatePermit(stage))).lookup()

    async def decide() -> ConjunctionRecord:
        pool = Pool(drawn)
        clusters = [problems.cluster_of(item) for item in items]
        contests = [_contest(entry, pool, items, judged, clusters) for entry in entries]
        assert level.alpha is not None, "checked above"
        return hold(
            contests,
            level.alpha,
            required=("incumbent", *settings.required),
            seed=derive_seed(lab.config.seed, "gate", number),
        )

    inputs = {"entries": [entry.model_dump(mode="json") for entry in entries], "alpha": level.alpha}
    record = await lab.journal.record(f"conjunction-generation-{number}", inputs, ConjunctionRecord, decide)
    council = await _councils(lab, generation, dev.finalists[0], problems) if dev.finalists else None
    return GateHeld(level=level, record=record, reason=dev.reason, council=council)


async def _councils(
    lab: Lab, generation: Generation, finalist: Arrangement, problems: SplitProblems
) -> CouncilTest | None:
    items = first_of_each_type(problems.of(Split.GATE), lab.config.gate.councils_per_type)
    if not items:
        return None
    stage = f"generation {generation.number} gate councils"
    directory = lab.directory / f"generation-{generation.number}"
    right: dict[str, list[bool]] = {}
    for label, seats in (("before", seat(generation)), ("after", list(finalist.seats))):
        asks = council_asks(lab.config, stage, items, seats)
        held = await lab.hold(f"{stage} {label}", directory / f"gate-councils-{label}.parquet", asks)
        judged = (await lab.judge_all(f"{stage} {label}", held, items, GatePermit(stage))).lookup()
        scores = verdict_scores(held, judged)
        right[label] = [scores[item.task.id] == 1.0 for item in items]
    clusters = [problems.cluster_of(item) for item in items]
    seed = derive_seed(lab.config.seed, "gate councils", generation.number)
    return CouncilTest(name=finalist.name, test=paired_test(right["before"], right["after"], clusters, seed=seed))


class _Entry(Record):
    """An arrangement that takes part, and whom it has to beat."""

    name: str
    kind: ArmKind = "candidate"
    seats: tuple[Member, ...]
    rivals: dict[RivalKind, tuple[Member, ...]]


def _entries(
    seats: Sequence[Member],
    dev: DevRecord,
    candidates: Sequence[Candidate],
    required: Sequence[RivalKind],
    with_controls: bool,
    number: int,
) -> list[_Entry]:
    placebos = [c.member for c in candidates if c.is_placebo]
    scores = {one.name: one.scores for one in dev.members}
    best = best_incumbent(seats, scores)
    wanted = {"incumbent", *required}
    entries = []
    for finalist in dev.finalists:
        rivals = rival_seats(seats, finalist.seats, placebos, best)
        chosen = {kind: against for kind, against in rivals.items() if kind in wanted}
        entries.append(_Entry(name=finalist.name, seats=finalist.seats, rivals=chosen))
    if with_controls:
        entries += _controls(seats, placebos, best, dev, str(number))
    return entries


def _controls(
    seats: Sequence[Member], placebos: Sequence[Member], best: Member, dev: DevRecord, label: str
) -> list[_Entry]:
    """The incumbents anew, each placebo in its place, and one more sample of the best: none of them may ever pass."""
    incumbents: dict[RivalKind, Seats] = {"incumbent": tuple(seats)}
    places = (
        weakest_places(seats, {one.member: one.value for one in dev.contributions.members}) if dev.contributions else {}
    )
    entries = [_Entry(name=f"A/A {label}", kind="aa", seats=aa_seats(seats, label), rivals=incumbents)]
    for placebo in placebos:
        if placebo.engine in places:
            entries.append(
                _Entry(
                    name=f"placebo {placebo.name}",
                    kind="placebo",
                    seats=_with(seats, places[placebo.engine], placebo),
                    rivals=incumbents,
                )
            )
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
    items: Sequence[SealedProblem],
    judged: Mapping[tuple[str, str], bool],
    clusters: Sequence[str],
) -> Contest:
    return contest_of(entry.name, pool, entry.seats, entry.rivals, items, judged, kind=entry.kind, clusters=clusters)


async def _level(lab: Lab, number: int, items: Sequence[SealedProblem], num_finalists: int) -> Level:
    """At what level the gate may be held on these items; the holding is written down before anything is judged."""
    config, keys = lab.config, [item.key for item in items]
    ledger, reused = WearLedger(_wear_path(lab)), isinstance(config.problems, FileProblems)
    # A name alone would let a second run under it pass for the first one continued, and wear nothing.
    run = f"{config.name}:{content_hash(str(config.run_dir.resolve()))[:12]}"

    async def work() -> Level:
        wear = wear_of(keys, ledger.holdings, run=run, generation=number)
        level = level_after(wear, config.gate.alpha, config.gate.wear, will_reuse=reused)
        if level.alpha is not None and num_finalists:
            ledger.note(holding(run, number, keys, num_finalists))
        return level

    return await lab.journal.record(f"gate-level-generation-{number}", [keys, num_finalists], Level, work)


def _wear_path(lab: Lab) -> Path:
    """Beside a user's file, whose items every run on it wears; procedural items are a run's own."""
    problems = lab.config.problems
    if isinstance(problems, FileProblems):
        return problems.path.with_name(f"{problems.path.name}.{WEAR}")
    return lab.directory / WEAR


def chosen_of(dev: DevRecord, held: GateHeld) -> Arrangement | None:
    """Of the finalists that passed the one that was best on DEV: only pass or fail leaves the gate."""
    passed = {result.name for result in held.record.promoted} if held.record else set()
    return next((one for one in dev.finalists if one.name in passed), None)
