"""What live outcomes do to a run's provisional specialists: confirm them, or take their seats and channels back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from evolve.config import ConfigError, load_config
from evolve.governance.audit_log import AuditLog
from evolve.governance.claims import Claims, claims_of
from evolve.governance.config import DemotionConfig
from evolve.governance.demotion import LiveOutcome, LiveRecord, demotion_event, judge_live, live_answers, said_by
from evolve.governance.rosters import Target, generations_of, roster_of
from evolve.lineage import Generation, Lineage, Specialist, successor
from evolve.run_files import CONFIG, GENERATIONS, REPORT_DATA
from memory.ledger import Ledger, exclusive_lock
from memory.types import Record, content_hash
from mesh.types import Deliberation, Member
from serving.channels import Channel
from serving.outcomes import LateOutcome

LIVE, LIVE_LOCK = "live_outcomes.jsonl", "live_outcomes.lock"


class LiveAnswer(Record):
    """Was a specialist's own first answer to a live task right?"""

    adapter: str
    task_id: str = Field(description="id of the task, and a hash of its question")
    task_type: str
    right: bool | None = Field(description="None: the label does not tell, see `demotion.live_answers`")


class Standing(Record):
    """Where one seated specialist stands after all live outcomes so far."""

    name: str
    adapter: str
    live: LiveRecord
    skipped: dict[str, int] = Field(
        default_factory=dict, description="task type it was never measured on to live answers that say nothing of it"
    )


class Weighed(Record):
    """What an import of labels meant for one run."""

    run: str
    enabled: bool = Field(description="False: governance.demotion is off, so nothing was changed")
    standings: tuple[Standing, ...] = ()
    demoted: tuple[str, ...] = Field(default=(), description="names whose seats were taken back now")
    confirmed: tuple[str, ...] = Field(default=(), description="names that are confirmed now")
    generation: int | None = Field(
        default=None, description="the generation without the demoted; None: none was made, nor given to a channel"
    )
    channels: tuple[str, ...] = Field(default=(), description="channels that serve it now")
    notes: tuple[str, ...] = ()


def weigh(
    run: Path, traces: Sequence[Deliberation], late: Sequence[LateOutcome], channels: Sequence[Channel], *, now: float
) -> Weighed:
    """Hold new labels of some traces against the run's seated specialists, together with all labels before.

    Labels told again change nothing. A specialist that is shown to be worse than it was seated for loses its seat to
    whoever sat there before it, in a new generation of the run. Channels that serve the specialist get the new one,
    unless they are frozen, or serve an earlier generation than the one it was taken from; an import that was cut off
    before it reached them is made good by the next. Every verdict is in the run's audit log.

    Args:
        run: directory of the run; its own configuration says whether demotion is on.
        traces: with the labelled tasks.
        late: what the labels say.
        channels: those that may serve this run.

    Raises:
        ConfigError: no run there. AlreadyLocked: another import weighs, or the run is under way.
    """
    config = load_config(run / CONFIG)
    settings, generations = config.governance.demotion, generations_of(run)
    seated = {s.adapter: s for s in generations[-1].specialists}
    answers = note_live(run, _answers(traces, late, seated, settings))
    claims = claims_of(run, config) if answers else Claims()
    standings = tuple(
        standing_of(specialist, [one for one in answers if one.adapter == adapter], claims, settings)
        for adapter, specialist in seated.items()
    )
    found = Weighed(run=str(run), enabled=settings.enabled, standings=standings)
    if not settings.enabled:
        return found
    before = set(_verdicts(run))
    events = [
        demotion_event(one.name, seated[one.adapter].generation - 1, one.adapter, one.live, now)
        for one in standings
        if one.adapter not in before  # what was decided first stays decided
    ]
    new = [event for event in events if event is not None]
    AuditLog(run).add(new)
    found = found.model_copy(update={"confirmed": tuple(one.subject for one in new if one.kind == "confirmed")})
    demoted = frozenset(adapter for adapter, kind in _verdicts(run).items() if kind == "demoted")
    if not demoted:
        return found
    if not (run / REPORT_DATA).is_file():
        note = f"{run} is still under way: import the labels again when it has ended, and the seat is taken back."
        return found.model_copy(update={"notes": (note,)}) if demoted & seated.keys() else found
    return _tell_channels(run, _take_back(run, found, demoted), demoted, channels)


def note_live(run: Path, answers: Iterable[LiveAnswer]) -> list[LiveAnswer]:
    """All live answers of the run so far, these included, in the order of their first labels; durable.

    One task counts once for a specialist; the last word on it holds.
    """
    with exclusive_lock(run / LIVE_LOCK):
        ledger = Ledger(run / LIVE)
        known = _last_words(LiveAnswer.model_validate(entry.payload) for entry in ledger.entries())
        new = [one for one in answers if known.get((one.adapter, one.task_id)) != one]
        ledger.append_many([("live", one.model_dump(mode="json")) for one in new])
        return list(_last_words([*known.values(), *new]).values())


def standing_in(run: Path, specialist: Specialist) -> Standing | None:
    """Where a specialist of the run stands after all its live outcomes, seated or not; None: there are none of it.

    Raises ConfigError where the run has no configuration, LedgerError where its outcomes were changed.
    """
    if not (run / LIVE).is_file():
        return None
    known = _last_words(
        LiveAnswer.model_validate(entry.payload) for entry in Ledger(run / LIVE, readonly=True).entries()
    )
    answers = [one for one in known.values() if one.adapter == specialist.adapter]
    if not answers:
        return None
    config = load_config(run / CONFIG)
    return standing_of(specialist, answers, claims_of(run, config), config.governance.demotion)


def standing_of(
    specialist: Specialist, answers: Sequence[LiveAnswer], claims: Claims, config: DemotionConfig
) -> Standing:
    """A specialist beside what was promised of it for tasks of each type, see `Claims.promised`.

    Only task types that it was measured on count; on others nothing was promised.
    """
    member = Member(
        name=specialist.name, engine=specialist.engine, family=specialist.family, adapter=specialist.adapter
    )
    kinds = dict.fromkeys(one.task_type for one in answers)
    promised = {kind: share for kind in kinds if (share := claims.promised(member, kind)) is not None}
    counted = [
        LiveOutcome(right=one.right, promised=promised[one.task_type]) for one in answers if one.task_type in promised
    ]
    skipped = Counter(one.task_type for one in answers if one.task_type not in promised)
    return Standing(
        name=specialist.name,
        adapter=specialist.adapter,
        live=judge_live(counted, config),
        skipped=dict(sorted(skipped.items())),
    )


def without(generations: Sequence[Generation], failed: Sequence[Specialist]) -> Generation:
    """The generation after the last one, in which each failed specialist's seat is held by whoever held it before.

    That is the last holder of the same place who is not among the failed and sits nowhere else; generation 0's at last.
    Who helps in the place with others' answers stays.
    """
    last, out = generations[-1], {specialist.adapter for specialist in failed}
    staying = {member.name for member in last.seats if member.adapter not in out}
    seats = []
    for place, member in enumerate(last.seats):
        if member.adapter in out:
            earlier = [generation.seats[place] for generation in reversed(generations)]
            fit = [one for one in earlier if one.adapter not in out and one.name not in staying]
            member = fit[0] if fit else generations[0].seats[place].model_copy(update={"name": f"{member.name}-base"})
            staying.add(member.name)
            member = member.model_copy(update={"phase_adapters": last.seats[place].phase_adapters})
        seats.append(member)
    return successor(last, seats, returning=(s for generation in generations for s in generation.specialists))


def weighed_lines(found: Weighed) -> list[str]:
    """What a person is told."""
    lines = [f"{one.name}: {one.live.reason}; {one.live.state}." for one in found.standings if one.live.num_judged]
    for one in found.standings:
        if one.skipped:
            kinds = ", ".join(f"{count} of {kind}" for kind, count in one.skipped.items())
            lines.append(f"{one.name}: it was never measured on what these are about, so they do not count: {kinds}.")
    if not found.enabled and lines:
        lines.append(f"governance.demotion.enabled is false in {found.run}: nothing was changed.")
    if found.demoted:
        lines.append(f"{', '.join(found.demoted)} lost the seat: {found.run}@{found.generation} is without it.")
    lines += [f"Channel {name} serves {found.run}@{found.generation} now." for name in found.channels]
    return [*lines, *found.notes]


def _take_back(run: Path, found: Weighed, demoted: frozenset[str]) -> Weighed:
    """A generation without the demoted, unless the last one is."""
    with exclusive_lock(run / "driver"):
        generations = generations_of(run)
        failed = [one for one in generations[-1].specialists if one.adapter in demoted]
        if not failed:
            return found
        following = without(generations, failed)
        Lineage(run / GENERATIONS).append(following)
    return found.model_copy(update={"demoted": tuple(one.name for one in failed), "generation": following.number})


def _tell_channels(run: Path, found: Weighed, demoted: frozenset[str], channels: Sequence[Channel]) -> Weighed:
    """The last generation for every channel that still serves a specialist whose seat was taken back."""
    generations = generations_of(run)
    last, names, notes = generations[-1].number, [], []
    for channel in channels:
        served = _served(channel, run, generations)
        failed = [one.name for one in served.specialists if one.adapter in demoted] if served else []
        if served is None or not failed:
            continue
        if channel.current().standing.is_frozen:
            notes.append(f"Channel {channel.name} is frozen and still serves {run}@{served.number}.")
        elif _has_news(served, generations):
            notes.append(
                f"Channel {channel.name} was left at {run}@{served.number}, where {', '.join(failed)} sits: promote "
                f"{run}@{last} to it, which seats others as well, or roll it back."
            )
        else:
            reason = f"live outcomes: {', '.join(failed)} demoted"
            channel.promote(roster_of(Target(run, last), channel.name), reason=reason, by="live outcomes")
            names.append(channel.name)
    return found.model_copy(
        update={
            "generation": last if names else found.generation,
            "channels": tuple(names),
            "notes": (*found.notes, *notes),
        }
    )


def _served(channel: Channel, run: Path, generations: Sequence[Generation]) -> Generation | None:
    """The generation of this run that a channel serves; None: it serves another run, or nothing of any."""
    roster = channel.current().roster
    target = Target.parse(roster.source) if roster is not None and roster.source else None
    if target is None or target.run.resolve() != run.resolve():
        return None
    number = len(generations) - 1 if target.number is None else target.number
    return generations[number] if number < len(generations) else None


def _has_news(served: Generation, generations: Sequence[Generation]) -> bool:
    """Whether a later generation seats what was bred since, so that more than a lost seat tells them apart."""
    return any(
        one.generation > served.number for later in generations[served.number + 1 :] for one in later.specialists
    )


def _answers(
    traces: Sequence[Deliberation],
    late: Sequence[LateOutcome],
    seated: dict[str, Specialist],
    config: DemotionConfig,
) -> list[LiveAnswer]:
    # Another batch may number other tasks alike: by its id alone a new label would be another word on an old one.
    asked = {part.task.id: content_hash(part.task.question)[:12] for trace in traces for _, part in trace.walk()}
    by_task: dict[str, list[LateOutcome]] = {}
    for one in late:
        by_task.setdefault(one.outcome.task_id, []).append(one)
    found = []
    for adapter in seated:
        said = said_by(traces, adapter)
        for task_id, mine in by_task.items():
            for right in live_answers(mine, said, config):
                task_type = next(one.outcome.task_type for one in mine)
                task = f"{task_id}-{asked[task_id]}"
                found.append(LiveAnswer(adapter=adapter, task_id=task, task_type=task_type, right=right))
    return found


def _last_words(answers: Iterable[LiveAnswer]) -> dict[tuple[str, str], LiveAnswer]:
    found: dict[tuple[str, str], LiveAnswer] = {}
    for one in answers:
        found[one.adapter, one.task_id] = one
    return found


def _verdicts(run: Path) -> dict[str, str]:
    """Adapter to 'demoted' or 'confirmed', as the log has it."""
    events = AuditLog(run).events()
    return {event.adapter: event.kind for event in events if event.adapter and event.kind in ("demoted", "confirmed")}


def runs_of(named: Path | None, channels: Sequence[Channel]) -> list[Path]:
    """The runs whose specialists a batch's traces may hold: the one that is named, else those its channels serve."""
    if named is not None:
        if not (named / CONFIG).is_file():
            raise ConfigError(f"{named}: expected the directory of a run ({CONFIG}), found none")
        return [named]
    found: dict[Path, None] = {}
    for channel in channels:
        roster = channel.current().roster
        if roster is not None and roster.source:
            run = Target.parse(roster.source).run
            if (run / CONFIG).is_file():
                found[run] = None
    return list(found)
