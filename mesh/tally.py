"""Ballots to verdict: pure functions over proposals and votes, with one tie rule for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mesh.equivalence import Equality, canonical
from mesh.types import Proposal, Verdict, Vote, positions

A_TIE = "a tie: "
"""In the method of a tied verdict, before the rule that broke the tie."""
TIE_RULES = ("greater vote probabilities", "more families behind it", "more members behind it")
"""What is compared where ballots are equal, in this order; the earlier seat comes last."""
AS_VOTED = "the one ahead in the vote on the proposals"
"""The rule of protocols that weigh what a vote has put in order."""


def method_of_tie(method: str, best: Sequence[float], second: Sequence[float]) -> str:
    """`method` with the rule that put one answer before another that has as much; each as `TIE_RULES` compares them."""
    rules = (rule for rule, one, other in zip(TIE_RULES, best, second, strict=True) if one != other)
    return f"{method}, {A_TIE}{next(rules, 'the earlier seat')}"


@dataclass
class _Pile:
    """What was found for one answer."""

    first_seat: int
    spellings: set[str] = field(default_factory=set)
    num_ballots: int = 0
    masses: list[float] = field(default_factory=list)
    families: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)

    @property
    def answer(self) -> str:
        """The shortest spelling, so that the order of the ballots does not choose it."""
        return min(self.spellings, key=lambda spelling: (len(spelling), spelling))

    @property
    def merit(self) -> tuple[float, ...]:
        """What decides, in order; the seat comes last. Rounded: a tie is a tie in spite of floating-point noise."""
        return (self.num_ballots, round(math.fsum(self.masses), 9), len(self.families), len(self.members))


def plurality(proposals: Sequence[Proposal], kind: Equality) -> Verdict:
    """The most frequent answer among `proposals`, each one ballot; equal answers are counted together.

    Tie rule: more distinct families behind it, then more distinct members, then the earliest proposal in the given
    (seat) order. An abstention is a ballot for nobody: it lowers the confidence. All abstain: `answer` is None.
    """
    piles = _piles(proposals, kind)
    for pile in piles.values():
        pile.num_ballots = len(pile.masses)
    return _decide(piles, len(proposals), f"plurality of {_plural(len(proposals), 'proposal')}", proposals, kind)


def tally_votes(votes: Sequence[Vote], proposals: Sequence[Proposal], kind: Equality) -> Verdict:
    """The answer with the most votes among those that `proposals` hold.

    One ballot a member: only its first vote counts. A vote for an answer that nobody proposed is a ballot for nobody.
    Tie rule: the greater sum of vote probabilities (each vote's whole distribution), then as in `plurality`, where
    those who proposed an answer and those who voted for it both stand behind it. Without votes: `plurality`.
    """
    if not votes:
        verdict = plurality(proposals, kind)
        return verdict.model_copy(update={"method": f"{verdict.method} (no vote was cast)"})
    piles = _piles(proposals, kind)
    for pile in piles.values():
        pile.masses = []
    ballots = {vote.member: vote for vote in reversed(votes)}
    for vote in ballots.values():
        chosen = piles.get(canonical(vote.answer, kind))
        if chosen is not None:
            chosen.num_ballots += 1
            chosen.families.add(vote.family)
            chosen.members.add(vote.member)
        for answer, weight in vote.weights:
            weighed = piles.get(canonical(answer, kind))
            if weighed is not None:
                weighed.masses.append(weight)
    return _decide(piles, len(ballots), f"plurality of {_plural(len(ballots), 'vote')}", proposals, kind)


def _piles(proposals: Sequence[Proposal], kind: Equality) -> dict[str, _Pile]:
    piles: dict[str, _Pile] = {}
    for seat, proposal in enumerate(proposals):
        if proposal.answer is None:
            continue
        pile = piles.setdefault(canonical(proposal.answer, kind), _Pile(first_seat=seat))
        pile.spellings.add(proposal.answer)
        pile.masses.append(1.0)
        pile.families.add(proposal.family)
        pile.members.add(proposal.member)
    return piles


def _decide(
    piles: dict[str, _Pile], num_ballots: int, method: str, proposals: Sequence[Proposal], kind: Equality
) -> Verdict:
    ranked = sorted(piles.values(), key=lambda pile: (*(-value for value in pile.merit), pile.first_seat))
    if not ranked:
        return Verdict(answer=None, method=method)
    best = ranked[0]
    chosen = canonical(best.answer, kind)
    tied = len(ranked) > 1 and ranked[1].num_ballots == best.num_ballots
    return Verdict(
        answer=best.answer,
        method=method_of_tie(method, best.merit[1:], ranked[1].merit[1:]) if tied else method,
        support=tuple((pile.answer, float(pile.num_ballots)) for pile in ranked),
        dissent=tuple(
            member
            for member, own in positions(proposals, kind).items()
            if own.answer is not None and canonical(own.answer, kind) != chosen
        ),
        confidence=best.num_ballots / num_ballots,
        tied=tied,
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
