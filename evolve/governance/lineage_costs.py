"""What a specialist took: its own training and its share of its generation, and of all that it descends from. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from pydantic import Field

from evolve.candidate import Candidate
from evolve.progress import StageTime, generation_of, merged_times
from evolve.training.job import TrainingReport
from memory.types import Record


class Cost(Record):
    """What something took; adds up with `+`."""

    flops: float = Field(default=0.0, description="estimate, of training")
    trained_tokens: int = 0
    training_seconds: float = 0.0
    engine_seconds: float = Field(
        default=0.0,
        description="busy time of engines in the generation that bred it, harvest to gate, shared evenly among its "
        "candidates; a placebo's part is borne by them",
    )

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            flops=self.flops + other.flops,
            trained_tokens=self.trained_tokens + other.trained_tokens,
            training_seconds=self.training_seconds + other.training_seconds,
            engine_seconds=self.engine_seconds + other.engine_seconds,
        )


class Costs:
    """Of every candidate of a run, by adapter."""

    def __init__(
        self, candidates: Iterable[Candidate], reports: Iterable[TrainingReport], times: Iterable[StageTime]
    ) -> None:
        """All that the run admitted, every training job, and how long its stages took."""
        # A merge of the same parents may come to the same adapter twice: it was made the first time.
        bred = {c.member.adapter or "": c for c in sorted(candidates, key=lambda c: -c.generation)}
        self._parents = {adapter: candidate.parents for adapter, candidate in bred.items()}
        busy: defaultdict[int | None, float] = defaultdict(float)
        for stage in merged_times(times).values():
            busy[generation_of(stage.stage)] += stage.engine_seconds
        sharing = Counter(candidate.generation for candidate in bred.values() if not candidate.is_placebo)
        by_recipe = {report.recipe: report for report in reports}
        self._own = {
            adapter: _own(
                by_recipe.get(candidate.recipe.name),
                0.0 if candidate.is_placebo else busy[candidate.generation] / sharing[candidate.generation],
            )
            for adapter, candidate in bred.items()
        }

    def own(self, adapter: str) -> Cost:
        """Its own training and share; nothing where the run keeps no record of it."""
        return self._own.get(adapter, Cost())

    def of_line(self, adapter: str) -> Cost:
        """Its own and that of everything it descends from, by weights or by teaching, each once."""
        seen, waiting, total = {adapter}, [adapter], Cost()
        while waiting:
            one = waiting.pop()
            total += self.own(one)
            parents = [parent for parent in self._parents.get(one, ()) if parent not in seen]
            seen.update(parents)
            waiting += parents
        return total


def _own(report: TrainingReport | None, engine_seconds: float) -> Cost:
    if report is None:
        return Cost(engine_seconds=engine_seconds)
    return Cost(
        flops=report.flops,
        trained_tokens=report.trained_tokens,
        training_seconds=report.seconds,
        engine_seconds=engine_seconds,
    )
