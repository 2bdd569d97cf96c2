"""Ballots to verdict by measured weight: who is right more often counts more, who errs alike counts for less."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, product

from mesh.equivalence import Equality, canonical
from mesh.reliability import Reliability, seat_key
from mesh.tally import method_of_tie, plurality, tally_votes
from mesh.together import made_to_fit, worth_together
from mesh.types import Member, Proposal, Verdict, Vote, positions

MAX_WEIGHT = math.log(100.0)
"""No member is taken to be surer than a hundred to one, whatever was measured."""

MIN_FAMILIES = 3
"""From this many families on, none may hold more than half of the weight."""

NOTHING_MEASURED = "equal weights: nothing is measured"
NONE_ABOVE_CHANCE = "no member is measured above chance, so agreement proves nothing"


def weighted(
    proposals: Sequence[Proposal],
    equality: Equality,
    reliability: Reliability | None,
    members: Sequence[Member],
    task_type: str,
    *,
    cap_families: bool = True,
) -> Verdict:
    """The answer with the greatest measured support among `proposals`, made by `members`.

    A member weighs log(p * n / (1 - p)): p is its measured accuracy where it answers, n the number of wrong answers to
    choose from (one less than there are distinct answers, or more if the members' errors were seen to spread further).
    That is optimal for independent voters (Nitzan and Paroush 1982; Shapley and Grofman 1984); here it is held between
    0 and `MAX_WEIGHT`. Samples of one member share its weight. The supporters of one answer are discounted by their
    measured correlation (`mesh.together`); from three families on none keeps more than half (`cap_family`).

    Where nothing is measured of these members, it is `plurality` under the same cap. Where none is above chance, the
    one that is right most often decides: its accuracy times the share of its samples, not added up over members, for
    those who agree there agree on the same wrong answers. The method says so. Tie rule: that of `mesh.tally.plurality`.

    A seated member that comes to support an answer never hurts it while no family is held to half. While one is, that
    is still so for uncorrelated members, unless the supporter is the first of a third family, which brings the cap.

    `confidence` is the answer's share of exp(support) among all answers, those that nobody gave included; calibrated
    where the reliability has a curve for it. Where nothing is measured it is its share of the ballots, abstentions
    included.
    """
    ballots = [
        _Ballot(p.member, p.family, canonical(p.answer, equality), 1.0) for p in proposals if p.answer is not None
    ]
    options, equal = _options(proposals, equality), plurality(proposals, equality)
    box = _Box(options, ballots, len(proposals), _plural(len(proposals), "proposal"), proposals, equality, equal)
    return _decide(box, reliability, members, task_type, cap_families)


def weigh_votes(
    votes: Sequence[Vote],
    proposals: Sequence[Proposal],
    equality: Equality,
    reliability: Reliability | None,
    members: Sequence[Member],
    task_type: str,
    *,
    cap_families: bool = True,
) -> Verdict:
    """The proposed answer with the greatest measured support among `votes`, weighed as in `weighted`.

    A member's first vote counts, and a vote for an answer that nobody proposed is a ballot for nobody. Unmeasured it is
    `mesh.tally.tally_votes` under the same cap. Its tie rule holds here, the probabilities weighed as the votes are: of
    a family held to half, a tie is the usual end, and its many copies must not decide that either. Without votes:
    `weighted`.
    """
    if not votes:
        verdict = weighted(proposals, equality, reliability, members, task_type, cap_families=cap_families)
        return verdict.model_copy(update={"method": f"{verdict.method} (no vote was cast)"})
    options, ballots = _options(proposals, equality), []
    first = {vote.member: vote for vote in reversed(votes)}
    for vote in first.values():
        for spelling, mass in vote.weights:
            if canonical(spelling, equality) in options:
                options[canonical(spelling, equality)].masses.append((vote.member, mass))
        answer = canonical(vote.answer, equality)
        if answer in options:
            ballots.append(_Ballot(vote.member, vote.family, answer, 1.0))
            options[answer].families.add(vote.family)
            options[answer].members.add(vote.member)
    equal = tally_votes(votes, proposals, equality)
    box = _Box(options, ballots, len(first), _plural(len(first), "vote"), proposals, equality, equal)
    return _decide(box, reliability, members, task_type, cap_families)


def cap_family(families: Sequence[str], weights: Sequence[float]) -> tuple[float, ...]:
    """`weights`, scaled down so that no family has more than all the others together; nothing is given to the others.

    With fewer than `MIN_FAMILIES` families of any weight it changes nothing: of two, the smaller would decide as much
    as the larger. Exact in floating point: the sum (`math.fsum`) of a family's weights is at most that of the rest.
    """
    held = list(weights)
    while len({family for family, weight in zip(families, held, strict=True) if weight > 0.0}) >= MIN_FAMILIES:
        largest = next((family for family in sorted(set(families)) if _excess(family, families, held) > 0.0), None)
        if largest is None:
            break
        own = [i for i, family in enumerate(families) if family == largest]
        rest = math.fsum(weight for family, weight in zip(families, held, strict=True) if family != largest)
        scale = rest / math.fsum(held[i] for i in own)
        while math.fsum(held[i] * scale for i in own) > rest:
            scale = math.nextafter(scale, 0.0)
        for i in own:
            held[i] *= scale
    return tuple(held)


def _excess(family: str, families: Sequence[str], weights: Sequence[float]) -> float:
    own = math.fsum(weight for name, weight in zip(families, weights, strict=True) if name == family)
    return own - math.fsum(weight for name, weight in zip(families, weights, strict=True) if name != family)


@dataclass(frozen=True)
class _Ballot:
    """What one member puts behind one answer."""

    member: str
    family: str
    answer: str
    weight: float


@dataclass
class _Option:
    """A proposed answer, with what the tie rule asks for."""

    first_seat: int
    spellings: set[str] = field(default_factory=set)
    families: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    masses: list[tuple[str, float]] = field(default_factory=list)

    @property
    def spelling(self) -> str:
        return min(self.spellings, key=lambda spelling: (len(spelling), spelling))


@dataclass(frozen=True)
class _Box:
    """What is counted: proposals or votes, each a ballot of weight 1."""

    options: dict[str, _Option]
    ballots: list[_Ballot]
    num_ballots: int
    name: str
    proposals: Sequence[Proposal]
    equality: Equality
    equal: Verdict


def _options(proposals: Sequence[Proposal], equality: Equality) -> dict[str, _Option]:
    options: dict[str, _Option] = {}
    for seat, proposal in enumerate(proposals):
        if proposal.answer is not None:
            option = options.setdefault(canonical(proposal.answer, equality), _Option(first_seat=seat))
            option.spellings.add(proposal.answer)
            option.families.add(proposal.family)
            option.members.add(proposal.member)
    return options


def _decide(
    box: _Box, reliability: Reliability | None, members: Sequence[Member], task_type: str, cap_families: bool
) -> Verdict:
    if not box.options:
        return box.equal
    if reliability is None or not reliability.knows(members):
        return _equal(box, NOTHING_MEASURED, cap_families)
    keys = {ballot.member: ballot.member for ballot in box.ballots} | {m.name: seat_key(m) for m in members}
    num_wrong = max(1.0, len(box.options) - 1.0, reliability.num_wrong_answers(list(keys.values()), task_type))
    weights = {name: _log_odds(reliability, keys[name], task_type, num_wrong) for name in keys}
    voices = _voices(box.ballots, weights)
    if not any(voice.weight > 0.0 for voice in voices):
        confidence = _confidence(reliability, [0.0] * len(box.options), num_wrong)
        return _best_alone(box, reliability, keys, task_type).model_copy(update=confidence)
    heard = _discount(voices, _correlations(reliability, keys, task_type))
    discounted = any(after.weight < before.weight - 1e-9 for before, after in zip(voices, heard, strict=True))
    capped, held = _cap(heard, cap_families)
    notes = ["measured accuracy", *(["discounted for correlated errors"] if discounted else []), *held]
    verdict = _verdict(box, capped, f"weighted log-odds of {box.name} ({'; '.join(notes)})")
    confidence = _confidence(reliability, [weight for _, weight in verdict.support], num_wrong)
    return verdict.model_copy(update=confidence)


def _equal(box: _Box, reason: str, cap_families: bool) -> Verdict:
    """One ballot, one weight: the verdict of `mesh.tally`, unless a family has to be held to half."""
    capped, held = _cap(box.ballots, cap_families)
    why = "; ".join([reason, *held])
    if not held:
        return box.equal.model_copy(update={"method": f"{box.equal.method} ({why})"})
    verdict = _verdict(box, capped, f"plurality of {box.name} ({why})")  # which may be tied where the other is not
    weights = [weight for _, weight in verdict.support]
    num_unread = box.num_ballots - len(box.ballots)
    return verdict.model_copy(update={"confidence": weights[0] / (math.fsum(weights) + num_unread)})


def _best_alone(box: _Box, reliability: Reliability, keys: Mapping[str, str], task_type: str) -> Verdict:
    """The answer of the one voice that is likeliest to be right."""
    rates = {name: reliability.accuracy(keys[name], task_type, answered_only=True).mean for name in keys}
    loudest: dict[str, _Ballot] = {}
    for voice in sorted(_voices(box.ballots, rates), key=lambda voice: -voice.weight):
        loudest.setdefault(voice.answer, voice)
    return _verdict(box, list(loudest.values()), f"the best of {box.name} alone ({NONE_ABOVE_CHANCE})")


def _confidence(reliability: Reliability, support: Sequence[float], num_wrong: float) -> dict[str, float | bool]:
    """Of the first answer; those that nobody gave have a support of 0. Calibrated where that was measured."""
    num_unnamed = max(1.0, num_wrong + 1.0 - len(support))
    top = max(support)
    raw = 1.0 / (math.fsum(math.exp(weight - top) for weight in support) + num_unnamed * math.exp(-top))
    curve = reliability.calibration
    return {"confidence": raw if curve is None else curve(raw), "calibrated": curve is not None}


def _log_odds(reliability: Reliability, key: str, task_type: str, num_wrong: float) -> float:
    accuracy = reliability.accuracy(key, task_type, answered_only=True).mean
    return min(MAX_WEIGHT, max(0.0, math.log(accuracy * num_wrong / (1.0 - accuracy))))


def _voices(ballots: Sequence[_Ballot], weights: Mapping[str, float]) -> list[_Ballot]:
    """One for each member and answer, in the order of names; a member's ballots share its weight."""
    num_ballots = Counter(ballot.member for ballot in ballots)
    num_alike = Counter((ballot.member, ballot.answer) for ballot in ballots)
    distinct = {(ballot.member, ballot.answer): ballot for ballot in ballots}
    return [
        replace(ballot, weight=weights[member] * num_alike[member, answer] / num_ballots[member])
        for (member, answer), ballot in sorted(distinct.items())
    ]


def _discount(voices: Sequence[_Ballot], correlations: Mapping[tuple[str, str], float]) -> list[_Ballot]:
    heard = {}
    for answer in {voice.answer for voice in voices}:
        backers = [voice for voice in voices if voice.answer == answer]
        table = [[correlations[a.member, b.member] for b in backers] for a in backers]
        for voice, adds in zip(backers, worth_together([v.weight for v in backers], table), strict=True):
            heard[voice] = replace(voice, weight=adds)
    return [heard[voice] for voice in voices]


def _correlations(reliability: Reliability, keys: Mapping[str, str], task_type: str) -> dict[tuple[str, str], float]:
    """Of all who could vote, made to fit at once: who votes for what must not change them."""
    names = sorted(keys)
    measured = [[1.0] * len(names) for _ in names]
    for (i, a), (j, b) in combinations(enumerate(names), 2):
        measured[i][j] = measured[j][i] = reliability.correlation(keys[a], keys[b], task_type)
    return dict(zip(product(names, names), chain(*made_to_fit(measured)), strict=True))


def _cap(ballots: Sequence[_Ballot], cap_families: bool) -> tuple[list[_Ballot], list[str]]:
    """The ballots under the cap, and in words which families it holds."""
    families, weights = [ballot.family for ballot in ballots], [ballot.weight for ballot in ballots]
    capped = cap_family(families, weights) if cap_families else tuple(weights)
    held = sorted({name for name, new, old in zip(families, capped, weights, strict=True) if new < old * (1.0 - 1e-9)})
    notes = [f"family {name} held to half of the weight" for name in held]
    return [replace(ballot, weight=weight) for ballot, weight in zip(ballots, capped, strict=True)], notes


def _support(box: _Box, ballots: Sequence[_Ballot]) -> dict[str, float]:
    return {name: math.fsum(ballot.weight for ballot in ballots if ballot.answer == name) for name in box.options}


def _verdict(box: _Box, counted: Sequence[_Ballot], method: str) -> Verdict:
    support = _support(box, counted)
    weights = {ballot.member: ballot.weight for ballot in counted}

    def merit(name: str) -> tuple[float, ...]:
        option = box.options[name]
        mass = math.fsum(mass * weights.get(member, 0.0) for member, mass in option.masses)
        # Rounded, as in mesh.tally: a tie is a tie in spite of floating-point noise.
        return (round(support[name], 9), round(mass, 9), len(option.families), len(option.members), -option.first_seat)

    ranked = sorted(box.options, key=merit, reverse=True)
    best, second = merit(ranked[0]), merit(ranked[1]) if len(ranked) > 1 else None
    tied = second is not None and second[0] == best[0]
    return Verdict(
        answer=box.options[ranked[0]].spelling,
        method=method_of_tie(method, best[1:-1], second[1:-1]) if second is not None and tied else method,
        support=tuple((box.options[name].spelling, support[name]) for name in ranked),
        dissent=tuple(
            member
            for member, own in positions(box.proposals, box.equality).items()
            if own.answer is not None and canonical(own.answer, box.equality) != ranked[0]
        ),
        tied=tied,
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
