"""The records of a deliberation: what a member sees, says and decides, and the whole trace of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from memory.types import Evidence, Recollection, Record
from mesh.equivalence import AnswerKind, canonical, same_answer
from mesh.text import Text

Phase = Literal["propose", "extract", "critique", "revise", "vote"]


class Part(Record):
    """A piece of a message. Only trusted parts may be rendered as structure by an engine."""

    kind: Literal["text", "tool_call", "tool_result"] = "text"
    text: Text
    trusted: bool = Field(default=True, description="False for anything a model, a peer, memory or a user wrote")


class Message(Record):
    """One turn of a prompt."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All parts joined, trusted or not; for reading, not for rendering."""
        return "".join(part.text for part in self.parts)


class Demonstration(Record):
    """A worked example shown before the task, chosen by the operator, never by a peer."""

    question: Text
    answer: Text


class Task(Record):
    """What a member sees. It holds no reference answer and no way to reach one."""

    id: Text
    question: Text
    type: Text = Field(default="general", description="task family; reliability and specialists are kept per type")
    answer_kind: AnswerKind = "text"
    instruction: Text = Field(default="", description="how to answer, from the operator; empty: none")
    demonstrations: tuple[Demonstration, ...] = ()


class Sampling(Record):
    """How to sample. `seed` makes a request repeatable on an engine that supports it."""

    temperature: float = Field(default=0.7, ge=0.0, le=5.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=64, ge=1)
    stop: tuple[str, ...] = ()
    num_samples: int = Field(default=1, ge=1)
    seed: int = 0


class Usage(Record):
    """Tokens, calls and engine seconds; adds up with `+`."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    num_calls: int = 0
    seconds: float = Field(
        default=0.0, description="wall seconds the calls took, summed; overlapping calls count twice"
    )

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            num_calls=self.num_calls + other.num_calls,
            seconds=self.seconds + other.seconds,
        )

    @staticmethod
    def total(usages: Iterable[Usage]) -> Usage:
        """Sum of many."""
        result = Usage()
        for usage in usages:
            result = result + usage
        return result


class Completion(Record):
    """One sampled continuation."""

    text: Text
    finish_reason: Literal["stop", "length", "error"] = "stop"
    output_tokens: int = Field(default=0, ge=0)
    adapter: str | None = Field(default=None, description="hash of the adapter that produced it; None: the base model")


class Member(Record):
    """A seat in a deliberation: which engine answers, with which adapter."""

    name: str = Field(description="unique within a mesh; shown to people, never to other members")
    engine: str = Field(description="name of the engine that serves it")
    family: str = Field(description="model family; members of one family share blind spots")
    adapter: str | None = Field(default=None, description="content hash of a LoRA adapter; None: the base model")
    role: str = ""


class Profile(Record):
    """What an engine found out about its model by probing it at start-up."""

    engine: str
    model: str
    max_model_len: int = Field(description="window, in tokens")
    has_chat_template: bool
    accepts_system_role: bool
    adds_bos: bool = Field(description="a beginning-of-sequence token is put first")
    token_exact: bool = Field(description="untrusted text is rendered by token ids; False: sanitised text only")
    can_choose: bool = Field(default=True, description="label probabilities for votes are exact")
    stop_token_ids: tuple[int, ...] = ()


class Exchange(Record):
    """One call to a member, whole: what it saw and what it said."""

    member: str
    phase: Phase
    round: int = 0
    messages: tuple[Message, ...]
    completions: tuple[Completion, ...] = ()
    usage: Usage = Usage()


class Proposal(Record):
    """A member's answer. `answer` None means nothing could be read from the text: an abstention."""

    member: str
    family: str
    text: str
    answer: str | None
    round: int = Field(default=0, description="0: the independent first proposal; r: after the r-th reading of peers")
    sample: int = 0
    adapter: str | None = None


class Shown(Record):
    """One anonymised peer position as a reader saw it."""

    label: str = Field(description="'A', 'B', ... in the reader's own shuffled order")
    answer: str
    author: str = Field(description="member whose text represents this answer; the reader never saw the name")
    supporters: int = Field(description="peers who hold this answer; the reader is not counted")
    text: str = Field(
        default="", description="what stood in the prompt: the author's whole text, or less where room was short"
    )


class Reading(Record):
    """What one member was shown of the others in one round."""

    reader: str
    round: int
    shown: tuple[Shown, ...]


class Critique(Record):
    """A member's objection to a peer's answer. `valid` False: empty, or a copy of what it was shown."""

    member: str
    round: int
    target_answer: str
    text: str
    valid: bool


class Vote(Record):
    """A closed choice over the distinct answers; weights sum to 1 over the options."""

    member: str
    family: str
    answer: str
    weights: tuple[tuple[str, float], ...] = Field(description="(answer, probability) for every option, best first")


class Verdict(Record):
    """What the mesh decided. `answer` None: every member abstained or failed."""

    answer: str | None
    method: str = Field(description="rule that decided, e.g. 'plurality of 8 proposals'")
    support: tuple[tuple[str, float], ...] = Field(default=(), description="(answer, weight), best first")
    dissent: tuple[str, ...] = Field(default=(), description="members whose own last answer differs")
    confidence: float = Field(
        default=0.0, ge=0.0, le=1.0, description="share of the weight behind the answer; uncalibrated"
    )
    tied: bool = Field(default=False, description="True: decided by the tie rule")


class Failure(Record):
    """A call that gave nothing; the rest still decide."""

    member: str
    phase: Phase
    round: int = 0
    kind: str = Field(description="exception class name")
    message: str


def positions(proposals: Iterable[Proposal], kind: AnswerKind) -> dict[str, Proposal]:
    """What each member stands for: the first proposal that holds its most frequent readable answer.

    A member that abstained every time maps to its first abstention. Members come in order of first appearance.
    """
    said: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        said.setdefault(proposal.member, []).append(proposal)
    held = {}
    for member, own in said.items():
        counts = Counter(canonical(p.answer, kind) for p in own if p.answer is not None)
        held[member] = max(own, key=lambda p: 0 if p.answer is None else counts[canonical(p.answer, kind)])
    return held


class Deliberation(Record):
    """The whole trace of one task: the one source for judging, harvest, report and replay."""

    id: str
    task: Task
    protocol: str
    seed: int
    members: tuple[Member, ...]
    recalled: tuple[Recollection, ...] = ()
    proposals: tuple[Proposal, ...] = Field(default=(), description="all rounds, in order")
    readings: tuple[Reading, ...] = ()
    critiques: tuple[Critique, ...] = ()
    votes: tuple[Vote, ...] = ()
    failures: tuple[Failure, ...] = ()
    first_verdict: Verdict = Field(description="plurality over the independent first proposals alone")
    verdict: Verdict
    exchanges: tuple[Exchange, ...] = ()

    @property
    def usage(self) -> Usage:
        """Sum over every call."""
        return Usage.total(exchange.usage for exchange in self.exchanges)

    def round_of(self, number: int) -> tuple[Proposal, ...]:
        """Proposals of one round."""
        return tuple(p for p in self.proposals if p.round == number)

    @property
    def last_positions(self) -> dict[str, Proposal]:
        """Each member's position in the last round it spoke in; an abstention there is its position."""
        held: dict[str, Proposal] = {}
        for number in sorted({p.round for p in self.proposals}):
            held.update(positions(self.round_of(number), self.task.answer_kind))
        return held

    @property
    def mind_changes(self) -> tuple[tuple[str, str | None, str | None], ...]:
        """(member, answer before, answer after) wherever a revision changed the member's position."""
        kind = self.task.answer_kind
        latest = positions(self.round_of(0), kind)
        changes = []
        for number in sorted({p.round for p in self.proposals if p.round > 0}):
            for member, after in positions(self.round_of(number), kind).items():
                before = latest.get(member)
                if before is not None and not same_answer(before.answer, after.answer, kind):
                    changes.append((member, before.answer, after.answer))
                latest[member] = after
        return tuple(changes)


class Outcome(Record):
    """A judged deliberation or proposal, without the key it was judged by."""

    task_id: str
    task_type: str
    answer: str | None
    correct: bool
    evidence: Evidence
