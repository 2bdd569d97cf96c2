"""How best to ask each member, and its measured weight, taken on DEV before AUDIT is asked: everyone at its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from pydantic import Field

from evolve.asks import first_of_each_type, proposal_asks
from evolve.config import RunConfig
from evolve.evaluate import Pool, member_scores
from evolve.gates.rivals import again
from evolve.lab import Ask, Lab
from evolve.problems.types import Problem
from memory.types import Record, content_hash
from mesh.reliability import Reliability, judged_answers, measure, seat_key
from mesh.types import Deliberation, Member


class Way(Record):
    """How a task is put to a member; None leaves the task, or the configuration, as it is."""

    temperature: float
    num_demonstrations: int | None = Field(default=None, description="the first so many of the task's worked examples")
    instruction: str | None = None
    stop: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """Short and its own, for names of draws."""
        rest = self.model_dump(mode="json", exclude={"temperature"}, exclude_none=True)
        return f"t{self.temperature:g}" + (f"-{content_hash(rest)[:8]}" if rest else "")

    def of(self, ask: Ask) -> Ask:
        """The same, all of it asked in this way."""
        task, sampling = ask.task, ask.protocol.sampling.model_copy(update={"temperature": self.temperature})
        if self.stop is not None:
            sampling = sampling.model_copy(update={"stop": self.stop})
        if self.num_demonstrations is not None:
            task = task.model_copy(update={"demonstrations": task.demonstrations[: self.num_demonstrations]})
        if self.instruction is not None:
            task = task.model_copy(update={"instruction": self.instruction})
        protocol = ask.protocol.model_copy(update={"sampling": sampling})
        return ask.model_copy(update={"protocol": protocol, "task": task})

    def __str__(self) -> str:
        parts = [f"temperature {self.temperature:g}"]
        parts += [] if self.num_demonstrations is None else [f"{self.num_demonstrations} worked examples"]
        parts += [] if self.instruction is None else [f"the instruction {self.instruction!r}"]
        parts += [] if self.stop is None else [f"stops {', '.join(map(repr, self.stop)) or 'none'}"]
        return ", ".join(parts)


class Tried(Way):
    """One way on DEV."""

    right: float = Field(description="mean share of right samples over the problems")
    n: int = Field(description="problems")

    @property
    def way(self) -> Way:
        """Without what came of it."""
        return Way(**{name: getattr(self, name) for name in Way.model_fields})


class Tuned(Record):
    """What DEV says of one member: how it should be asked, and how good it is."""

    member: str
    tried: tuple[Tried, ...] = Field(min_length=1, description="in the order of the configuration")

    @property
    def sampled(self) -> Tried:
        """The best way for several samples, which must differ; of equals the earlier one."""
        warm = [one for one in self.tried if one.temperature > 0.0]
        return max(warm or self.tried, key=lambda one: one.right)

    @property
    def greedy(self) -> Tried | None:
        """The best way for the one draw at temperature 0 beside them; None: not tried, or nothing else was."""
        cold = [one for one in self.tried if one.temperature == 0.0]
        best = max(cold, key=lambda one: one.right, default=None)
        return best if best is not None and best != self.sampled else None

    @property
    def best(self) -> Tried:
        """The best way to ask it once; of equals the sampled one."""
        return max(self.sampled, self.greedy or self.sampled, key=lambda one: one.right)


class Tuning(Record):
    """What DEV says of all members."""

    members: dict[str, Tuned] = Field(description="by member name")
    reliability: Reliability = Field(description="of every member asked in the way its samples are best in")


def ways_tried(config: RunConfig) -> tuple[Way, ...]:
    """Every combination of what `evaluation` says to try; the configured way alone where it says nothing."""
    settings = config.evaluation
    combined = product(
        settings.demonstrations or (None,),
        settings.instructions or (None,),
        settings.stops or (None,),
        settings.temperatures or (config.deliberation.sampling.temperature,),
    )
    ways = (
        Way(temperature=temperature, num_demonstrations=shown, instruction=instruction, stop=stop)
        for shown, instruction, stop, temperature in combined
    )
    return tuple(dict.fromkeys(ways))


async def tune(lab: Lab, stage: str, members: Sequence[Member], dev: Sequence[Problem]) -> Tuning:
    """Try every way with every member; what each is worth, and what its votes should weigh.

    With nothing to try the configured way is measured, so that a best single can be chosen on DEV.

    Args:
        dev: DEV problems; of each type the first `evaluation.tuning_items_per_type` are asked.
    """
    items = first_of_each_type(dev, lab.config.evaluation.tuning_items_per_type)
    ways = ways_tried(lab.config)
    asks = [ask for way in ways for ask in _asks(lab, stage, items, members, way)]
    drawn = await lab.hold(stage, lab.directory / "audit" / f"{stage.replace(' ', '-')}.parquet", asks)
    judged = (await lab.judge_all(stage, drawn, items)).lookup()
    pool = Pool(drawn)

    def tried(member: Member, way: Way) -> Tried:
        right = _mean(member_scores(pool, _asked(member, way), items, judged))
        return Tried(**way.model_dump(), right=right, n=len(items))

    tuned = {
        member.name: Tuned(member=member.name, tried=tuple(tried(member, way) for way in ways)) for member in members
    }
    return Tuning(members=tuned, reliability=reliability_of(drawn, judged, members, tuned))


def reliability_of(
    drawn: Sequence[Deliberation],
    judged: Mapping[tuple[str, str], bool],
    members: Sequence[Member],
    tuned: Mapping[str, Tuned],
) -> Reliability:
    """What the tuning's draws say of the members themselves: of each only those of its best way."""
    own = {seat_key(_asked(m, tuned[m.name].sampled.way)): seat_key(m) for m in members}
    rows = (row for row in judged_answers(drawn, judged) if row.member in own)
    return measure(row.model_copy(update={"member": own[row.member]}) for row in rows)


def told(tuned: Sequence[Tuned]) -> str:
    """How each member was asked for AUDIT, in a sentence; empty where there was no choice."""
    if all(len(one.tried) == 1 for one in tuned):
        return ""
    ways = "; ".join(f"{one.member}: {one.sampled.way} ({one.sampled.right:.0%} right)" for one in tuned)
    return (
        f"Of {len(tuned[0].tried)} ways to ask, tried on DEV, AUDIT used the best for samples of each member. {ways}."
    )


def each_in_its_way(asks: Sequence[Ask], ways: Mapping[str, Way]) -> list[Ask]:
    """The same first proposals, each asked in its member's way; by member name, others as they are."""
    return [ways[name].of(ask) if (name := ask.members[0].name) in ways else ask for ask in asks]


def best_of(members: Sequence[Member], tuned: Mapping[str, Tuned]) -> Member:
    """The member that is best on DEV when it is asked once, in its own best way; of equals the earlier."""
    return max(members, key=lambda member: tuned[member.name].best.right)


def best_sampled(members: Sequence[Member], tuned: Mapping[str, Tuned]) -> Member:
    """The member whose samples are best on DEV; of equals the earlier."""
    return max(members, key=lambda member: tuned[member.name].sampled.right)


def shared_way(members: Sequence[Member], tuned: Mapping[str, Tuned]) -> Way:
    """The one way, above temperature 0, in which these members' samples are best on average; of equals the earlier.

    A council is asked in one way, all of it.
    """
    worth: dict[Way, float] = {}
    for member in members:
        for one in tuned[member.name].tried:
            worth[one.way] = worth.get(one.way, 0.0) + one.right
    return max([way for way in worth if way.temperature > 0.0] or worth, key=worth.__getitem__)


def _asks(lab: Lab, stage: str, items: Sequence[Problem], members: Sequence[Member], way: Way) -> list[Ask]:
    count = 1 if way.temperature == 0.0 else lab.config.evaluation.dev_samples_per_member
    aliases = [_asked(member, way) for member in members]
    return [way.of(ask) for ask in proposal_asks(lab.config, stage, items, aliases, count)]


def _asked(member: Member, way: Way) -> Member:
    return again(member, way.label)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else 0.0
