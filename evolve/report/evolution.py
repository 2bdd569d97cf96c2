"""What a report shows of evolution itself: accuracy by generation, decisions, lines of descent, variety, cost, data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evolve.aa import AARecord
from evolve.archive import Archive, heat_map
from evolve.collapse import Health
from evolve.conjunction import ConjunctionRecord
from evolve.contamination import Contamination
from evolve.diversity import Diversity
from evolve.gate_wear import GateWear
from evolve.intervals import Interval
from evolve.novelty import EmergenceReport, Internalisation
from evolve.power import ConjunctionPower
from evolve.remeasure import Remeasured
from evolve.shapley import Contributions
from memory.types import Record

Counts = tuple[tuple[str, int], ...]

CurveKind = Literal["constant", "solo", "members", "best_single", "self_consistency", "vote", "council", "arm"]


class CurvePoint(Record):
    """A method's accuracy in one generation, with its 95% interval."""

    generation: int = Field(ge=0)
    mean: float
    low: float
    high: float
    n: int = Field(ge=0, description="problems")


class Curve(Record):
    """One way of answering, generation by generation, on the same AUDIT problems."""

    method: str
    kind: CurveKind
    points: tuple[CurvePoint, ...] = Field(description="by generation; one that was not measured has none")
    note: str = Field(default="", description="what a reader must know, e.g. which member and how many samples")

    def at(self, generation: int) -> CurvePoint | None:
        """The point of one generation; None: not measured there."""
        return next((point for point in self.points if point.generation == generation), None)


class Gain(Record):
    """A comparison on the same AUDIT problems: one method in the last generation against generation 0, or two methods."""

    method: str
    kind: CurveKind
    task_type: str = Field(default="", description="empty: all together")
    against: str = Field(default="generation 0", description="what it is compared with")
    before: float
    after: float
    n: int
    difference: Interval = Field(description="95% interval of the difference, in shares")
    relative: float | None = Field(default=None, description="difference over `before`; None: before is 0")
    relative_low: float | None = Field(default=None, description="95%; None: no bound")
    relative_high: float | None = Field(default=None, description="None: no bound, too little was right before")
    p: float | None = Field(default=None, description="two-sided; None: not tested")
    detectable: float | None = Field(default=None, description="gain that so many problems show four times in five")

    @property
    def mean(self) -> float:
        """The difference in shares."""
        return self.after - self.before

    @property
    def is_shown(self) -> bool:
        """The interval lies above zero."""
        return self.difference.low > 0.0

    @property
    def is_harm(self) -> bool:
        """The interval lies below zero."""
        return self.difference.high < 0.0


class DecisionView(Record):
    """What a generation's candidates came to, with every number it rests on."""

    generation: int = Field(ge=0, description="number of the generation that bred them")
    reason: str
    chosen: str | None = Field(default=None, description="name of the arrangement that takes the seats; None: none does")
    record: ConjunctionRecord | None = Field(default=None, description="None: no gate was held")
    remeasured: Remeasured | None = None
    power: ConjunctionPower | None = Field(default=None, description="of the whole conjunction, as it was held")
    wear: GateWear | None = None
    level: str = Field(default="", description="why the gate was held at this level")
    ruling: str = Field(default="", description="what governance said of the winner")
    approved_by: tuple[str, ...] = ()
    contributions: Contributions | None = Field(default=None, description="what each seat adds to the vote")
    retired: tuple[tuple[str, str], ...] = Field(default=(), description="(seat, why it was freed)")
    num_bred: int = 0
    num_quarantined: int = 0


class HeatCell(Record):
    """One niche of the archive."""

    task_type: str
    base: str
    role: str
    best: float = Field(description="accuracy of its best elite")
    name: str = Field(description="of that elite")
    num_elites: int


class LifeView(Record):
    """How varied and how healthy the mesh is in one generation."""

    generation: int = Field(ge=0)
    diversity: Diversity | None = None
    emergence: EmergenceReport | None = None
    health: tuple[Health, ...] = Field(default=(), description="each seat against its forebear in generation 0")


class CostView(Record):
    """What one generation cost."""

    generation: int | None = Field(description="None: what is common to all, such as the start and the final audit")
    seconds: float = Field(default=0.0, description="wall time of its stages")
    training_seconds: float = Field(default=0.0, description="of these, in training")
    engine_seconds: float | None = Field(default=None, description="busy time over all engines; None: not measured")
    num_engines: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    trained_tokens: int = 0
    flops: float = Field(default=0.0, description="of training, estimated")
    money: float | None = Field(default=None, description="at the configured price; None: no price is configured")

    @property
    def idle_share(self) -> float | None:
        """Share of the wall time that an engine had nothing to do, mean over engines, 0..1."""
        if self.engine_seconds is None or self.seconds <= 0.0 or self.num_engines == 0:
            return None
        return min(1.0, max(0.0, 1.0 - self.engine_seconds / (self.seconds * self.num_engines)))


class FlowView(Record):
    """What became of one generation's texts on their way into training."""

    generation: int = Field(ge=0)
    num_samples: int = Field(description="proposals and revisions harvested")
    num_right: int = Field(default=0, description="of these, judged right")
    kept: Counts = Field(default=(), description="(kind of example, examples) that were curated")
    dropped: Counts = Field(default=(), description="(reason, examples), the most frequent first")
    num_all: int = Field(default=0, description="rows of all generations so far")
    num_used: int = Field(default=0, description="of these, in this generation's set")
    unused: Counts = Field(default=(), description="(reason, rows) of the rest")
    num_pairs: int = Field(default=0, description="preference pairs")
    anchor_share: float | None = Field(default=None, description="share of the used rows that base models wrote")


class ChangedView(Record):
    """A problem on which seating specialists changed the result, picked by a rule."""

    title: str
    why: str = Field(description="the rule that picked it")
    task_type: str
    question: str
    specialists: tuple[str, ...] = Field(description="seats that are specialists now and were not in generation 0")
    before: str = Field(description="transcript under generation 0; written by models, never trusted")
    after: str = Field(description="transcript under the last generation")


class EvolutionView(Record):
    """Everything about evolution over generations; each part may be missing, the page then says so."""

    num_generations: int = Field(default=0, description="rounds of learning")
    curves: tuple[Curve, ...] = ()
    gains: tuple[Gain, ...] = Field(default=(), description="the primary one first")
    by_type: tuple[Gain, ...] = Field(default=(), description="the primary method by task type; described, no claim")
    beside: tuple[Gain, ...] = Field(default=(), description="the mesh at the end against others at equal budget")
    answer: str = Field(default="", description="novelty or noise, in a sentence")
    decisions: tuple[DecisionView, ...] = ()
    aa: AARecord | None = None
    heat: tuple[HeatCell, ...] = ()
    life: tuple[LifeView, ...] = ()
    internalisation: tuple[Internalisation, ...] = ()
    costs: tuple[CostView, ...] = ()
    currency: str = Field(default="", description="of `CostView.money`")
    flows: tuple[FlowView, ...] = ()
    contamination: Contamination | None = None
    changed: tuple[ChangedView, ...] = ()

    @property
    def primary(self) -> Gain | None:
        """The gain that the run is judged by."""
        return self.gains[0] if self.gains else None

    @property
    def total_money(self) -> float | None:
        """Sum over generations; None: nothing is priced."""
        priced = [cost.money for cost in self.costs if cost.money is not None]
        return sum(priced) if priced else None

    @property
    def total_flops(self) -> float:
        """Of all training."""
        return sum(cost.flops for cost in self.costs)

    @property
    def idle_share(self) -> float | None:
        """Over all generations, weighted by wall time; None: not measured."""
        known = [(cost.idle_share, cost.seconds) for cost in self.costs if cost.idle_share is not None]
        weight = sum(seconds for _, seconds in known)
        return sum(share * seconds for share, seconds in known) / weight if weight else None


def heat_cells(archive: Archive) -> tuple[HeatCell, ...]:
    """The archive as the page shows it, in the order of task types, bases and roles."""
    cells = []
    for (task_type, base, role), best in sorted(heat_map(archive).items()):
        here = [
            elite
            for elite in archive.elites
            if (elite.niche.task_type, elite.niche.base, elite.niche.role) == (task_type, base, role)
        ]
        name = max(here, key=lambda elite: elite.accuracy).name
        cells.append(
            HeatCell(task_type=task_type, base=base, role=role, best=best, name=name, num_elites=len(here))
        )
    return tuple(cells)
