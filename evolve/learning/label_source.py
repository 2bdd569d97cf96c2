"""Who says that an answer is right: a verifier, members of other families, or a mere majority. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from memory.types import Record
from mesh.equivalence import canonical
from mesh.types import Deliberation, positions

LabelSource = Literal["verifier", "cross_family", "consensus"]
TRUST: tuple[LabelSource, ...] = ("verifier", "cross_family", "consensus")
"""Most trusted first; where there is room for some only, the better label stays."""


class Label(Record):
    """One answer that is held to be right, and who says so."""

    task_id: str
    answer: str
    source: LabelSource
    families: tuple[str, ...] = ()
    """Families whose members gave this answer on their own, sorted; empty where a verifier speaks."""


def label_answers(
    deliberations: Iterable[Deliberation],
    judged: dict[tuple[str, str], bool],
    *,
    min_families: int = 2,
    min_share: float = 0.6,
) -> tuple[Label, ...]:
    """What may be taught as right of the independent first answers, one label an answer, in order of appearance.

    A judged answer is right or wrong as the verifier says, and nothing outvotes it. Where nobody judged any answer of
    a task, one given by `min_families` families is right by cross-family agreement, if no other answer has as many;
    failing that, one held by at least `min_share` of the members who answered (and by two) is right by consensus.

    Args:
        judged: (task id, answer as spelled) to correct; a task with any entry counts as judged.
    """
    labels: list[Label] = []
    judged_tasks = {task_id for task_id, _ in judged}
    held: dict[str, dict[str, dict[str, str]]] = {}
    spelled: dict[tuple[str, str], str] = {}
    seen: set[tuple[str, str]] = set()
    for deliberation in deliberations:
        task_id, kind = deliberation.task.id, deliberation.equality
        for proposal in deliberation.round_of(0):
            answer = proposal.answer
            if answer is None or (task_id, answer) in seen:
                continue
            if judged.get((task_id, answer)):
                seen.add((task_id, answer))
                labels.append(Label(task_id=task_id, answer=answer, source="verifier"))
        if task_id in judged_tasks:
            continue
        for member, own in positions(deliberation.round_of(0), kind).items():
            if own.answer is not None:
                key = canonical(own.answer, kind)
                spelled.setdefault((task_id, key), own.answer)
                held.setdefault(task_id, {}).setdefault(key, {})[member] = own.family
    for task_id, answers in held.items():
        found = _agreed(answers, min_families, min_share)
        if found is not None:
            key, source = found
            families = tuple(sorted(set(answers[key].values())))
            labels.append(Label(task_id=task_id, answer=spelled[task_id, key], source=source, families=families))
    return tuple(labels)


def _agreed(answers: dict[str, dict[str, str]], min_families: int, min_share: float) -> tuple[str, LabelSource] | None:
    """The answer that others agree on, `answers` being answer to member to family; None: they do not."""
    by_families = sorted(answers, key=lambda key: (-len(set(answers[key].values())), key))
    sizes = [len(set(answers[key].values())) for key in by_families]
    if sizes[0] >= min_families and (len(sizes) == 1 or sizes[1] < sizes[0]):
        return by_families[0], "cross_family"
    num_members = len({member for members in answers.values() for member in members})
    best = max(answers, key=lambda key: (len(answers[key]), key))
    if len(answers[best]) >= 2 and len(answers[best]) / num_members >= min_share:
        return best, "consensus"
    return None
