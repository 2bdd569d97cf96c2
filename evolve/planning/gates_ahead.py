"""The gates that a run is going to hold: at what level each of them, and the smallest gain that it can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from evolve.config import RunConfig
from evolve.gates.gate_wear import Level, WearLedger, levels_of_gates, run_of, wear_of, wear_path
from evolve.gates.power import Assumed, detectable_conjunction, equal_clusters
from evolve.identity import known_identity
from evolve.planning.plan import Problems
from evolve.problems.config import FileProblems
from evolve.problems.sealed import SealedProblem
from evolve.problems.splits import Split
from memory.types import Record

SURE = 0.02
"""No accuracy is taken to be nearer to none or all than this: a gate of rivals that never differ shows anything."""


class GateAhead(Record):
    """A gate after the first one of a run."""

    generation: int
    level: Level
    gain: float | None = Field(
        description="smallest gain that passes the whole gate with 80% power; None: none does, or it may not be held"
    )

    @property
    def sentence(self) -> str:
        """For people."""
        name = f"Generation {self.generation}'s gate"
        if self.level.alpha is None:
            return f"{name} may not be held any more ({self.level.reason})"
        gain = "no gain" if self.gain is None else f"a gain of {100 * self.gain:.1f} points"
        return f"{name} works at level {self.level.alpha:.2g} and finds {gain}"


def planned_levels(config: RunConfig, problems: Problems) -> tuple[Level, ...]:
    """The level of every generation's gate, if a finalist goes to each.

    What other runs have worn of a user's file counts; what this very run held before it was continued does not.

    Raises:
        memory.ledger.LedgerError: the record of earlier gates is damaged, at which the run would stop later.
    """
    keys = [problem.key for problem in problems.of(Split.GATE)]
    identity = known_identity(config.run_dir)
    mine = None if identity is None else run_of(config.name, identity)
    holdings = WearLedger(wear_path(config.problems, config.run_dir)).holdings
    return levels_of_gates(
        wear_of(keys, (one for one in holdings if one.run != mine)),
        config.gate.alpha,
        config.gate.wear,
        will_reuse=isinstance(config.problems, FileProblems),
        num_gates=config.num_generations,
    )


def assumed_gate(
    config: RunConfig, problems: Problems, level: Level, accuracy: float, discordance: float | None = None
) -> Assumed | None:
    """A gate before it is held, of a candidate without any gain; None: there is no GATE item, or no level for it.

    Nobody knows yet how alike the results of near duplicates are: a cluster of them counts as one draw.

    Args:
        level: of this gate, see `planned_levels`.
        accuracy: of the incumbents' vote on these tasks.
        discordance: share of items on which two arrangements differ; None: what the configuration expects.
    """
    items = problems.of(Split.GATE)
    if not items or level.alpha is None:
        return None
    accuracy = min(1.0 - SURE, max(SURE, accuracy))
    share = config.gate.expected_discordance if discordance is None else discordance
    size, correlation = equal_clusters(_problems_a_draw(problems, items))
    return Assumed(
        num_problems=len(items),
        num_task_types=len({problem.task.type for problem in items}),
        accuracy=accuracy,
        gain=0.0,
        discordance=min(share, 2 * accuracy, 2 * (1 - accuracy)),
        placebo_gain=0.0 if "placebo" in config.gate.required else None,
        budget_gain=0.0 if "budget" in config.gate.required else None,
        alpha=level.alpha,
        num_finalists=config.gate.max_finalists,
        cluster_size=size,
        cluster_correlation=correlation,
    )


def later_gates(gate: Assumed | None, levels: Sequence[Level], *, rounds: int, seed: int) -> tuple[GateAhead, ...]:
    """Gates at another level than the first one's, `gate`: the next two and the last, or the first that is refused.

    `rounds`: simulated gates for each power. Nothing where all gates of the run work at one level.
    """
    if gate is None:
        return ()
    changed = [number for number, level in enumerate(levels) if level.alpha != levels[0].alpha]
    refused = [number for number in changed if levels[number].alpha is None]
    found = []
    for number in refused[:1] or sorted({*changed[:2], *changed[-1:]}):
        alpha = levels[number].alpha
        held = gate.model_copy(update={"alpha": alpha})
        power = None if alpha is None else detectable_conjunction(held, rounds=rounds, seed=seed)
        gain = None if power is None else power.assumed.gain
        found.append(GateAhead(generation=number, level=levels[number], gain=gain))
    return tuple(found)


def level_sentence(level: Level | None, later: Sequence[GateAhead]) -> str:
    """What wear makes of the level, for people, in one line; empty: every gate of the run has all of it."""
    parts = [] if level is None else [f"Generation 0: {level.reason}"]
    return " ".join(f"{part}." for part in [*parts, *(one.sentence for one in later)])


def _problems_a_draw(problems: Problems, items: Sequence[SealedProblem]) -> float:
    """Size of a problem's cluster, mean over problems: so many times larger is a variance if clusters are one draw."""
    sizes = Counter(problems.cluster_of(item) for item in items)
    return sum(size**2 for size in sizes.values()) / len(items)
