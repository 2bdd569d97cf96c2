"""Members asked alone and anew what the mesh had solved, until each has spent at least the mesh's tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evolve.asks import proposal_asks
from evolve.audit.draws import SealedJudge
from evolve.audit.tuning import Way
from evolve.lab import Ask, Lab
from evolve.problems.sealed import Asked
from mesh.types import Deliberation, Member

MAX_TOP_UP = 16
"""Times `emergence_samples` drawn at most to match the mesh's tokens: a council's prompts are long, answers short."""
SPARE = 1.1
"""What is drawn beyond the tokens missing, since samples differ in length."""

Right = Mapping[tuple[str, str], bool]


@dataclass(frozen=True)
class Asking:
    """How members are asked alone, and who judges what they say.

    `ways` by member name: who is missing is asked as configured. `judge` None: the problems are open.
    """

    ways: Mapping[str, Way] = field(default_factory=dict)
    judge: SealedJudge | None = None


@dataclass(frozen=True)
class AskedAlone:
    """Fresh traces of one member each, by task and member."""

    traces: Mapping[tuple[str, str], tuple[Deliberation, ...]] = field(default_factory=dict)
    right: Right = field(default_factory=dict)

    def of(self, task_id: str, member: str) -> tuple[Deliberation, ...]:
        """The traces of one member on one task."""
        return self.traces.get((task_id, member), ())

    def counts(self, task_id: str, member: str) -> tuple[int, int]:
        """(right, drawn)."""
        said = [proposal for trace in self.of(task_id, member) for proposal in trace.proposals]
        return sum(is_hit(task_id, proposal.answer, self.right) for proposal in said), len(said)

    def anybody_right(self, task_id: str) -> bool:
        """Whether any sample of any member was right."""
        return any(self.counts(task, member)[0] > 0 for task, member in self.traces if task == task_id)


def is_hit(task_id: str, answer: str | None, right: Right) -> bool:
    """Whether an answer was judged right; an abstention never was."""
    return answer is not None and right.get((task_id, answer), False)


def tokens_of(traces: Iterable[Deliberation]) -> int:
    """Prompt and output tokens of all calls."""
    usages = [trace.usage for trace in traces]
    return sum(usage.prompt_tokens + usage.output_tokens for usage in usages)


async def ask_alone(
    lab: Lab, stage: str, councils: Sequence[Deliberation], by_id: Mapping[str, Asked], asking: Asking
) -> AskedAlone:
    """First `emergence_samples` of every member of these councils; then what is missing to the mesh's tokens.

    They are as warm as the harvest's: at a lower temperature thirty samples would be a few different ones.

    Where any member was right the question is decided, and nothing more is drawn.
    """
    if not councils:
        return AskedAlone()
    count = lab.config.evaluation.emergence_samples
    asks = [
        ask
        for council in councils
        for member in council.members
        for ask in _asks(lab, stage, by_id[council.task.id], member, count, asking)
    ]
    first = await _draw(lab, stage, asks, by_id, asking)
    more = [
        ask
        for council in councils
        if not first.anybody_right(council.task.id)
        for ask in _top_up(lab, f"{stage} top-up", council, first, by_id, asking)
    ]
    return _joined(first, await _draw(lab, f"{stage} top-up", more, by_id, asking)) if more else first


def _asks(lab: Lab, stage: str, problem: Asked, member: Member, count: int, asking: Asking) -> list[Ask]:
    warmth = lab.config.harvest.temperature
    if warmth is None:
        warmth = lab.config.deliberation.sampling.temperature
    asks = proposal_asks(lab.config, stage, [problem], [member], count, temperature=warmth)
    way = asking.ways.get(member.name)
    if way is None:
        return asks
    warm = way.model_copy(update={"temperature": max(warmth, way.temperature)})
    return [warm.of(ask) for ask in asks]


async def _draw(lab: Lab, stage: str, asks: Sequence[Ask], by_id: Mapping[str, Asked], asking: Asking) -> AskedAlone:
    drawn = await lab.hold(stage, lab.directory / "emergence" / f"{stage.replace(' ', '-')}.parquet", asks)
    problems = [by_id[task_id] for task_id in dict.fromkeys(trace.task.id for trace in drawn)]
    judged = await (
        lab.judge_all(stage, drawn, problems) if asking.judge is None else asking.judge(lab, stage, drawn, problems)
    )
    return AskedAlone({(t.task.id, t.members[0].name): (t,) for t in drawn}, judged.lookup())


def _top_up(
    lab: Lab, stage: str, council: Deliberation, first: AskedAlone, by_id: Mapping[str, Asked], asking: Asking
) -> list[Ask]:
    target, most = tokens_of([council]), MAX_TOP_UP * lab.config.evaluation.emergence_samples
    asks = []
    for member in council.members:
        count = min(most, samples_missing(first.of(council.task.id, member.name), target))
        if count:
            asks += _asks(lab, stage, by_id[council.task.id], member, count, asking)
    return asks


def samples_missing(traces: Sequence[Deliberation], target: int) -> int:
    """Samples more until `target` tokens are spent, judged by those so far; 0 where nothing is missing, or was said."""
    missing = target - tokens_of(traces)
    said = sum(len(trace.proposals) for trace in traces)
    each = sum(trace.usage.output_tokens for trace in traces) / max(1, said)
    return math.ceil(SPARE * missing / each) if missing > 0 and each > 0.0 else 0


def _joined(first: AskedAlone, more: AskedAlone) -> AskedAlone:
    traces = {key: (*mine, *more.traces.get(key, ())) for key, mine in first.traces.items()}
    return AskedAlone(traces, {**first.right, **more.right})
