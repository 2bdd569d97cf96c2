"""What the talking did, counted over judged deliberations, and which of them a reader is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evolve.report.data import ExampleView, TalkView
from memory.types import Record
from mesh.transcript import transcript
from mesh.types import Deliberation


class JudgedCase(Record):
    """A deliberation with what the judge said of its first-round vote and of its verdict."""

    deliberation: Deliberation
    first_correct: bool
    final_correct: bool


def talk_view(label: str, cases: Sequence[JudgedCase]) -> TalkView:
    """Counts over all councils of one generation; a phase that changes nothing shows here as zeros."""
    traces = [case.deliberation for case in cases]
    critiques = [critique for trace in traces for critique in trace.critiques]
    return TalkView(
        label=label,
        num_councils=len(cases),
        num_critiques=len(critiques),
        num_valid_critiques=sum(critique.valid for critique in critiques),
        num_revisions=sum(proposal.round > 0 for trace in traces for proposal in trace.proposals),
        num_changed=sum(len(trace.mind_changes) for trace in traces),
        wrong_to_right=sum(case.final_correct and not case.first_correct for case in cases),
        right_to_wrong=sum(case.first_correct and not case.final_correct for case in cases),
        num_abstained=sum(proposal.answer is None for trace in traces for proposal in trace.proposals),
        num_failures=sum(len(trace.failures) for trace in traces),
    )


def as_text(deliberation: Deliberation) -> str:
    """The plain transcript as one text."""
    return "\n".join(transcript(deliberation))


def _first_round_differs(case: JudgedCase) -> bool:
    answers = {proposal.answer for proposal in case.deliberation.round_of(0) if proposal.answer is not None}
    return len(answers) > 1


_Rule = tuple[str, str, Callable[[JudgedCase], bool]]

_RULES: tuple[_Rule, ...] = (
    (
        "Talking fixed it",
        "the first-round vote was wrong, the verdict is right",
        lambda case: case.final_correct and not case.first_correct,
    ),
    (
        "Talking broke it",
        "the first-round vote was right, the verdict is wrong",
        lambda case: case.first_correct and not case.final_correct,
    ),
    (
        "A split",
        "members still disagreed at the end, or the tie rule decided",
        lambda case: bool(case.deliberation.verdict.dissent) or case.deliberation.verdict.tied,
    ),
    ("A disagreement settled", "the first answers differed, nobody dissented at the end", _first_round_differs),
    ("Agreement from the start", "every readable first answer was the same", lambda case: True),
)


def choose_examples(
    cases: Sequence[JudgedCase], render: Callable[[Deliberation], str] = as_text, limit: int = 4
) -> tuple[ExampleView, ...]:
    """Up to `limit` deliberations, one a rule, each rule taking the lowest trace id that no rule before it took.

    Ids are hashes, so the pick is blind to how well a transcript reads. Rules without a case are left out.
    """
    left = sorted(cases, key=lambda case: case.deliberation.id)
    chosen: list[ExampleView] = []
    for title, why, fits in _RULES:
        case = next((case for case in left if fits(case)), None)
        if case is None or len(chosen) == limit:
            continue
        left.remove(case)
        judged = f"judged: first-round vote {_word(case.first_correct)}, verdict {_word(case.final_correct)}"
        chosen.append(
            ExampleView(
                title=title,
                why=f"{why} ({judged})",
                task_type=case.deliberation.task.type,
                transcript=render(case.deliberation),
            )
        )
    return tuple(chosen)


def _word(correct: bool) -> str:
    return "right" if correct else "wrong"
