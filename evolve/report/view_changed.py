"""Which councils show a reader what specialists changed: one problem before and after, picked by rule. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evolve.report.evolution import ChangedView
from mesh.transcript import transcript
from mesh.types import Deliberation

NUM_MENDED = 3
NUM_BROKEN = 1
_Right = Mapping[tuple[str, str], bool]


def changed_views(
    before: Sequence[Deliberation], after: Sequence[Deliberation], right: _Right
) -> tuple[ChangedView, ...]:
    """Problems that generation 0 got wrong and the last seats right because of a specialist, and one the other way.

    Because of: a specialist's own first answer was the verdict. Lowest trace ids first, so the pick is blind to texts.
    """
    old = {deliberation.task.id: deliberation for deliberation in before}
    pairs = [(old[d.task.id], d) for d in sorted(after, key=lambda d: d.id) if d.task.id in old]
    mended = [pair for pair in pairs if _turned(pair, right, _is_right) and _by_specialist(pair[1])]
    broken = [pair for pair in pairs if _turned(pair, right, _is_wrong) and _by_specialist(pair[1])]
    return tuple(
        [
            *(
                _view(pair, "A specialist mended it", "wrong in generation 0, right now")
                for pair in mended[:NUM_MENDED]
            ),
            *(_view(pair, "A specialist broke it", "right in generation 0, wrong now") for pair in broken[:NUM_BROKEN]),
        ]
    )


def _turned(
    pair: tuple[Deliberation, Deliberation], right: _Right, wanted: Callable[[Deliberation, _Right], bool]
) -> bool:
    return wanted(pair[1], right) and not wanted(pair[0], right)


def _is_right(deliberation: Deliberation, right: _Right) -> bool:
    answer = deliberation.verdict.answer
    return answer is not None and right.get((deliberation.task.id, answer), False)


def _is_wrong(deliberation: Deliberation, right: _Right) -> bool:
    return not _is_right(deliberation, right)


def _specialists(deliberation: Deliberation) -> tuple[str, ...]:
    return tuple(member.name for member in deliberation.members if member.adapter is not None)


def _by_specialist(deliberation: Deliberation) -> bool:
    names = set(_specialists(deliberation))
    return any(
        proposal.member in names and proposal.answer is not None and proposal.answer == deliberation.verdict.answer
        for proposal in deliberation.round_of(0)
    )


def _view(pair: tuple[Deliberation, Deliberation], title: str, turn: str) -> ChangedView:
    before, after = pair
    return ChangedView(
        title=title,
        why=f"the verdict was {turn}, and a specialist's own first answer is that verdict",
        task_type=after.task.type,
        question=after.task.question,
        specialists=_specialists(after),
        before="\n".join(transcript(before)),
        after="\n".join(transcript(after)),
    )
