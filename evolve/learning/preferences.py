"""Chosen and rejected answers to one prompt, from what members said of it: the member's own first. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Literal

from pydantic import Field

from evolve.learning.config import CurationConfig
from evolve.learning.credit import Credit
from evolve.learning.curate import Example, curate
from evolve.problems.types import Problem
from memory.types import Record, content_hash
from mesh.parse import own_words
from mesh.types import Message

Origin = Literal["own_samples", "own_revision", "same_family", "cross_family"]
ORIGINS: tuple[Origin, ...] = ("own_samples", "own_revision", "same_family", "cross_family")
"""Best first: a pair of one member's own samples differs in what matters and in nothing else."""


class ChosenRejected(Record):
    """Two answers to one task by the same prompt, one verified right and one judged wrong."""

    task_id: str
    task_type: str
    member: str = Field(description="whose wrong answer it is: the pair teaches this member")
    family: str = Field(description="model family of that member")
    author: str = Field(description="who wrote the chosen text")
    author_family: str = Field(description="model family of the author")
    adapter: str | None = Field(default=None, description="adapter that wrote the chosen text; None: the base model")
    origin: Origin
    messages: tuple[Message, ...] = Field(description="the task's proposal prompt")
    chosen: str
    rejected: str
    weight: float = Field(default=1.0, gt=0.0, description="in the loss, relative to the others")


def preference_pairs(
    credits: Sequence[Credit],
    problems: Sequence[Problem],
    config: CurationConfig,
    *,
    held_out: Collection[str],
    seed: int,
    max_per_problem: int = 2,
) -> tuple[ChosenRejected, ...]:
    """Pairs for every member that was wrong where something right is known, so many a member and task at most.

    The chosen text passes every check that an example to learn from passes (`curate`). The rejected one is a readable
    wrong first proposal of the member: what abstained or holds control tokens teaches form alone. A member's own right
    samples are preferred as the chosen text, then its own corrected revisions, then its family's, then another's.
    Sorted by task, member and origin; the same input gives the same output in any order.
    """
    generous = config.model_copy(update={"max_per_problem": 64, "max_per_type": 10**9})
    curated = curate(credits, problems, generous, held_out=held_out, seed=seed)
    right: dict[str, list[Example]] = defaultdict(list)
    for example in curated.examples:
        right[example.task_id].append(example)
    wrong: dict[tuple[str, str], list[Credit]] = defaultdict(list)
    for item in credits:
        if item.kind == "own_wrong" and "<|" not in item.text:
            wrong[item.task_id, item.member].append(item)
    pairs: list[ChosenRejected] = []
    for (task_id, member), items in sorted(wrong.items()):
        pairs += _pairs_of(member, _distinct(items, seed), right.get(task_id, []), seed)[:max_per_problem]
    return tuple(pairs)


def count_origins(pairs: Iterable[ChosenRejected]) -> dict[str, int]:
    """Pairs by origin, best origin first; those that did not occur are missing."""
    counts = Counter(pair.origin for pair in pairs)
    return {origin: counts[origin] for origin in ORIGINS if counts[origin]}


def _pairs_of(
    member: str, rejected: Sequence[tuple[str, Credit]], examples: Iterable[Example], seed: int
) -> list[ChosenRejected]:
    family = rejected[0][1].family if rejected else ""
    ranked = sorted(
        examples,
        key=lambda e: (ORIGINS.index(_origin(e, member, family)), content_hash([seed, e.member, e.completion])),
    )
    # Every wrong text is used before one is used again, each time with the best right text that is left.
    return [
        ChosenRejected(
            task_id=example.task_id,
            task_type=example.task_type,
            member=member,
            family=family,
            author=example.member,
            author_family=example.family,
            adapter=example.adapter,
            origin=_origin(example, member, family),
            messages=example.messages,
            chosen=example.completion,
            rejected=text,
        )
        for example, (text, _) in _matched(ranked, rejected)
        if example.completion != text
    ]


def _matched(
    ranked: Sequence[Example], rejected: Sequence[tuple[str, Credit]]
) -> list[tuple[Example, tuple[str, Credit]]]:
    if not ranked or not rejected:
        return []
    count = max(len(ranked), len(rejected))
    return [
        (example or ranked[index % len(ranked)], wrong or rejected[index % len(rejected)])
        for index, (example, wrong) in enumerate(zip_longest(ranked, rejected))
    ][:count]


def _distinct(items: Iterable[Credit], seed: int) -> list[tuple[str, Credit]]:
    """(cleaned text, credit), each text once, in a seeded order."""
    texts: dict[str, Credit] = {}
    for item in sorted(items, key=lambda item: (item.sample, item.text)):
        text = own_words(item.text).strip()
        if text:
            texts.setdefault(text, item)
    return sorted(texts.items(), key=lambda pair: content_hash([seed, pair[0]]))


def _origin(example: Example, member: str, family: str) -> Origin:
    if example.member == member:
        return "own_samples" if example.source == "own_correct" else "own_revision"
    return "same_family" if example.family == family else "cross_family"
