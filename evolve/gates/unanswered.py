"""Problems about which calls failed: nobody knows what the answer would have been, so no side may win or lose by it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import Field

from evolve.judging.unchecked import GATE_LIMIT
from evolve.outage import engine_failures
from evolve.problems.sealed import Asked
from memory.types import Record
from mesh.types import Deliberation

_A = TypeVar("_A", bound=Asked)

Unanswered = Mapping[str, Mapping[str, str]]
"""Task id to the members of whom a call about it failed, each with the reason."""


def unanswered(held: Iterable[Deliberation]) -> Unanswered:
    """Where calls failed, in all draws or councils of a stage.

    A problem about which every call to an engine failed is one that this engine cannot answer, being too long for its
    window, say: that befalls all its members alike, is what they are worth there, and is not in it.
    """
    seated: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    failed: defaultdict[tuple[str, str], dict[tuple[str, str], str]] = defaultdict(dict)
    for one in held:
        for member in one.members:
            seated[one.task.id, member.engine].add((one.id, member.name))
        for member, failure in engine_failures(one):
            said = f"{failure.kind}: {failure.message}"
            failed[one.task.id, member.engine].setdefault((one.id, member.name), said)
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for (task_id, engine), reasons in failed.items():
        if len(reasons) < len(seated[task_id, engine]):
            found[task_id] |= {name: reason for (_, name), reason in reasons.items()}
    return found


class LeftOut(Record):
    """The problems that a comparison does without, since calls about them failed."""

    task_ids: tuple[str, ...]
    num_problems: int
    reason: str = Field(default="", description="the most frequent one")

    @property
    def is_too_much(self) -> bool:
        """Whether what remains is no fair comparison any more; the limit is that of a verifier that breaks."""
        return len(self.task_ids) > GATE_LIMIT * self.num_problems

    @property
    def sentence(self) -> str:
        """For people."""
        return f"calls about {len(self.task_ids)} of {self.num_problems} problems failed ({self.reason})"

    def rest(self, items: Iterable[_A]) -> list[_A]:
        """Those of `items` that are compared."""
        return [item for item in items if item.task.id not in self.task_ids]


def left_out(found: Unanswered, items: Sequence[Asked], members: Collection[str]) -> LeftOut:
    """What a comparison of these members, by name, does without."""
    mine = {
        item.task.id: reasons
        for item in items
        if (reasons := [why for name, why in found.get(item.task.id, {}).items() if name in members])
    }
    usual = Counter(why for reasons in mine.values() for why in reasons).most_common(1)
    return LeftOut(task_ids=tuple(mine), num_problems=len(items), reason=usual[0][0] if usual else "")
