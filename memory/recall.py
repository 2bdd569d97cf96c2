"""Which experiences to bring back, and why: lanes of candidates, their fusion, and the final choice; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import Literal, NamedTuple

from memory.types import Evidence, Experience, Kind, Recollection

Lane = Literal["text", "vector", "graph"]

RRF_K = 60
"""Reciprocal rank fusion's constant (Cormack, Clarke and Büttcher 2009): how little the very first places count."""

MIN_OVERLAP = 0.3
"""Share of the query's words, by weight, that a text match must hold; else one common word makes anything similar."""

MAX_QUERY_TERMS = 64

_WORD = re.compile(r"\w+")


class Fused(NamedTuple):
    """One candidate after fusion; `ranks` counts from 1, by lane."""

    row: int
    score: float
    ranks: Mapping[Lane, int]

    @property
    def lane(self) -> str:
        """'text', 'vector', 'both' or 'graph' (reached through the graph alone)."""
        direct = [lane for lane in ("text", "vector") if lane in self.ranks]
        return "both" if len(direct) == 2 else direct[0] if direct else "graph"


class Candidate(NamedTuple):
    """A fused candidate with what is needed to judge and explain it."""

    fused: Fused
    experience: Experience
    similarity: float | None
    overlap: float
    via: str | None


def query_terms(query: str) -> list[str]:
    """Distinct words of `query`, casefolded, in order, at most `MAX_QUERY_TERMS`."""
    return list(dict.fromkeys(_WORD.findall(query.casefold())))[:MAX_QUERY_TERMS]


def weighted_overlap(weights: Mapping[str, float], text: str) -> float:
    """Share of the query's weight that `text` holds, 0 to 1; `weights` maps each query word to how much it says."""
    total = sum(weights.values())
    if total <= 0.0:
        return 0.0
    words = set(_WORD.findall(text.casefold()))
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


def choose(solutions: Iterable[Candidate], failures: Iterable[Candidate], limit: int) -> list[Recollection]:
    """At most `limit` recollections: verified ones first, failures in the places that are left, no text twice."""
    chosen: list[Recollection] = []
    seen: set[str] = set()
    for candidates, warning in ((solutions, False), (failures, True)):
        for candidate in candidates:
            text = " ".join(candidate.experience.text.split())
            if len(chosen) < limit and text not in seen:
                seen.add(text)
                chosen.append(recollection(candidate, warning=warning))
    return chosen


def recollection(candidate: Candidate, *, warning: bool) -> Recollection:
    """The record of a chosen candidate, with its reason in one sentence."""
    experience = candidate.experience
    return Recollection(
        experience_id=experience.id,
        kind=experience.kind,
        text=experience.text,
        task_type=experience.task_type,
        score=candidate.fused.score,
        lane=candidate.fused.lane,
        why=f"{_standing(experience.kind, experience.evidence)}; {_relevance(candidate)}.",
        warning=warning,
    )


def _standing(kind: Kind, evidence: Evidence | None) -> str:
    if evidence is None or evidence.verdict == "unknown":
        return f"unverified {kind.value}"
    verb = "verified by" if evidence.verdict == "passed" else "failed the check"
    return f"{kind.value} {verb} {evidence.verifier}"


def _relevance(candidate: Candidate) -> str:
    reasons = []
    if candidate.similarity is not None:
        reasons.append(f"its meaning is near (cosine {candidate.similarity:.2f})")
    if "text" in candidate.fused.ranks:
        reasons.append(f"it holds {candidate.overlap:.0%} of what the query's words say")
    if candidate.via is not None:
        reasons.append(candidate.via)
    return " and ".join(reasons) or "found by its words"
