"""The story of one task: deliberate as configured, look at the disagreement, and ask a person if told to."""

from __future__ import annotations

from collections.abc import Sequence

from memory.types import Recall, Recollection
from mesh.budget import Purse
from mesh.calls import Watch
from mesh.conclude import conclude
from mesh.config import (
    CouncilConfig,
    DebateConfig,
    EscalateConfig,
    HierarchicalConfig,
    MixtureConfig,
    ParallelConfig,
    ProtocolConfig,
    RankConfig,
    ReviewConfig,
    SelfConsistencyConfig,
    SelfMixtureConfig,
    SequentialConfig,
    SingleConfig,
    SwitchConfig,
    VoteConfig,
    members_named,
    parts_of,
)
from mesh.engine import Engine
from mesh.job import Job
from mesh.oversight import Waiting
from mesh.patterns.hierarchical import hierarchical
from mesh.patterns.parallel import parallel
from mesh.patterns.review import review
from mesh.patterns.sequential import sequential
from mesh.protocols.council import council
from mesh.protocols.debate import debate
from mesh.protocols.escalate import escalate
from mesh.protocols.mixture import mixture, self_mixture
from mesh.protocols.rank import rank
from mesh.protocols.self_consistency import self_consistency
from mesh.protocols.single import single
from mesh.protocols.switch import switch
from mesh.protocols.vote import vote
from mesh.replay import Replay
from mesh.table import Sitting, Table
from mesh.types import Deliberation, Member, Task, Verdict

WAITING = Verdict(answer=None, method="waiting for a person")


async def deliberate(
    task: Task,
    members: Sequence[Member],
    engine: Engine,
    config: ProtocolConfig,
    *,
    seed: int,
    recalled: Recall | Sequence[Recollection] = (),
    job: Job | None = None,
    earlier: Deliberation | None = None,
    watch: Watch | None = None,
) -> Deliberation:
    """Let `members` decide `task`; the whole trace. The same arguments and engine give the same trace, times apart.

    A member that fails (EngineError, timeout) leaves a `Failure` and sits out the rest; the others decide. When all
    fail or abstain, `verdict.answer` is None. What `config.budget` does not cover becomes a `Failure` of kind
    "BudgetExhausted". `job` is shared by deliberations that run side by side; None: one of its own. A deliberation
    that waits for a person (`is_waiting`) goes on when it is called again with its trace as `earlier`. Of a `Recall`
    as `recalled`, what is withheld stands in the trace and in no prompt. `watch` is told of every call as it ends.

    Raises:
        ValueError: no members, two of one name, a name in `config` that is not among them, or `oversight` without a
            desk in `job`.
    """
    shared = job or Job()
    check_seats(members, config, shared)
    purse = Purse(config.budget, shared.purse.prices, parent=shared.purse)
    recall = recalled if isinstance(recalled, Recall) else Recall(shown=tuple(recalled))
    sitting = Sitting(engine, seed, recall, shared, purse, Replay(earlier), watch)
    try:
        return await _sit(Table(task, tuple(members), config, sitting, "", _hold))
    finally:
        if job is None:
            await shared.close()


async def _hold(
    parent: Table, step: str, config: ProtocolConfig, task: Task, members: Sequence[Member]
) -> Deliberation:
    """A part of a pattern; it spends from its own budget and from the pattern's."""
    path = f"{parent.path}/{step}" if parent.path else step
    purse = Purse(config.budget, parent.job.purse.prices, parent=parent.sitting.purse)
    return await _sit(Table(task, tuple(members), config, parent.sitting.within(purse), path, _hold))


async def _sit(table: Table) -> Deliberation:
    """Decide, conclude, and keep everything; a pause for a person is a trace too."""
    try:
        return table.trace(await conclude(table, await _decide(table)))
    except Waiting:
        return table.trace(WAITING)


async def _decide(table: Table) -> Verdict:
    match table.config:
        case SingleConfig() as config:
            return await single(table, config)
        case VoteConfig() as config:
            return await vote(table, config)
        case SwitchConfig() as config:
            return await switch(table, config)
        case CouncilConfig() as config:
            return await council(table, config)
        case EscalateConfig() as config:
            return await escalate(table, config)
        case RankConfig() as config:
            return await rank(table, config)
        case SelfConsistencyConfig() as config:
            return await self_consistency(table, config)
        case SelfMixtureConfig() as config:
            return await self_mixture(table, config)
        case MixtureConfig() as config:
            return await mixture(table, config)
        case DebateConfig() as config:
            return await debate(table, config)
        case SequentialConfig() as config:
            return await sequential(table, config)
        case ParallelConfig() as config:
            return await parallel(table, config)
        case HierarchicalConfig() as config:
            return await hierarchical(table, config)
        case ReviewConfig() as config:
            return await review(table, config)
    raise AssertionError(f"no protocol for {type(table.config).__name__}")


def check_seats(members: Sequence[Member], config: ProtocolConfig, job: Job) -> None:
    """Raises ValueError where `members` and `job` cannot hold what `config` asks for; before anything is spent."""
    names = [member.name for member in members]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected at least one member and no name twice, got {names}: rename or add members")
    unknown = [name for name in members_named(config) if name not in names]
    if unknown:
        raise ValueError(f"expected the protocol to name members among {names}, got {unknown[0]!r}")
    for part in parts_of(config):
        if isinstance(part, HierarchicalConfig) and (fixed := list(members_named(part.worker))):
            raise ValueError(f"expected no name in `worker`, got {fixed[0]!r}: parts are given to members by skill")
    budgets = [job.purse.budget, *(part.budget for part in parts_of(config))]
    if any(budget.cost is not None for budget in budgets) and not job.purse.prices:
        raise ValueError("expected a price for the engines, got none: a budget of money needs their `price_per_hour`")
    if job.desk is None and any(part.oversight is not None for part in parts_of(config)):
        raise ValueError("expected a desk where a person can be asked, got none: give one, or remove `oversight`")
