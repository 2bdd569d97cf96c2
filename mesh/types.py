"""The records of a deliberation: what a member sees, says and decides, and the whole trace of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from memory.types import Evidence, Recollection, Record, content_hash
from mesh.equivalence import AnswerKind, Equality, Sameness, canonical, same_answer
from mesh.text import Text

Phase = Literal[
    "propose", "extract", "same", "digest", "critique", "revise", "account", "vote", "rank", "synthesise", "plan",
    "review", "score", "reflect",
]  # fmt: skip
Tier = Literal["extraction", "reflection", "deep"]
Work = Literal["critique", "synthesis"]
Level = Literal["full", "digest", "crux", "count"]


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


class Choice(Record):
    """An answer that is one of these texts, to the letter."""

    kind: Literal["choice"] = "choice"
    choices: tuple[Text, ...] = Field(min_length=1)


class Regex(Record):
    """An answer that a regular expression matches whole."""

    kind: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, max_length=4096)


class JsonSchema(Record):
    """An answer that is JSON of this schema."""

    kind: Literal["json"] = "json"
    json_schema: str = Field(description="the schema itself, as JSON text", max_length=65536)


Structure = Annotated[Choice | Regex | JsonSchema, Field(discriminator="kind")]
"""What form a completion must have; an engine that cannot promise it refuses the request."""


class Task(Record):
    """What a member sees. It holds no reference answer and no way to reach one."""

    id: Text
    question: Text
    type: Text = Field(default="general", description="task family; reliability and specialists are kept per type")
    answer_kind: AnswerKind = "text"
    instruction: Text = Field(default="", description="how to answer, from the operator; empty: none")
    demonstrations: tuple[Demonstration, ...] = ()
    history: tuple[Message, ...] = Field(
        default=(),
        description="earlier turns of a caller's own conversation, before the question; its parts are untrusted",
    )
    context: tuple[Text, ...] = Field(
        default=(), description="what earlier steps came to; models wrote it, so it is shown as data"
    )
    tags: tuple[str, ...] = Field(default=(), description="what the operator marks a task by, e.g. to ask a person")


class Sampling(Record):
    """How to sample. `seed` makes a request repeatable on an engine that supports it."""

    temperature: float = Field(default=0.7, ge=0.0, le=5.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=64, ge=1)
    stop: tuple[str, ...] = ()
    num_samples: int = Field(default=1, ge=1)
    seed: int = 0
    structure: Structure | None = Field(default=None, description="form of the answer; None: free text")


class Usage(Record):
    """Tokens, calls and engine seconds; adds up with `+`."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    num_calls: int = 0
    seconds: float = Field(
        default=0.0, description="wall seconds the calls took, summed; overlapping calls count twice"
    )
    engine_seconds: float = Field(
        default=0.0,
        description="the calls' share of their engines' busy time: calls under way together share each second",
    )

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            num_calls=self.num_calls + other.num_calls,
            seconds=self.seconds + other.seconds,
            engine_seconds=self.engine_seconds + other.engine_seconds,
        )

    @staticmethod
    def total(usages: Iterable[Usage]) -> Usage:
        """Sum of many."""
        # One record in the end: a check of every sum in between would be most of the work.
        prompt_tokens, output_tokens, num_calls, seconds, engine_seconds = 0, 0, 0, 0.0, 0.0
        for usage in usages:
            prompt_tokens += usage.prompt_tokens
            output_tokens += usage.output_tokens
            num_calls += usage.num_calls
            seconds += usage.seconds
            engine_seconds += usage.engine_seconds
        return Usage(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            num_calls=num_calls,
            seconds=seconds,
            engine_seconds=engine_seconds,
        )


class Completion(Record):
    """One sampled continuation."""

    text: Text
    finish_reason: Literal["stop", "length", "error"] = "stop"
    output_tokens: int = Field(default=0, ge=0)
    adapter: str | None = Field(default=None, description="hash of the adapter that produced it; None: the base model")


class Score(Record):
    """How likely a model finds a given text after a given prompt."""

    log_prob: float = Field(description="natural logarithm of the probability of the whole text")
    num_tokens: int = Field(ge=1)
    num_bytes: int = Field(ge=1, description="UTF-8 bytes of the text, so that tokenizers can be compared")

    @property
    def bits_per_byte(self) -> float:
        """Surprise: bits this model needs for a byte of the text. 0: it was certain of every token."""
        return -self.log_prob / math.log(2.0) / self.num_bytes


_WORK: dict[Phase, Work] = {"critique": "critique", "revise": "synthesis", "synthesise": "synthesis"}
"""What a member does with others' answers, phase by phase; in all other phases it speaks for itself."""


class Member(Record):
    """A seat in a deliberation: which engine answers, with which adapter, in which part."""

    name: str = Field(description="unique within a mesh; shown to people, never to other members")
    engine: str = Field(description="name of the engine that serves it")
    family: str = Field(description="model family; members of one family share blind spots")
    adapter: str | None = Field(default=None, description="content hash of a LoRA adapter; None: the base model")
    role: str = ""
    persona: Text = Field(default="", description="how this member should go about it, from the operator; empty: none")
    tiers: tuple[Tier, ...] = Field(
        default=(),
        description="work it takes: extraction (reading answers, digests), reflection (critiques, votes, reviews), "
        "deep (proposals, revisions, synthesis); empty: all of it",
    )
    skills: tuple[str, ...] = Field(default=(), description="task types it is preferred for where work is delegated")
    phase_adapters: tuple[tuple[Work, str], ...] = Field(
        default=(),
        description="hash of the adapter that does this work in place of `adapter`: critique (objections), synthesis "
        "(revisions and syntheses)",
        # Left out where there is none, so that seats without have the hash they had before there were any.
        exclude_if=lambda pairs: not pairs,
    )

    def at(self, phase: Phase) -> Member:
        """As its engine is asked in this phase: with the one adapter that answers."""
        if not self.phase_adapters:
            return self
        work, adapters = _WORK.get(phase), dict(self.phase_adapters)
        adapter = self.adapter if work is None else adapters.get(work, self.adapter)
        return self.model_copy(update={"adapter": adapter, "phase_adapters": ()})

    @property
    def guises(self) -> tuple[Member, ...]:
        """As its engine may be asked: with its own adapter, or none, first; then with that of each of its phases."""
        own = self.at("propose")
        return (own, *(own.model_copy(update={"adapter": adapter}) for _, adapter in self.phase_adapters))

    @property
    def adapters(self) -> tuple[str, ...]:
        """Hash of every adapter that it speaks with, its own first, each once."""
        return tuple(dict.fromkeys(one.adapter for one in self.guises if one.adapter is not None))


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
    can_score: bool = Field(default=False, description="the likelihood of a given text can be read")
    structures: tuple[Literal["choice", "regex", "json"], ...] = Field(
        default=(), description="forms of an answer it promises to keep; any other is refused"
    )
    needs_alternation: bool = Field(default=False, description="user and assistant turns must take turns")
    takes_tools: bool = Field(default=False, description="the chat template has a place for tool definitions")
    thinking: tuple[str, str] | None = Field(
        default=None, description="marks around the model's thinking, e.g. <think> and </think>; None: it has none"
    )
    stop_token_ids: tuple[int, ...] = ()

    @property
    def can_structure(self) -> bool:
        """Whether it promises any form of an answer at all."""
        return bool(self.structures)


class Exchange(Record):
    """One call to a member, whole: what it saw and what it said."""

    member: str
    phase: Phase
    round: int = 0
    messages: tuple[Message, ...]
    completions: tuple[Completion, ...] = ()
    weights: tuple[float, ...] = Field(default=(), description="of a closed choice: probability of each label")
    error: str = Field(default="", description="why it gave nothing, 'kind: message'; empty: it was answered")
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
    quote: str | None = Field(
        default=None,
        description="the step of its own earlier text that the member called wrong when it changed its mind",
    )
    withdrew: str | None = Field(
        default=None,
        description="the new answer it gave and took back, naming no wrong step; text and answer are its earlier ones",
    )


class Shown(Record):
    """One anonymised peer position as a reader saw it."""

    label: str = Field(description="'A', 'B', ... in the reader's own shuffled order")
    answer: str
    author: str = Field(description="member whose text represents this answer; the reader never saw the name")
    supporters: int = Field(description="peers who hold this answer; the reader is not counted")
    text: str = Field(
        default="", description="what stood in the prompt: the author's whole text, or less where room was short"
    )
    level: Level = Field(
        default="full", description="whole text; its author's digest; answer and the step before it; or the count alone"
    )


class Reading(Record):
    """What one member was shown of the others in one round."""

    reader: str
    round: int
    shown: tuple[Shown, ...]
    num_left_out: int = Field(default=0, description="distinct answers for which there was no room at all")


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


class Cluster(Record):
    """One distinct answer and who stands behind it."""

    answer: str
    weight: float = Field(description="its share of all weight, 0 to 1")
    members: tuple[str, ...]
    families: tuple[str, ...]
    author: str = Field(default="", description="member whose text argues for it best; empty: nobody proposed it")
    argument: str = Field(default="", description="that text")


Shape = Literal[
    "consensus across families", "consensus within one family", "split by family", "one against all", "scattered",
    "mixed", "one member answered", "nobody answered",
]  # fmt: skip


class Diagnosis(Record):
    """What the disagreement behind a verdict looks like. Every number is computed from the trace."""

    shape: Shape
    clusters: tuple[Cluster, ...] = Field(description="distinct answers, the chosen one first")
    num_ballots: int = Field(description="proposals or votes that were counted, abstentions included")
    n_eff: float = Field(description="how many independent votes those members are worth, 1 to their number")
    weighting: str = Field(description="what the weights rest on, in words, e.g. 'equal: nothing is measured yet'")
    entropy: float = Field(description="of the weights over the distinct answers, in bits; 0: one answer")
    without_family: tuple[tuple[str, str | None], ...] = Field(
        default=(), description="(family, verdict without it) for every family; one that differs makes it unstable"
    )
    surprise: float | None = Field(
        default=None, description="bits per byte of the chosen text under the other families, mean; None: not scored"
    )

    @property
    def dissent(self) -> tuple[Cluster, ...]:
        """Every distinct answer but the chosen one, strongest first."""
        return self.clusters[1:]


class Verdict(Record):
    """What the mesh decided. `answer` None: every member abstained or failed, or a person is waited for."""

    answer: str | None
    method: str = Field(description="rule that decided, e.g. 'plurality of 8 proposals'")
    support: tuple[tuple[str, float], ...] = Field(default=(), description="(answer, weight), best first")
    dissent: tuple[str, ...] = Field(default=(), description="members whose own last answer differs")
    confidence: float = Field(
        default=0.0, ge=0.0, le=1.0, description="probability that the answer is right if `calibrated`, else its share"
    )
    calibrated: bool = Field(default=False, description="True: `confidence` was fitted to judged outcomes")
    tied: bool = Field(default=False, description="True: decided by the tie rule")
    diagnosis: Diagnosis | None = Field(default=None, description="None: a verdict along the way")


class Question(Record):
    """What a person is asked: a closed choice among the answers on the table, or a new answer."""

    deliberation: str = Field(description="id of the deliberation that waits")
    task_id: Text
    step: str = Field(default="", description="place in the pattern, e.g. 'draft/check'; empty: the whole")
    reason: str = Field(description="the condition that was met, e.g. 'split by family'")
    question: Text
    choices: tuple[Text, ...] = Field(description="distinct answers, the mesh's own choice first")
    arguments: tuple[Text, ...] = Field(default=(), description="for each choice, the text that argues for it best")

    @property
    def id(self) -> str:
        """Short name, made from the content: another question has another id."""
        return content_hash(self)[:12]


class PersonAnswer(Record):
    """What a person decided. Exactly one of `choice` and `edit` is set."""

    question: str = Field(description="`Question.id`")
    content: str = Field(description="content hash of the question as the person saw it")
    choice: int | None = Field(default=None, ge=0, description="index into the question's choices")
    edit: Text | None = Field(default=None, description="an answer of the person's own")
    by: str = Field(description="who answered")
    note: Text = ""


class Failure(Record):
    """A call that gave nothing; the rest still decide."""

    member: str
    phase: Phase
    round: int = 0
    kind: str = Field(description="exception class name")
    message: str


def positions(proposals: Iterable[Proposal], kind: Equality) -> dict[str, Proposal]:
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
    recalled: tuple[Recollection, ...] = Field(default=(), description="what memory gave, as the members read it")
    withheld: tuple[Recollection, ...] = Field(
        default=(), description="what memory gave too and nobody read, so that the worth of recall can be measured"
    )
    proposals: tuple[Proposal, ...] = Field(default=(), description="all rounds, in order")
    readings: tuple[Reading, ...] = ()
    critiques: tuple[Critique, ...] = ()
    votes: tuple[Vote, ...] = ()
    failures: tuple[Failure, ...] = ()
    profiles: tuple[Profile, ...] = Field(default=(), description="what is known of every engine that took part")
    merged: tuple[tuple[str, ...], ...] = Field(
        default=(), description="groups of canonical spellings that were found to be one answer"
    )
    questions: tuple[Question, ...] = Field(default=(), description="what a person was asked")
    replies: tuple[PersonAnswer, ...] = Field(default=(), description="what the person said; fewer: still waiting")
    step: str = Field(default="", description="name of this part in the pattern it belongs to")
    children: tuple[Deliberation, ...] = Field(
        default=(), description="the parts of a pattern, in the order they ended"
    )
    first_verdict: Verdict = Field(
        description="what the independent first proposals alone come to, weighed as the verdict is"
    )
    verdict: Verdict
    exchanges: tuple[Exchange, ...] = ()

    @property
    def usage(self) -> Usage:
        """Sum over every call."""
        own = Usage.total(exchange.usage for exchange in self.exchanges)
        return Usage.total([own, *(child.usage for child in self.children)]) if self.children else own

    @property
    def is_waiting(self) -> bool:
        """Whether a person still has to answer, here or in a part."""
        return len(self.replies) < len(self.questions) or any(child.is_waiting for child in self.children)

    @property
    def equality(self) -> Equality:
        """Which answers of this deliberation are one."""
        return Sameness(kind=self.task.answer_kind, merged=self.merged) if self.merged else self.task.answer_kind

    def walk(self) -> Iterator[tuple[str, Deliberation]]:
        """This deliberation and all its parts, parents first, each with its path ('' for the whole)."""
        yield "", self
        for child in self.children:
            for path, part in child.walk():
                yield f"{child.step}/{path}" if path else child.step, part

    def round_of(self, number: int) -> tuple[Proposal, ...]:
        """Proposals of one round."""
        return tuple(p for p in self.proposals if p.round == number)

    @property
    def last_positions(self) -> dict[str, Proposal]:
        """Each member's position in the last round it spoke in; an abstention there is its position."""
        held: dict[str, Proposal] = {}
        for number in sorted({p.round for p in self.proposals}):
            held.update(positions(self.round_of(number), self.equality))
        return held

    @property
    def mind_changes(self) -> tuple[tuple[str, str | None, str | None], ...]:
        """(member, answer before, answer after) wherever a revision changed the member's position."""
        kind = self.equality
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
