"""Review: produce a draft, let members of other families judge it, and produce again until it is accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mesh.critique import critique
from mesh.judge_peers import approve
from mesh.patterns.step import Pattern, argument
from mesh.table import Table
from mesh.types import Critique, Deliberation, Member, Shown, Verdict

if TYPE_CHECKING:
    from mesh.config import ProtocolConfig


class ReviewConfig(Pattern):
    """It ends when a draft is accepted, after `max_drafts`, or when the budget covers no further review."""

    kind: Literal["review"] = "review"
    produce: ProtocolConfig = Field(description="how a draft is made")
    max_drafts: int = Field(default=2, ge=1, le=16, description="most drafts; the one favoured most is kept")
    accept_from: float = Field(
        default=0.5, ge=0.0, le=1.0, description="a draft is accepted from this mean probability of being right on"
    )
    reviewers: tuple[str, ...] = Field(
        default=(), description="names of those who review; empty: members of no family that holds the draft's answer"
    )
    talk_max_tokens: int = Field(default=48, ge=1, description="output tokens of one objection")


@dataclass(frozen=True)
class _Draft:
    part: Deliberation
    approval: float
    objections: tuple[str, ...]

    def is_accepted(self, accept_from: float) -> bool:
        """Whether it says something, and its reviewers favour that enough."""
        return self.part.verdict.answer is not None and self.approval >= accept_from


async def review(table: Table, config: ReviewConfig) -> Verdict:
    """The first accepted draft, or the one that was favoured most."""
    drafts: list[_Draft] = []
    for number in range(1, config.max_drafts + 1):
        told = tuple(f"An objection to an earlier draft: {text}" for text in drafts[-1].objections) if drafts else ()
        task = table.task.model_copy(update={"context": (*table.task.context, *told)})
        part = await table.hold(f"draft-{number}", config.produce, task)
        drafts.append(await _reviewed(table, config, number, part))
        if drafts[-1].is_accepted(config.accept_from) or number == config.max_drafts:
            break
        seats = reviewers(table.present, config.reviewers, part)
        shortage = _shortage(table, number, seats)
        if shortage:
            table.leave_undone(seats, "review", number + 1, shortage)
            break
    best = max(drafts, key=lambda draft: (draft.part.verdict.answer is not None, draft.approval))
    word = "accepted" if best.is_accepted(config.accept_from) else "favoured most, not accepted,"
    method = f"draft {drafts.index(best) + 1} of {len(drafts)} {word} by review ({best.approval:.2f})"
    if not config.reviewers and not independent(table.present, best.part):
        method = f"{method}; no reviewer was of another family than the authors"
    return best.part.verdict.model_copy(update={"method": method})


def _shortage(table: Table, number: int, seats: Sequence[Member]) -> str:
    """Why no draft after this one can be paid with its review; empty: it can. In a replay as it was then."""
    least = 2 * len(seats) + 1
    if table.ended is None:
        return table.sitting.purse.shortage(least, least)
    failure = table.sitting.replay.failure(table.path, seats[0].name, "review", number + 1) if seats else None
    return "" if failure is None or len(table.ended.children) > number else failure.message


async def _reviewed(table: Table, config: ReviewConfig, number: int, part: Deliberation) -> _Draft:
    """A draft with the mean approval of its reviewers; 0 without an answer or a reviewer that could be heard."""
    if part.verdict.answer is None:
        return _Draft(part, 0.0, ())
    text, seats = argument(part), reviewers(table.present, config.reviewers, part)
    said = await table.hear(
        "review", number, seats, 2, lambda m: approve(table.caller, m, "review", number, text), calls_each=2
    )
    approval = math.fsum(said.values()) / len(said) if said else 0.0
    against = [member for member in seats if said.get(member.name, 1.0) < config.accept_from]
    objections = await _objections(table, config, number, part, against) if approval < config.accept_from else ()
    return _Draft(part, approval, objections)


def independent(present: Sequence[Member], part: Deliberation) -> bool:
    """Whether somebody present is of another family than those who hold the draft's answer."""
    clusters = part.verdict.diagnosis.clusters if part.verdict.diagnosis else ()
    return any(member.family not in clusters[0].families for member in present) if clusters else True


def reviewers(present: Sequence[Member], named: Sequence[str], part: Deliberation) -> list[Member]:
    """Who reviews a draft: those named; else members of other families than its authors'; else all of them."""
    if named:
        return [member for member in present if member.name in named]
    clusters = part.verdict.diagnosis.clusters if part.verdict.diagnosis else ()
    authors = set(clusters[0].families) if clusters else set()
    return [member for member in present if member.family not in authors] or list(present)


async def _objections(
    table: Table, config: ReviewConfig, number: int, part: Deliberation, against: Sequence[Member]
) -> tuple[str, ...]:
    shown = Shown(label="A", answer=part.verdict.answer or "", author="", supporters=1, text=argument(part))
    sampling = config.sampling.model_copy(update={"max_tokens": config.talk_max_tokens})

    async def ask(member: Member) -> Critique:
        return await critique(table.caller, member, number, shown, "", sampling)

    said = await table.hear("critique", number, against, config.talk_max_tokens, ask)
    table.critiques += said.values()
    return tuple(made.text for made in said.values() if made.valid)
