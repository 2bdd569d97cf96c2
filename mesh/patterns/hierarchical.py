"""Hierarchical: one member plans, others take the parts by skill, one member answers from what they found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mesh.fence import fence_mark
from mesh.patterns.step import Pattern, argument
from mesh.propose import context as earlier_results
from mesh.propose import question
from mesh.protocols.single import SingleConfig, chosen_member
from mesh.reliability import Reliability
from mesh.table import Table
from mesh.types import Member, Message, Part, Task, Verdict

if TYPE_CHECKING:
    from mesh.config import ProtocolConfig

MAX_SUBTASK_CHARS = 500
_NUMBERED = re.compile(r"^\s*(?:[-*•]\s+|\(?\d{1,2}[.):](?!\d)\s*)")


class HierarchicalConfig(Pattern):
    """Plan, delegate, synthesise. It ends after one plan: a part is never planned again."""

    kind: Literal["hierarchical"] = "hierarchical"
    planner: str | None = Field(default=None, description="who plans and answers; null: the measured best")
    max_subtasks: int = Field(default=3, ge=1, le=16, description="parts taken from the plan, in its order")
    plan_max_tokens: int = Field(default=96, ge=1, description="output tokens of the plan")
    worker: ProtocolConfig = Field(default=SingleConfig(), description="how those it is given to work on a part")
    workers_per_subtask: int = Field(default=1, ge=1, description="members a part is given to, the most skilled first")


async def hierarchical(table: Table, config: HierarchicalConfig) -> Verdict:
    """Plan the task, hold each part with the members it is delegated to, and answer from what they came to.

    The planner works on no part while there is anybody else. Without a readable plan the whole task is the one part;
    a planner that failed does not answer either, the next best does.
    """
    planner, _ = chosen_member(table, config.planner)
    subtasks = await _plan(table, config, planner) or [table.task.question]
    found = []
    for number, text in enumerate(subtasks, start=1):
        workers = delegate(table.seats("deep"), planner, table.task.type, number - 1, table.job.reliability)
        part = await table.hold(
            f"part-{number}", config.worker, subtask(table.task, number, text), workers[: config.workers_per_subtask]
        )
        found.append(f"{text}\n{argument(part)}")
    author = planner if planner in table.present else chosen_member(table, None)[0]
    last = SingleConfig(member=author.name, sampling=config.sampling, call_timeout_s=config.call_timeout_s)
    whole = table.task.model_copy(update={"context": (*table.task.context, *found)})
    return (await table.hold("answer", last, whole)).verdict


def delegate(
    members: Sequence[Member], planner: Member, task_type: str, turn: int, reliability: Reliability | None
) -> list[Member]:
    """Members in the order in which a part is offered to them: skilled before others, then as measured, then in turn.

    Without the planner, unless it is alone.
    """
    others = [member for member in members if member.name != planner.name] or [planner]
    rotated = [*others[turn % len(others) :], *others[: turn % len(others)]]

    def merit(member: Member) -> tuple[bool, float]:
        accuracy = 0.0 if reliability is None else reliability.accuracy(member, task_type).mean
        return (task_type not in member.skills, -accuracy)

    return sorted(rotated, key=merit)


def subtask(task: Task, number: int, text: str) -> Task:
    """A part as a task: a planner wrote its question, so it is data like any other question."""
    return Task(
        id=f"{task.id}/{number}",
        question=text,
        type=task.type,
        answer_kind="text",
        instruction=PART,
        context=(*task.context, task.question) if text != task.question else task.context,
        tags=task.tags,
    )


def plan_lines(text: str, most: int) -> list[str]:
    """The parts of a plan: its lines without their numbers, at most `most`, without doubles and essays."""
    lines = (_NUMBERED.sub("", line).strip() for line in text.splitlines())
    kept = dict.fromkeys(line for line in lines if 0 < len(line) <= MAX_SUBTASK_CHARS)
    return list(kept)[:most]


async def _plan(table: Table, config: HierarchicalConfig, planner: Member) -> list[str]:
    sampling = config.sampling.model_copy(update={"max_tokens": config.plan_max_tokens, "stop": ()})

    async def ask(member: Member) -> str:
        messages = plan_messages(table.task, config.max_subtasks, table.seed)
        (said,) = (await table.caller.complete(member, "plan", 0, messages, sampling))[:1]
        return said.text

    said = await table.hear("plan", 0, [planner], config.plan_max_tokens, ask)
    return plan_lines(said.get(planner.name, ""), config.max_subtasks)


def plan_messages(task: Task, most: int, seed: int) -> tuple[Message, ...]:
    """The prompt of a plan."""
    mark = fence_mark(seed, task.context)
    parts = (*earlier_results(task, mark), Part(text=PLAN.format(most=most)), question(task), Part(text=LINES))
    return (Message(role="user", parts=parts),)


PLAN = "Split the question below into at most {most} smaller questions that somebody else can answer.\n"
LINES = "\nWrite one smaller question a line, and nothing else."
PART = "Answer this smaller question; it is part of a larger one."
