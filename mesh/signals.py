"""Signs that a verdict may be wrong, and how well each one told wrong verdicts from right ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import Field

from memory.types import Record
from mesh.calibrate import auroc
from mesh.diagnose import is_stable
from mesh.equivalence import canonical, same_answer
from mesh.types import Deliberation, positions


class Signals(Record):
    """What is suspicious about one verdict. Higher is more suspicious, throughout."""

    doubt: float = Field(description="1 less the verdict's confidence")
    minority: float = Field(description="1 less the chosen answer's share of the weight")
    entropy: float = Field(description="of the weights over the distinct answers, in bits")
    num_answers: float = Field(description="distinct answers")
    thin_support: float = Field(description="less the chosen answer's share times the effective number of votes")
    unstable: float = Field(description="1: some family's absence changes the verdict; else 0")
    families_differ: float = Field(
        description="0: in the first round two families or more answered, and all members alike; else 1"
    )
    changed: float = Field(description="1: the verdict is not that of the first round; else 0")
    surprise: float | None = Field(
        default=None, description="bits per byte of the chosen text under the other families; None: not scored"
    )


class Separation(Record):
    """How well one signal told wrong verdicts from right ones. 0.5: not at all; below: the wrong way round."""

    signal: str
    auroc: float
    low: float = Field(description="lower end of the 95% interval")
    high: float
    num_wrong: int
    num_right: int


def signals(deliberation: Deliberation) -> Signals:
    """The signals of a verdict, from the trace alone.

    Raises:
        ValueError: the verdict has no diagnosis.
    """
    verdict, equality = deliberation.verdict, deliberation.equality
    diagnosis = verdict.diagnosis
    if diagnosis is None:
        raise ValueError(f"expected a verdict with a diagnosis, got one without in deliberation {deliberation.id!r}")
    share = diagnosis.clusters[0].weight if diagnosis.clusters else 0.0
    first = [own for own in positions(deliberation.round_of(0), equality).values() if own.answer is not None]
    first_answers = {canonical(own.answer, equality) for own in first if own.answer is not None}
    families_agree = len(first_answers) == 1 and len({own.family for own in first}) > 1
    return Signals(
        doubt=1.0 - verdict.confidence,
        minority=1.0 - share,
        entropy=diagnosis.entropy,
        num_answers=float(len(diagnosis.clusters)),
        thin_support=-share * diagnosis.n_eff,
        unstable=float(not is_stable(diagnosis, verdict, equality)),
        families_differ=float(not families_agree),
        changed=float(not same_answer(deliberation.first_verdict.answer, verdict.answer, equality)),
        surprise=diagnosis.surprise,
    )


def separation(
    deliberations: Iterable[Deliberation], correct: Mapping[tuple[str, str], bool]
) -> tuple[Separation, ...]:
    """AUROC of every signal at telling wrong verdicts from right ones, best first.

    `correct` is keyed by (task id, answer as spelled in the verdict). Verdicts without an answer, without a diagnosis
    or without an entry are left out, and so are signals that were not measured or met verdicts of one kind only.
    """
    judged: list[tuple[Signals, bool]] = []
    for deliberation in deliberations:
        answer = deliberation.verdict.answer
        is_right = None if answer is None else correct.get((deliberation.task.id, answer))
        if is_right is not None and deliberation.verdict.diagnosis is not None:
            judged.append((signals(deliberation), not is_right))
    found = [_separation(name, judged) for name in Signals.model_fields]
    return tuple(sorted((one for one in found if one is not None), key=lambda one: -one.auroc))


def _separation(name: str, judged: Iterable[tuple[Signals, bool]]) -> Separation | None:
    scored = [(getattr(one, name), is_wrong) for one, is_wrong in judged if getattr(one, name) is not None]
    area = auroc([value for value, _ in scored], [is_wrong for _, is_wrong in scored])
    if area is None:
        return None
    return Separation(
        signal=name, auroc=area.value, low=area.low, high=area.high, num_wrong=area.num_true, num_right=area.num_false
    )
