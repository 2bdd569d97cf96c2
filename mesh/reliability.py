"""What judged answers say of the members: how often each is right, and how often they are wrong together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, combinations
from typing import Any, TypeVar

from pydantic import Field

from memory.beta import beta_interval
from memory.types import Record
from mesh.calibrate import Calibration, fit_calibration
from mesh.equivalence import canonical
from mesh.types import Deliberation, Member, Proposal

PRIOR_STRENGTH = 10.0
"""How many judged answers the wider average is worth beside a member's own, at each step from wide to narrow."""

Seat = Member | Proposal | str
"""Whose reliability is asked for: a seat, the author of a proposal, or a key that `seat_key` made."""


MIN_TALKS = 20
"""Judged talks of a task type before anything is concluded from them."""


def seat_key(seat: Seat) -> str:
    """Name under which a seat is measured: a specialist is not its base, so its adapter's hash belongs to the name."""
    if isinstance(seat, str):
        return seat
    name = seat.name if isinstance(seat, Member) else seat.member
    return name if seat.adapter is None else f"{name}@{seat.adapter[:12]}"


class Judged(Record):
    """One judged first answer. An abstention (`answer` None) is judged wrong."""

    member: str = Field(description="`seat_key` of its author")
    family: str
    task_id: str
    task_type: str
    sample: int = 0
    answer: str | None = Field(description="canonical spelling")
    correct: bool


def judged_answers(deliberations: Iterable[Deliberation], correct: Mapping[tuple[str, str], bool]) -> Iterator[Judged]:
    """Every independent first answer in `deliberations` and their parts whose correctness is known, sample by sample.

    `correct` is keyed by (task id, answer as spelled). An abstention needs no entry; a readable answer without one is
    left out. So are revisions, and parts that were given earlier steps as context: nobody answered alone in them.
    """
    for deliberation in deliberations:
        for _, part in deliberation.walk():
            if not part.task.context:
                yield from _judged_in(part, correct)


def _judged_in(part: Deliberation, correct: Mapping[tuple[str, str], bool]) -> Iterator[Judged]:
    for proposal in part.round_of(0):
        spelled = proposal.answer
        is_right = False if spelled is None else correct.get((part.task.id, spelled))
        if is_right is not None:
            yield Judged(
                member=seat_key(proposal),
                family=proposal.family,
                task_id=part.task.id,
                task_type=part.task.type,
                sample=proposal.sample,
                answer=None if spelled is None else canonical(spelled, part.equality),
                correct=is_right,
            )


class Estimate(Record):
    """A share with what it rests on: a Beta distribution, counted in answers."""

    num_right: float = Field(gt=0.0, description="right answers, the prior's included")
    num_wrong: float = Field(gt=0.0, description="wrong answers, the prior's included")
    num_judged: int = Field(default=0, description="judged answers of this member, of all task types; 0: nothing known")

    @property
    def mean(self) -> float:
        """Best guess, 0..1."""
        return self.num_right / (self.num_right + self.num_wrong)

    @property
    def low(self) -> float:
        """Lower end of the 95% credible interval."""
        return beta_interval(self.num_right, self.num_wrong)[0]

    @property
    def high(self) -> float:
        """Upper end of the 95% credible interval."""
        return beta_interval(self.num_right, self.num_wrong)[1]


class AnswerCount(Record):
    """How one member did on one task type."""

    member: str
    task_type: str
    num_judged: int = 0
    num_answered: int = Field(default=0, description="of these, not abstentions")
    num_correct: int = 0


class PairCount(Record):
    """How two members did on the answers that both gave to one task; `first` sorts before `second`."""

    first: str
    second: str
    task_type: str
    num_both: int = Field(default=0, description="(task, sample) pairs that both are judged on")
    num_first_wrong: int = 0
    num_second_wrong: int = 0
    num_both_wrong: int = 0
    num_both_answered_wrong: int = Field(default=0, description="both wrong, and neither abstained")
    num_same_wrong: int = Field(default=0, description="both gave the same wrong answer")


class ConfidenceCount(Record):
    """How verdicts of one raw confidence came out."""

    percent: int = Field(ge=0, le=100, description="raw confidence, rounded")
    num_judged: int = 0
    num_correct: int = 0


class TalkCount(Record):
    """What talking did to the verdicts of one task type."""

    task_type: str
    num_judged: int = Field(default=0, description="deliberations that talked, judged before and after")
    num_right_to_wrong: int = 0
    num_wrong_to_right: int = 0


class Reliability(Record):
    """Counts of judged answers; every rate is derived from them. Build it with `measure`, add two up with `merge`.

    Not covered: samples of one task are counted as if each were a task of its own, so with many samples of few tasks
    the intervals are too narrow and the shrinkage too weak.
    """

    answers: tuple[AnswerCount, ...] = ()
    pairs: tuple[PairCount, ...] = ()
    confidences: tuple[ConfidenceCount, ...] = ()
    talks: tuple[TalkCount, ...] = ()

    def merge(self, other: Reliability) -> Reliability:
        """Both together, exactly as if measured at once; pairs within a task need that task to be in one of the two."""
        return Reliability(
            answers=_rows(AnswerCount, _sums(2, self.answers, other.answers)),
            pairs=_rows(PairCount, _sums(3, self.pairs, other.pairs)),
            confidences=_rows(ConfidenceCount, _sums(1, self.confidences, other.confidences)),
            talks=_rows(TalkCount, _sums(1, self.talks, other.talks)),
        )

    @cached_property
    def calibration(self) -> Calibration | None:
        """The curve for raw confidences; None while too few verdicts were judged."""
        pairs: list[tuple[float, bool]] = []
        for count in self.confidences:
            pairs += [(count.percent / 100, True)] * count.num_correct
            pairs += [(count.percent / 100, False)] * (count.num_judged - count.num_correct)
        return fit_calibration(pairs)

    def talk_pays(self, task_type: str) -> bool | None:
        """Whether talking turned more verdicts right than wrong; None while fewer than `MIN_TALKS` were judged.

        All task types count while this one has too few. As many right as wrong does not pay: the tokens are spent.
        """
        own = [count for count in self.talks if count.task_type == task_type]
        counts = own if sum(count.num_judged for count in own) >= MIN_TALKS else self.talks
        if sum(count.num_judged for count in counts) < MIN_TALKS:
            return None
        return sum(count.num_wrong_to_right - count.num_right_to_wrong for count in counts) > 0

    def knows(self, seats: Iterable[Seat]) -> bool:
        """Whether an answer of any of them was judged."""
        return any(seat_key(seat) in self._members for seat in seats)

    def accuracy(self, seat: Seat, task_type: str | None = None, *, answered_only: bool = False) -> Estimate:
        """Share of right answers of a member on a task type (None: on all); abstentions are wrong answers.

        Three steps from wide to narrow, each a Beta prior for the next: all other members, then this member on other
        task types, then on this one. A wider step enters with at most `PRIOR_STRENGTH` answers, and no answer counts
        twice. The first prior is uniform. A member nobody judged gets what is known of the others, with `num_judged`
        0; where nobody was judged at all, that is 0.5 with the interval of knowing nothing.

        answered_only: leave the abstentions out, for the weight of a vote: an abstention casts none.
        """
        key, right, wrong = seat_key(seat), 1.0, 1.0
        own = self._members.get(key, {})
        here = [count for kind, count in own.items() if task_type in (None, kind)]
        elsewhere = [count for kind, count in own.items() if task_type not in (None, kind)]
        others = [count for name, counts in self._members.items() if name != key for count in counts.values()]
        for step in (others, elsewhere, here):
            scale = min(1.0, PRIOR_STRENGTH / (right + wrong))
            num_correct = sum(count.num_correct for count in step)
            num_all = sum(count.num_answered if answered_only else count.num_judged for count in step)
            right, wrong = scale * right + num_correct, scale * wrong + num_all - num_correct
        num_judged = sum(count.num_judged for count in own.values())
        return Estimate(num_right=right, num_wrong=wrong, num_judged=num_judged)

    def correlation(self, first: Seat, second: Seat, task_type: str | None = None) -> float:
        """Phi correlation of two members' errors, -1..1; 1 for a member with itself, 0 for two never judged together.

        Shrunk by `PRIOR_STRENGTH` answers: on all task types together towards 0, on one type towards the others. It is
        taken within task types: that a type is hard for both is no agreement of theirs.
        """
        if seat_key(first) == seat_key(second):
            return 1.0
        shared = self._shared(first, second)
        if task_type is None:
            return _correlation(shared, prior=0.0)
        elsewhere = _correlation([count for count in shared if count.task_type != task_type], prior=0.0)
        return _correlation([count for count in shared if count.task_type == task_type], prior=elsewhere)

    def double_fault(self, first: Seat, second: Seat, task_type: str | None = None) -> float | None:
        """Share of answers that both got wrong (Giacinto and Roli 2001); None: never judged together."""
        shared = self._shared(first, second, task_type)
        num_both = sum(count.num_both for count in shared)
        return sum(count.num_both_wrong for count in shared) / num_both if num_both else None

    def same_wrong_share(self, first: Seat, second: Seat, task_type: str | None = None) -> float | None:
        """Where both answered and both were wrong, how often it was the same wrong answer; None: never so."""
        num_wrong, num_same = self._num_wrong_together([first, second], task_type)
        return num_same / num_wrong if num_wrong else None

    def num_shared(self, seats: Sequence[Seat], task_type: str | None = None) -> int:
        """Answers on which two of them were judged together, summed over the pairs; 0: no correlation is measured."""
        return sum(count.num_both for a, b in combinations(seats, 2) for count in self._shared(a, b, task_type))

    def num_effective(self, seats: Sequence[Seat], task_type: str | None = None) -> float:
        """How many independent votes k members are worth: k / (1 + (k - 1) * mean pairwise correlation), in 1..k.

        Kish's (1965) design effect, as arXiv 2605.29800 uses it for panels of judges. Nothing measured: k. Without
        members: 0.
        """
        pairs = [self.correlation(a, b, task_type) for a, b in combinations(seats, 2)]
        if not pairs:
            return float(len(seats))
        mean = max(0.0, math.fsum(pairs) / len(pairs))
        return max(1.0, len(seats) / (1.0 + (len(seats) - 1) * mean))

    def num_wrong_answers(self, seats: Sequence[Seat], task_type: str | None = None) -> float:
        """Over how many answers, if evenly, the wrong ones spread: wrong pairs / same wrong pairs, both plus one.

        At least 1, and 1 where nothing is measured. Without a pair on this task type those of all types count.
        """
        num_wrong, num_same = self._num_wrong_together(seats, task_type)
        if num_wrong == 0:
            num_wrong, num_same = self._num_wrong_together(seats, None)
        return (num_wrong + 1) / (num_same + 1)

    def best_member(self, members: Sequence[Member], task_type: str | None = None) -> Member | None:
        """The member with the highest accuracy, of equals the earlier seat; None: none of them was judged."""
        known = [member for member in members if self.knows([member])]
        return max(known, key=lambda member: self.accuracy(member, task_type).mean, default=None)

    def complementary_pair(
        self, members: Sequence[Member], task_type: str | None = None
    ) -> tuple[Member, Member] | None:
        """The two of whom most often at least one is right, of two families where there are such; None: not two judged.

        Expected coverage: both accuracies less the chance that both are right, from their correlation. Of equals the
        earlier seats.
        """
        pairs = list(combinations([member for member in members if self.knows([member])], 2))
        pairs = [pair for pair in pairs if pair[0].family != pair[1].family] or pairs
        return max(pairs, key=lambda pair: self._coverage(pair[0], pair[1], task_type), default=None)

    def _coverage(self, first: Member, second: Member, task_type: str | None) -> float:
        a, b = self.accuracy(first, task_type).mean, self.accuracy(second, task_type).mean
        both = a * b + self.correlation(first, second, task_type) * math.sqrt(a * (1 - a) * b * (1 - b))
        # Rounded: of two pairs that come to the same, floating-point noise must not choose.
        return round(a + b - max(0.0, a + b - 1.0, min(a, b, both)), 9)

    def _num_wrong_together(self, seats: Sequence[Seat], task_type: str | None) -> tuple[int, int]:
        shared = [count for a, b in combinations(seats, 2) for count in self._shared(a, b, task_type)]
        return sum(c.num_both_answered_wrong for c in shared), sum(c.num_same_wrong for c in shared)

    def _shared(self, first: Seat, second: Seat, task_type: str | None = None) -> list[PairCount]:
        low, high = sorted((seat_key(first), seat_key(second)))
        return [count for count in self._pairs.get((low, high), []) if task_type in (None, count.task_type)]

    @cached_property
    def _members(self) -> dict[str, dict[str, AnswerCount]]:
        found: dict[str, dict[str, AnswerCount]] = {}
        for count in self.answers:
            found.setdefault(count.member, {})[count.task_type] = count
        return found

    @cached_property
    def _pairs(self) -> dict[tuple[str, str], list[PairCount]]:
        found: dict[tuple[str, str], list[PairCount]] = {}
        for count in self.pairs:
            found.setdefault((count.first, count.second), []).append(count)
        return found


def judged_talks(deliberations: Iterable[Deliberation], correct: Mapping[tuple[str, str], bool]) -> Iterator[TalkCount]:
    """One count for every deliberation in which somebody was shown a peer; an answer not in `correct` is wrong."""
    for trace in deliberations:
        for _, part in trace.walk():
            if any(reading.shown for reading in part.readings):
                before = correct.get((part.task.id, part.first_verdict.answer or ""), False)
                after = correct.get((part.task.id, part.verdict.answer or ""), False)
                yield TalkCount(
                    task_type=part.task.type,
                    num_judged=1,
                    num_right_to_wrong=int(before and not after),
                    num_wrong_to_right=int(after and not before),
                )


def measure(
    judged: Iterable[Judged], confidences: Iterable[tuple[float, bool]] = (), talks: Iterable[TalkCount] = ()
) -> Reliability:
    """Counts of judged first answers, of (raw confidence, correct) of judged verdicts, and of what talking did.

    Two members are compared on the same sample of the same task. Of several answers of one member to one task with
    one sample number the first counts, so a trace that is read twice changes nothing.
    """
    groups: dict[tuple[str, int], dict[str, Judged]] = {}
    for one in judged:
        groups.setdefault((one.task_id, one.sample), {}).setdefault(one.member, one)
    answers: list[AnswerCount] = []
    pairs: list[PairCount] = []
    for group in groups.values():
        answers += [_answer_count(one) for one in group.values()]
        pairs += [_pair_count(group[first], group[second]) for first, second in combinations(sorted(group), 2)]
    counts = [
        ConfidenceCount(percent=round(100 * confidence), num_judged=1, num_correct=int(correct))
        for confidence, correct in confidences
    ]
    return Reliability(
        answers=_rows(AnswerCount, _sums(2, answers)),
        pairs=_rows(PairCount, _sums(3, pairs)),
        confidences=_rows(ConfidenceCount, _sums(1, counts)),
        talks=_rows(TalkCount, _sums(1, talks)),
    )


def _answer_count(one: Judged) -> AnswerCount:
    return AnswerCount(
        member=one.member,
        task_type=one.task_type,
        num_judged=1,
        num_answered=int(one.answer is not None),
        num_correct=int(one.correct),
    )


def _pair_count(first: Judged, second: Judged) -> PairCount:
    both_wrong = not first.correct and not second.correct
    both_answered = first.answer is not None and second.answer is not None
    return PairCount(
        first=first.member,
        second=second.member,
        task_type=first.task_type,
        num_both=1,
        num_first_wrong=int(not first.correct),
        num_second_wrong=int(not second.correct),
        num_both_wrong=int(both_wrong),
        num_both_answered_wrong=int(both_wrong and both_answered),
        num_same_wrong=int(both_wrong and both_answered and first.answer == second.answer),
    )


def _correlation(shared: Sequence[PairCount], prior: float) -> float:
    """Phi within task types, shrunk towards `prior`; `prior` itself where one of the two always came out alike."""
    num_both = sum(count.num_both for count in shared)
    together = math.fsum(c.num_both_wrong - c.num_first_wrong * c.num_second_wrong / c.num_both for c in shared)
    first = math.fsum(c.num_first_wrong * (c.num_both - c.num_first_wrong) / c.num_both for c in shared)
    second = math.fsum(c.num_second_wrong * (c.num_both - c.num_second_wrong) / c.num_both for c in shared)
    if first == 0.0 or second == 0.0:
        return prior
    phi = max(-1.0, min(1.0, together / math.sqrt(first * second)))
    return (num_both * phi + PRIOR_STRENGTH * prior) / (num_both + PRIOR_STRENGTH)


Counted = TypeVar("Counted", bound=Record)


def _sums(num_keys: int, *tables: Iterable[Counted]) -> dict[tuple[Any, ...], list[int]]:
    """The counts of all rows added up by their first `num_keys` fields."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for row in chain(*tables):
        values = list(row.model_dump().values())
        key, counts = tuple(values[:num_keys]), values[num_keys:]
        sums[key] = [a + b for a, b in zip(sums[key], counts, strict=True)] if key in sums else counts
    return sums


def _rows(kind: type[Counted], sums: Mapping[tuple[Any, ...], Sequence[int]]) -> tuple[Counted, ...]:
    rows = [[*key, *counts] for key, counts in sorted(sums.items())]
    return tuple(kind(**dict(zip(kind.model_fields, row, strict=True))) for row in rows)
