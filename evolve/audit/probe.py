"""What only the mesh solved: each member is asked alone, anew and at no fewer tokens, and reads the mesh's solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from evolve.audit.novelty import Alone, EmergenceReport, MeshSolution, emergence_report
from evolve.audit.probe_alone import AskedAlone, Asking, Right, ask_alone, is_hit, tokens_of
from evolve.audit.probe_bits import Bits, surprise
from evolve.evaluate import Pool, success_counts
from evolve.harvest import Harvest
from evolve.lab import Lab
from evolve.lineage import Generation
from evolve.problems.sealed import Asked, SplitProblems
from evolve.problems.splits import Split
from memory.types import Record
from mesh.types import Deliberation

Counts = dict[str, tuple[int, int]]
"""(right, drawn) by member name."""


class Attempt(Record):
    """One task that was put to the mesh, and what its members do alone."""

    solution: MeshSolution
    alone: tuple[Alone, ...] = Field(description="fresh samples where it was probed, else those drawn before")
    counts: tuple[tuple[int, int], ...] = Field(description="(right, drawn) of every member, all samples together")


class Probe(Record):
    """Emergence in one generation, with its evidence."""

    generation: int
    source: Literal["train", "audit"] = Field(default="train", description="whose councils these are")
    report: EmergenceReport
    attempts: tuple[Attempt, ...] = ()
    only_mesh: tuple[str, ...] = Field(
        default=(), description="task ids that the council solved and none of the samples that members had drawn before"
    )
    probed: tuple[str, ...] = Field(default=(), description="of these, the ones that members were asked anew")

    @property
    def known(self) -> tuple[str, ...]:
        """The tasks of `only_mesh`, those that were probed first."""
        return tuple(dict.fromkeys((*self.probed, *self.only_mesh)))


@dataclass(frozen=True)
class Solved:
    """Councils on some problems, and what their members had drawn alone before; `clusters` by task id."""

    councils: Sequence[Deliberation]
    by_id: Mapping[str, Asked]
    clusters: Mapping[str, str]
    pool: Pool
    right: Right


async def probe_emergence(lab: Lab, generation: Generation, harvest: Harvest, problems: SplitProblems) -> Probe:
    """Ask whether the mesh found what no member finds alone, on this generation's own TRAIN councils.

    Only tasks that the council solved and no member's sample in the harvest are probed, `emergence_tasks` at most.
    The samples are fresh: the harvest's chose the tasks, and say 0 whatever a member can do.
    """
    by_id = {problem.task.id: problem for problem in problems.of(Split.TRAIN)}
    clusters = {task_id: problems.cluster_of(problem) for task_id, problem in by_id.items()}
    held = Solved(harvest.councils, by_id, clusters, Pool(harvest.proposals), harvest.judged.lookup())
    number = generation.number
    return await _probe(lab, held, Asking(), number=number, source="train", stage=f"generation {number} emergence")


async def probe_audit(lab: Lab, number: int, held: Solved, asking: Asking) -> Probe:
    """The same on AUDIT councils of generation `number`: nobody was trained on these, so the last mesh has them too."""
    return await _probe(lab, held, asking, number=number, source="audit", stage=f"audit emergence {number}")


async def _probe(
    lab: Lab, held: Solved, asking: Asking, *, number: int, source: Literal["train", "audit"], stage: str
) -> Probe:
    by_id, right = held.by_id, held.right
    councils = [council for council in held.councils if council.task.id in by_id]
    counts = {council.task.id: _drawn(council, by_id[council.task.id], held.pool, right) for council in councils}
    only = [c for c in councils if is_solved(c, right) and not any(hits for hits, _ in counts[c.task.id].values())]
    chosen = _spread(only, lab.config.evaluation.emergence_tasks)
    asked = await ask_alone(lab, stage, chosen, by_id, asking)
    open_yet = [council for council in chosen if not asked.anybody_right(council.task.id)]
    bits = await surprise(lab, _surprise_step(number, source), open_yet, asked)
    probed = {council.task.id for council in chosen}
    attempts = [
        _attempt(
            c,
            held.clusters[c.task.id],
            counts[c.task.id],
            right,
            asked if c.task.id in probed else None,
            bits.get(c.task.id, {}),
        )
        for c in councils
    ]
    return Probe(
        generation=number,
        source=source,
        report=emergence_report([(a.solution, a.alone) for a in attempts], [a.counts for a in attempts]),
        attempts=tuple(attempts),
        only_mesh=tuple(council.task.id for council in only),
        probed=tuple(council.task.id for council in chosen),
    )


def _surprise_step(number: int, source: str) -> str:
    return f"surprise-generation-{number}" if source == "train" else f"surprise-audit-{number}"


def is_solved(council: Deliberation, right: Right) -> bool:
    """Whether its verdict was verified."""
    return is_hit(council.task.id, council.verdict.answer, right)


def _drawn(council: Deliberation, problem: Asked, pool: Pool, right: Right) -> Counts:
    """Each member alone: the samples it had drawn before, and the council's own first proposals."""
    counts = {}
    for member in council.members:
        hits, drawn = success_counts(pool, member, [problem], right)[0]
        first = [p for p in council.round_of(0) if p.member == member.name]
        hits += sum(is_hit(problem.task.id, p.answer, right) for p in first)
        counts[member.name] = (hits, drawn + len(first))
    return counts


def _spread(councils: Sequence[Deliberation], limit: int) -> list[Deliberation]:
    """At most `limit` of them, task types taking turns."""
    turns: dict[str, int] = {}
    ranked = []
    for place, council in enumerate(councils):
        turn = turns.get(council.task.type, 0)
        turns[council.task.type] = turn + 1
        ranked.append((turn, place, council))
    return [council for _, _, council in sorted(ranked, key=lambda item: item[:2])[:limit]]


def _attempt(
    council: Deliberation,
    cluster: str,
    counts: Counts,
    right: Right,
    asked: AskedAlone | None,
    bits: Mapping[str, Bits],
) -> Attempt:
    task_id, names = council.task.id, [member.name for member in council.members]
    solution = MeshSolution(
        task_id=task_id,
        task_type=council.task.type,
        cluster=cluster,
        is_right=is_solved(council, right),
        tokens=tokens_of([council]),
        members=tuple(names),
    )
    if asked is None:
        alone = tuple(
            Alone(member=name, num_samples=counts[name][1], num_right=counts[name][0], tokens=0) for name in names
        )
        return Attempt(solution=solution, alone=alone, counts=tuple(counts[name] for name in names))
    fresh = {name: asked.counts(task_id, name) for name in names}
    nothing = Bits()
    return Attempt(
        solution=solution,
        alone=tuple(
            Alone(
                member=name,
                num_samples=fresh[name][1],
                num_right=fresh[name][0],
                tokens=tokens_of(asked.of(task_id, name)),
                own_bits=bits.get(name, nothing).own,
                solution_bits=bits.get(name, nothing).solution,
            )
            for name in names
        ),
        counts=tuple((counts[n][0] + fresh[n][0], counts[n][1] + fresh[n][1]) for n in names),
    )
