"""Putting answers to the panel: who judges which, asked through the fleet, every answer kept as soon as it is judged.

The judges are the run's engines on their base models, one each: an instrument that learned during the run could not be
held against labels once. What they say is a journalled step, so a resumed run asks nobody twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from evolve.judging.panel import (
    Ballot,
    Brief,
    LabelledAnswer,
    PanelStanding,
    PanelStandings,
    PanelVerdict,
    ask_panel,
    decide_panel,
    panel_for,
    read_panel_labels,
    standing,
    usable_labels,
)
from evolve.outage import Failed
from evolve.problems.config import FileProblems, PanelVerifier
from evolve.progress import StageTime
from evolve.seats import member_on
from memory.ledger import Ledger
from memory.types import Record, content_hash
from mesh.budget import Budget, Purse
from mesh.calls import Caller
from mesh.replay import Replay
from mesh.types import Exchange, Member, Task, Usage
from serving.ticket import Ticket, with_ticket

if TYPE_CHECKING:
    from evolve.config import RunConfig
    from evolve.lab import Lab

STANDING = "panel-standing"


class Poll(Record):
    """One answer, and who is asked about it."""

    brief: Brief
    answer: str
    judges: tuple[Member, ...]

    @property
    def id(self) -> str:
        """Tells it from the other polls of a run. Without the reference: a hash of a short key gives the key away."""
        return content_hash([self.brief.task_id, self.answer, [judge.name for judge in self.judges]])


class Polled(Record):
    """What the judges said of the answers of one stage."""

    ballots: tuple[tuple[Ballot, ...], ...] = Field(description="of each answer, in the order they were put")
    usage: Usage = Usage()


class _Heard(Record):
    ballots: tuple[Ballot, ...]
    usage: Usage


def panel_of(config: RunConfig) -> PanelVerifier | None:
    """How free text is judged in a run; None: none of its answers is free text."""
    problems = config.problems
    rule = problems.verifier if isinstance(problems, FileProblems) else None
    return rule if isinstance(rule, PanelVerifier) else None


def judges_of(config: RunConfig) -> tuple[Member, ...]:
    """Whoever may sit on a panel: every engine on its base model, under its own name."""
    return tuple(member_on(engine, engine.name) for engine in config.serving.engines)


async def verdicts_on(
    lab: Lab, stage: str, items: Sequence[tuple[Brief, str, tuple[str, ...]]]
) -> dict[tuple[str, str], PanelVerdict]:
    """(task id, answer) to what the panel makes of it; `items` are briefs, answers and their authors' families."""
    rule, config = _rule(lab), lab.config
    polls = [
        Poll(
            brief=brief,
            answer=answer,
            judges=panel_for(judges_of(config), authors, rule.num_judges, seed=config.seed, task_id=brief.task_id),
        )
        for brief, answer, authors in items
    ]
    polled = await _poll(lab, f"{stage} panel", polls)
    return {
        (poll.brief.task_id, poll.answer): decide_panel(ballots, rule.quorum)
        for poll, ballots in zip(polls, polled.ballots, strict=True)
    }


async def panel_standings(lab: Lab) -> PanelStandings | None:
    """How the panels agree with the human labels, which they judge at the first call; None: there are no labels.

    Once they may gate, that is accepted for the whole run, whatever becomes of the file. Until then every call looks at
    the labels there are.

    Raises ProblemsError as `read_panel_labels` does.
    """
    rule, judges = _rule(lab), judges_of(lab.config)
    if rule.labels is None:
        return None
    inputs = {"rule": rule.model_dump(mode="json"), "judges": [judge.name for judge in judges]}

    async def work() -> PanelStandings:
        return found

    if not lab.journal.is_done(STANDING, inputs):
        found = await _measured(lab, rule, rule.labels)
        if not found.may_gate:
            return found
    return await lab.journal.record(STANDING, inputs, PanelStandings, work)


async def _measured(lab: Lab, rule: PanelVerifier, path: Path) -> PanelStandings:
    """Each label is asked of a judge once; every panel that the judge sits on reads the same ballot."""
    labels, judges = read_panel_labels(path), judges_of(lab.config)
    panels = {
        author: {one.id: _panel(lab, judges, author, one) for one in usable_labels(labels, judges, author)}
        for author in sorted({judge.family for judge in judges})
    }
    polls = [
        Poll(
            brief=one.brief,
            answer=one.answer,
            judges=tuple(dict.fromkeys(judge for by_id in panels.values() for judge in by_id.get(one.id, ()))),
        )
        for one in labels
    ]
    polled = await _poll(lab, "panel labels", polls, told=content_hash([one.model_dump(mode="json") for one in labels]))
    said = dict(zip((one.id for one in labels), polled.ballots, strict=True))
    return PanelStandings(
        labels=str(path),
        num_labels=len(labels),
        by_author={author: _standing(labels, by_id, said, rule) for author, by_id in panels.items()},
    )


async def gate_refusal(lab: Lab) -> str:
    """Why no gate may be held on the word of this run's panel; empty: one may, or there is no panel."""
    if lab.panel is None:
        return ""
    found = await panel_standings(lab)
    if found is None:
        return (
            f"Free text is judged by a panel, and no human label says how well: set problems.verifier.labels to a file "
            f"of at least {lab.panel.min_labels}."
        )
    if not found.may_gate:
        return found.sentence
    if not found.covers(judge.name for judge in judges_of(lab.config)):
        return f"Some judges gave no verdict on any label of {found.labels}. {found.sentence}"
    return ""


def _panel(lab: Lab, judges: Sequence[Member], author: str, label: LabelledAnswer) -> tuple[Member, ...]:
    left_out = {author, *label.families}
    return panel_for(judges, left_out, _rule(lab).num_judges, seed=lab.config.seed, task_id=label.id)


def _standing(
    labels: Sequence[LabelledAnswer],
    panels: dict[str, tuple[Member, ...]],
    said: dict[str, tuple[Ballot, ...]],
    rule: PanelVerifier,
) -> PanelStanding:
    verdicts = {}
    for id, panel in panels.items():
        names = {judge.name for judge in panel}
        verdicts[id] = decide_panel([ballot for ballot in said[id] if ballot.member in names], rule.quorum)
    return standing([one for one in labels if one.id in panels], verdicts, rule)


async def _poll(lab: Lab, stage: str, polls: Sequence[Poll], *, told: str = "") -> Polled:
    """Every ballot on every answer, as one journalled step; `told` is what the answers' tasks follow from."""
    keys = [content_hash([told, poll.id]) for poll in polls]
    name = stage.replace(" ", "-")
    partial = lab.directory / f"{name}.partial.jsonl"
    took = 0.0

    async def work() -> Polled:
        nonlocal took
        await lab.fleet()  # engines may have to start first, or wait for their window: neither is this stage's time
        lab.observer.stage(stage, len(polls), "answer")
        with lab.times.ticking(stage) as seconds:
            heard = await _ask_all(lab, stage, partial, dict(zip(keys, polls, strict=True)))
            took = seconds()
        usage = Usage.total(one.usage for one in heard.values())
        return Polled(ballots=tuple(heard[key].ballots for key in keys), usage=usage)

    polled = await lab.journal.record(name, keys, Polled, work)
    partial.unlink(missing_ok=True)
    lab.times.note_once(
        StageTime(
            stage=stage,
            seconds=took,
            output_tokens=polled.usage.output_tokens,
            prompt_tokens=polled.usage.prompt_tokens,
            engine_seconds=polled.usage.engine_seconds,
        )
    )
    return polled


async def _ask_all(lab: Lab, stage: str, path: Path, polls: dict[str, Poll]) -> dict[str, _Heard]:
    """What was heard of each answer; each is kept at `path` at once, so that a kill costs the calls under way alone.

    Raises EngineGone where a judge failed twice and its engine is gone: its silence is not accepted.
    """
    ledger = Ledger(path)
    done = {entry.payload["poll"]: _Heard.model_validate(entry.payload["heard"]) for entry in ledger.entries()}
    fleet, slots = await lab.fleet(), asyncio.Semaphore(lab.config.concurrency)
    timeout_s = lab.config.deliberation.call_timeout_s

    async def one(order: int, key: str, poll: Poll) -> None:
        ticket = Ticket(priority="evolve", order=order, affinity=content_hash(poll.brief.task_id)[:16])
        engine_of = {judge.name: judge.engine for judge in poll.judges}
        exchanges: list[Exchange] = []

        async def ask() -> tuple[tuple[Ballot, ...], list[Failed]]:
            caller = Caller(
                engine=with_ticket(fleet, ticket),
                task=Task(id=poll.brief.task_id, question=poll.brief.question),
                seed=lab.config.seed,
                timeout_s=timeout_s,
                purse=Purse(Budget(), lab.job.purse.prices, parent=lab.job.purse),
                clock=lab.job.clock,
                replay=Replay(None),
            )
            ballots = await ask_panel(caller, poll.judges, poll.brief, poll.answer)
            exchanges.extend(caller.exchanges)
            return ballots, [(engine_of[one.member], one.error) for one in caller.exchanges if one.error]

        async with slots:
            ballots, _ = await lab.pulse.asked_twice(ask, lambda said: said[1], fleet, stage=stage, timeout_s=timeout_s)
        heard = _Heard(ballots=ballots, usage=Usage.total(exchange.usage for exchange in exchanges))
        ledger.append("ballots", {"poll": key, "heard": heard.model_dump(mode="json")})
        done[key] = heard
        lab.observer.advance()

    try:
        async with asyncio.TaskGroup() as group:
            for order, (key, poll) in enumerate(polls.items()):
                if key not in done:
                    group.create_task(one(order, key, poll))
    except ExceptionGroup as failed:
        raise failed.exceptions[0]  # noqa: B904 - its own cause tells a full disk from other faults
    return done


def _rule(lab: Lab) -> PanelVerifier:
    assert lab.panel is not None, "only a run whose verifier is a panel asks one"
    return lab.panel
