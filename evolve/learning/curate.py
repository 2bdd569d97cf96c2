"""Which credits become training examples: verified, clean, distinct, capped; every drop with its reason. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from evolve.learning.config import CurationConfig, CurationRules
from evolve.learning.credit import Credit, RoleCredit
from evolve.learning.paths import path_of
from evolve.problems.types import Problem
from evolve.training.config import Role
from memory.types import Record, content_hash
from mesh.equivalence import same_answer
from mesh.parse import own_words, parse_answer
from mesh.propose import proposal_messages
from mesh.types import AnswerKind, Message

Source = Literal["own_correct", "revision", "critique", "synthesis"]
Said = Credit | RoleCredit
DropReason = Literal[
    "unparsable",
    "wrong",
    "contaminated",
    "control_token",
    "refers_to_peers",
    "too_long",
    "duplicate",
    "cap_per_problem",
    "cap_per_type",
    "same_path",
    "cap_per_source",
    "unheard",
    "invalid",
]

MAX_IMBALANCE = 3
"""A member's largest task type has at most so many times the examples of its smallest..."""
BALANCED_FROM = 24
"""...but types below this many examples hold nobody back."""

_ROLES: dict[Source, Role] = {
    "own_correct": "proposer",
    "revision": "proposer",
    "critique": "critic",
    "synthesis": "synthesiser",
}
_MARKER = re.compile(r"answer|####|\\boxed", re.IGNORECASE)
_PEERS = re.compile(
    r"\b(?:[Aa]nswers?|[Oo]ptions?|[Pp]ositions?) [A-H]\b|\b(?:peers?|others|objections?|other (?:answers?|members?))\b"
)
_CONTROL = re.compile(r"<\|[^|>\n]{1,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos)>")


class Example(Record):
    """Something to learn from: a prompt, and what proved right as the reply to it.

    Taught to another family than its author's it is a cross-family example; that is the recipe's choice.
    """

    task_id: str
    task_type: str
    member: str = Field(description="who wrote the completion")
    family: str = Field(description="model family of the author")
    adapter: str | None = Field(default=None, description="adapter that wrote it; None: the base model")
    source: Source = Field(
        description="'own_correct': a first proposal; 'revision': after reading peers, taught as if it had not; "
        "'critique': an objection after which somebody ended right; 'synthesis': an answer to others' answers"
    )
    messages: tuple[Message, ...] = Field(
        description="the task's proposal prompt, without anything recalled; of a critique or synthesis, what its "
        "author saw"
    )
    completion: str = Field(description="up to the answer and no further, without a terminator; a critique is whole")
    weight: float = Field(default=1.0, gt=0.0)

    @property
    def role(self) -> Role:
        """Whose work it teaches."""
        return role_of(self.source)


class Drop(Record):
    """A credit that was not learned from."""

    task_id: str
    task_type: str = Field(description="empty where the task is unknown")
    member: str
    family: str
    reason: DropReason
    text: str


class CurationReport(Record):
    """Counts of what was kept and dropped."""

    num_credits: int
    kept: tuple[tuple[str, str, Source, int], ...] = Field(description="(family, task type, source, examples)")
    dropped: tuple[tuple[str, str, DropReason, int], ...] = Field(description="(family, task type, reason, credits)")

    @property
    def num_kept(self) -> int:
        """Examples."""
        return sum(row[-1] for row in self.kept)

    @property
    def num_dropped(self) -> int:
        """Credits that became no example."""
        return sum(row[-1] for row in self.dropped)


class Curated(Record):
    """The training set of a generation, and everything that was left out of it."""

    examples: tuple[Example, ...]
    drops: tuple[Drop, ...]

    @property
    def report(self) -> CurationReport:
        """Counts by family, task type and source or reason, sorted."""
        kept = Counter((e.family, e.task_type, e.source) for e in self.examples)
        dropped = Counter((d.family, d.task_type, d.reason) for d in self.drops)
        return CurationReport(
            num_credits=len(self.examples) + len(self.drops),
            kept=tuple((*key, count) for key, count in sorted(kept.items())),
            dropped=tuple((*key, count) for key, count in sorted(dropped.items())),
        )


def role_of(source: Source) -> Role:
    """Whose work an example of this source teaches; examples of one role never displace those of another."""
    return _ROLES[source]


def curate(
    credits: Iterable[Said],
    problems: Sequence[Problem],
    config: CurationConfig,
    *,
    held_out: Collection[str],
    seed: int,
    rules: CurationRules | None = None,
) -> Curated:
    """Examples out of credits; each credit becomes one example or one drop.

    Args:
        credits: every proposal with its judgement, see `evolve.learning.credit`; and what helpers said.
        problems: the TRAIN problems; a credit for any other task is contaminated.
        config: caps, each for one member in one role.
        held_out: canonical keys of DEV, GATE and AUDIT items; a problem with one of them is contaminated.
        seed: decides which examples stay where a cap bites. The same input gives the same output.
        rules: what is asked for beyond the caps; None: nothing.
    """
    by_id = {problem.task.id: problem for problem in problems if problem.key not in held_out}
    candidates: list[tuple[Said, Example]] = []
    drops: list[Drop] = []
    for item in credits:
        problem = by_id.get(item.task_id)
        result = _example(item, problem, config) if isinstance(item, Credit) else _of_role(item, problem, config)
        if isinstance(result, Example):
            candidates.append((item, result))
        else:
            drops.append(_drop(item, problem, result))
    kept, refused = _capped(candidates, config, seed, rules or CurationRules())
    drops += [_drop(item, by_id[item.task_id], reason) for item, reason in refused]
    return Curated(examples=tuple(kept), drops=tuple(drops))


def clean_completion(text: str, answer: str, kind: AnswerKind) -> str | None:
    """The shortest beginning of `text`, in whole lines, that says `answer`; None if none does.

    What follows the answer is junk that a small model would learn to repeat. Where the text has an answer marker, the
    beginning must reach it: a number met on the way is not the answer yet.
    """
    text = own_words(text).strip()
    marked = _MARKER.search(text) is not None
    lines = text.splitlines()
    for count in range(1, len(lines) + 1):
        start = "\n".join(lines[:count]).strip()
        if marked and not _MARKER.search(start):
            continue
        if same_answer(parse_answer(start, kind), answer, kind):
            return start
    return None


def _example(item: Credit, problem: Problem | None, config: CurationConfig) -> Example | DropReason:
    if item.answer is None:
        return "unparsable"
    if not item.correct:
        return "wrong"
    if problem is None:
        return "contaminated"
    source: Source = "own_correct" if item.kind == "own_correct" else "revision"
    completion = clean_completion(item.text, item.answer, problem.task.answer_kind)
    if completion is None:
        return "unparsable"
    if _CONTROL.search(completion):
        return "control_token"
    if source == "revision" and _PEERS.search(completion):
        return "refers_to_peers"  # learned from the bare question, it would invent peers
    if len(completion) > config.max_completion_chars:
        return "too_long"
    return Example(
        task_id=item.task_id,
        task_type=problem.task.type,
        member=item.member,
        family=item.family,
        adapter=item.adapter,
        source=source,
        messages=proposal_messages(problem.task),
        completion=completion,
    )


def _of_role(item: RoleCredit, problem: Problem | None, config: CurationConfig) -> Example | DropReason:
    if item.kind != "right":
        return "unparsable" if item.kind == "abstained" else item.kind
    if problem is None:
        return "contaminated"
    completion: str | None = item.text.strip()
    if item.role == "synthesis":
        completion = clean_completion(item.text, item.answer or "", problem.task.answer_kind)
    if not completion:
        return "unparsable"
    if _CONTROL.search(completion):
        return "control_token"
    if len(completion) > config.max_completion_chars:
        return "too_long"
    return Example(
        task_id=item.task_id,
        task_type=problem.task.type,
        member=item.member,
        family=item.family,
        adapter=item.adapter,
        source=item.role,
        messages=item.messages,
        completion=completion,
    )


def _capped(
    candidates: Sequence[tuple[Said, Example]], config: CurationConfig, seed: int, rules: CurationRules
) -> tuple[list[Example], list[tuple[Said, DropReason]]]:
    """(kept, refused with reason). First proposals go before revisions, then a seeded order decides."""
    refused: list[tuple[Said, DropReason]] = []
    seen: set[tuple[str, ...]] = set()
    paths: set[tuple[str, ...]] = set()
    num_of_source: Counter[tuple[str, Source]] = Counter()
    num_of_problem: Counter[tuple[str, ...]] = Counter()
    left: list[tuple[Said, Example]] = []
    for item, example in sorted(candidates, key=lambda pair: _rank(pair[1], seed)):
        place = (example.member, example.role, example.task_id)
        text = (*place, " ".join(example.completion.split()))
        # An objection has no steps to an answer: its wording is all there is.
        by_path = rules.distinct_paths and example.role != "critic"
        path = (*place, path_of(example.completion)) if by_path else text
        source = (example.member, example.source)
        if text in seen:
            refused.append((item, "duplicate"))
        elif path in paths:
            refused.append((item, "same_path"))
        elif num_of_problem[place] >= config.max_per_problem:
            refused.append((item, "cap_per_problem"))
        elif rules.max_per_source is not None and num_of_source[source] >= rules.max_per_source:
            refused.append((item, "cap_per_source"))
        else:
            seen.add(text)
            paths.add(path)
            num_of_source[source] += 1
            num_of_problem[place] += 1
            left.append((item, example))
    limits = _type_limits([example for _, example in left], config)
    num_of_type: Counter[tuple[str, ...]] = Counter()
    kept: list[Example] = []
    for item, example in left:
        group = (example.member, example.role, example.task_type)
        if num_of_type[group] >= limits[group[:2]]:
            refused.append((item, "cap_per_type"))
        else:
            num_of_type[group] += 1
            kept.append(example)
    return kept, refused


def _rank(example: Example, seed: int) -> tuple[bool, str]:
    return example.source != "own_correct", content_hash([seed, example.task_id, example.member, example.completion])


def _type_limits(examples: Iterable[Example], config: CurationConfig) -> Mapping[tuple[str, ...], int]:
    """(member, role) to the most examples it may have of one task type."""
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for example in examples:
        counts[example.member, example.role][example.task_type] += 1
    return {
        place: min(config.max_per_type, MAX_IMBALANCE * max(BALANCED_FROM, min(of_type.values())))
        for place, of_type in counts.items()
    }


def _drop(item: Said, problem: Problem | None, reason: DropReason) -> Drop:
    return Drop(
        task_id=item.task_id,
        task_type="" if problem is None else problem.task.type,
        member=item.member,
        family=item.family,
        reason=reason,
        text=item.text,
    )
