"""Full councils of several ways to seat the mesh on the same problems: how critics and synthesisers are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from evolve.asks import council_asks, first_of_each_type
from evolve.candidate import Candidate
from evolve.evaluate import verdict_scores
from evolve.gates.arrangements import Arrangement
from evolve.gates.roles import PHASES, helping, place_of
from evolve.lab import Lab
from evolve.learning.quality import check, samples_of
from evolve.learning.recipe_rows import RowSelection
from evolve.lineage import Generation, seat
from evolve.problems.permits import Permit
from evolve.problems.sealed import Asked
from evolve.problems.types import Problem
from memory.types import Record
from mesh.types import Deliberation, Member


class Councils:
    """Councils of several seatings on the same problems, each held once.

    All are held under the same seeds, so that members of one name begin with the same first proposals in each.
    """

    def __init__(
        self, lab: Lab, stage: str, directory: Path, items: Sequence[Asked], permit: Permit | None = None
    ) -> None:
        self._lab, self._stage, self._directory, self._permit = lab, stage, directory, permit
        self.items = tuple(items)
        self._held: dict[tuple[Member, ...], list[Deliberation]] = {}
        self._right: dict[tuple[Member, ...], tuple[bool, ...]] = {}

    async def right(self, label: str, seats: Sequence[Member]) -> tuple[bool, ...]:
        """Was the verdict of these seats right, problem by problem; `label` names the stage that holds them first."""
        key = tuple(seats)
        if key not in self._right:
            stage = f"{self._stage} {label}"
            path = self._directory / f"{label.replace(' ', '-').replace('/', '-')}.parquet"
            held = await self._lab.hold(stage, path, council_asks(self._lab.config, self._stage, self.items, key))
            judged = (await self._lab.judge_all(stage, held, self.items, self._permit)).lookup()
            scores = verdict_scores(held, judged)
            self._held[key] = held
            self._right[key] = tuple(scores[item.task.id] == 1.0 for item in self.items)
        return self._right[key]

    def of(self, seats: Sequence[Member]) -> list[Deliberation]:
        """What these seats said, whole; they must have been held."""
        return self._held[tuple(seats)]


class Trial(Record):
    """Councils with a critic or synthesiser."""

    arrangement: Arrangement
    right: tuple[bool, ...] = Field(description="was the verdict right, problem by problem")


class Trials(Record):
    """What councils on DEV showed of critics and synthesisers."""

    task_types: tuple[str, ...] = Field(description="of each problem, in order")
    keys: tuple[str, ...] = Field(description="their canonical keys")
    incumbents: tuple[bool, ...] = Field(description="was the verdict of today's seats right, problem by problem")
    trials: tuple[Trial, ...] = ()
    stopped: dict[str, str] = Field(default_factory=dict, description="candidate to why it got no further")


async def try_in_councils(
    lab: Lab,
    generation: Generation,
    candidates: Sequence[Candidate],
    selections: Mapping[str, RowSelection],
    items: Sequence[Problem],
) -> Trials | None:
    """Councils with each critic and synthesiser, beside today's; None: there is none of them, or no problem.

    What one writes at its work is compared with the rows it learned that work from; its first answers are another's.
    """
    number, seats = generation.number, seat(generation)
    some = first_of_each_type(items, lab.config.gate.councils_per_type)
    if not candidates or not some:
        return None
    directory = lab.directory / f"generation-{number}" / "dev" / "councils"
    councils = Councils(lab, f"generation {number} dev councils", directory, some)
    incumbents = await councils.right("before", seats)
    trials, stopped = [], {}
    for candidate in candidates:
        name = candidate.member.name
        if any(candidate.member.adapter in one.adapters for one in seats):
            stopped[name] = "it is seated already"
            continue
        arrangement = helping(seats, candidate)
        right = await councils.right(name, arrangement.seats)
        speaker, phases = seats[place_of(seats, arrangement)].name, PHASES[candidate.recipe.role]
        reason = check(
            samples_of(councils.of(arrangement.seats), speaker, phases),
            selections[name].rows if name in selections else (),
            lab.config.quality,
            before=samples_of(councils.of(seats), speaker, phases),
        )
        if reason is None:
            trials.append(Trial(arrangement=arrangement, right=right))
        else:
            stopped[name] = f"stopped for what it writes in councils: {reason}"
    return Trials(
        task_types=tuple(problem.task.type for problem in some),
        keys=tuple(problem.key for problem in some),
        incumbents=incumbents,
        trials=tuple(trials),
        stopped=stopped,
    )
