"""Settling which answers on the table are one, where spelling cannot tell: formulas by algebra, prose by families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mesh.equivalence import canonical
from mesh.sameness import free_text_groups, same_messages, says_same, two_families
from mesh.symbolic import SymbolicError
from mesh.types import Failure, Member

if TYPE_CHECKING:
    from mesh.table import Table

Groups = tuple[tuple[str, ...], ...]


async def settle(table: Table, answers: Sequence[str]) -> Groups:
    """Groups of canonical spellings among `answers` that are one answer, beyond equal spelling.

    Formulas: whatever math-verify finds equal. Prose: what one member of each of two families calls the same; with one
    family nothing is merged. Pairs that were settled before are not asked about again.
    """
    if table.task.answer_kind not in ("math", "free"):
        return ()
    distinct = {canonical(answer, table.task.answer_kind) for answer in answers}
    if len(distinct) < 2 or distinct <= table.settled:
        return ()
    table.settled |= distinct
    if table.task.answer_kind == "math":
        return await _by_algebra(table, answers)
    judges = two_families(table.seats("extraction"))
    if judges is None:
        return ()

    async def ask(first: str, second: str) -> bool:
        return await _agreed(table, judges, first, second)

    return await free_text_groups(answers, ask)


async def _by_algebra(table: Table, answers: Sequence[str]) -> Groups:
    """What math-verify finds equal; where its child process cannot run, a failure, and spelling alone."""
    try:
        return await table.job.symbolic.groups(answers)
    except SymbolicError as error:
        failure = Failure(
            member="", phase="same", round=table.last_round, kind=type(error).__name__, message=str(error)
        )
        table.failures.append(failure)
        return ()


async def _agreed(table: Table, judges: tuple[Member, Member], first: str, second: str) -> bool:
    """Whether both judges call the two answers the same; a judge that fails or cannot be paid says no."""
    known = table.same_pairs.get((first, second))
    if known is not None:
        return known
    there, back = (same_messages(table.task, first, second, table.seed, yes_first=yes) for yes in (True, False))

    async def ask(member: Member) -> bool:
        yes_first = await table.caller.choose(member, "same", table.last_round, there, "AB")
        no_first = await table.caller.choose(member, "same", table.last_round, back, "AB")
        return says_same(yes_first, no_first)

    said = await table.hear("same", table.last_round, judges, 2, ask, calls_each=2)
    agreed = len(said) == len(judges) and all(said.values())
    table.same_pairs[first, second] = agreed
    return agreed
