"""Is evolution worth a night on these tasks? What is measured before it, and the plain advice that follows. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import Field

from evolve.evaluate import Pool, member_scores
from evolve.gates.gains import accuracy_of, gain
from evolve.gates.gate_wear import Level
from evolve.judging.judge import Judge, Probe
from evolve.judging.verifiers import read_number
from evolve.planning.gates_ahead import GateAhead
from evolve.planning.rates import Rates
from evolve.problems.splits import normalised_text
from evolve.problems.types import Problem
from evolve.report.measure import Accuracy, Difference
from evolve.ties import cross_fitted, units
from memory.types import Record, content_hash
from mesh.tally import plurality
from mesh.types import Member, Proposal

Right = Mapping[tuple[str, str], bool]
"""(task id, answer as spelled) to correct."""

SOLVED = 0.97
"""From this accuracy on there is nothing left to gain."""
TOLERATED = {"reference": 1.0, "empty": 0.0, "echo": 0.05, "shuffled": 0.05}
"""Share of the items on which each kind of answer may be accepted; of references, must be."""


class Arm(Record):
    """One way of answering, item by item on the same items."""

    name: str
    scores: tuple[float, ...] = Field(repr=False, description="share right, in the order of the items")
    num_samples: int = Field(default=0, description="proposals it takes for one item")

    def accuracy(self, clusters: Sequence[str] = ()) -> Accuracy:
        """Over all items, errors within a cluster of items taken as one draw.

        `clusters`: one for each item; empty: every item stands alone.
        """
        return accuracy_of(self.scores, clusters)

    @property
    def mean(self) -> float:
        """Share right; 0 without items."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else 0.0

    def against(self, other: Arm, clusters: Sequence[str] = ()) -> Difference | None:
        """This arm minus `other`, paired, errors within a cluster of items taken as one draw; None without items.

        `clusters`: one for each item; empty: every item stands alone.
        """
        found = gain(other.scores, self.scores, clusters, seed=0)
        if found is None:
            return None
        bounds = found.absolute
        return Difference(mean=found.difference, low=bounds.low, high=bounds.high, n=found.n, p=found.p)


class Night(Record):
    """What one run of the configuration takes, as planned from what was measured here."""

    hours: float
    output_tokens: int
    money: float | None = Field(default=None, description="None: an engine has no price_per_hour")


class Findings(Record):
    """Everything that the advice rests on."""

    probes: tuple[Probe, ...] = Field(
        description="what the verifier accepts: references, constants, empty, shuffled..."
    )
    num_items: int
    clusters: tuple[str, ...] = Field(
        default=(), repr=False, description="of near duplicates, for each item; empty: every item stands alone"
    )
    constant: Arm = Field(description="each task type's best constant answer, chosen on these very items")
    copied: Arm | None = Field(
        default=None, description="the answer that is parsed out of the question itself; None: not tried"
    )
    alone: tuple[Arm, ...] = Field(description="every member, mean over its samples")
    single: Arm = Field(description="the best member: chosen on one half of the items, measured on the other, and back")
    consistency: Arm = Field(description="that member's vote over as many samples as the mesh takes")
    mesh: Arm = Field(description="vote over first proposals of all members, mean over disjoint samples")
    council: Arm | None = Field(default=None, description="full councils on some of the items; None: none were held")
    council_vote: Arm | None = Field(default=None, description="those councils' own first votes")
    council_clusters: tuple[str, ...] = Field(default=(), repr=False, description="of the councils' items, as clusters")
    ceiling: Arm = Field(description="any member right, at the mesh's number of samples: a perfect chooser")
    reach: Arm = Field(description="any sample of all that were drawn is right: what own answers can teach")
    n_eff: float = Field(description="how many independent votes the members are worth")
    same_wrong: float | None = Field(default=None, description="both wrong: how often the same answer; None: never so")
    discordance: float = Field(description="share of items that may differ at the gate")
    num_gate: int = Field(description="GATE items these tasks and shares give")
    gate_level: Level | None = Field(
        default=None, description="of a run's first gate, where wear leaves it less than gate.alpha; None: it has that"
    )
    later_gates: tuple[GateAhead, ...] = Field(default=(), description="some of the gates that work at another level")
    near_duplicates: str = Field(default="", description="how many tasks say nearly the same, as a sentence")
    detectable: float | None = Field(
        description="smallest gain that passes a run's first whole gate (every rival, every guard) with 80% power; "
        "None: none does, or it may not be held"
    )
    num_gate_needed: int | None = Field(
        default=None, description="GATE items that would show all the room there is; None: no number does, or enough do"
    )
    expected_examples: float = Field(description="verified examples one generation would give the best-fed member")
    min_examples: int = Field(description="examples below which nothing is trained")
    night: Night | None = None
    night_hours: float = Field(default=10.0, description="how long a night is")
    output_tokens: int = Field(default=0, description="spent on this assessment")
    seconds: float = 0.0


class Advice(Record):
    """The verdict in plain words."""

    evolve: bool
    sentence: str = Field(description="begins with 'Evolve' or 'Don't, because'")
    because: tuple[str, ...] = Field(default=(), description="every reason against it; empty: there is none")
    notes: tuple[str, ...] = Field(default=(), description="what else is worth knowing before a night is spent")


class Assessment(Record):
    """Advice and what it rests on."""

    advice: Advice
    findings: Findings
    rates: Rates = Field(description="how fast these engines were, and how much they said, for estimates of runs")
    engines: str = Field(description="hash of what they are, see `evolve.planning.rates.engines_id`")
    tasks: str = Field(description="hash of the file of tasks, see `evolve.planning.rates.tasks_id`")


def probe_shuffled(problems: Sequence[Problem], judge: Judge) -> list[Probe]:
    """Each item answered with another item's reference, where that is another text; one probe a task type.

    Types whose references are all the same give a probe of no items.
    """
    by_type: dict[str, list[Problem]] = {}
    for problem in problems:
        by_type.setdefault(problem.task.type, []).append(problem)
    probes = []
    for task_type, items in by_type.items():
        pairs = list(_with_foreign_reference(items))
        accepted = sum(judge.judge(problem, answer).correct for problem, answer in pairs)
        probes.append(Probe(task_type=task_type, probe="shuffled", accepted=accepted, n=len(pairs)))
    return probes


def unfit(probes: Sequence[Probe]) -> tuple[str, ...]:
    """What disqualifies the verifier, one sentence a finding.

    That a constant is often right, or what can be copied from the question, is no fault of a verifier's: those are
    ways of answering that a member has to beat.
    """
    found = []
    for probe in probes:
        limit = TOLERATED.get(probe.probe)
        if limit is None or probe.n == 0:
            continue
        where = f"in {probe.accepted} of {probe.n} items of type {probe.task_type}"
        if probe.probe == "reference" and probe.rate < limit:
            found.append(f"the verifier refuses the reference answer itself {_missed(probe)}")
        elif probe.probe != "reference" and probe.rate > limit:
            found.append(f"the verifier accepts {_PROBES[probe.probe]} {where}")
    return tuple(found)


def vote_replicates(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Problem],
    right: Right,
    votes_each: int,
    clusters: Sequence[str],
) -> list[list[float]]:
    """Votes over `votes_each` proposals of every seat, from disjoint samples: one list of scores for each replicate.

    Ties fall to the seat that is better on the items of the other folds, as they fall in a run by what DEV measured;
    `clusters` as `evolve.ties.units` takes them.

    As many replicates as every seat has samples for, at least one; a seat without samples casts fewer ballots.
    """
    drawn = [len(pool.of(seat, problem.task)) for seat in seats for problem in problems]
    count = max(1, max(drawn, default=0) // votes_each)
    ties = cross_fitted(pool, seats, problems, right, clusters)
    return [
        [
            _vote(
                [
                    p
                    for seat in ties(seats, problem.task)
                    for p in pool.of(seat, problem.task)[n * votes_each : (n + 1) * votes_each]
                ],
                problem,
                right,
            )
            for problem in problems
        ]
        for n in range(count)
    ]


class BestSingle(NamedTuple):
    """The best member, chosen on the half of the items that it is not measured on."""

    alone: Arm
    consistency: Arm
    """its vote over as many samples as it was given"""
    members: tuple[str, ...]
    """who it is on the two halves: one name, or two"""


def best_single(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Problem],
    right: Right,
    votes: int,
    clusters: Sequence[str],
) -> BestSingle:
    """The best member alone, mean over all its samples, and by its own vote over the first `votes` of them.

    Chosen on the very items it is measured on, or on near duplicates of them, the best of several would look better
    than it is. `clusters` as `evolve.ties.units` takes them.
    """
    alone = {seat.name: member_scores(pool, seat, problems, dict(right)) for seat in seats}
    voted = {seat.name: [_vote(pool.of(seat, p.task)[:votes], p, right) for p in problems] for seat in seats}
    half = [int(content_hash(unit)[:2], 16) % 2 for unit in units(problems, clusters)]
    best = {}
    for side in (0, 1):
        others = [index for index, of in enumerate(half) if of != side] or list(range(len(problems)))
        best[side] = max(seats, key=lambda seat: math.fsum(alone[seat.name][index] for index in others)).name
    members = tuple(dict.fromkeys(best.values()))
    name = " or ".join(members)
    drawn = max((len(pool.of(seat, p.task)) for seat in seats for p in problems), default=0)
    single = tuple(alone[best[side]][index] for index, side in enumerate(half))
    consistent = tuple(voted[best[side]][index] for index, side in enumerate(half))
    return BestSingle(
        alone=Arm(name=f"best single ({name})", scores=single, num_samples=1),
        consistency=Arm(name=f"self-consistency ({name})", scores=consistent, num_samples=min(votes, drawn)),
        members=members,
    )


def any_right(
    pool: Pool, seats: Sequence[Member], problems: Sequence[Problem], right: Right, votes_each: int | None = None
) -> list[float]:
    """1 where any proposal is right: of `votes_each` of every seat (mean over disjoint samples), or of all (None)."""
    scores = []
    for problem in problems:
        rows = [[_is_right(problem, p.answer, right) for p in pool.of(seat, problem.task)] for seat in seats]
        if votes_each is None:
            scores.append(float(any(any(row) for row in rows)))
            continue
        count = max(1, max(map(len, rows), default=0) // votes_each)
        groups = [any(any(row[n * votes_each : (n + 1) * votes_each]) for row in rows) for n in range(count)]
        scores.append(sum(groups) / count)
    return scores


def flips(replicates: Sequence[Sequence[float]]) -> float:
    """Share of items on which two votes of the same mesh over fresh samples differ; 0 with fewer than two."""
    if len(replicates) < 2 or not replicates[0]:
        return 0.0
    pairs = list(pairwise(replicates))
    differing = sum(a != b for first, second in pairs for a, b in zip(first, second, strict=True))
    return differing / (len(pairs) * len(replicates[0]))


def expected_examples(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Problem],
    right: Right,
    num_train: int,
    per_problem: int,
    num_samples: int,
) -> float:
    """Verified examples the best-fed member would have after harvesting `num_train` problems, capped per problem.

    `num_samples`: what a harvest draws of each member for each problem; what was drawn beyond that is not counted.
    """
    best = 0.0
    for seat in seats:
        counts = []
        for problem in problems:
            drawn = pool.of(seat, problem.task)[:num_samples]
            texts = {p.text for p in drawn if _is_right(problem, p.answer, right)}
            counts.append(min(per_problem, len(texts)))
        best = max(best, sum(counts) / len(counts) * num_train if counts else 0.0)
    return best


def advise(findings: Findings) -> Advice:
    """Evolve, or don't and why: the first reason that stands is in the sentence, all of them in `because`."""
    because = tuple(reason for rule in _RULES if (reason := rule(findings)) is not None)
    notes = tuple(note for rule in _NOTES if (note := rule(findings)) is not None)
    if because:
        return Advice(evolve=False, sentence=f"Don't, because {because[0]}.", because=because, notes=notes)
    best = max(findings.mesh.mean, findings.consistency.mean, findings.single.mean)
    room = findings.reach.mean - findings.mesh.mean
    sentence = (
        f"Evolve: the mesh has {findings.mesh.mean:.0%} right, the best of all samples {findings.reach.mean:.0%}, "
        f"so there is room for {100 * room:.0f} points, and a whole gate of {findings.num_gate} items can "
        f"show {100 * (findings.detectable or 0.0):.0f}; the best constant answer has {findings.constant.mean:.0%}"
    )
    if best > findings.mesh.mean:
        sentence += f", the best way without talking or mixing {best:.0%}"
    return Advice(evolve=True, sentence=sentence + ".", notes=notes)


def _verifier_is_unfit(findings: Findings) -> str | None:
    found = unfit(findings.probes)
    return "; ".join(found) if found else None


def _too_few_items(findings: Findings) -> str | None:
    if findings.num_items == 0:
        return "there is no item to measure anything on"
    if findings.num_gate == 0:
        return "these tasks leave no item for the gate: add tasks or raise shares.gate"
    return None


def _nobody_solves_any(findings: Findings) -> str | None:
    if findings.num_items == 0 or findings.expected_examples >= findings.min_examples:
        return None
    return (
        f"there is nothing to learn from: a generation would give about {findings.expected_examples:.0f} verified "
        f"examples, and a specialist needs {findings.min_examples} (some sample is right on {findings.reach.mean:.0%} "
        "of the items); take easier tasks, larger members, or more samples"
    )


def _solved(findings: Findings) -> str | None:
    best = max((findings.mesh, findings.consistency, findings.single), key=lambda arm: arm.mean)
    if findings.num_items == 0 or best.mean < SOLVED:
        return None
    return f"there is nothing to gain: {best.name} is right on {best.mean:.0%} already; take harder tasks"


def _guessing_is_as_good(findings: Findings) -> str | None:
    best = max((findings.mesh, findings.consistency, findings.single), key=lambda arm: arm.mean)
    guesses = [findings.constant, *([findings.copied] if findings.copied is not None else [])]
    guess = max(guesses, key=lambda arm: arm.mean)
    difference = best.against(guess, findings.clusters)
    if difference is None or difference.low > 0.0:
        return None
    what = "a constant answer" if guess is findings.constant else "copying from the question"
    return (
        f"no way of asking is shown to beat {what}: {best.name} has {best.mean:.0%} and {guess.name} "
        f"{guess.mean:.0%} (difference {_points(difference)}); these answers are guessed, not worked out"
    )


def _gate_sees_nothing(findings: Findings) -> str | None:
    if findings.num_gate == 0 or findings.num_items == 0:
        return None
    if findings.gate_level is not None and findings.gate_level.alpha is None:
        return f"no gate may be held on these items any more: {findings.gate_level.reason}"
    room = findings.reach.mean - findings.mesh.mean
    if findings.detectable is not None and findings.detectable <= room:
        return None
    needed = findings.num_gate_needed
    more = ""
    if needed is not None and needed > findings.num_gate:
        times = needed / findings.num_gate
        more = (
            f"; about {needed:,} GATE items would do for a mesh that gained all of that, which takes some {times:.1f} "
            "times as many tasks, and more for less"
        )
    if findings.detectable is None:
        return f"a whole gate of {findings.num_gate} items can show no gain of any size{more}"
    return (
        f"a whole gate of {findings.num_gate} items shows gains below {100 * findings.detectable:.0f} points in fewer "
        f"than four cases of five, and there are only {100 * room:.0f} between the mesh and the best of all samples"
        f"{more or '; take harder tasks'}"
    )


def _night_is_too_short(findings: Findings) -> str | None:
    if findings.night is None or findings.night.hours <= findings.night_hours:
        return None
    return (
        f"a run takes about {findings.night.hours:.1f} hours and a night has {findings.night_hours:g}: lower "
        "items, samples or councils, or give it faster engines"
    )


_RULES: tuple[Callable[[Findings], str | None], ...] = (
    _verifier_is_unfit, _too_few_items, _nobody_solves_any, _solved, _guessing_is_as_good, _gate_sees_nothing,
    _night_is_too_short,
)  # fmt: skip


def _note_mesh(findings: Findings) -> str | None:
    difference = findings.mesh.against(findings.consistency, findings.clusters)
    if difference is None:
        return None
    shown = "not shown to differ"
    if difference.is_clear:
        shown = "the mesh is better" if difference.mean > 0 else "one member asked again is better than a mesh"
    return (
        f"At equal samples the mesh has {findings.mesh.mean:.0%} and {findings.consistency.name} "
        f"{findings.consistency.mean:.0%} ({_points(difference)}): {shown}."
    )


def _note_independence(findings: Findings) -> str | None:
    if len(findings.alone) < 2:
        return "One member is no mesh: add a model of another family."
    same = "" if findings.same_wrong is None else f"; where two are wrong, {findings.same_wrong:.0%} say the same"
    return f"{len(findings.alone)} members are worth {findings.n_eff:.1f} independent votes{same}."


def _note_council(findings: Findings) -> str | None:
    if findings.council is None or findings.council_vote is None:
        return None
    difference = findings.council.against(findings.council_vote, findings.council_clusters)
    if difference is None:
        return None
    return (
        f"Talking changed {findings.council_vote.mean:.0%} to {findings.council.mean:.0%} on {difference.n} items "
        f"({_points(difference)})."
    )


def _note_constants(findings: Findings) -> str | None:
    high = [p for p in findings.probes if p.probe.startswith("'") and p.rate > 0.3]
    if not high:
        return None
    worst = max(high, key=lambda probe: probe.rate)
    return f"The constant {worst.probe} is right on {worst.rate:.0%} of {worst.task_type}: show it beside every result."


def _note_copies(findings: Findings) -> str | None:
    high = [p for p in findings.probes if p.probe == "echo, parsed" and p.rate > 0.05]
    if not high:
        return None
    worst = max(high, key=lambda probe: probe.rate)
    return (
        f"What is read out of the question itself is right on {worst.rate:.0%} of {worst.task_type}: copying is a "
        "way of answering there."
    )


_NOTES: tuple[Callable[[Findings], str | None], ...] = (
    _note_mesh,
    _note_council,
    _note_independence,
    _note_constants,
    _note_copies,
)

_PROBES = {
    "empty": "the empty answer", "echo": "the question itself as its answer",
    "shuffled": "another item's reference",
}  # fmt: skip


def _with_foreign_reference(items: Sequence[Problem]) -> list[tuple[Problem, str]]:
    pairs = []
    for index, problem in enumerate(items):
        for step in range(1, len(items)):
            other = items[(index + step) % len(items)].reference
            if _differ(other, problem.reference):
                pairs.append((problem, other))
                break
    return pairs


def _differ(first: str, second: str) -> bool:
    """Whether two references say something else: 42 and 42.0 do not."""
    numbers = read_number(first), read_number(second)
    if None not in numbers:
        return numbers[0] != numbers[1]
    return normalised_text(first) != normalised_text(second)


def _missed(probe: Probe) -> str:
    return f"in {probe.n - probe.accepted} of {probe.n} items of type {probe.task_type}"


def _vote(proposals: Sequence[Proposal], problem: Problem, right: Right) -> float:
    verdict = plurality(proposals, problem.task.answer_kind)
    return float(_is_right(problem, verdict.answer, right))


def _is_right(problem: Problem, answer: str | None, right: Right) -> bool:
    return answer is not None and right.get((problem.task.id, answer), False)


def _points(difference: Difference) -> str:
    return f"{100 * difference.mean:+.1f} points, {100 * difference.low:+.0f} to {100 * difference.high:+.0f}"
