"""Is what a fresh adapter writes still language, and about as long as what it learned from? Pure, over sampled texts.

Losses say nothing of that: an adapter whose loss fell may loop, or answer everything alike. What an incumbent does
already is not held against a candidate.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from pydantic import Field

from evolve.learning.config import QualityConfig
from evolve.learning.recipe_rows import TrainingRow
from memory.types import Record
from mesh.types import Deliberation, Phase

LOOP_REPEATS = 4
"""A pattern is a loop when it stands so often at the end of a text..."""
LOOP_CHARS = 24
"""...and covers at least so many characters there: "10 10 10 10" may be an answer."""
LOOP_PERIOD = 48
"""Longest pattern that is looked for, in characters."""
_FIRST: tuple[Phase, ...] = ("propose",)
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")


class Sample(Record):
    """A text that a candidate wrote."""

    task_type: str
    text: str
    asked: frozenset[str] = Field(
        default=frozenset(), description="words of its prompt, in small letters: to copy a name is no gibberish"
    )
    finished: bool = Field(default=True, description="False: cut off at the token limit")


class Quality(Record):
    """What texts look like; None where there is too little to tell."""

    num_texts: int
    empty: float = Field(description="share of texts without a word")
    looping: float = Field(description="share of texts that end in a loop")
    unfinished: float = Field(description="share of texts cut off at the token limit")
    unseen: float = Field(description="share of words that neither their prompt nor any row has; 0 without rows")
    same: float = Field(description="share of the commonest text, by task type, mean weighted by texts")
    same_in_rows: float | None = Field(description="the same for completions of the rows of these task types")
    distinct: float | None = Field(description="different word pairs, against as many words of the rows; 1: as many")
    length_ratio: float | None = Field(description="median of length against the median row of the same task type")


def check(
    samples: Sequence[Sample],
    rows: Sequence[TrainingRow],
    config: QualityConfig | None = None,
    *,
    before: Sequence[Sample] = (),
) -> str | None:
    """Why these texts disqualify a candidate, or None; every reason, with its number and its limit.

    Args:
        samples: what the candidate wrote to fresh prompts of the task types of `rows`.
        rows: what it learned from; for a merge, what its parents did.
        before: what the incumbent wrote to the same prompts; what it does already disqualifies nobody.
    """
    limits = config or QualityConfig()
    if len(samples) < limits.min_texts:
        return None
    found = measure(samples, rows)
    known = measure(before, rows) if len(before) >= limits.min_texts else None
    return "; ".join(_complaints(found, known, limits)) or None


def samples_of(deliberations: Iterable[Deliberation], member: str, phases: Collection[Phase] = _FIRST) -> list[Sample]:
    """What a member wrote in these phases, call by call, whole and as it came."""
    return [
        Sample(
            task_type=held.task.type,
            text=said.text,
            asked=_words_in(message.text for message in call.messages),
            finished=said.finish_reason != "length",
        )
        for held in deliberations
        for call in held.exchanges
        if call.member == member and call.phase in phases
        for said in call.completions
    ]


def measure(samples: Sequence[Sample], rows: Sequence[TrainingRow]) -> Quality:
    """What the texts look like beside the rows."""
    texts = [sample.text for sample in samples]
    words = [words_of(text) for text in texts]
    known = _words_in(text for row in rows for text in _texts_of(row))
    strange = [
        word.lower() not in known and word.lower() not in sample.asked
        for sample, found in zip(samples, words, strict=True)
        for word in found
        if word[0].isalpha()
    ]
    lengths = _lengths(rows)
    ratios = [
        math.log(max(1, len(found)) / lengths[sample.task_type])
        for sample, found in zip(samples, words, strict=True)
        if sample.task_type in lengths
    ]
    types = {sample.task_type for sample in samples}
    return Quality(
        num_texts=len(samples),
        empty=_share(not found for found in words),
        looping=_share(loop_chars(text) > 0 for text in texts),
        unfinished=_share(not sample.finished for sample in samples),
        unseen=_share(strange) if known else 0.0,
        same=_same((sample.task_type, sample.text) for sample in samples) or 0.0,
        same_in_rows=_same((row.task_type, row.completion) for row in rows if row.task_type in types),
        distinct=_distinct(words, [words_of(row.completion) for row in rows]),
        length_ratio=math.exp(statistics.median(ratios)) if ratios else None,
    )


def words_of(text: str) -> list[str]:
    """Words, numbers and signs, in order."""
    return _WORD.findall(text)


def loop_chars(text: str) -> int:
    """How many characters at the end of `text` repeat one pattern at least `LOOP_REPEATS` times; 0: it does not loop.

    The pattern has up to `LOOP_PERIOD` characters and may be cut off at the end.
    """
    text = text.rstrip()
    longest = 0
    for period in range(1, min(LOOP_PERIOD, len(text) // LOOP_REPEATS) + 1):
        matching = 0
        while matching + period < len(text) and text[-1 - matching] == text[-1 - matching - period]:
            matching += 1
        covered = matching + period
        if covered >= max(LOOP_REPEATS * period, LOOP_CHARS):
            longest = max(longest, covered)
    return longest


def distinct_n(words: Iterable[Sequence[str]], n: int) -> float | None:
    """Different runs of `n` words by runs of `n` words (Li et al. 2016); None where no text is that long."""
    runs = [tuple(found[i : i + n]) for found in words for i in range(len(found) - n + 1)]
    return len(set(runs)) / len(runs) if runs else None


def _complaints(found: Quality, before: Quality | None, config: QualityConfig) -> Iterable[str]:
    shares = {
        "empty": (config.max_empty, "are empty"),
        "looping": (config.max_looping, "end in a loop"),
        "unfinished": (config.max_unfinished, "are cut off at the token limit"),
    }
    for name, (limit, words) in shares.items():
        share, allowed = getattr(found, name), _allowed(name, limit, before, config)
        if share > allowed:
            yield f"{share:.0%} of {found.num_texts} texts {words}, more than {allowed:.0%}"
    allowed = _allowed("unseen", config.max_unseen, before, config)
    if found.unseen > allowed:
        yield f"{found.unseen:.0%} of the words are in no row and not in their prompt, more than {allowed:.0%}"
    allowed = _allowed("same", (found.same_in_rows or 0.0) + config.max_same, before, config)
    if found.same > allowed:
        yield f"{found.same:.0%} of the texts of a task type are the same, more than {allowed:.0%}"
    least = config.min_distinct
    if before is not None and before.distinct is not None:
        least = min(least, before.distinct * (1 - config.margin))
    if found.distinct is not None and found.distinct < least:
        yield f"{found.distinct:.2f} times as many different word pairs as in the rows, fewer than {least:.2f}"
    yield from _drift(found, before, config)


def _drift(found: Quality, before: Quality | None, config: QualityConfig) -> Iterable[str]:
    if found.length_ratio is None:
        return
    most = config.max_length_ratio
    known = before.length_ratio if before is not None else None
    # An incumbent that is off itself sets the limit on its side only.
    high = max(most, known * (1 + config.margin)) if known else most
    low = min(1 / most, known / (1 + config.margin)) if known else 1 / most
    if not low <= found.length_ratio <= high:
        yield f"texts are {found.length_ratio:.2g} times as long as the rows, outside {low:.2g} to {high:.2g}"


def _allowed(name: str, limit: float, before: Quality | None, config: QualityConfig) -> float:
    return limit if before is None else max(limit, getattr(before, name) + config.margin)


def _words_in(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word.lower() for text in texts for word in words_of(text))


def _texts_of(row: TrainingRow) -> Iterable[str]:
    yield from (message.text for message in row.messages)
    yield row.completion


def _lengths(rows: Sequence[TrainingRow]) -> Mapping[str, float]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[row.task_type].append(max(1, len(words_of(row.completion))))
    return {task_type: statistics.median(lengths) for task_type, lengths in found.items()}


def _same(pairs: Iterable[tuple[str, str]]) -> float | None:
    by_type: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for task_type, text in pairs:
        by_type[task_type][" ".join(text.split())] += 1
    total = sum(counts.total() for counts in by_type.values())
    return sum(max(counts.values()) for counts in by_type.values()) / total if total else None


def _distinct(words: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]) -> float | None:
    """Longer corpora repeat themselves more, so both are cut to the same number of words."""
    size = min(sum(map(len, words)), sum(map(len, reference)))
    ours, theirs = distinct_n(_first(words, size), 2), distinct_n(_first(reference, size), 2)
    return ours / theirs if ours is not None and theirs else None


def _first(words: Sequence[Sequence[str]], size: int) -> list[Sequence[str]]:
    kept = []
    for found in words:
        if size <= 0:
            break
        kept.append(found[:size])
        size -= len(found)
    return kept


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0
