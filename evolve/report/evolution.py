"""What a report shows of evolution itself: accuracy by generation, decisions, lines of descent, variety, cost, data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evolve.audit.contamination import Contamination
from evolve.gates.intervals import LEVEL, Interval
from memory.types import Record

Counts = tuple[tuple[str, int], ...]

CurveKind = Literal[
    "constant", "solo", "members", "best_single", "self_consistency", "vote", "weighted_vote", "council", "arm"
]


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
    """A comparison on the same AUDIT problems: one method in two generations, or the mesh and something else."""

    method: str
    kind: CurveKind
    task_type: str = Field(default="", description="empty: all together")
    against: str = Field(default="generation 0", description="what it is compared with")
    before: float
    after: float
    n: int
    difference: Interval = Field(description="95% interval of the difference, in shares")
    relative: float | None = Field(default=None, description="difference over `before`; None: no bound from above")
    relative_low: float | None = Field(default=None, description="95%; None: no bound")
    relative_high: float | None = Field(default=None, description="None: too little was right before")
    p: float | None = Field(default=None, description="two-sided; None: not tested")
    p_adjusted: float | None = Field(
        default=None, description="after Holm over the comparisons it is one of; None: it stands alone"
    )
    detectable: float | None = Field(default=None, description="gain that so many problems show four times in five")

    @property
    def mean(self) -> float:
        """The difference in shares."""
        return self.after - self.before

    @property
    def is_shown(self) -> bool:
        """The interval lies above zero, and so does the test say where there was one, adjusted if one of many."""
        return self.difference.low > 0.0 and self._is_significant

    @property
    def is_harm(self) -> bool:
        """The interval lies below zero, likewise."""
        return self.difference.high < 0.0 and self._is_significant

    @property
    def _is_significant(self) -> bool:
        p = self.p if self.p_adjusted is None else self.p_adjusted
        return p is None or p <= LEVEL


class VersusView(Record):
    """An arrangement of the gate against one rival."""

    kind: str = Field(description="incumbent, placebo or budget")
    name: str
    n: int
    num_clusters: int
    wins: int
    losses: int
    gain: float = Field(description="in shares")
    low: float
    high: float
    p: float = Field(description="one-sided, exact")
    p_flips: float = Field(description="the same by random relabelling")


class GuardView(Record):
    """One task family of one arrangement."""

    task_type: str
    wins: int
    losses: int
    harmed: bool


class ContestView(Record):
    """What the gate found about one arrangement."""

    name: str
    kind: str = Field(description="candidate, or which control")
    versus: tuple[VersusView, ...] = Field(description="the incumbents first")
    threshold: float = Field(description="level that every p had to reach")
    p_adjusted: float
    guards: tuple[GuardView, ...] = ()
    missing: tuple[str, ...] = Field(default=(), description="rivals that were required and not measured")
    inconsistent: bool = Field(default=False, description="two calculations of a p contradict each other")
    would_pass: bool
    passed: bool
    reason: str

    @property
    def harmed(self) -> tuple[str, ...]:
        """Task families that are shown to be worse."""
        return tuple(guard.task_type for guard in self.guards if guard.harmed)


class AAView(Record):
    """How often the gate would have promoted incumbents that were entered again."""

    num_arms: int
    num_would_pass: int
    is_alarm: bool
    sentence: str


class RemeasuredView(Record):
    """A winner on fresh items."""

    chosen_gain: float = Field(description="where it was chosen, in shares; flattering")
    fresh_gain: float
    low: float
    high: float
    n: int
    sentence: str


class SeatShareView(Record):
    """What one seat adds to the vote."""

    member: str
    value: float = Field(description="exact Shapley value, in shares")
    low: float
    high: float
    alone: float
    left_out: float = Field(description="accuracy of the vote without it")
    num_pivotal: int


class SharesView(Record):
    """What every seat adds to the vote."""

    accuracy: float
    coverage: float = Field(description="share of problems that at least one seat alone votes right")
    num_problems: int
    members: tuple[SeatShareView, ...]


class DecisionView(Record):
    """What a generation's candidates came to, with every number it rests on."""

    generation: int = Field(ge=0, description="number of the generation that bred them")
    reason: str
    chosen: str | None = Field(
        default=None, description="name of the arrangement that takes the seats; None: none does"
    )
    contests: tuple[ContestView, ...] = Field(default=(), description="empty: no gate was held")
    dev: tuple[VersusView, ...] = Field(
        default=(), description="each arrangement beside the incumbents where it was chosen"
    )
    remeasured: RemeasuredView | None = None
    council: str = Field(default="", description="councils of the best finalist, in a sentence; empty: none were held")
    power: str = Field(default="", description="what the whole conjunction could see, in a sentence")
    level: str = Field(default="", description="why the gate was held at this level")
    wear: tuple[int, int, int] | None = Field(default=None, description="items, used before, earlier gates")
    ruling: str = Field(default="", description="what governance said of the winner")
    shares: SharesView | None = Field(default=None, description="of the seats, on DEV")
    retired: tuple[tuple[str, str], ...] = Field(default=(), description="(seat, why it was freed)")
    stopped: tuple[tuple[str, str], ...] = Field(default=(), description="(candidate, why it got no further on DEV)")
    no_placebo: tuple[tuple[str, str], ...] = Field(default=(), description="(finalist's placebo, why there is none)")
    num_bred: int = 0
    num_quarantined: int = 0


class HeatCell(Record):
    """One niche of the archive."""

    task_type: str
    base: str
    role: str
    best: float = Field(description="accuracy of its best elite, on the newest problems")
    name: str = Field(description="of that elite")
    num_elites: int


class DiversityView(Record):
    """How unlike the seats of a generation are. None: not defined on these answers."""

    num_members: int
    num_tasks: int
    n_eff: float = Field(description="independent votes that the members are worth")
    n_eff_low: float
    n_eff_high: float
    double_fault: float | None = None
    same_wrong: float | None = None
    kappa: float | None = None
    q: float | None = None
    vendi: tuple[tuple[str, float], ...] = ()


class EmergenceView(Record):
    """What only the mesh solved in one generation."""

    num_attempted: int
    num_measured: int
    num_emergent: int
    low: float = Field(description="95% interval of the share among the measured")
    high: float
    luck: float = Field(description="share that luck explains")
    p_luck: float


class InternalisedView(Record):
    """How much of what only the mesh solved a later specialist solves alone."""

    kind: str = Field(description="'trained on' or 'held out'")
    num_tasks: int
    before: float
    after: float
    low: float
    high: float
    num_better: int
    num_worse: int
    p: float
    is_shown: bool


class HealthView(Record):
    """A seat against the seat of its engine in generation 0; pairs are before and after."""

    name: str
    k: int
    pass_at_1: tuple[float, float]
    pass_at_k: tuple[float, float]
    distinct_n: tuple[float, float]
    answer_entropy: tuple[float, float]
    length: tuple[float, float]
    alarms: tuple[tuple[str, str], ...] = Field(default=(), description="(sign, sentence)")


class LifeView(Record):
    """How varied and how healthy the mesh is in one generation."""

    generation: int = Field(ge=0)
    diversity: DiversityView | None = None
    emergence: EmergenceView | None = Field(default=None, description="on its own TRAIN problems")
    emergence_audit: EmergenceView | None = Field(
        default=None, description="on AUDIT problems, which nobody learned from; None: no councils there"
    )
    shares: SharesView | None = Field(default=None, description="what each seat adds to its vote on AUDIT")
    health: tuple[HealthView, ...] = ()


class CostView(Record):
    """What one generation cost."""

    generation: int | None = Field(description="None: what is common to all, such as the start and the final audit")
    seconds: float = Field(default=0.0, description="wall time of its stages")
    training_seconds: float = Field(default=0.0, description="of these, in training")
    engine_seconds: float | None = Field(default=None, description="busy time over all engines; None: not measured")
    num_engines: int = Field(default=0, description="replicas counted")
    prompt_tokens: int = 0
    output_tokens: int = 0
    trained_tokens: int = 0
    flops: float = Field(default=0.0, description="of training, estimated")
    money: float | None = Field(default=None, description="at the configured prices; None: an engine has none")

    @property
    def idle_share(self) -> float | None:
        """Share of the wall time in which none of an engine's replicas had a call, mean over engines, 0..1."""
        if self.engine_seconds is None or self.seconds <= 0.0 or self.num_engines == 0:
            return None
        return min(1.0, max(0.0, 1.0 - self.engine_seconds / (self.seconds * self.num_engines)))


class CreditView(Record):
    """What one member did in one phase of one generation's harvest, as the judge saw it."""

    member: str
    phase: str = Field(description="propose, revise, critique or vote")
    num: int = Field(description="critiques that nobody could heed, and votes without a right option, are left out")
    num_good: int = Field(description="right, or of critiques: fixed a wrong answer or left a right one standing")
    num_changed: int = Field(description="from wrong to right; 0 for proposals and votes")
    num_harmed: int = Field(description="from right to wrong; 0 for proposals and votes")


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
    credits: tuple[CreditView, ...] = ()
    levels: tuple[str, ...] = Field(default=(), description="where each family's levels go next, and why")


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
    evidence: tuple[str, ...] = Field(default=(), description="what the answer rests on, a sentence each")
    limits: tuple[str, ...] = Field(default=(), description="what this run cannot say")
    stopped: str = Field(default="", description="why there are fewer generations than asked for; empty: there are not")
    decisions: tuple[DecisionView, ...] = ()
    aa: AAView | None = None
    heat: tuple[HeatCell, ...] = ()
    life: tuple[LifeView, ...] = ()
    internalisation: tuple[InternalisedView, ...] = ()
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
        """Sum over generations; None: an engine has no price."""
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
