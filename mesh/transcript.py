"""A deliberation as lines a person reads: proposals, critiques, mind changes, votes, verdict."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.equivalence import same_answer
from mesh.types import AnswerKind, Deliberation, Proposal, Verdict, positions

MAX_TEXT_CHARS = 600


def transcript(deliberation: Deliberation, *, max_text_chars: int = MAX_TEXT_CHARS) -> tuple[str, ...]:
    """Plain lines without markup, in the order of events; what members wrote is indented behind "| ".

    Control characters of a member's text are shown as "·", so that printing a trace cannot drive a terminal. Texts
    longer than `max_text_chars` end in a note of how many characters follow; the trace itself keeps them all.
    """
    return tuple(_lines(deliberation, max_text_chars))


def _lines(deliberation: Deliberation, room: int) -> Iterator[str]:
    task = deliberation.task
    yield f"Task {_one_line(task.id)} ({_one_line(task.type)}), protocol {deliberation.protocol}"
    yield from _quoted(task.question, room)
    for note in deliberation.recalled:
        yield f"Recalled ({note.kind}, {note.lane}, score {note.score:.2f}){' as a warning' if note.warning else ''}:"
        yield from _quoted(note.text, room)
    yield "First proposals"
    for proposal in deliberation.round_of(0):
        yield from _proposal(proposal, room)
    yield f"First verdict: {_verdict(deliberation.first_verdict)}"
    rounds = {p.round for p in deliberation.proposals} | {reading.round for reading in deliberation.readings}
    for number in sorted(rounds - {0}):
        yield from _round(deliberation, number, room)
    if deliberation.votes:
        yield "Votes"
    for vote in deliberation.votes:
        weights = ", ".join(f"{_one_line(answer)} {weight:.2f}" for answer, weight in vote.weights)
        yield f"  {vote.member} votes {_one_line(vote.answer)} ({weights})"
    if deliberation.failures:
        yield "Failures"
    for failure in deliberation.failures:
        where = f"{failure.phase}, round {failure.round}"
        yield f"  {failure.member} ({where}): {failure.kind}: {_one_line(failure.message)}"
    yield f"Verdict: {_verdict(deliberation.verdict)}"
    if deliberation.verdict.dissent:
        yield f"Dissent: {', '.join(deliberation.verdict.dissent)}"
    usage = deliberation.usage
    yield f"{usage.num_calls} calls, {usage.prompt_tokens} prompt tokens, {usage.output_tokens} output tokens"


def _round(deliberation: Deliberation, number: int, room: int) -> Iterator[str]:
    kind = deliberation.task.answer_kind
    yield f"Round {number}"
    for reading in deliberation.readings:
        if reading.round == number and reading.shown:
            shown = ", ".join(
                f"{s.label}: {_one_line(s.answer)} ({s.supporters}, by {s.author})" for s in reading.shown
            )
            yield f"  {reading.reader} reads {shown}"
    for critique in deliberation.critiques:
        if critique.round == number:
            flaw = "" if critique.valid else " (empty or copied: not passed on)"
            yield f"  {critique.member} objects to {_one_line(critique.target_answer)}{flaw}"
            yield from _quoted(critique.text, room, indent="    ")
    before: dict[str, Proposal] = {}
    for earlier in range(number):
        before.update(positions(deliberation.round_of(earlier), kind))
    for proposal in deliberation.round_of(number):
        yield from _proposal(proposal, room, _change(before.get(proposal.member), proposal, kind))


def _change(before: Proposal | None, after: Proposal, kind: AnswerKind) -> str:
    if before is None:
        return ""
    if same_answer(before.answer, after.answer, kind):
        return " (stays)"
    return f" (changed from {_answer(before.answer)})"


def _proposal(proposal: Proposal, room: int, remark: str = "") -> Iterator[str]:
    sample = f" #{proposal.sample + 1}" if proposal.sample else ""
    yield f"  {proposal.member}{sample}: {_answer(proposal.answer)}{remark}"
    yield from _quoted(proposal.text, room, indent="    ")


def _verdict(verdict: Verdict) -> str:
    support = ", ".join(f"{_one_line(answer)} {weight:g}" for answer, weight in verdict.support)
    tied = ", a tie" if verdict.tied else ""
    return f"{_answer(verdict.answer)} by {verdict.method}{tied}{f' [{support}]' if support else ''}"


def _answer(answer: str | None) -> str:
    return "(no answer)" if answer is None else _one_line(answer)


def _quoted(text: str, room: int, indent: str = "  ") -> Iterator[str]:
    cut = text[:room]
    for line in cut.splitlines() or [""]:
        yield f"{indent}| {_visible(line)}"
    if len(text) > room:
        yield f"{indent}| ... ({len(text) - room} more characters)"


def _one_line(text: str) -> str:
    return _visible(" ".join(text.split()))


def _visible(text: str) -> str:
    return "".join(character if character.isprintable() else "·" for character in text)
