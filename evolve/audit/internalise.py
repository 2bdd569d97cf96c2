"""Does a later specialist solve alone what only the mesh solved before? Fresh samples of both, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pydantic import Field

from evolve.asks import proposal_asks
from evolve.audit.draws import SealedJudge
from evolve.audit.novelty import Solo
from evolve.audit.probe import Probe
from evolve.evaluate import Pool, success_counts
from evolve.lab import Lab
from evolve.learning.breed import Brood
from evolve.lineage import Generation, seat
from evolve.problems.sealed import Asked, SplitProblems
from evolve.problems.splits import Split
from memory.types import Record
from mesh.types import Member


class Round(Protocol):
    """What is read of a generation."""

    @property
    def generation(self) -> Generation:
        """Who was seated."""
        ...

    @property
    def problems(self) -> SplitProblems:
        """What it was asked."""
        ...

    @property
    def probe(self) -> Probe | None:
        """What only the mesh solved; None: not asked."""
        ...

    @property
    def brood(self) -> Brood:
        """What was bred from it."""
        ...


class Learned(Record):
    """One task that only the mesh had solved, and one specialist that came later."""

    generation: int = Field(description="whose council solved it")
    before: str = Field(description="the seat of the specialist's engine at that time")
    specialist: str
    solo: Solo


class Trial(Record):
    """What is to be tried: a task, and who is asked alone."""

    generation: int
    task_id: str
    before: Member
    after: Member
    was_trained_on: bool


async def try_train_tasks(lab: Lab, rounds: Sequence[Round], last: Generation) -> list[Learned]:
    """TRAIN tasks of every generation that only its mesh solved, tried with each engine's next specialist."""
    problems: dict[str, Asked] = {p.task.id: p for one in rounds for p in one.problems.of(Split.TRAIN)}
    clusters = {p.task.id: one.problems.cluster_of(p) for one in rounds for p in one.problems.of(Split.TRAIN)}
    trials = train_trials(rounds, last, lab.config.evaluation.emergence_tasks, clusters)
    return await try_out(lab, "internalisation", trials, problems, clusters, None)


async def try_audit_tasks(
    lab: Lab,
    first: Sequence[Member],
    last: Sequence[Member],
    task_ids: Sequence[str],
    items: Sequence[Asked],
    clusters: Mapping[str, str],
    judge: SealedJudge,
) -> list[Learned]:
    """AUDIT tasks that only generation 0's council solved, tried with the last specialists: nobody was trained on them.

    Args:
        task_ids: as generation 0's probe on AUDIT finds them; `emergence_tasks` of them are tried.
    """
    successors = {member.engine: member for member in reversed(last) if member.adapter is not None}
    trials = [
        Trial(generation=0, task_id=task_id, before=before, after=successors[before.engine], was_trained_on=False)
        for task_id in task_ids[: lab.config.evaluation.emergence_tasks]
        for before in first
        if before.engine in successors and successors[before.engine] != before
    ]
    problems = {problem.task.id: problem for problem in items}
    return await try_out(lab, "internalisation held out", trials, problems, clusters, judge)


def train_trials(rounds: Sequence[Round], last: Generation, max_tasks: int, clusters: Mapping[str, str]) -> list[Trial]:
    """Each task that only the mesh solved, with the first specialist of each engine that took a seat afterwards.

    `max_tasks` of every generation at most, the ones that were probed first. `clusters` of near duplicates, by task id:
    whoever was trained on one task of a cluster was trained on all of them.
    """
    trained = tasks_trained_on(rounds)
    generations = [*(one.generation for one in rounds), last]
    trials = []
    for one in rounds:
        if one.probe is None:
            continue
        number = one.generation.number
        for before in _first_by_engine(seat(one.generation)).values():
            after = _next_specialist(before.engine, number, generations)
            if after is None:
                continue
            seen = {clusters.get(task_id) for task_id in trained.get(after.adapter or "", frozenset())}
            trials += [
                Trial(generation=number, task_id=i, before=before, after=after, was_trained_on=clusters[i] in seen)
                for i in one.probe.known[:max_tasks]
            ]
    return trials


def tasks_trained_on(rounds: Iterable[Round]) -> dict[str, frozenset[str]]:
    """Adapter to the ids of all tasks it has seen in training, those of the adapters it was made from included."""
    seen: dict[str, frozenset[str]] = {}
    for one in rounds:
        for candidate in one.brood.candidates:
            recipe = candidate.recipe
            selection = one.brood.selections.get(recipe.name)
            pairs = one.brood.pair_selections.get(recipe.name)
            own = {row.task_id for row in selection.rows} if selection is not None else set()
            own |= {pair.task_id for pair in pairs.pairs} if pairs is not None else set()
            inherited = (seen.get(parent, frozenset()) for parent in recipe.parents)
            seen[candidate.member.adapter or ""] = frozenset(own).union(*inherited)
    return seen


def _next_specialist(engine: str, number: int, generations: Sequence[Generation]) -> Member | None:
    """The first specialist of an engine that took its seat after generation `number`."""
    for generation in generations:
        fresh = {s.adapter for s in generation.specialists if s.generation == generation.number > number}
        for member in seat(generation):
            if member.engine == engine and member.adapter in fresh:
                return member
    return None


def _first_by_engine(seats: Sequence[Member]) -> dict[str, Member]:
    return {member.engine: member for member in reversed(seats)}


async def try_out(
    lab: Lab,
    stage: str,
    trials: Sequence[Trial],
    problems: Mapping[str, Asked],
    clusters: Mapping[str, str],
    judge: SealedJudge | None,
) -> list[Learned]:
    """Every trial in fresh samples; `clusters` by task id; `judge` None: the problems are open."""
    if not trials:
        return []
    # One draw for each task and proposer, however many trials it serves: one that was given a critic keeps its name.
    wanted = dict.fromkeys((t.task_id, m.at("propose")) for t in trials for m in (t.before, t.after))
    count = lab.config.evaluation.emergence_samples
    asks = [
        ask
        for task_id, member in wanted
        for ask in proposal_asks(lab.config, stage, [problems[task_id]], [member], count)
    ]
    drawn = await lab.hold(stage, lab.directory / "emergence" / f"{stage.replace(' ', '-')}.parquet", asks)
    asked = [problems[task_id] for task_id in dict.fromkeys(task_id for task_id, _ in wanted)]
    judged = await (lab.judge_all(stage, drawn, asked) if judge is None else judge(lab, stage, drawn, asked))
    right, pool = judged.lookup(), Pool(drawn)
    names = {name: f"c{place}" for place, name in enumerate(dict.fromkeys(clusters[t.task_id] for t in trials))}

    def counts(trial: Trial, member: Member) -> tuple[int, int]:
        return success_counts(pool, member, [problems[trial.task_id]], right)[0]

    return [
        Learned(
            generation=trial.generation,
            before=trial.before.name,
            specialist=trial.after.name,
            solo=Solo(
                task_id=trial.task_id,
                cluster=names[clusters[trial.task_id]],
                was_trained_on=trial.was_trained_on,
                before=counts(trial, trial.before),
                after=counts(trial, trial.after),
            ),
        )
        for trial in trials
        if min(counts(trial, trial.before)[1], counts(trial, trial.after)[1]) > 0
    ]
