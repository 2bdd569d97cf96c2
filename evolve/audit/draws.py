"""Rosters on the AUDIT problems: every distinct member drawn once in its best way, every method replayed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from pydantic import Field

from evolve.asks import proposal_asks
from evolve.audit.audited import AuditedRoster, FirstOf, RosterAsk, Scores
from evolve.audit.tuning import Tuned, Tuning, best_of, best_sampled, each_in_its_way, tune
from evolve.evaluate import Judgements, Pool, member_scores, vote_scores, weighted_vote_scores
from evolve.gates.rivals import again
from evolve.lab import Ask, Lab
from evolve.problems.sealed import Asked, SealedProblem
from evolve.problems.types import Problem
from evolve.ties import by_reliability
from memory.types import Record
from mesh.reliability import Reliability, seat_key
from mesh.types import Deliberation, Member

SealedJudge = Callable[[Lab, str, Sequence[Deliberation], Sequence[Asked]], Awaitable[Judgements]]
"""Judges the answers of a stage to AUDIT problems. Only `evolve.audit.audit` has one: it holds the permit."""


class Measured(Record):
    """Rosters on AUDIT with the draws behind them."""

    rosters: tuple[AuditedRoster, ...]
    tuned: dict[str, Tuned]
    reliability: Reliability = Field(description="of every member on DEV, by `seat_key`: what decides ties, and weighs")
    drawn: tuple[Deliberation, ...]
    judged: Judgements


async def measure_rosters(
    lab: Lab,
    stage: str,
    rosters: Sequence[RosterAsk],
    items: Sequence[SealedProblem],
    dev: Sequence[Problem],
    judge: SealedJudge,
) -> Measured:
    """Tune every distinct member on DEV, draw its first proposals for AUDIT once, and replay every method from them.

    Raises:
        ValueError: two different members have one name, in one roster or in two.
    """
    members = distinct_members(rosters)
    tuning = await tune(lab, f"tune {stage}", members, dev)
    asks = proposal_plan(lab, stage, rosters, members, tuning.members, items)
    path = lab.directory / "audit" / f"{stage.replace(' ', '-')}-proposals.parquet"
    drawn = await lab.hold(f"{stage} proposals", path, asks)
    judged = await judge(lab, stage, drawn, items)
    right, pool, tokens = judged.lookup(), Pool(drawn), _tokens_each(drawn)
    found = tuple(_audited(ask, pool, tuning, items, right, tokens) for ask in rosters)
    reliability = tuning.reliability
    return Measured(rosters=found, tuned=tuning.members, reliability=reliability, drawn=tuple(drawn), judged=judged)


def distinct_members(rosters: Iterable[RosterAsk]) -> list[Member]:
    """Every member once as it proposes, in order of appearance: a critic it has in talk makes no other one of it.

    Raises ValueError where two different ones have one name.
    """
    members = list(dict.fromkeys(member.at("propose") for ask in rosters for member in ask.members))
    names = [member.name for member in members]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ValueError(f"expected one member of each name, got several called {', '.join(double)}; rename them")
    return members


def proposal_plan(
    lab: Lab,
    stage: str,
    rosters: Sequence[RosterAsk],
    members: Sequence[Member],
    tuned: Mapping[str, Tuned],
    items: Sequence[Asked],
) -> list[Ask]:
    """First proposals of every member: as many as any roster's vote, or its self-consistency, needs; then the greedy.

    Members take turns problem by problem, so that no engine waits for another's.
    """
    counts = _counts(rosters, tuned)
    asks = [
        ask
        for problem in items
        for member in members
        for ask in proposal_asks(lab.config, stage, [problem], [member], counts[member.name])
    ]
    cold = {_greedy(member): best for member in members if (best := tuned[member.name].greedy) is not None}
    asks += proposal_asks(lab.config, stage, items, list(cold), 1)
    ways = {member.name: tuned[member.name].sampled.way for member in members}
    return each_in_its_way(asks, ways | {member.name: best.way for member, best in cold.items()})


def _counts(rosters: Sequence[RosterAsk], tuned: Mapping[str, Tuned]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for ask in rosters:
        for name, votes in ask.shares.items():
            counts[name] = max(counts.get(name, 0), votes, ask.samples_each)
        best = best_sampled(ask.members, tuned).name
        counts[best] = max(counts[best], ask.num_ballots)
    return counts


def _audited(
    ask: RosterAsk,
    pool: Pool,
    tuning: Tuning,
    items: Sequence[Asked],
    right: dict[tuple[str, str], bool],
    tokens: Mapping[str, float],
) -> AuditedRoster:
    ids, tuned = [problem.task.id for problem in items], tuning.members

    def by_task(scores: Sequence[float]) -> Scores:
        return dict(zip(ids, scores, strict=True))

    alone = {member.name: by_task(member_scores(pool, member, items, right)) for member in ask.members}
    single, sampled = best_of(ask.members, tuned), best_sampled(ask.members, tuned)
    is_greedy = tuned[single.name].best == tuned[single.name].greedy
    once = by_task(member_scores(pool, _greedy(single), items, right)) if is_greedy else alone[single.name]
    ties = by_reliability(tuning.reliability, seat_key)
    all_of_one, ballots = FirstOf(pool, {sampled.name: ask.num_ballots}), FirstOf(pool, ask.shares)
    return AuditedRoster(
        name=ask.name,
        members=ask.members,
        samples_each=ask.samples_each,
        ballots=ask.num_ballots,
        alone=alone,
        vote=by_task(vote_scores(ballots, ask.members, items, right, ties)),
        weighted=by_task(weighted_vote_scores(ballots, ask.members, items, right, tuning.reliability)),
        single_name=f"{single.name}, greedy" if is_greedy else single.name,
        single=once,
        consistency_name=sampled.name,
        consistency=by_task(vote_scores(all_of_one, [sampled], items, right)),
        output_tokens=sum(tokens.get(name, 0.0) * votes for name, votes in ask.shares.items()),
    )


def _greedy(member: Member) -> Member:
    return again(member, "greedy")


def _tokens_each(drawn: Iterable[Deliberation]) -> dict[str, float]:
    """Output tokens of one proposal by member name, on average."""
    tokens: dict[str, int] = {}
    counts: dict[str, int] = {}
    for trace in drawn:
        name = trace.members[0].name
        tokens[name] = tokens.get(name, 0) + trace.usage.output_tokens
        counts[name] = counts.get(name, 0) + len(trace.proposals)
    return {name: tokens[name] / max(1, counts[name]) for name in tokens}
