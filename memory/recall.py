"""Which experiences to bring back, and why: fusion of lanes, what fits, how it ranks, and the final choice; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import Literal, NamedTuple

from memory.config import MemoryConfig
from memory.decay import decay
from memory.holdout import is_withheld
from memory.types import Cue, Experience, Level, Recall, Recollection, Standing
from memory.utility import Tally, class_prior, harms, utility, worth

Lane = Literal["fingerprint", "text", "vector", "graph"]

RRF_K = 60
"""Reciprocal rank fusion's constant (Cormack, Clarke and Büttcher 2009): how little the very first places count."""

MIN_OVERLAP = 0.3
"""Share of the query's words, by weight, that a text match must hold; else one common word makes anything similar."""

MAX_QUERY_TERMS = 64

MAX_INDEXED_CHARS = 20_000
"""Words beyond this many characters of a text are not counted; they are still found."""

SECONDS_PER_DAY = 86_400.0

_WORD = re.compile(r"\w+")


class Fused(NamedTuple):
    """One candidate after fusion; `ranks` counts from 1, by lane."""

    row: int
    score: float
    ranks: Mapping[Lane, int]

    @property
    def lane(self) -> str:
        """'fingerprint', 'text', 'vector', 'both' (text and vector) or 'graph' (reached through the graph alone)."""
        if "fingerprint" in self.ranks:
            return "fingerprint"
        direct = [lane for lane in ("text", "vector") if lane in self.ranks]
        return "both" if len(direct) == 2 else direct[0] if direct else "graph"


class Candidate(NamedTuple):
    """A fused candidate with what is needed to judge and explain it."""

    fused: Fused
    id: str
    experience: Experience
    standing: Standing
    similarity: float | None
    overlap: float
    via: str | None
    same: bool = False
    confirmed_at: float = 0.0
    sources: tuple[str, ...] = ()

    @property
    def warns(self) -> bool:
        """Whether it comes back as a warning."""
        return self.standing.warns


class Classes(NamedTuple):
    """What episodes of one task type came to, with and without recollections of the same and of similar problems."""

    same_with: Tally = Tally()
    same_without: Tally = Tally()
    similar_with: Tally = Tally()
    similar_without: Tally = Tally()

    def of(self, same: bool) -> tuple[Tally, Tally]:
        """With, and without."""
        return (self.same_with, self.same_without) if same else (self.similar_with, self.similar_without)


def words_of(text: str) -> set[str]:
    """Distinct words of a text, casefolded, from its first `MAX_INDEXED_CHARS` characters."""
    return set(_WORD.findall(text[:MAX_INDEXED_CHARS].casefold()))


def query_terms(query: str) -> list[str]:
    """Distinct words of `query`, casefolded, in order, at most `MAX_QUERY_TERMS`."""
    return list(dict.fromkeys(_WORD.findall(query[:MAX_INDEXED_CHARS].casefold())))[:MAX_QUERY_TERMS]


def weighted_overlap(weights: Mapping[str, float], text: str) -> float:
    """Share of the query's weight that `text` holds, 0 to 1; `weights` maps each query word to how much it says."""
    total = sum(weights.values())
    if total <= 0.0:
        return 0.0
    words = words_of(text)
    return sum(weight for word, weight in weights.items() if word in words) / total


def fuse(lanes: Mapping[Lane, Sequence[int]], k: int = RRF_K) -> list[Fused]:
    """Reciprocal rank fusion: score = sum over lanes of 1 / (k + rank). Best first; ties by the lower row."""
    ranks: dict[int, dict[Lane, int]] = {}
    for lane, rows in lanes.items():
        for rank, row in enumerate(rows, start=1):
            ranks.setdefault(row, {}).setdefault(lane, rank)
    # fsum: the order of the lanes must not decide between equals through rounding.
    fused = [Fused(row, fsum(1.0 / (k + rank) for rank in places.values()), places) for row, places in ranks.items()]
    return sorted(fused, key=lambda candidate: (-candidate.score, candidate.row))


def fits(experience: Experience, cue: Cue) -> bool:
    """The hard gate: no other task type, error code, or value of an environment key that both name."""
    if cue.task_type is not None and experience.task_type != cue.task_type:
        return False
    if cue.error_code and experience.error_code and experience.error_code != cue.error_code:
        return False
    asked = dict(cue.environment)
    return all(asked.get(key, value) == value for key, value in experience.environment)


def is_allowed(candidate: Candidate, classes: Classes, config: MemoryConfig) -> bool:
    """Whether a candidate may be shown at all: not where what is like it was measured to harm."""
    if candidate.warns or candidate.same:
        return True
    if config.similar != "measured":
        return config.similar == "always"
    return not harms(utility(*classes.of(same=False)))


def ranked(candidates: Iterable[Candidate], classes: Classes, now: float, config: MemoryConfig) -> list[Candidate]:
    """Best first: fused relevance x lower bound of trust x measured worth x decay; the very same problem before all."""

    def score(candidate: Candidate) -> float:
        standing = candidate.standing
        gain = standing.gain if standing.num_uses else class_prior(*classes.of(candidate.same)).mean
        age = (now - candidate.confirmed_at) / SECONDS_PER_DAY
        trust = standing.trust if standing.level is Level.VERIFIED else min(standing.trust, _UNVERIFIED_TRUST)
        return candidate.fused.score * trust * worth(gain) * decay(age, config.half_life_days)

    scored = [one._replace(fused=one.fused._replace(score=score(one))) for one in candidates]
    return sorted(scored, key=lambda one: (not one.same, -one.fused.score, one.fused.row))


_UNVERIFIED_TRUST = 0.05
"""Beta(1, 1) has its 10% quantile at .1; what nobody checked ranks below everything that somebody did."""


class DamagedText(ValueError):
    """A stored text is not the one that its id was made of."""


def choose(solutions: Iterable[Candidate], failures: Iterable[Candidate], cue: Cue, config: MemoryConfig) -> Recall:
    """At most `cue.limit` recollections: solutions first, failures in the places that are left, no text twice.

    A source that stands behind `max_per_source` solutions, or warnings, is passed over for more of them. What the
    hold-out takes keeps its place: nothing moves up, or the comparison with it would be one with its substitute.

    Raises DamagedText rather than show what nobody wrote.
    """
    shown: list[Recollection] = []
    withheld: list[Recollection] = []
    seen: set[str] = set()
    counts: dict[tuple[str, bool], int] = {}
    for candidate in (*solutions, *failures):
        text = " ".join(candidate.experience.text.split())
        full = len(shown) + len(withheld) >= cue.limit
        if full or text in seen or _is_crowded(candidate, counts, config.max_per_source):
            continue
        if candidate.experience.id != candidate.id:
            raise DamagedText(
                f"experience {candidate.id}: expected the text it was named by, got one with hash "
                f"{candidate.experience.id}; run `evomesh memory doctor`, and restore the file from a copy"
            )
        seen.add(text)
        for source in candidate.sources:
            counts[source, candidate.warns] = counts.get((source, candidate.warns), 0) + 1
        one = recollection(candidate)
        hidden = is_withheld(cue.episode, candidate.id, config.holdout_share)
        (withheld if hidden else shown).append(one)
    return Recall(shown=tuple(shown), withheld=tuple(withheld))


def _is_crowded(candidate: Candidate, counts: Mapping[tuple[str, bool], int], most: int) -> bool:
    """Whether every source behind it has had its places already, among solutions or among warnings."""
    had = [counts.get((source, candidate.warns), 0) for source in candidate.sources]
    return bool(had) and min(had) >= most


def recollection(candidate: Candidate) -> Recollection:
    """The record of a chosen candidate, with its reason in one sentence."""
    experience = candidate.experience
    return Recollection(
        experience_id=candidate.id,
        kind=experience.kind,
        text=experience.text,
        task_type=experience.task_type,
        score=candidate.fused.score,
        lane=candidate.fused.lane,
        why=f"{_standing(candidate)}; {_relevance(candidate)}.",
        warning=candidate.warns,
        same=candidate.same,
        level=candidate.standing.level,
        trust=candidate.standing.trust,
    )


def _standing(candidate: Candidate) -> str:
    standing, kind = candidate.standing, candidate.experience.kind.value
    if standing.level is Level.RETIRED:
        return f"retired {kind}: {standing.reason}" if standing.reason else f"retired {kind}"
    if standing.level is not Level.VERIFIED:
        return f"unverified {kind} ({standing.level.value})"
    if standing.warns:
        return f"{kind} that failed {_times(standing.num_failed, 'check')}"
    failed = f" and failed {standing.num_failed}" if standing.num_failed else ""
    return f"{kind} verified by {_times(standing.num_passed, 'check')}{failed}"


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _relevance(candidate: Candidate) -> str:
    reasons = []
    if "fingerprint" in candidate.fused.ranks:
        reasons.append("the very same was met before")
    elif candidate.same:
        reasons.append("it is about the same problem in other words")
    if candidate.similarity is not None:
        reasons.append(f"its meaning is near (cosine {candidate.similarity:.2f})")
    if "text" in candidate.fused.ranks:
        reasons.append(f"it holds {candidate.overlap:.0%} of what the query's words say")
    if candidate.via is not None:
        reasons.append(candidate.via)
    return " and ".join(reasons) or "found by its words"
