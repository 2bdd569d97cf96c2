"""Traces as training data for other tools: what was said for the right answer, and what was said against it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from memory.types import Record, content_hash
from mesh.equivalence import canonical, same_answer
from mesh.parse import own_words
from mesh.propose import proposal_messages
from mesh.types import Deliberation, Message, Proposal
from serving.sanitise import has_marker

Right = Mapping[tuple[str, str], bool]
"""(task id, answer as spelled) to whether it was judged right; what is not in it was not judged."""

Why = Literal[
    "it waits for a person or has no answer",
    "its answer was judged wrong, and nobody gave a right one",
    "nobody judged its answer",
    "its confidence is too low",
    "no member's own text holds its answer",
    "a text holds control markers of chat templates",
    "the conversation does not begin with the user",
    "nobody dissented",
    "it says what another row says",
]


class Turn(Record):
    """One turn of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sample(Record):
    """Something to learn from: a question as the mesh asks it, and one member's own text with the right answer."""

    task_id: str
    task_type: str
    prompt: tuple[Turn, ...] = Field(description="as for a first proposal, without anything recalled; turns alternate")
    chosen: str = Field(description="the winner's own words")
    member: str = Field(description="who wrote them")
    family: str
    adapter: str | None = Field(description="adapter that wrote them; None: the base model")
    first: bool = Field(description="True: written before its author had read anybody; False: a revision")
    answer: str
    confidence: float
    verified: bool = Field(description="True: the answer was judged right; False: the mesh decided, nobody judged")
    rejected: str | None = Field(default=None, description="what argued for another answer; None: no preference")
    rejected_member: str | None = None
    rejected_answer: str | None = None


class Wanted(Record):
    """Which traces become samples."""

    only_verified: bool = Field(default=False, description="only answers that were judged right")
    min_confidence: float = Field(
        default=0.0, ge=0.0, le=1.0, description="of an answer that nobody judged; below it, it is left out"
    )


@dataclass
class Sampler:
    """Goes through traces once; what it leaves out is counted by its reason."""

    right: Right = field(default_factory=dict)
    wanted: Wanted = field(default_factory=Wanted)
    left_out: dict[Why, int] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def demonstrations(self, traces: Iterable[Deliberation]) -> Iterator[Sample]:
        """One sample a trace: the winner's own text."""
        for held in traces:
            found = self._winner(held)
            if isinstance(found, Sample):
                yield from self._new(found)
            else:
                self._leave(found)

    def preferences(self, traces: Iterable[Deliberation]) -> Iterator[Sample]:
        """A sample for every distinct answer that dissented: the winner's own text against the dissenter's own."""
        for held in traces:
            winner = self._winner(held)
            if not isinstance(winner, Sample):
                self._leave(winner)
                continue
            against = list(self._against(held, winner))
            if not against:
                self._leave("nobody dissented")
            for proposal in against:
                text = own_words(proposal.text).strip()
                if has_marker(text):
                    self._leave("a text holds control markers of chat templates")
                    continue
                told = {"rejected": text, "rejected_member": proposal.member, "rejected_answer": proposal.answer}
                yield from self._new(winner.model_copy(update=told))

    def _winner(self, held: Deliberation) -> Sample | Why:
        if held.is_waiting or held.verdict.answer is None:
            return "it waits for a person or has no answer"
        answer, verified = self._answer(held)
        if answer is None:
            return "its answer was judged wrong, and nobody gave a right one"
        if not verified and self.wanted.only_verified:
            return "nobody judged its answer"
        if not verified and held.verdict.confidence < self.wanted.min_confidence:
            return "its confidence is too low"
        own = _best_text(held, answer)
        if own is None:
            return "no member's own text holds its answer"
        prompt = alternating([*held.task.history, *proposal_messages(held.task)])
        if next(turn.role for turn in prompt if turn.role != "system") != "user":
            return "the conversation does not begin with the user"
        text = own_words(own.text).strip()
        if has_marker(text) or any(has_marker(turn.content) for turn in prompt):
            return "a text holds control markers of chat templates"
        return Sample(
            task_id=held.task.id, task_type=held.task.type, prompt=prompt, chosen=text, member=own.member,
            family=own.family, adapter=own.adapter, first=own.round == 0, answer=answer,
            confidence=held.verdict.confidence, verified=verified,
        )  # fmt: skip

    def _answer(self, held: Deliberation) -> tuple[str | None, bool]:
        """The answer to learn, and whether it was judged right; None: only that the verdict is wrong is known."""
        said = [held.verdict.answer, *(proposal.answer for proposal in asked_alone(held))]
        judged = [(one, self.right.get((held.task.id, one))) for one in said if one is not None]
        if (best := next((one for one, is_right in judged if is_right), None)) is not None:
            return best, True
        return (None, False) if judged[0][1] is False else (held.verdict.answer, False)

    def _against(self, held: Deliberation, winner: Sample) -> Iterator[Proposal]:
        """The first text for every other answer that is not known to be right, in the order in which they came."""
        seen = {canonical(winner.answer, held.equality)}
        for proposal in asked_alone(held):
            if proposal.answer is None or not proposal.text.strip():
                continue
            spelling = canonical(proposal.answer, held.equality)
            if spelling not in seen and not self.right.get((held.task.id, proposal.answer), False):
                seen.add(spelling)
                yield proposal

    def _new(self, sample: Sample) -> Iterator[Sample]:
        prompt = [turn.model_dump() for turn in sample.prompt]
        key = content_hash([prompt, sample.chosen, sample.rejected])
        if key in self._seen:
            self._leave("it says what another row says")
            return
        self._seen.add(key)
        yield sample

    def _leave(self, why: Why) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1


def asked_alone(held: Deliberation) -> list[Proposal]:
    """First proposals to the task as it was put, in the order they came: nobody had read anybody or earlier steps."""
    parts = [part for _, part in held.walk() if not part.task.context and part.task.question == held.task.question]
    return [proposal for part in parts for proposal in part.round_of(0)]


def alternating(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """The turns of a prompt, a system turn first and neighbours of one role joined: templates want it so."""
    turns: list[Turn] = []
    for message in sorted(messages, key=lambda message: message.role != "system"):
        if turns and turns[-1].role == message.role:
            turns[-1] = Turn(role=message.role, content=f"{turns[-1].content}\n\n{message.text}")
        else:
            turns.append(Turn(role=message.role, content=message.text))
    return tuple(turns)


def _best_text(held: Deliberation, answer: str) -> Proposal | None:
    """The text that says `answer`: a first proposal before a revision, by who argued for it best, then as they came."""
    clusters = held.verdict.diagnosis.clusters if held.verdict.diagnosis is not None else ()
    author = next((c.author for c in clusters if same_answer(c.answer, answer, held.equality)), "")
    later = [proposal for proposal in held.proposals if proposal.round > 0]
    for proposals in (asked_alone(held), later):
        own = [p for p in proposals if same_answer(p.answer, answer, held.equality) and p.text.strip()]
        if own:
            return min(own, key=lambda proposal: proposal.member != author)
    return None
