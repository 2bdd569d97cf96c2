"""A deliberation held again from its trace, without a model call; and what of it is other than it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import Field

from evolve.commands.unasked import Counter, Repliers, Unasked, exchanges_of, key_of
from memory.types import Recall, Record, content_hash
from mesh.config import ProtocolConfig
from mesh.deliberate import deliberate
from mesh.equivalence import same_answer
from mesh.job import Job
from mesh.reliability import Reliability
from mesh.table import id_of
from mesh.types import Deliberation, Exchange


class ReplayError(RuntimeError):
    """The deliberation is not found, or the protocol it was held under is not known here."""


class Difference(Record):
    """One thing that is not as it was."""

    what: str
    then: str
    now: str


class Replayed(Record):
    """What a replay came to."""

    deliberation: str = Field(description="id of the trace")
    task: str = Field(description="id of its task")
    source: str = Field(description="file that the trace was read from")
    protocol: str = Field(description="kind of the protocol it was held under, and where its settings are from")
    weights: str = Field(description="where the measured weights are from")
    is_exact: bool = Field(description="the settings are those it was held under; False: only of the same kind")
    is_live: bool = Field(description="the engines were asked again")
    same: bool = Field(description="the same verdict came out, to the last digit; live: the same answer")
    num_calls: int = Field(description="calls of the trace")
    num_repeated: int = Field(description="of these, given back from the trace; live: none")
    num_estimated: int = Field(default=0, description="lengths of prompts that had to be estimated from the trace")
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What a deliberation may have been held under, beside what its trace tells."""

    protocol: ProtocolConfig
    protocol_from: str
    reliability: Reliability | None
    weights_from: str
    is_known: bool = False
    """The protocol was kept with the trace."""

    def fit(self, trace: Deliberation) -> bool:
        """Whether this is certainly the protocol: kept with the trace, or proven by the trace's id."""
        return (
            self.is_known or id_of(trace.task, trace.members, self.protocol, trace.seed, recall_of(trace)) == trace.id
        )


def recall_of(trace: Deliberation) -> Recall:
    """What memory gave at the time."""
    return Recall(shown=trace.recalled, withheld=trace.withheld)


async def replay(
    trace: Deliberation, settings: Settings, prices: Mapping[str, float], count: Counter | None = None
) -> tuple[Deliberation, int]:
    """The deliberation as it comes out when nobody is asked, and how many lengths had to be estimated.

    Raises ValueError where these settings cannot be held by these members.
    """
    engine = Unasked(trace, count)
    job = Job(prices=prices, reliability=settings.reliability, desk=Repliers(trace))
    try:
        held = await deliberate(
            trace.task, trace.members, engine, settings.protocol,
            seed=trace.seed, recalled=recall_of(trace), job=job, earlier=trace,
        )  # fmt: skip
    finally:
        await job.close()
    return held, engine.num_estimated


async def replay_best(
    trace: Deliberation,
    candidates: Iterable[Settings],
    prices: Mapping[str, float],
    source: str,
    count: Counter | None = None,
) -> Replayed:
    """The replay under the settings that it was held under, or under those of its kind that come nearest.

    Raises ReplayError where none of `candidates` is a protocol of its kind that these members can hold.
    """
    best: Replayed | None = None
    for settings in _promising(trace, candidates):
        try:
            held, num_estimated = await replay(trace, settings, prices, count)
        except ValueError:
            continue
        found = compared(trace, held, settings, source, num_estimated=num_estimated)
        if best is None or (not found.same, len(found.differences)) < (not best.same, len(best.differences)):
            best = found
        if found.same:
            break
    if best is None:
        raise ReplayError(
            f"{source}: expected the settings of a {trace.protocol!r} for {len(trace.members)} members, found none; "
            "give the configuration of that day with --config, and --protocol if one was named"
        )
    return best


def compared(
    trace: Deliberation, held: Deliberation, settings: Settings, source: str, *, num_estimated: int = 0,
    is_live: bool = False,
) -> Replayed:  # fmt: skip
    """What `held` has come to, beside what `trace` had."""
    told = {_call(exchange) for exchange in exchanges_of(trace)}
    differences = tuple(_live_differences(trace, held) if is_live else _differences(trace, held))
    equality = trace.equality
    same = (
        same_answer(trace.verdict.answer, held.verdict.answer, equality) or trace.verdict.answer == held.verdict.answer
        if is_live
        else trace.verdict == held.verdict
    )
    return Replayed(
        deliberation=trace.id,
        task=trace.task.id,
        source=source,
        protocol=f"{trace.protocol}, {settings.protocol_from}",
        weights=settings.weights_from,
        is_exact=settings.fit(trace),
        is_live=is_live,
        same=same,
        num_calls=len(exchanges_of(trace)),
        num_repeated=0 if is_live else sum(_call(exchange) in told for exchange in exchanges_of(held)),
        num_estimated=num_estimated,
        differences=differences,
    )


def _promising(trace: Deliberation, candidates: Iterable[Settings]) -> list[Settings]:
    """Those of the trace's kind, each once, the certain ones first; if one is certain, no other protocol counts."""
    seen: dict[str, Settings] = {}
    for one in candidates:
        if one.protocol.kind == trace.protocol:
            measured = None if one.reliability is None else content_hash(one.reliability)
            seen.setdefault(content_hash([content_hash(one.protocol), measured]), one)
    certain = [one for one in seen.values() if one.fit(trace)]
    return certain or list(seen.values())


def _differences(trace: Deliberation, held: Deliberation) -> Iterable[Difference]:
    then, now = trace.verdict, held.verdict
    for name in ("answer", "method", "confidence", "calibrated", "tied", "dissent", "support"):
        yield from _unless_equal(name, getattr(then, name), getattr(now, name))
    if then.diagnosis is not None and now.diagnosis is not None:
        for name in ("shape", "weighting", "n_eff", "surprise"):
            yield from _unless_equal(name, getattr(then.diagnosis, name), getattr(now.diagnosis, name))
    before, after = ([_call(exchange) for exchange in exchanges_of(one)] for one in (trace, held))
    left = [call for call in before if call not in set(after)]
    if left:
        yield Difference(what="calls of the trace that were not asked for", then=str(len(left)), now="0")
    failed = {(f.member, f.phase, f.round, f.kind): f for _, part in trace.walk() for f in part.failures}
    for _, part in held.walk():
        for failure in part.failures:
            if (failure.member, failure.phase, failure.round, failure.kind) not in failed:
                what = f"{failure.member} in {failure.phase}, round {failure.round}"
                yield Difference(what=what, then="no failure", now=f"{failure.kind}: {failure.message}")


def _live_differences(trace: Deliberation, held: Deliberation) -> Iterable[Difference]:
    then, now = trace.verdict, held.verdict
    for name in ("answer", "method", "confidence"):
        yield from _unless_equal(name, getattr(then, name), getattr(now, name))
    if then.diagnosis is not None and now.diagnosis is not None:
        for name in ("shape", "weighting"):
            yield from _unless_equal(name, getattr(then.diagnosis, name), getattr(now.diagnosis, name))
    before, after = trace.last_positions, held.last_positions
    for member in trace.members:
        old, new = (positions.get(member.name) for positions in (before, after))
        answers = [("(said nothing)" if one is None else str(one.answer)) for one in (old, new)]
        if answers[0] != answers[1] and not (old and new and same_answer(old.answer, new.answer, trace.equality)):
            yield Difference(what=f"last position of {member.name}", then=answers[0], now=answers[1])
    for name, one in (("failures", "failures"), ("votes", "votes")):
        counts = [sum(len(getattr(part, one)) for _, part in held_one.walk()) for held_one in (trace, held)]
        yield from _unless_equal(name, counts[0], counts[1])
    yield from _unless_equal("output tokens", trace.usage.output_tokens, held.usage.output_tokens)
    models = [{profile.engine: profile.model for profile in one.profiles} for one in (trace, held)]
    for engine in sorted(models[0].keys() & models[1].keys()):
        yield from _unless_equal(f"model of {engine}", models[0][engine], models[1][engine])


def _unless_equal(what: str, then: object, now: object) -> Iterable[Difference]:
    if then != now:
        yield Difference(what=what, then=str(then), now=str(now))


def _call(exchange: Exchange) -> tuple[str, str, int, str]:
    return exchange.member, exchange.phase, exchange.round, key_of(exchange.messages)
