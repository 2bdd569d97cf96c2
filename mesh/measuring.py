"""From judged traces to a reliability: accuracies, errors in common, what talking did, and a curve for confidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mesh.reliability import Reliability, judged_answers, judged_talks, measure
from mesh.seeds import derive_seed
from mesh.types import Deliberation, Member, Proposal
from mesh.weigh import weighted

Right = Mapping[tuple[str, str], bool]
"""(task id, answer as spelled) to whether it was judged right; what is not in it was not judged."""


def measure_traces(
    traces: Sequence[Deliberation], right: Right, *, councils: Iterable[Deliberation] = ()
) -> Reliability:
    """Reliability from the first proposals in `traces`; what talking did is read from `councils`.

    The curve for confidence is fitted to the weighted vote over all first proposals of a task, each task weighed by
    what was measured on the other half of the tasks: weights flatter the answers they were measured on.
    """
    by_task: dict[str, list[Deliberation]] = {}
    for trace in traces:
        by_task.setdefault(trace.task.id, []).append(trace)
    halves: tuple[list[str], list[str]] = ([], [])
    for task_id in by_task:
        halves[derive_seed(0, task_id) % 2].append(task_id)
    confidences: list[tuple[float, bool]] = []
    for ours, others in (halves, halves[::-1]):
        measured = measure(judged_answers((trace for task_id in others for trace in by_task[task_id]), right))
        for task_id in ours:
            confidences += _confidence(by_task[task_id], right, measured)
    return measure(judged_answers(traces, right), confidences, judged_talks(councils, right))


def _confidence(traces: Sequence[Deliberation], right: Right, measured: Reliability) -> Iterator[tuple[float, bool]]:
    """(raw confidence, right or not) of the weighted vote over a task; nothing if all abstain."""
    task = traces[0].task
    proposals: list[Proposal] = [proposal for trace in traces for proposal in trace.round_of(0)]
    members: dict[str, Member] = {member.name: member for trace in traces for member in trace.members}
    verdict = weighted(proposals, task.answer_kind, measured, list(members.values()), task.type)
    if verdict.answer is not None and (task.id, verdict.answer) in right:
        yield verdict.confidence, right[task.id, verdict.answer]
