"""The story of one task: propose, read anonymous peers, criticise, revise, vote, decide; every step is kept."""

from __future__ import annotations

from collections.abc import Sequence

from memory.types import Recollection
from mesh.config import CouncilConfig, ProtocolConfig, SingleConfig, VoteConfig
from mesh.engine import Engine
from mesh.table import Table
from mesh.tally import plurality, tally_votes
from mesh.types import Deliberation, Member, Task, Verdict


async def deliberate(
    task: Task,
    members: Sequence[Member],
    engine: Engine,
    config: ProtocolConfig,
    *,
    seed: int,
    recalled: Sequence[Recollection] = (),
) -> Deliberation:
    """Let `members` decide `task`; the whole trace. The same arguments and engine give the same trace, times apart.

    A member that fails (EngineError, timeout) leaves a `Failure` and sits out the rest; the others decide. When all
    fail or abstain, `verdict.answer` is None. Where `config.max_tokens_total` does not cover a phase for everybody,
    what is left undone becomes a `Failure` of kind "BudgetExhausted".

    Raises:
        ValueError: no members, two of one name, or a `SingleConfig.member` that is not among them.
    """
    table = Table(task, _seated(members, config), engine, config, seed, tuple(recalled))
    match config:
        case SingleConfig():
            verdict = await _vote(table, 1)
        case VoteConfig():
            verdict = await _vote(table, config.samples_per_member)
        case CouncilConfig():
            verdict = await _council(table, config)
    return table.trace(verdict)


async def _vote(table: Table, num_samples: int) -> Verdict:
    """Everybody answers alone, and the most frequent answer wins."""
    await table.propose(num_samples)
    return plurality(table.proposals, table.kind)


async def _council(table: Table, config: CouncilConfig) -> Verdict:
    """Independent first answers; then, only while the members differ, rounds of reading, critique and revision."""
    await table.propose(config.samples_per_member)
    for number in range(1, config.rounds + 1):
        if not table.members_differ():
            break
        readings = table.read(number, config)
        objections = await table.criticise(number, readings, config) if config.critique else {}
        await table.revise(number, readings, objections, config)
    if not table.members_differ():
        agreed = plurality(table.standing(), table.kind)
        return agreed.model_copy(update={"method": f"{agreed.method} (no member differs: no vote)"})
    await table.vote()
    return tally_votes(table.votes, table.standing(), table.kind)


def _seated(members: Sequence[Member], config: ProtocolConfig) -> tuple[Member, ...]:
    names = [member.name for member in members]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected at least one member and no name twice, got {names}: rename or add members")
    if not isinstance(config, SingleConfig):
        return tuple(members)
    if config.member is not None and config.member not in names:
        raise ValueError(f"expected protocol.member to be one of {names}, got {config.member!r}")
    return (members[0 if config.member is None else names.index(config.member)],)
