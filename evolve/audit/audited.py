"""What AUDIT found of every roster, problem by problem, and what is read from it: shares, paired gains. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from evolve.evaluate import Pool
from evolve.gates.gains import Gain, Share, gain, share
from memory.types import Record
from mesh.types import Member, Proposal, Task

Scores = dict[str, float]
"""Task id to 1 (right), 0 (wrong), or a share of right samples."""

Method = Literal["constant", "alone", "members", "single", "consistency", "vote", "weighted", "council vote", "council"]

METHODS: dict[Method, str] = {
    "constant": "best constant answer",
    "alone": "one seat alone",
    "members": "mean of the seats alone",
    "single": "best single seat",
    "consistency": "self-consistency of the best single",
    "vote": "first-round vote",
    "weighted": "first-round vote, weighed on DEV",
    "council vote": "council's first vote",
    "council": "mesh council",
}
"""What each is called in tables."""


class RosterAsk(Record):
    """Seats to be audited."""

    name: str = Field(description="unique within one call, e.g. 'generation 2'")
    members: tuple[Member, ...] = Field(min_length=1, description="in seat order")
    samples_each: int = Field(ge=1, description="first proposals of each member that vote")
    ballots: int | None = Field(
        default=None, ge=1, description="votes of all members together, shared evenly; None: samples_each of each"
    )

    @property
    def num_ballots(self) -> int:
        """Votes of all members together."""
        return self.samples_each * len(self.members) if self.ballots is None else self.ballots

    @property
    def shares(self) -> dict[str, int]:
        """Votes by member name, as even as can be, earlier seats first."""
        each, more = divmod(self.num_ballots, len(self.members))
        return {member.name: each + (place < more) for place, member in enumerate(self.members)}


class AuditedRoster(Record):
    """One roster on the AUDIT problems."""

    name: str
    members: tuple[Member, ...]
    samples_each: int
    ballots: int = Field(description="votes of all members together, and the samples of self-consistency")
    alone: dict[str, Scores] = Field(description="by member: share of its samples that are right, problem by problem")
    vote: Scores = Field(description="the plurality over the ballots; ties fall to the best of DEV")
    weighted: Scores = Field(
        default_factory=dict, description="the same ballots weighed by what DEV measured; empty: an older run's"
    )
    single_name: str = Field(
        description="member that DEV says is best when asked once, 'NAME, greedy' at temperature 0"
    )
    single: Scores
    consistency_name: str = Field(description="member that DEV says is best in samples")
    consistency: Scores = Field(description="the plurality over as many samples of this one member")
    output_tokens: float = Field(description="of one vote on one problem, on average")
    council_vote: Scores = Field(default_factory=dict, description="of some problems; empty: no councils were held")
    council: Scores = Field(default_factory=dict)

    @property
    def members_mean(self) -> Scores:
        """Mean over the seats of what each is right alone."""
        tables = [self.alone[member.name] for member in self.members]
        return {task_id: sum(table[task_id] for table in tables) / len(tables) for task_id in self.vote}

    def scores(self, method: Method) -> Scores:
        """What one method scored; empty: not measured. "alone" and "constant" are not a roster's own."""
        return {
            "members": self.members_mean,
            "single": self.single,
            "consistency": self.consistency,
            "vote": self.vote,
            "weighted": self.weighted,
            "council vote": self.council_vote,
            "council": self.council,
        }.get(method, {})


class AuditItems(Record):
    """The AUDIT problems as comparisons need them; nothing of their keys."""

    types: dict[str, str] = Field(description="task id to task type, in the order of the problems")
    clusters: dict[str, str] = Field(description="task id to near-duplicate cluster")

    def of(self, task_type: str) -> list[str]:
        """Task ids of one type; '' for all."""
        return [task_id for task_id, kind in self.types.items() if task_type in ("", kind)]

    @property
    def task_types(self) -> tuple[str, ...]:
        """In order of appearance."""
        return tuple(dict.fromkeys(self.types.values()))


class Line(Record):
    """One method of one generation on one task type: a cell of the table by generation."""

    generation: int
    method: Method
    name: str = Field(description="the seat, for 'alone', 'single' and 'consistency'; else what the method is called")
    task_type: str = Field(description="empty: all together")
    share: Share


class NamedGain(Record):
    """A paired comparison with what was compared."""

    method: Method
    before: str = Field(description="whose scores, e.g. 'generation 0'")
    after: str
    task_type: str = ""
    gain: Gain


class FirstOf(Pool):
    """The same proposals, of each member only as many as it has votes."""

    def __init__(self, pool: Pool, counts: Mapping[str, int]) -> None:
        super().__init__(())
        self._whole, self._counts = pool, counts

    def of(self, member: Member, task: Task) -> tuple[Proposal, ...]:
        """As `Pool.of`, cut to the member's votes."""
        return self._whole.of(member, task)[: self._counts.get(member.name, 0)]


def cluster_labels(clusters: Mapping[str, str]) -> dict[str, str]:
    """The same clusters under names that say nothing of the problems."""
    order = {name: f"c{place}" for place, name in enumerate(dict.fromkeys(clusters.values()))}
    return {task_id: order[name] for task_id, name in clusters.items()}


def compare_scores(
    before: Mapping[str, float], after: Mapping[str, float], clusters: Mapping[str, str], *, seed: int
) -> Gain | None:
    """`after` beside `before` on the problems that both have; None where they share none."""
    ids = [task_id for task_id in before if task_id in after]
    groups = [clusters.get(task_id, task_id) for task_id in ids]
    return gain([before[i] for i in ids], [after[i] for i in ids], groups, seed=seed)


def compare(
    before: AuditedRoster, after: AuditedRoster, items: AuditItems, method: Method = "vote", *, seed: int
) -> NamedGain | None:
    """One method of two rosters on the same problems, of this run or of another with the same AUDIT problems."""
    found = compare_scores(before.scores(method), after.scores(method), items.clusters, seed=seed)
    if found is None:
        return None
    return NamedGain(method=method, before=before.name, after=after.name, gain=found)


def gains(first: AuditedRoster, last: AuditedRoster, items: AuditItems, *, seed: int) -> tuple[NamedGain, ...]:
    """The last roster beside the first, by every method that both have; the vote, which is primary, comes first."""
    methods: tuple[Method, ...] = ("vote", "weighted", "members", "single", "consistency", "council vote", "council")
    found = (compare(first, last, items, method, seed=seed) for method in methods)
    return tuple(one for one in found if one is not None)


def gains_by_type(first: AuditedRoster, last: AuditedRoster, items: AuditItems, *, seed: int) -> tuple[NamedGain, ...]:
    """The last roster's vote beside the first's, type by type. Many looks at once: described, not claimed."""
    found = []
    for task_type in items.task_types:
        ids = items.of(task_type)
        one = compare_scores(_on(first.vote, ids), _on(last.vote, ids), items.clusters, seed=seed)
        if one is not None:
            found.append(NamedGain(method="vote", before=first.name, after=last.name, task_type=task_type, gain=one))
    return tuple(found)


BESIDE_IT = "the mesh beside the best single seat looks better than it is"
SINCE_THEN = "what the best single seat gained since looks larger than it is"


def better_than_best_single(roster: AuditedRoster, consequence: str = BESIDE_IT) -> str:
    """A seat that AUDIT itself would have chosen and DEV did not, in a sentence; empty: there is none.

    DEV has to choose, for AUDIT may not, and it is small; a comparison with its choice then flatters: the mesh where
    it stands beside it, and the choice's own gain where this is the roster it began with.
    """
    means = {name: sum(scores.values()) / len(scores) for name, scores in roster.alone.items() if scores}
    single = sum(roster.single.values()) / max(1, len(roster.single))
    name = max(means, key=means.__getitem__, default=None)
    if name is None or means[name] <= single:
        return ""
    return (
        f"The best single seat of {roster.name} was chosen on DEV: {roster.single_name}, {single:.1%} right on AUDIT. "
        f"{name} alone is right on {means[name]:.1%} there, so that {consequence}."
    )


def vote_beside_rivals(
    roster: AuditedRoster, constant: Scores, items: AuditItems, *, seed: int
) -> tuple[NamedGain, ...]:
    """A roster's vote beside its own best constant, best single and self-consistency: is the mesh worth its tokens?

    The last one, called "weighted", is the vote weighed on DEV beside the best single.
    """
    rivals: dict[Method, tuple[str, Scores]] = {
        "constant": (METHODS["constant"], constant),
        "single": (roster.single_name, roster.single),
        "consistency": (f"{roster.consistency_name}, {roster.ballots} samples", roster.consistency),
    }
    found = []
    for method, (name, scores) in rivals.items():
        one = compare_scores(scores, roster.vote, items.clusters, seed=seed)
        if one is not None:
            found.append(NamedGain(method=method, before=name, after=f"{roster.name}, vote", gain=one))
    one = compare_scores(roster.single, roster.weighted, items.clusters, seed=seed)
    if one is not None:
        after = f"{roster.name}, vote weighed on DEV"
        found.append(NamedGain(method="weighted", before=roster.single_name, after=after, gain=one))
    return tuple(found)


def lines_of(generation: int, roster: AuditedRoster, constant: Scores, items: AuditItems) -> tuple[Line, ...]:
    """The table's lines of one generation: every method on each task type and on all."""
    tables: list[tuple[Method, str, Scores]] = [("constant", METHODS["constant"], constant)]
    tables += [("alone", member.name, roster.alone[member.name]) for member in roster.members]
    tables += [
        ("members", METHODS["members"], roster.members_mean),
        ("single", roster.single_name, roster.single),
        ("consistency", roster.consistency_name, roster.consistency),
        ("vote", METHODS["vote"], roster.vote),
        ("weighted", METHODS["weighted"], roster.weighted),
        ("council vote", METHODS["council vote"], roster.council_vote),
        ("council", METHODS["council"], roster.council),
    ]
    lines = []
    for method, name, scores in tables:
        for task_type in (*items.task_types, ""):
            ids = [task_id for task_id in items.of(task_type) if task_id in scores]
            found = share([scores[i] for i in ids], [items.clusters[i] for i in ids])
            if found is not None:
                lines.append(Line(generation=generation, method=method, name=name, task_type=task_type, share=found))
    return tuple(lines)


def _on(scores: Scores, ids: Sequence[str]) -> Scores:
    return {task_id: scores[task_id] for task_id in ids if task_id in scores}
