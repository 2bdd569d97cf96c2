"""What an experiment claims: the mesh beside its own beginning and beside simpler ways, paired. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from pydantic import Field

from evolve.audit.audit import AuditScores
from evolve.audit.audited import (
    AuditedRoster,
    AuditItems,
    Method,
    NamedGain,
    compare,
    compare_scores,
    gains_by_type,
)
from evolve.config import REHEARSAL
from evolve.gates.gains import Share, share
from evolve.studies.rival_methods import MEANING, ArmName, ArmStep, Effort, RivalArm, Spent, total_effort
from memory.types import Record


class ArmAudit(Record):
    """An arm and what AUDIT found of its generations; generation 0 is the run's own, or its best single's."""

    arm: RivalArm
    rosters: tuple[AuditedRoster, ...] = Field(description="one for every generation that learned something")


class Point(Record):
    """One arm's vote in one generation."""

    arm: str
    generation: int
    vote: Share
    weighted: Share | None = Field(
        default=None, description="the same ballots weighed by what DEV measured of their members; None: an older run's"
    )
    members: Share = Field(description="mean of its members asked alone")
    effort: Effort = Field(description="training spent to come here, since generation 0")


class ExperimentResults(Record):
    """All figures of one experiment; a gain is in favour of what stands second."""

    seed: int
    commits: tuple[str, ...] = Field(description="of the working tree, one a sitting")
    num_problems: int
    is_simulated: bool = Field(default=False, description="of engines that only pretend: no figure is about models")
    points: tuple[Point, ...]
    mesh: NamedGain | None = Field(description="primary: the last generation's vote beside generation 0's")
    weighted: NamedGain | None = Field(default=None, description="the vote weighed on DEV, likewise")
    members: NamedGain | None = Field(description="its members asked alone, likewise")
    last_step: NamedGain | None = Field(description="the last generation's vote beside the one before: is it decaying?")
    against: tuple[NamedGain, ...] = Field(description="the last mesh beside each arm's last generation")
    weighted_against: tuple[NamedGain, ...] = Field(
        default=(), description="likewise, with both votes weighed by what DEV measured of their members"
    )
    singles_against: tuple[NamedGain, ...] = Field(
        default=(),
        description="the best seat of the last mesh by DEV beside the arm's: each one's vote over as many samples of "
        "its own as the mesh has votes. It tells what the seats' training is worth, apart from mixing them",
    )
    seats_against: tuple[NamedGain, ...] = Field(
        default=(),
        description="every seat of the last mesh, asked alone, beside the arm's member of the same base: what learning "
        "from everybody's answers is worth to one model, apart from voting and from which model was taken",
    )
    types_against: tuple[NamedGain, ...] = Field(
        default=(), description="the last mesh's vote beside each arm's, type by type: described, not claimed"
    )
    on_the_way: tuple[NamedGain, ...] = Field(
        default=(),
        description="the mesh beside each arm in every generation before the last: many looks, described, not claimed",
    )
    against_best: tuple[NamedGain, ...] = Field(
        description="beside each arm's best generation, chosen on AUDIT itself, which flatters the arm"
    )


def results_of(
    scores: AuditScores,
    arms: Sequence[ArmAudit],
    spent: Sequence[Spent],
    *,
    seed: int,
    commits: Sequence[str] = (),
    is_simulated: bool = False,
) -> ExperimentResults:
    """The figures of a finished run and its arms.

    Args:
        scores: of the run's own generations.
        arms: audited on the same problems.
        spent: what the mesh's candidates took to train, by generation.
    """
    items, rosters = scores.items, scores.rosters
    first, last = rosters[0], rosters[-1]
    efforts = [total_effort(one.total for one in spent[:number]) for number in range(len(rosters))]
    points = [_point("mesh", number, roster, efforts[number], items) for number, roster in enumerate(rosters)]
    for one in arms:
        points += _points_of(one, first, items)
    rivals = {one.arm.name: list(one.rosters) or [first] for one in arms}
    ends = {name: found[-1] for name, found in rivals.items()}
    best = {name: max(found, key=lambda roster: sum(roster.vote.values())) for name, found in rivals.items()}
    return ExperimentResults(
        seed=seed,
        commits=tuple(commits),
        num_problems=len(items.types),
        is_simulated=is_simulated,
        points=tuple(points),
        mesh=compare(first, last, items, seed=seed),
        weighted=compare(first, last, items, "weighted", seed=seed),
        members=compare(first, last, items, "members", seed=seed),
        last_step=compare(rosters[-2], last, items, seed=seed) if len(rosters) > 1 else None,
        against=_beside(ends.items(), last, items, seed),
        weighted_against=_beside(ends.items(), last, items, seed, "weighted"),
        singles_against=_beside(ends.items(), last, items, seed, "consistency"),
        seats_against=tuple(gain for end in ends.values() for gain in _same_bases(end, last, items, seed)),
        types_against=tuple(gain for end in ends.values() for gain in gains_by_type(end, last, items, seed=seed)),
        on_the_way=tuple(
            gain
            for one in arms
            for step, roster in _learned(one)
            if step.number < len(rosters) - 1
            for gain in _beside([(one.arm.name, roster)], rosters[step.number], items, seed)
        ),
        against_best=_beside(best.items(), last, items, seed),
    )


def markdown(found: ExperimentResults) -> str:
    """The figures as a table and sentences, for a README."""
    columns = ("arm", "generation", "vote", "95%", "weighed on DEV", "members alone", "trained tokens")
    table = [columns, ("---",) * len(columns), *(_cells(one) for one in found.points)]
    rows = "".join(f"| {' | '.join(cells)} |\n" for cells in table)
    return f"{rows}\n{''.join(f'- {line}{chr(10)}' for line in sentences(found))}{_by_type(found.types_against)}"


def _by_type(gains: Sequence[NamedGain]) -> str:
    """A row for each task type, a column for each arm; nothing where there is no arm."""
    if not gains:
        return ""
    points = {(one.task_type, one.before): _points(one) for one in gains}
    types, arms = (list(dict.fromkeys(names)) for names in zip(*points, strict=True))
    table = [("the last mesh's vote, points against", *arms), ("---",) * (len(arms) + 1)]
    table += [(kind, *(points.get((kind, arm), "") for arm in arms)) for kind in types]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def _points(named: NamedGain) -> str:
    found = named.gain
    return f"{100 * found.difference:+.1f} [{100 * found.absolute.low:+.1f}, {100 * found.absolute.high:+.1f}]"


def _cells(one: Point) -> tuple[str, ...]:
    interval = f"{one.vote.low:.1%} to {one.vote.high:.1%}"
    weighted = "" if one.weighted is None else f"{one.weighted.mean:.1%}"
    shares = (f"{one.vote.mean:.1%}", interval, weighted, f"{one.members.mean:.1%}")
    return (one.arm, str(one.generation), *shares, f"{one.effort.tokens:,}")


def sentences(found: ExperimentResults) -> Iterator[str]:
    """Every claim with its numbers; what is not shown is said to be not shown."""
    if found.is_simulated:
        yield REHEARSAL
    yield f"{found.num_problems} AUDIT problems, seed {found.seed}; every vote has the same number of first proposals."
    named = (
        ("The mesh's vote, generation 0 to the last", found.mesh),
        ("Its vote weighed on DEV, likewise", found.weighted),
        ("Its members alone, on average", found.members),
        ("The last generation beside the one before", found.last_step),
    )
    for label, gain in named:
        if gain is not None:
            yield _sentence(label, gain)
    for gain in found.against:
        yield _sentence(f"From {gain.before} to the last mesh", gain)
    for gain in found.weighted_against:
        yield _sentence(f"Both weighed on DEV, from {gain.before} to the last mesh", gain)
    for gain in found.singles_against:
        yield _sentence(f"Best seat by DEV, its self-consistency, from {gain.before} to the last mesh", gain)
    for gain in found.seats_against:
        yield _sentence(f"Asked alone, from {gain.before} to {gain.after} of the last mesh", gain)
    for gain in found.on_the_way:
        yield f"On the way, from {gain.before} to the mesh's {gain.after}: {gain.gain.sentence}, p = {gain.gain.p:.3g}."
    for gain in found.against_best:
        if gain not in found.against:
            yield _sentence(f"From {gain.before}, its best generation by AUDIT itself, to the last mesh", gain)
    yield "Every p is of its comparison alone; the report's table of rivals corrects for their number."


def _sentence(label: str, named: NamedGain) -> str:
    gain = named.gain
    shown = "better" if gain.is_shown else "worse" if gain.is_loss else None
    least = f"the least that so many problems show in four cases of five: {100 * gain.detectable:.1f} points"
    verdict = f"shown to be {shown}" if shown else f"no difference is shown ({least})"
    return f"{label}: {gain.sentence}, p = {gain.p:.3g}: {verdict}."


def _beside(
    rivals: Iterable[tuple[ArmName, AuditedRoster]],
    mesh: AuditedRoster,
    items: AuditItems,
    seed: int,
    method: Method = "vote",
) -> tuple[NamedGain, ...]:
    found = []
    for name, roster in rivals:
        named = roster.model_copy(update={"name": f"{roster.name} ({MEANING[name]})"})
        one = compare(named, mesh, items, method, seed=seed)
        if one is not None:
            found.append(one)
    return tuple(found)


def _same_bases(arm: AuditedRoster, mesh: AuditedRoster, items: AuditItems, seed: int) -> Iterator[NamedGain]:
    """Each of the mesh's seats beside the arm's members of its base, asked alone."""
    for seat, member in itertools.product(mesh.members, arm.members):
        if seat.engine == member.engine:
            found = compare_scores(arm.alone[member.name], mesh.alone[seat.name], items.clusters, seed=seed)
            if found is not None:
                yield NamedGain(method="alone", before=f"{arm.name}: {member.name}", after=seat.name, gain=found)


def _learned(one: ArmAudit) -> Iterator[tuple[ArmStep, AuditedRoster]]:
    """An arm's generations that learned something; none of the frozen one."""
    return zip(one.arm.steps[1:], one.rosters, strict=True) if one.arm.name != "frozen" else iter(())


def _points_of(one: ArmAudit, first: AuditedRoster, items: AuditItems) -> list[Point]:
    if one.arm.name == "frozen":
        return [_point("frozen", step.number, first, Effort(), items) for step in one.arm.steps]
    points, spent = [], Effort()
    for step, roster in _learned(one):
        spent = spent.plus(step.effort)
        points.append(_point(one.arm.name, step.number, roster, spent, items))
    return points


def _point(arm: str, number: int, roster: AuditedRoster, effort: Effort, items: AuditItems) -> Point:
    return Point(
        arm=arm,
        generation=number,
        vote=_share(roster.vote, items),
        weighted=_share(roster.weighted, items) if roster.weighted else None,
        members=_share(roster.members_mean, items),
        effort=effort,
    )


def _share(scores: dict[str, float], items: AuditItems) -> Share:
    found = share(list(scores.values()), [items.clusters[task_id] for task_id in scores])
    assert found is not None, "a run has AUDIT problems"
    return found
