"""How often a specialist was right on items that it was not chosen by: what its live outcomes are held against.

On the DEV items that it won on, a winner looks better than it is. Two stages say something better. The winner is
measured again on DEV items that were kept from choosing; and as a seat it answers TRAIN items that no generation had
before, so neither was it chosen by them nor trained on them. Only where neither is there do the DEV items it was chosen
by count, less what the best of as many candidates shows by luck. GATE says pass or fail, and AUDIT steers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from evolve.audit.measured import open_judgements
from evolve.config import RunConfig
from evolve.gates.remeasure import expected_luck
from evolve.problems.config import GymProblems
from evolve.problems.drawn import problems_by_generation
from evolve.run_files import DEV, DEV_AGAIN, DEV_SEATS, DEV_TWINS, HARVEST
from memory.types import Record
from mesh.measuring import measure_traces
from mesh.reliability import Reliability, seat_key
from mesh.types import Deliberation, Member
from serving.traces import read_traces


class Contest(Record):
    """What a candidate was chosen by on DEV."""

    num_compared: int = Field(ge=1, description="candidates measured, itself included; of several contests the largest")
    num_items: dict[str, int] = Field(description="task type to DEV items it answered as a candidate")


class Claims(Record):
    """Judged answers of a run's specialists, those that they were chosen by apart from the others."""

    fresh: Reliability = Field(default=Reliability(), description="on items that nobody was chosen by")
    chosen: Reliability = Field(default=Reliability(), description="of candidates, on the DEV items that chose")
    contests: dict[str, Contest] = Field(default_factory=dict, description="by `seat_key`")

    def promised(self, member: Member, task_type: str) -> float | None:
        """Accuracy that may be expected at least, 0..1; None: it was never measured on this task type.

        The lower end of the 95% interval on fresh items; where there are none, of that on DEV, less the luck of a
        winner.
        """
        if _knows(self.fresh, member, task_type):
            return self.fresh.accuracy(member, task_type).low
        if not _knows(self.chosen, member, task_type):
            return None
        found, contest = self.chosen.accuracy(member, task_type), self.contests[seat_key(member)]
        # As for a difference: the luck of the best of many, times the error of one mean.
        luck = expected_luck(contest.num_compared, contest.num_items[task_type], found.mean * (1.0 - found.mean))
        return max(0.0, found.low - luck)


def claims_of(run: Path, config: RunConfig) -> Claims:
    """What the run in `run` measured of its members. A stage that left no traces promises nothing."""
    right = open_judgements(run)
    fresh = [trace for path in run.glob(f"generation-*/{DEV}/{DEV_AGAIN}.parquet") for trace in read_traces(path)]
    if harvests_like_dev(config):
        fresh += _asked_first(run)
    by_generation = _chosen_by(run)
    return Claims(
        fresh=measure_traces(fresh, right),
        chosen=measure_traces([trace for traces in by_generation for trace in traces], right),
        contests=_contests(by_generation),
    )


def harvests_like_dev(config: RunConfig) -> bool:
    """Whether a harvest asks as DEV does: at one temperature, and for no other levels of difficulty."""
    warmth, moves = config.harvest.temperature, isinstance(config.problems, GymProblems) and config.problems.curriculum
    return not moves and warmth in (None, config.deliberation.sampling.temperature)


def _asked_first(run: Path) -> list[Deliberation]:
    """Harvested answers to items that no earlier generation harvested, nor near duplicates of them.

    A file's TRAIN items come again, and whoever is seated then may have been trained on them.
    """
    clusters = {task: name for drawn in problems_by_generation(run) for task, name in drawn.clusters.items()}
    asked, found = set[str](), list[Deliberation]()
    for directory in _generations(run):
        path = directory / f"{HARVEST}.parquet"
        traces = list(read_traces(path)) if path.is_file() else []
        found += [trace for trace in traces if clusters.get(trace.task.id, trace.task.id) not in asked]
        asked |= {clusters.get(trace.task.id, trace.task.id) for trace in traces}
    return found


def _chosen_by(run: Path) -> list[list[Deliberation]]:
    """For each generation what its candidates answered on the DEV items they were chosen by."""
    others = (DEV_AGAIN, DEV_SEATS, DEV_TWINS)
    return [
        [t for path in sorted((one / DEV).glob("*.parquet")) if path.stem not in others for t in read_traces(path)]
        for one in _generations(run)
    ]


def _contests(by_generation: Iterable[Iterable[Deliberation]]) -> dict[str, Contest]:
    compared: dict[str, int] = {}
    items: dict[str, dict[str, set[str]]] = {}
    for traces in by_generation:
        keys = set()
        for trace in traces:
            for proposal in trace.round_of(0):
                keys.add(seat_key(proposal))
                items.setdefault(seat_key(proposal), {}).setdefault(trace.task.type, set()).add(trace.task.id)
        compared.update({key: max(len(keys), compared.get(key, 0)) for key in keys})
    return {
        key: Contest(num_compared=count, num_items={kind: len(ids) for kind, ids in items[key].items()})
        for key, count in sorted(compared.items())
    }


def _generations(run: Path) -> list[Path]:
    """The directories of a run's generations, oldest first."""
    return sorted(run.glob("generation-*"), key=lambda path: int(path.name.removeprefix("generation-")))


def _knows(measured: Reliability, member: Member, task_type: str) -> bool:
    key = seat_key(member)
    return any(row.num_judged for row in measured.answers if (row.member, row.task_type) == (key, task_type))
