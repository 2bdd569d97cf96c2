"""What a run has learned from or recalls, held against the items it is measured on: key, wording and answer. Pure.

A shared run of 13 words is the usual sign (Brown et al., 2020, appendix C); a shorter question must be there whole.
Half of the run's words, or all there are, must be outside the phrases that questions of its kind have in common.
Wording that several held-out items share is a template and no sign of any one of them. An answer counts only together
with its question: "12" alone is everywhere. Which text holds the answer of a GATE or AUDIT item is counted and not
told: it would point at the key.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field

from evolve.problems.sealed import Asked
from evolve.problems.splits import Split, normalised_text
from memory.types import Record

Source = Literal["training example", "preference pair", "memory entry", "recalled text"]
Kind = Literal["key", "wording", "wording and answer"]

NUM_WORDS = 13
PHRASE = 5
TEMPLATE_FROM = 2
"""A phrase, or a longer run of words, that so many held-out items share says nothing about one of them."""
MAX_SHOWN = 20
_WORD = re.compile(r"\w+(?:[.,]\d+)*|[-+*/=<>^%]")
"""Signs of arithmetic count: 2 + 8 = and 2 - 8 = are two questions, and neither is part of 2 + 8 - 6 =."""
_Gram = tuple[str, ...]

SaysAnswer = Callable[[Split, str, str], bool]
"""(split, task id, text) to whether the text holds the item's reference; `Judge.says_reference` under a permit."""


class Seen(Record):
    """A text that members may have learned from or were shown."""

    source: Source
    id: str = Field(description="where to find it: an example's task, an experience's id")
    text: str = Field(description="all of it, question and answer")
    key: str | None = Field(default=None, description="canonical key of the item it comes from, where it is known")


class Overlap(Record):
    """One text and one held-out item that it gives away; whether with the answer is told of DEV items alone."""

    split: Split
    task_id: str
    source: Source
    seen_id: str
    kind: Kind


class Row(Record):
    """One line of the table: a split beside a source."""

    split: Split
    source: Source
    num_items: int = Field(description="items of the split")
    num_texts: int = Field(description="texts of the source")
    by_key: int = Field(description="items whose very question is among the texts, by canonical key")
    by_wording: int = Field(description="items that share wording with a text")
    by_answer: int = Field(description="of these, items whose reference answer is in such a text")


class Contamination(Record):
    """The report of one run."""

    rows: tuple[Row, ...]
    overlaps: tuple[Overlap, ...] = Field(description="every text and item that overlap, in order")
    answers_checked: bool = Field(description="False: nobody could open the references, so by_answer is 0 throughout")

    @property
    def clean(self) -> bool:
        """No overlap at all."""
        return not self.overlaps

    @property
    def sentence(self) -> str:
        """The report in one sentence."""
        if self.clean:
            return "No training example or pair, memory entry or recalled text overlaps with DEV, GATE or AUDIT."
        items = len({(overlap.split, overlap.task_id) for overlap in self.overlaps})
        gate = len({o.task_id for o in self.overlaps if o.split in (Split.GATE, Split.AUDIT)})
        overlap = "held-out item overlaps" if items == 1 else "held-out items overlap"
        return f"{items} {overlap} with what was learned or recalled, {gate} of them in GATE or AUDIT."

    def table(self) -> str:
        """The rows as a Markdown table, then the first overlaps."""
        lines = [
            "| split | source | items | texts | by key | by wording | with answer |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {r.split.value} | {r.source} | {r.num_items} | {r.num_texts} | {r.by_key} | {r.by_wording} | "
            f"{r.by_answer if self.answers_checked else 'not checked'} |"
            for r in self.rows
        ]
        lines += [""] if self.overlaps else []
        lines += [
            f"- {o.split.value} item {o.task_id}: {o.source} {o.seen_id}, by {o.kind}"
            for o in self.overlaps[:MAX_SHOWN]
        ]
        if len(self.overlaps) > MAX_SHOWN:
            lines.append(f"- and {len(self.overlaps) - MAX_SHOWN} more")
        return "\n".join(lines)


def contamination(
    seen: Sequence[Seen],
    held_out: Mapping[Split, Sequence[Asked]],
    *,
    says_answer: SaysAnswer | None = None,
    num_words: int = NUM_WORDS,
) -> Contamination:
    """Every overlap between texts and held-out items.

    Args:
        seen: training examples and pairs, entries of memory, texts that were recalled for anybody.
        held_out: items by split; TRAIN has no place here.
        says_answer: tells whether a text holds an item's answer; None: references stay sealed.
        num_words: length of a shared run of words; items with fewer must be there whole.
    """
    index = _Index(held_out, num_words)
    found: dict[tuple[Split, str, Source, str], Kind] = {}
    answered: dict[tuple[Split, Source], set[str]] = defaultdict(set)
    for one in seen:
        for split, task_id in index.by_key.get(one.key or "", ()):
            found[split, task_id, one.source, one.id] = "key"
        for split, task_id in index.sharing(one.text):
            place = (split, task_id, one.source, one.id)
            if found.get(place) != "key":
                found[place] = "wording"
                if says_answer is not None and says_answer(split, task_id, one.text):
                    answered[split, one.source].add(task_id)
                    found[place] = "wording and answer" if split is Split.DEV else "wording"
    overlaps = tuple(
        Overlap(split=split, task_id=task_id, source=source, seen_id=seen_id, kind=kind)
        for (split, task_id, source, seen_id), kind in found.items()
    )
    return Contamination(
        rows=tuple(_rows(seen, held_out, overlaps, answered)),
        overlaps=overlaps,
        answers_checked=says_answer is not None,
    )


class _Index:
    """Held-out items by key and by the runs of words that are theirs alone."""

    def __init__(self, held_out: Mapping[Split, Sequence[Asked]], num_words: int) -> None:
        self.by_key: dict[str, list[tuple[Split, str]]] = defaultdict(list)
        self._by_gram: dict[_Gram, list[tuple[Split, str]]] = defaultdict(list)
        self._lengths: set[int] = set()
        words_of: list[tuple[tuple[Split, str], list[str]]] = []
        for split, items in held_out.items():
            for item in items:
                place = (split, item.task.id)
                self.by_key[item.key].append(place)
                words_of.append((place, _words(item.task.question)))
        phrases = Counter(phrase for _, words in words_of for phrase in set(_runs(words, PHRASE)))
        grams_of = [(place, _telling(words, phrases, num_words)) for place, words in words_of]
        sharing = Counter(gram for _, grams in grams_of for gram in grams)
        for place, grams in grams_of:
            for gram in grams:
                if gram and sharing[gram] < TEMPLATE_FROM:
                    self._by_gram[gram].append(place)
                    self._lengths.add(len(gram))

    def sharing(self, text: str) -> list[tuple[Split, str]]:
        """Items that share a run of words with `text`, each once."""
        words = _words(text)
        found: dict[tuple[Split, str], None] = {}
        for length in sorted(self._lengths):
            for run in _runs(words, length):
                found.update(dict.fromkeys(self._by_gram.get(run, ())))
        return list(found)


def _telling(words: Sequence[str], phrases: Mapping[_Gram, int], num_words: int) -> set[_Gram]:
    """Runs of words of one item that speak of it: those that hold enough words outside the phrases items share.

    The whole question where it is short, or where no run holds enough.
    """
    if len(words) < num_words:
        return set(_runs(words, len(words)))
    is_own = [True] * len(words)
    for at, phrase in enumerate(_runs(words, PHRASE)):
        if phrases[phrase] >= TEMPLATE_FROM:
            is_own[at : at + PHRASE] = [False] * PHRASE
    needed = max(1, min(num_words // 2 + 1, sum(is_own)))
    starts = [at for at in range(len(words) - num_words + 1) if sum(is_own[at : at + num_words]) >= needed]
    return {tuple(words[at : at + num_words]) for at in starts} or {tuple(words)}


def _rows(
    seen: Sequence[Seen],
    held_out: Mapping[Split, Sequence[Asked]],
    overlaps: Iterable[Overlap],
    answered: Mapping[tuple[Split, Source], set[str]],
) -> Iterator[Row]:
    texts = Counter(one.source for one in seen)
    kinds: dict[tuple[Split, Source, Kind], set[str]] = defaultdict(set)
    for one in overlaps:
        kinds[one.split, one.source, one.kind].add(one.task_id)
    for split, items in held_out.items():
        for source, num_texts in sorted(texts.items()):
            by_wording = kinds[split, source, "wording"] | kinds[split, source, "wording and answer"]
            yield Row(
                split=split,
                source=source,
                num_items=len(items),
                num_texts=num_texts,
                by_key=len(kinds[split, source, "key"]),
                by_wording=len(by_wording),
                by_answer=len(answered.get((split, source), ())),
            )


def _words(text: str) -> list[str]:
    return _WORD.findall(normalised_text(text))


def _runs(words: Sequence[str], length: int) -> Iterator[_Gram]:
    return (tuple(words[at : at + length]) for at in range(len(words) - length + 1)) if length else iter(())
