"""A deliberation as lines a person reads: proposals, critiques, mind changes, votes, verdict."""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_uppercase

from mesh.equivalence import Equality, same_answer
from mesh.tally import A_TIE
from mesh.types import Deliberation, Proposal, Shown, Verdict, positions

MAX_TEXT_CHARS = 600


def transcript(deliberation: Deliberation, *, max_text_chars: int = MAX_TEXT_CHARS) -> tuple[str, ...]:
    """Plain lines without markup, in the order of events; what members wrote is indented behind "| ".

    Control characters of a member's text are shown as "·", so that printing a trace cannot drive a terminal. Texts
    longer than `max_text_chars` end in a note of how many characters follow; the trace itself keeps them all.
    """
    return tuple(_lines(deliberation, max_text_chars))


def _lines(deliberation: Deliberation, room: int, path: str = "") -> Iterator[str]:
    task = deliberation.task
    place = f"Part {path}" if path else f"Task {_one_line(task.id)} ({_one_line(task.type)})"
    yield f"{place}, protocol {deliberation.protocol}"
    yield from _quoted(task.question, room)
    for text in task.context:
        yield "Given from earlier steps:"
        yield from _quoted(text, room)
    if not path:
        yield from _recall(deliberation, room)
    for exchange in deliberation.exchanges:
        if exchange.phase == "plan" and exchange.completions:
            yield f"Plan by {exchange.member}"
            yield from _quoted(exchange.completions[0].text, room)
    for child in deliberation.children:
        below = f"{path}/{child.step}" if path else child.step
        yield from (f"  {line}" for line in _lines(child, room, below))
    if deliberation.round_of(0):
        yield "First proposals"
        for proposal in deliberation.round_of(0):
            yield from _proposal(proposal, room)
        yield f"First verdict: {_verdict(deliberation.first_verdict)}"
    rounds = {p.round for p in deliberation.proposals} | {reading.round for reading in deliberation.readings}
    for number in sorted((rounds | {critique.round for critique in deliberation.critiques}) - {0}):
        yield from _round(deliberation, number, room)
    yield from _ballots(deliberation)
    if deliberation.failures:
        yield "Failures"
    for failure in deliberation.failures:
        where = f"{failure.phase}, round {failure.round}"
        yield f"  {failure.member} ({where}): {failure.kind}: {_one_line(failure.message)}"
    yield from _person(deliberation)
    yield f"Verdict: {_verdict(deliberation.verdict)}"
    yield from _diagnosis(deliberation, room)
    usage = deliberation.usage
    # No seconds: the same deliberation reads the same on any machine.
    yield f"{usage.num_calls} calls, {usage.prompt_tokens} prompt tokens, {usage.output_tokens} output tokens"


def _recall(deliberation: Deliberation, room: int) -> Iterator[str]:
    for note in deliberation.recalled:
        about = "the same problem" if note.same else "a similar one"
        warns = " as a warning" if note.warning else ""
        yield f"Recalled ({note.kind}, {note.level}, {about}, {note.lane}, score {note.score:.2f}){warns}:"
        yield from _quoted(note.text, room)
    for note in deliberation.withheld:
        yield f"Recalled and withheld, to measure what recall is worth ({note.kind}, {note.level}):"
        yield from _quoted(note.text, room)


def _ballots(deliberation: Deliberation) -> Iterator[str]:
    if deliberation.votes:
        yield "Votes"
    for vote in deliberation.votes:
        weights = ", ".join(f"{_one_line(answer)} {weight:.2f}" for answer, weight in vote.weights)
        yield f"  {vote.member} votes {_one_line(vote.answer)} ({weights})"
    judged = [
        exchange for exchange in deliberation.exchanges if exchange.phase in ("rank", "review") and exchange.weights
    ]
    if judged:
        yield "Judgements"
    for exchange in judged:
        weights = ", ".join(
            f"{label} {weight:.2f}" for label, weight in zip(ascii_uppercase, exchange.weights, strict=False)
        )
        yield f"  {exchange.member} ({exchange.phase}): {weights}"


def _person(deliberation: Deliberation) -> Iterator[str]:
    for number, asked in enumerate(deliberation.questions):
        choices = ", ".join(_one_line(choice) for choice in asked.choices)
        yield f"A person was asked ({asked.reason}): {choices}"
        if number < len(deliberation.replies):
            reply = deliberation.replies[number]
            said = reply.edit if reply.edit is not None else asked.choices[reply.choice or 0]
            yield f"  {_one_line(reply.by)}: {_one_line(said)}{f' - {_one_line(reply.note)}' if reply.note else ''}"


def _diagnosis(deliberation: Deliberation, room: int) -> Iterator[str]:
    verdict, found = deliberation.verdict, deliberation.verdict.diagnosis
    if found is None:
        return
    sure = "calibrated confidence" if verdict.calibrated else "confidence (not calibrated)"
    yield f"Diagnosis: {found.shape}, {sure} {verdict.confidence:.2f}, worth {found.n_eff:.1f} independent votes"
    yield f"  weights: {found.weighting}"
    equality = deliberation.equality
    turning = [name for name, answer in found.without_family if not same_answer(answer, verdict.answer, equality)]
    if found.shape == "one member answered":
        turning = []  # without the only one who answered there is nothing, which says nothing about the answer
    if turning and not deliberation.replies:
        yield f"  unstable: without {' or '.join(turning)} the verdict differs"
    if found.surprise is not None:
        yield f"  the other families are surprised by {found.surprise:.2f} bits per byte"
    for cluster in found.dissent:
        held = ", ".join(cluster.members) or "no member's position"
        yield f"  dissent: {_one_line(cluster.answer)} ({held})"
        if cluster.argument and cluster.argument != cluster.answer:
            yield from _quoted(cluster.argument, room, indent="    ")


def _round(deliberation: Deliberation, number: int, room: int) -> Iterator[str]:
    kind = deliberation.equality
    yield f"Round {number}"
    for reading in deliberation.readings:
        if reading.round == number and reading.shown:
            shown = ", ".join(
                f"{s.label}: {_one_line(s.answer)} ({s.supporters}, by {s.author}{_cut(s)})" for s in reading.shown
            )
            hidden = f"; {reading.num_left_out} left out" if reading.num_left_out else ""
            yield f"  {reading.reader} reads {shown}{hidden}"
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


def _cut(shown: Shown) -> str:
    return "" if shown.level == "full" else f", {shown.level} only"


def _change(before: Proposal | None, after: Proposal, kind: Equality) -> str:
    if before is None:
        return ""
    if after.withdrew is not None:
        return f" (said {_answer(after.withdrew)}, named no wrong step, and keeps its answer)"
    if same_answer(before.answer, after.answer, kind):
        return " (stays)"
    quote = f", calling wrong: {_one_line(after.quote)}" if after.quote else ""
    return f" (changed from {_answer(before.answer)}{quote})"


def _proposal(proposal: Proposal, room: int, remark: str = "") -> Iterator[str]:
    sample = f" #{proposal.sample + 1}" if proposal.sample else ""
    yield f"  {proposal.member}{sample}: {_answer(proposal.answer)}{remark}"
    yield from _quoted(proposal.text, room, indent="    ")


def _verdict(verdict: Verdict) -> str:
    support = ", ".join(f"{_one_line(answer)} {weight:.3g}" for answer, weight in verdict.support)
    tied = ", a tie" if verdict.tied and A_TIE not in verdict.method else ""  # older traces do not name the rule
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
