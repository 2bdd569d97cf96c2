"""Rank: members judge the proposals of other families, pair by pair, in one order, or one by one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from pydantic import Field

from mesh.equivalence import canonical
from mesh.judge_peers import approve, compare, order
from mesh.limits import Limits
from mesh.peers import TOO_LONG, excerpt
from mesh.protocols.switch import dissenters
from mesh.seeds import derive_random
from mesh.table import Table
from mesh.tally import A_TIE, AS_VOTED
from mesh.types import Member, Proposal, Verdict
from mesh.vote import MAX_OPTIONS


class RankConfig(Limits):
    """Independent proposals; then every member judges those of other families, never one of its own."""

    kind: Literal["rank"] = "rank"
    samples_per_member: int = Field(default=1, ge=1, le=1024, description="answers drawn from each member")
    method: Literal["pairwise", "borda", "approval"] = Field(
        default="pairwise",
        description="pairwise: every two answers, in both orders; borda: one choice that orders all; approval: each "
        "answer alone, right or wrong. Where no judge has two answers to compare, approval",
    )
    max_candidates: int = Field(default=6, ge=2, le=MAX_OPTIONS, description="distinct answers judged, most held first")
    peer_max_chars: int = Field(default=400, ge=1, description="a longer text is judged by its answer and crux")


@dataclass(frozen=True)
class _Candidate:
    key: str
    answer: str
    holders: tuple[Proposal, ...]

    def for_judge(self, judge: Member, seed: int) -> Proposal | None:
        """A text for this answer by another family than the judge's; None if its own family alone holds it."""
        foreign = [proposal for proposal in self.holders if proposal.family != judge.family]
        return derive_random(seed, judge.name, self.key).choice(foreign) if foreign else None


async def rank(table: Table, config: RankConfig) -> Verdict:
    """The proposal that the judges of other families favour most, on average; ties go to the answer most held."""
    await table.propose(config.samples_per_member)
    plural = table.decide(table.proposals)
    candidates = _candidates(table, plural)[: config.max_candidates]
    if len(candidates) < 2:
        return plural.model_copy(update={"method": f"{plural.method} (nothing to rank)"})
    seats = table.seats("reflection")
    eligible = {judge.name: _texts(table, judge, candidates, config.peer_max_chars) for judge in seats}
    judges = [judge for judge in seats if len(eligible[judge.name]) > 1]
    method = config.method if judges else "approval"
    if method == "approval":
        judges = [judge for judge in seats if eligible[judge.name]]
    most = max((_num_calls(method, len(eligible[judge.name])) for judge in judges), default=0)

    async def ask(judge: Member) -> dict[str, float]:
        return await _judge(table, judge, eligible[judge.name], method)

    said = await table.hear("rank", 0, judges, most, ask, calls_each=most)
    if not said:
        return plural.model_copy(update={"method": f"{plural.method} (no judge of another family was heard)"})
    scores = mean_scores([candidate.key for candidate in candidates], list(said.values()))
    word = f"{method} ranking by {len(said)} judges of other families"
    if method != config.method:
        word = f"{word} (no judge has two foreign answers to compare, so not {config.method})"
    return _verdict(table, plural, candidates, scores, word)


def mean_scores(keys: Sequence[str], judged: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over the judges of what they gave each candidate, 0 to 1; a candidate nobody could judge gets the mean."""
    given: dict[str, list[float]] = defaultdict(list)
    for scores in judged:
        for key, score in scores.items():
            given[key].append(score)
    means = {key: math.fsum(own) / len(own) for key, own in given.items()}
    middle = math.fsum(means.values()) / len(means) if means else 0.0
    return {key: means.get(key, middle) for key in keys}


def borda_points(weights: Sequence[float]) -> list[float]:
    """Points by rank, 1 for the first to 0 for the last; equal weights share (Borda count, normalised)."""
    most = len(weights) - 1
    return [
        (sum(other < weight for other in weights) + (sum(other == weight for other in weights) - 1) / 2) / most
        for weight in weights
    ]


async def _judge(table: Table, judge: Member, texts: Mapping[str, str], method: str) -> dict[str, float]:
    keys, caller = list(texts), table.caller
    if method == "approval":
        return {key: await approve(caller, judge, "rank", 0, texts[key]) for key in keys}
    if method == "borda":
        return dict(zip(keys, borda_points(await order(caller, judge, 0, [texts[key] for key in keys])), strict=True))
    wins = dict.fromkeys(keys, 0.0)
    for first, second in combinations(keys, 2):
        favour = await compare(caller, judge, 0, texts[first], texts[second])
        wins[first] += favour
        wins[second] += 1.0 - favour
    return {key: won / (len(keys) - 1) for key, won in wins.items()}


def _num_calls(method: str, num_texts: int) -> int:
    return {"approval": 2 * num_texts, "borda": 1}.get(method, num_texts * (num_texts - 1))


def _candidates(table: Table, plural: Verdict) -> list[_Candidate]:
    held: dict[str, list[Proposal]] = defaultdict(list)
    for proposal in table.proposals:
        if proposal.answer is not None:
            held[canonical(proposal.answer, table.equality)].append(proposal)
    keys = {canonical(answer, table.equality): answer for answer, _ in plural.support}
    return [_Candidate(key, answer, tuple(held[key])) for key, answer in keys.items()]


def _texts(table: Table, judge: Member, candidates: Sequence[_Candidate], max_chars: int) -> dict[str, str]:
    found = {candidate.key: candidate.for_judge(judge, table.seed) for candidate in candidates}
    return {key: excerpt(own, max_chars) or TOO_LONG for key, own in found.items() if own is not None}


def _verdict(
    table: Table, plural: Verdict, candidates: Sequence[_Candidate], scores: Mapping[str, float], method: str
) -> Verdict:
    # Candidates are in the order of the plurality, and sorting is stable: that order breaks ties.
    ranked = sorted(candidates, key=lambda candidate: -round(scores[candidate.key], 9))
    total = math.fsum(scores.values())
    best = ranked[0]
    tied = math.isclose(scores[ranked[1].key], scores[best.key])
    return plural.model_copy(
        update={
            "answer": best.answer,
            "method": f"{method}, {A_TIE}{AS_VOTED}" if tied else method,
            "support": tuple((candidate.answer, scores[candidate.key]) for candidate in ranked),
            "confidence": scores[best.key] / total if total else 0.0,
            "calibrated": False,
            "tied": tied,
            "dissent": dissenters(table, best.key),
        }
    )
