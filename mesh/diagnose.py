"""What the disagreement behind a verdict looks like: who holds what, how independent they are, whether it is stable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mesh.equivalence import Equality, canonical, same_answer
from mesh.parse import own_words
from mesh.reliability import Reliability, Seat
from mesh.types import Cluster, Diagnosis, Member, Proposal, Shape, Verdict, positions

MAX_ARGUMENT_CHARS = 2000
"""A longer text is not shown as an argument: nobody reads it, and it is never cut in the middle."""

MIN_REASON_CHARS = 20
"""A text that has fewer characters beside its answer is a bare answer ("The answer is 7.") and argues nothing."""

Decide = Callable[[Sequence[Proposal]], str | None]
"""The answer that these proposals alone would come to; None: none."""


def diagnose(
    verdict: Verdict,
    proposals: Sequence[Proposal],
    equality: Equality,
    members: Sequence[Member],
    weighting: str,
    reliability: Reliability | None,
    decide: Decide,
    *,
    task_type: str | None = None,
) -> Diagnosis:
    """The diagnosis of `verdict`, which was reached among the standing `proposals` of `members`.

    weighting: what the weights rest on, in words; where no errors in common are measured, it is added that `n_eff` is
        then the number of members who answered.
    decide: decides again without each family in turn, if there are two or more.
    task_type: what reliability is asked about; None: all types together.
    """
    answered = {p.member: p for p in proposals if p.answer is not None}
    seats: list[Seat] = [next((m for m in members if m.name == name), answered[name]) for name in answered]
    is_measured = reliability is not None and reliability.num_shared(seats, task_type) > 0
    if len(seats) > 1 and not is_measured:
        weighting = f"{weighting}; no errors in common are measured, so n_eff is the number of members"
    clusters = _clusters(verdict, proposals, equality, _Judge(reliability, members, task_type))
    families = list(dict.fromkeys(p.family for p in proposals))
    return Diagnosis(
        shape=shape_of(proposals, equality),
        clusters=clusters,
        num_ballots=len(proposals),
        n_eff=(reliability or Reliability()).num_effective(seats, task_type),
        weighting=weighting,
        entropy=_entropy([cluster.weight for cluster in clusters]),
        without_family=tuple(
            (family, decide([p for p in proposals if p.family != family])) for family in families if len(families) > 1
        ),
    )


def is_stable(diagnosis: Diagnosis, verdict: Verdict, equality: Equality) -> bool:
    """Whether the verdict is the same without any one family. True where there is only one: nobody could tell."""
    return all(same_answer(answer, verdict.answer, equality) for _, answer in diagnosis.without_family)


def shape_of(proposals: Sequence[Proposal], equality: Equality) -> Shape:
    """The first of these that holds. Each member counts with its position; abstentions do not count.

    - nobody answered: no answer can be read.
    - one member answered: a single answer can be read, with which nobody could agree or differ.
    - consensus across families: every readable answer, sample by sample, is the same, and of two families or more.
    - consensus within one family: the same, of one family.
    - one against all: three members or more, all but one of them agree, and they are of two families or more.
    - split by family: two families or more, each united on one answer, and those answers are just two, or a family of
      several members is among them. (Of three lone members who all differ nothing is to be said of their families.)
    - one against all: as before, the others being of one family.
    - scattered: no two readable answers are the same, or three answers or more, none held by two members.
    - mixed: anything else.
    """
    held = {name: own for name, own in positions(proposals, equality).items() if own.answer is not None}
    answers = {name: canonical(own.answer or "", equality) for name, own in held.items()}
    read = [canonical(p.answer, equality) for p in proposals if p.answer is not None]
    if not read:
        return "nobody answered"
    if len(read) == 1:
        return "one member answered"
    families: dict[str, list[str]] = {}
    for name, own in held.items():
        families.setdefault(own.family, []).append(answers[name])
    if len(set(read)) == 1:
        return "consensus across families" if len(families) > 1 else "consensus within one family"
    backing = {answer: [name for name in answers if answers[name] == answer] for answer in answers.values()}
    sizes = sorted(len(names) for names in backing.values())
    is_lone = len(sizes) == 2 and sizes[0] == 1 and sizes[1] >= 2
    majority = {held[name].family for name in max(backing.values(), key=len)}
    if is_lone and len(majority) > 1:
        return "one against all"
    is_united = len(families) > 1 and all(len(set(own)) == 1 for own in families.values())
    if len(backing) > 1 and is_united and (len(backing) == 2 or any(len(own) > 1 for own in families.values())):
        return "split by family"
    if is_lone:
        return "one against all"
    if len(set(read)) == len(read) or (len(sizes) >= 3 and sizes[-1] == 1):
        return "scattered"
    return "mixed"


class _Judge:
    """Which of several proposals argues best for the answer they share."""

    def __init__(self, reliability: Reliability | None, members: Sequence[Member], task_type: str | None) -> None:
        self.reliability, self.task_type = reliability, task_type
        self.seats = {member.name: member for member in members}

    def best(self, supporters: Sequence[Proposal]) -> tuple[str, str]:
        """(author, argument): of those who give a reason the most accurate, else the longest text, else the first."""
        if not supporters:
            return "", ""
        chosen = max(supporters, key=lambda p: (gives_reason(p), self._accuracy(p), _length(p)))
        return chosen.member, _argument(chosen) if _length(chosen) <= MAX_ARGUMENT_CHARS else chosen.answer or ""

    def _accuracy(self, proposal: Proposal) -> float:
        seat = self.seats.get(proposal.member, proposal)
        if self.reliability is None or not self.reliability.knows([seat]):
            return 0.0
        return self.reliability.accuracy(seat, self.task_type).mean


def gives_reason(proposal: Proposal) -> bool:
    """Whether the text says more than the answer and is short enough to be shown."""
    return len(proposal.answer or "") + MIN_REASON_CHARS <= _length(proposal) <= MAX_ARGUMENT_CHARS


def _argument(proposal: Proposal) -> str:
    return own_words(proposal.text).strip()


def _length(proposal: Proposal) -> int:
    return len(_argument(proposal))


def _clusters(
    verdict: Verdict, proposals: Sequence[Proposal], equality: Equality, judge: _Judge
) -> tuple[Cluster, ...]:
    """The chosen answer, then the others by support, then those that got none."""
    spelled: dict[str, str] = {}
    for answer in (verdict.answer, *(answer for answer, _ in verdict.support), *(p.answer for p in proposals)):
        if answer is not None:
            spelled.setdefault(canonical(answer, equality), answer)
    weights = _weights(verdict, proposals, equality)
    clusters = []
    for key, answer in spelled.items():
        behind = [p for p in proposals if p.answer is not None and canonical(p.answer, equality) == key]
        author, argument = judge.best(behind)
        clusters.append(
            Cluster(
                answer=answer,
                weight=weights.get(key, 0.0),
                members=tuple(dict.fromkeys(p.member for p in behind)),
                families=tuple(dict.fromkeys(p.family for p in behind)),
                author=author,
                argument=argument,
            )
        )
    return tuple(clusters)


def _weights(verdict: Verdict, proposals: Sequence[Proposal], equality: Equality) -> dict[str, float]:
    """Shares of the support by canonical answer; of the proposals where nothing has support."""
    given = [(answer, weight) for answer, weight in verdict.support if weight > 0.0]
    given = given or [(p.answer, 1.0) for p in proposals if p.answer is not None]
    total = math.fsum(weight for _, weight in given)
    shares: dict[str, float] = {}
    for answer, weight in given:
        key = canonical(answer, equality)
        shares[key] = shares.get(key, 0.0) + weight / total
    return shares


def _entropy(shares: Sequence[float]) -> float:
    return math.fsum(-share * math.log2(share) for share in shares if share > 0.0)
